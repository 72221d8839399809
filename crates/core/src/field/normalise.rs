//! When two spellings are the same value: for look-ups and for recognising a repeated buyer, in memory
//! alone. What is stored stays as it was given.

use std::net::IpAddr;

use jiff::civil::Date;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::mask::country_code_digits;
use super::{FieldType, is_direction_mark};

/// The spelling under which a value is compared (design: "Looking up without leaving a trace").
///
/// E-mail: NFC, trimmed, lower case. Phone: E.164 where the number says its country, its digits otherwise.
/// Name, address, line of text: NFKC, folded, blanks collapsed. Date: ISO where it can be told. The result
/// is as personal as the value: wipe it, write it nowhere. What was made on the way is wiped here.
pub fn normalise(field: FieldType, value: &str) -> String {
    let mut normal = match field {
        FieldType::Email => {
            let plain = nfc(value.trim());
            nfc(&Zeroizing::new(plain.to_lowercase()))
        }
        FieldType::Phone => e164(value),
        FieldType::FullName | FieldType::PostalAddress | FieldType::Text => fold(value),
        FieldType::BirthDate => iso_date(value.trim()),
        FieldType::Digits | FieldType::DocumentNumber | FieldType::Iban => {
            let plain = gather(fold(value).chars().filter(|c| c.is_alphanumeric()));
            nfkc(&Zeroizing::new(plain.to_uppercase()))
        }
        FieldType::IpAddress => {
            let text = value.trim();
            Zeroizing::new(
                text.parse::<IpAddr>()
                    .map_or_else(|_| text.to_lowercase(), |address| address.to_canonical().to_string()),
            )
        }
        FieldType::Code => Zeroizing::new(value.trim().to_owned()),
        FieldType::FreeText => nfc(value),
    };
    std::mem::take(&mut *normal)
}

/// NFC. ASCII is its own, by far the most of what comes.
fn nfc(text: &str) -> Zeroizing<String> {
    if text.is_ascii() { Zeroizing::new(text.to_owned()) } else { gather(text.nfc()) }
}

/// The same with compatibility forms (NFKC).
fn nfkc(text: &str) -> Zeroizing<String> {
    if text.is_ascii() { Zeroizing::new(text.to_owned()) } else { gather(text.nfkc()) }
}

/// The characters as one text; what it outgrows is wiped.
fn gather(chars: impl IntoIterator<Item = char>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for c in chars {
        if text.capacity().saturating_sub(text.len()) < c.len_utf8() {
            let mut wider = Zeroizing::new(String::with_capacity(text.capacity().saturating_mul(2)));
            wider.push_str(&text);
            text = wider;
        }
        text.push(c);
    }
    text
}

/// Compatibility forms, case (by way of the upper case, so that ß, ẞ and ss meet) and blanks made one.
fn fold(value: &str) -> Zeroizing<String> {
    let plain = gather(nfkc(value).chars().filter(|c| !is_direction_mark(*c)));
    let lower = Zeroizing::new(plain.to_lowercase());
    let upper = Zeroizing::new(lower.to_uppercase());
    let folded = nfkc(&Zeroizing::new(upper.to_lowercase()));
    let words = folded.split_whitespace().enumerate();
    gather(words.flat_map(|(at, word)| (at > 0).then_some(' ').into_iter().chain(word.chars())))
}

/// `+` and digits for a number that begins with `+` or `00`, without the `(0)` that some write after the
/// country code; the plain digits for any other. An extension keeps its own digits after an `x`.
fn e164(value: &str) -> Zeroizing<String> {
    let text = gather(nfkc(value).chars().filter(|c| !is_direction_mark(*c) && !c.is_whitespace()));
    let (number, extension) = match text.find(['x', 'X', '#', ';', ',', 'e']) {
        Some(at) => text.split_at(at),
        None => (text.as_str(), ""),
    };
    let digits = |text: &str| gather(text.chars().filter(char::is_ascii_digit));
    let has_plus = number.chars().find(|c| *c == '+' || c.is_ascii_digit()) == Some('+');
    let all = digits(number);
    let national = if has_plus || all.starts_with("00") {
        let rest = digits(&Zeroizing::new(number.replace("(0)", "")));
        let rest = if has_plus { rest.as_str() } else { rest.strip_prefix("00").unwrap_or(&rest) };
        gather("+".chars().chain(without_trunk_zero(rest).chars()))
    } else {
        all
    };
    let extension = digits(extension);
    let mark = if extension.is_empty() { "" } else { "x" };
    gather(national.chars().chain(mark.chars()).chain(extension.chars()))
}

