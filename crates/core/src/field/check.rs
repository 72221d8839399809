//! Which values a field accepts.

use std::net::IpAddr;

use unicode_normalization::UnicodeNormalization;

use super::normalise::read_date;
use super::{FieldType, is_direction_mark};
use crate::card::is_card_number;

/// The longest value, in bytes of UTF-8.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The longest `code` and `document_number`, in bytes: longer ones are not machine's words any more.
const CODE_BYTES_MAX: usize = 256;

/// Why a value was refused. Never says anything of the value itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidValue {
    /// More than [`VALUE_BYTES_MAX`] bytes.
    #[error("longer than 64 KiB")]
    TooLong,
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    NotUtf8,
    /// A payment card number, which no field may hold.
    #[error("payment card numbers are not kept")]
    CardNumber,
    /// A control character that the type does not keep.
    #[error("holds a control character")]
    ControlCharacter,
    /// Not of the type's grammar.
    #[error("not a valid {}", .0.name())]
    Malformed(FieldType),
}

impl InvalidValue {
    /// A stable code for programs and reject files.
    pub fn code(self) -> &'static str {
        match self {
            InvalidValue::TooLong => "too-long",
            InvalidValue::NotUtf8 => "not-utf8",
            InvalidValue::CardNumber => "card-number",
            InvalidValue::ControlCharacter => "control-character",
            InvalidValue::Malformed(_) => "malformed",
        }
    }
}

/// Checks the bytes of a value as they come from the wire, and gives them back as text.
///
/// # Errors
/// [`InvalidValue`], decided in the order of its variants.
pub fn check_bytes(field: FieldType, value: &[u8]) -> Result<&str, InvalidValue> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(InvalidValue::TooLong);
    }
    let text = std::str::from_utf8(value).map_err(|_| InvalidValue::NotUtf8)?;
    check(field, text).map(|()| text)
}

/// Checks a value. Blanks around it are let pass and kept; an empty value is a value.
///
/// # Errors
/// [`InvalidValue`], decided in the order of its variants.
pub fn check(field: FieldType, value: &str) -> Result<(), InvalidValue> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(InvalidValue::TooLong);
    }
    if is_card_number(field, value) {
        return Err(InvalidValue::CardNumber);
    }
    if value.chars().any(|c| c.is_control() && !keeps_control(field, c)) {
        return Err(InvalidValue::ControlCharacter);
    }
    let text = value.trim();
    let well_formed = text.is_empty()
        || match field {
            FieldType::FullName | FieldType::PostalAddress | FieldType::FreeText | FieldType::Text => true,
            FieldType::Email => is_email(text),
            FieldType::Phone => is_phone(text),
            FieldType::BirthDate => read_date(text).is_some(),
            FieldType::Digits => text.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == '-'),
            FieldType::DocumentNumber => is_document_number(text),
            FieldType::Iban => is_iban(text),
            FieldType::IpAddress => text.parse::<IpAddr>().is_ok(),
            FieldType::Code => {
                text.len() <= CODE_BYTES_MAX && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            }
        };
    if well_formed { Ok(()) } else { Err(InvalidValue::Malformed(field)) }
}

fn keeps_control(field: FieldType, c: char) -> bool {
    match field {
        FieldType::FreeText => true,
        FieldType::PostalAddress => matches!(c, '\t' | '\n' | '\r'),
        _ => false,
    }
}

/// Lenient: one `@` outside quotes with something on either side. Whether mail arrives is not ours to say.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let strange = |c: char| c.is_whitespace() || matches!(c, '@' | '<' | '>' | ',' | ';' | '"');
    let local_holds = quoted || (!local.is_empty() && !local.contains(strange));
    let domain_holds = !domain.is_empty()
        && !domain.contains(strange)
        && !domain.starts_with('.')
        && !domain.ends_with('.')
        && !domain.contains("..");
    local_holds && domain_holds
}

/// 3 (a short code) to 24 digits (a long number with its extension), and what people write between them.
fn is_phone(text: &str) -> bool {
    let mut digits = 0_usize;
    for (place, c) in text.nfkc().filter(|c| !is_direction_mark(*c)).enumerate() {
        match c {
            '0'..='9' => digits += 1,
            '+' if place == 0 => {}
            ' ' | '-' | '.' | '(' | ')' | '/' | '#' | 'x' | 'X' | 'e' | 't' | ',' | ';' => {}
            '\u{2010}'..='\u{2015}' | '\u{2212}' => {}
            _ => return false,
        }
    }
    (3..=24).contains(&digits)
}

fn is_document_number(text: &str) -> bool {
    text.len() <= CODE_BYTES_MAX
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '.' | '/' | '<'))
}