/// `+44 020 …` is `+44 20 …`; Italy (39) and a few others keep the zero, so only the certain ones lose it.
fn without_trunk_zero(digits: &str) -> Zeroizing<String> {
    const DROPS_ZERO: &[&str] = &["31", "32", "33", "41", "43", "44", "46", "49", "61", "353"];
    match digits.split_at_checked(country_code_digits(digits)) {
        Some((country, national)) if DROPS_ZERO.contains(&country) => {
            gather(country.chars().chain(national.trim_start_matches('0').chars()))
        }
        _ => gather(digits.chars()),
    }
}

fn iso_date(text: &str) -> Zeroizing<String> {
    Zeroizing::new(match read_date(text) {
        Some(Dated::Day(date)) => date.to_string(),
        Some(Dated::Month { year, month }) => format!("{year:04}-{month:02}"),
        _ => text.to_owned(),
    })
}

/// What a date of birth says.
pub(super) enum Dated {
    /// One day.
    Day(Date),
    /// A day whose month cannot be told from its day.
    Ambiguous { year: i16 },
    /// Only a month.
    Month { year: i16, month: i8 },
    /// Only a year.
    Year,
}

/// Reads a date of birth in the spellings that forms produce; `None` for what is no date.
pub(super) fn read_date(text: &str) -> Option<Dated> {
    if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'/' | b' ')) {
        return None;
    }
    let parts: Vec<&str> = text.split(['-', '.', '/', ' ']).filter(|part| !part.is_empty()).collect();
    let number = |part: &str| part.parse::<i8>().ok().filter(|_| part.len() <= 2);
    let full_year = |part: &str| part.parse::<i16>().ok().filter(|_| part.len() == 4);
    match parts.as_slice() {
        [year] => full_year(year).map(|_| Dated::Year),
        [year, month] => {
            let (year, month) = (full_year(year)?, number(month)?);
            (1..=12).contains(&month).then_some(Dated::Month { year, month })
        }
        [a, b, c] => match (full_year(a), full_year(c)) {
            (Some(year), None) => Date::new(year, number(b)?, number(c)?).ok().map(Dated::Day),
            (None, Some(year)) => {
                let (a, b) = (number(a)?, number(b)?);
                match (Date::new(year, b, a), Date::new(year, a, b)) {
                    (Ok(one), Ok(other)) if one != other => Some(Dated::Ambiguous { year }),
                    (Ok(date), _) | (Err(_), Ok(date)) => Some(Dated::Day(date)),
                    _ => None,
                }
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_value_has_one_spelling() {
        for (field, one, other) in [
            (FieldType::Email, " Jane@Example.COM", "jane@example.com"),
            (FieldType::Email, "E\u{301}lodie@x.fr", "élodie@x.fr"),
            (FieldType::Phone, "+34 600 123 372", "0034-600-123-372"),
            (FieldType::Phone, "+44 (0)20 7946 0958", "+442079460958"),
            (FieldType::Phone, "+44 020 7946 0958", "+442079460958"),
            (FieldType::FullName, "  JANE\u{a0} Miller ", "jane miller"),
            (FieldType::FullName, "Weiß", "WEISS"),
            (FieldType::FullName, "WEIẞ", "weiss"),
            (FieldType::FullName, "Ｊａｎｅ", "Jane"),
            (FieldType::FullName, "ΟΔΥΣΣΕΥΣ", "Οδυσσευς"),
            (FieldType::BirthDate, "31/05/1984", "1984-05-31"),
            (FieldType::BirthDate, "05/31/1984", "1984-05-31"),
            (FieldType::Iban, "gb82 west 12345698765432", "GB82WEST12345698765432"),
            (FieldType::IpAddress, "2001:DB8:0::1", "2001:db8::1"),
            (FieldType::Digits, "12-34", "1234"),
            (FieldType::Phone, "(00) 34 600 123 372", "+34600123372"),
        ] {
            assert_eq!(normalise(field, one), normalise(field, other), "{one:?} as {field:?}");
        }
    }

    #[test]
    fn different_values_stay_apart() {
        for (field, one, other) in [
            (FieldType::Email, "a.b@x.org", "ab@x.org"),
            (FieldType::Phone, "+34600123372", "600123372"),
            (FieldType::Phone, "+39 06 1234567", "+39 6 1234567"),
            (FieldType::Phone, "+12025550143", "+12025550143 x5"),
            (FieldType::BirthDate, "05/06/1984", "06/05/1984"),
            (FieldType::FullName, "Ann Lee", "Annlee"),
        ] {
            assert_ne!(normalise(field, one), normalise(field, other), "{one:?} as {field:?}");
        }
        assert_eq!(normalise(FieldType::Phone, "+34 600 123 372"), "+34600123372");
    }

    proptest! {
        #[test]
        fn a_normal_spelling_is_its_own(value in any::<String>(), field in proptest::sample::select(FieldType::ALL)) {
            let once = normalise(field, &value);
            prop_assert_eq!(normalise(field, &once), once);
        }
    }
}