/// ISO 13616: 15 to 34 letters and digits whose rearranged number is 1 modulo 97 (ISO 7064, MOD 97-10).
fn is_iban(text: &str) -> bool {
    let plain: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
    let Some((head, tail)) = plain.split_at_checked(4) else {
        return false;
    };
    let shaped = (15..=34).contains(&plain.len())
        && head.iter().take(2).all(u8::is_ascii_alphabetic)
        && head.iter().skip(2).all(u8::is_ascii_digit);
    let rest = tail.iter().chain(head).try_fold(0_u32, |rest, byte| {
        let digit = char::from(*byte).to_digit(36)?;
        Some((rest * if digit < 10 { 10 } else { 100 } + digit) % 97)
    });
    shaped && rest == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_type_are_accepted() {
        for (field, values) in [
            (
                FieldType::Email,
                &[
                    "jane@example.com",
                    " j@x.org ",
                    "用户@例子.公司",
                    "\"a b\"@x.com",
                    "o'neil+x@a-b.example",
                    "a@b",
                ][..],
            ),
            (
                FieldType::FullName,
                &["J", "李", "O'Brien", "מרים כהן", "e\u{301}lodie", "🎉", " Ann ", "X Æ A-12"],
            ),
            (
                FieldType::Phone,
                &[
                    "+34 600 123 372",
                    "(020) 7946-0958",
                    "+44 (0)20 7946 0958 ext. 5",
                    "112",
                    "\u{202a}+1 202 555 0143\u{202c}",
                    "＋８１ 3 1234 5678",
                ],
            ),
            (
                FieldType::BirthDate,
                &["1984-05-31", "31.05.1984", "05/31/1984", "31/05/1984", "1984", "1984-05", "2000-02-29"],
            ),
            (FieldType::PostalAddress, &["1 High St\n\tLondon\r\nN1", "東京都"]),
            (FieldType::FreeText, &["a\0b\u{1b}\u{7f}", "4111111111111111 is mine"]),
            (FieldType::Text, &["anything", "\u{2028}"]),
            (FieldType::Digits, &["0123456789", "12-34 56"]),
            (FieldType::DocumentNumber, &["X1234567-L", "АБ 123456"]),
            (FieldType::Iban, &["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000"]),
            (FieldType::IpAddress, &["203.0.113.7", "2001:db8::1"]),
            (FieldType::Code, &["granted", "AFF-2024/7"]),
        ] {
            for value in values {
                assert_eq!(check(field, value), Ok(()), "{value:?} as {field:?}");
            }
        }
        let long_name = "n".repeat(200);
        assert_eq!(check(FieldType::FullName, &long_name), Ok(()));
    }

    #[test]
    fn malformed_values_are_refused() {
        for (field, values) in [
            (
                FieldType::Email,
                &[
                    "jane",
                    "@x.com",
                    "jane@",
                    "a@b@c.com",
                    "Jane <j@x.com>",
                    "a@b..c",
                    "a b@c.de",
                    "a@.b",
                    "a,b@c.de",
                ][..],
            ),
            (
                FieldType::Phone,
                &["call me", "12", "++34600123372", "+34 600 123 372 600 123 372 600 123 372"],
            ),
            (
                FieldType::BirthDate,
                &["1984-02-30", "31/13/1984", "tomorrow", "84", "1984-5-3-1", "29.02.1900"],
            ),
            (FieldType::Digits, &["12a", "１２"]),
            (FieldType::DocumentNumber, &["12@3"]),
            (FieldType::Iban, &["GB82 WEST 1234 5698 7654 33", "GB", "é123", "8282WEST12345698765432"]),
            (FieldType::IpAddress, &["203.0.113", "x"]),
            (FieldType::Code, &["né", "a\u{a0}b"]),
        ] {
            for value in values {
                assert_eq!(
                    check(field, value),
                    Err(InvalidValue::Malformed(field)),
                    "{value:?} as {field:?}"
                );
            }
        }
    }

    #[test]
    fn an_empty_value_is_a_value() {
        for field in FieldType::ALL {
            assert_eq!(check(*field, ""), Ok(()), "{field:?}");
            assert_eq!(check(*field, "  "), Ok(()), "{field:?}");
        }
    }

    #[test]
    fn control_characters_are_kept_or_refused_by_type() {
        for field in FieldType::ALL {
            for c in (0_u8..=0x1f).chain([0x7f]).map(char::from).chain(['\u{80}', '\u{9f}']) {
                let kept = match field {
                    FieldType::FreeText => true,
                    FieldType::PostalAddress => matches!(c, '\t' | '\n' | '\r'),
                    _ => false,
                };
                let answer = check(*field, &format!("1{c}"));
                assert_eq!(answer == Err(InvalidValue::ControlCharacter), !kept, "{c:?} in {field:?}");
            }
        }
    }

    #[test]
    fn length_ends_at_64_kib_and_bytes_must_be_text() {
        let most = vec![b'a'; VALUE_BYTES_MAX];
        assert!(check_bytes(FieldType::Text, &most).is_ok());
        let more = vec![0xff; VALUE_BYTES_MAX + 1];
        assert_eq!(check_bytes(FieldType::Text, &more), Err(InvalidValue::TooLong));
        assert_eq!(check_bytes(FieldType::Text, &[b'a', 0xff]), Err(InvalidValue::NotUtf8));
        assert_eq!(check_bytes(FieldType::Text, b" kept "), Ok(" kept "));
    }

    #[test]
    fn cards_are_refused_before_anything_else() {
        for field in FieldType::ALL {
            assert_eq!(check(*field, "4111 1111 1111 1111"), Err(InvalidValue::CardNumber), "{field:?}");
        }
    }

    #[test]
    fn refusals_do_not_repeat_the_value() {
        let error = check(FieldType::Email, "secret-person").unwrap_err();
        assert!(!format!("{error} {error:?} {}", error.code()).contains("secret-person"));
    }
}
