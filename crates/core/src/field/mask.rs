//! How a value is shown to those who may know that it is there, but not what it is.

use std::net::IpAddr;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::normalise::{Dated, read_date};
use super::{FieldType, is_direction_mark};

/// What stands for everything hidden. Of fixed length, so that it does not tell the value's.
const HIDDEN: &str = "***";

/// The most marks taken along with a letter: enough for every script, too few for a stack of them.
const MARKS_MAX: usize = 4;

/// Shows enough of a value to recognise it beside its owner, and never all of it: `j***@example.com`,
/// `+34 *** *** 372`, `J. M.`, `1984-**-**`. Values too short for that, and all addresses and free text, are
/// `***`; so is anything that is not what its type says.
pub fn mask(field: FieldType, value: &str) -> String {
    let text = value.trim();
    let masked = match field {
        FieldType::Email => email(text),
        FieldType::FullName => initials(text),
        FieldType::Phone => phone(text),
        FieldType::BirthDate => year(text),
        FieldType::Digits | FieldType::DocumentNumber => last_three(text),
        FieldType::Iban => iban(text),
        FieldType::IpAddress => network(text),
        FieldType::Text | FieldType::Code => first_letter(text),
        FieldType::PostalAddress | FieldType::FreeText => None,
    };
    // Whatever the rules above overlook, a mask that holds the value is none.
    masked.filter(|masked| !text.is_empty() && !masked.contains(text)).unwrap_or_else(|| HIDDEN.to_owned())
}

/// The first letter, if at least two others of the local part stay hidden, and the domain.
fn email(text: &str) -> Option<String> {
    let (local, domain) = text.rsplit_once('@')?;
    if domain.is_empty() || domain.len() > 253 || domain.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return None;
    }
    let shown = if letters(local) > 2 { first(local) } else { String::new() };
    Some(format!("{shown}{HIDDEN}@{domain}"))
}

/// The first letters of the first and the last word, if at least two letters stay hidden.
fn initials(text: &str) -> Option<String> {
    let words: Vec<String> = text.split_whitespace().map(first).filter(|letter| !letter.is_empty()).collect();
    let shown = match words.as_slice() {
        [] => return None,
        [only] => format!("{only}."),
        [one, .., last] => format!("{one}. {last}."),
    };
    (letters(text) >= words.len().min(2) + 2).then_some(shown)
}

/// The country code and the last three digits, if at least four digits stay hidden.
fn phone(text: &str) -> Option<String> {
    let plain: String = text.nfkc().filter(|c| c.is_ascii_digit() || *c == '+').collect();
    let (country, rest) = match plain.strip_prefix('+') {
        Some(international) => international.split_at_checked(country_code_digits(international))?,
        None => ("", plain.as_str()),
    };
    let hidden = rest.len().checked_sub(3)?;
    let last = rest.get(hidden..).filter(|_| hidden >= 4)?;
    Some(match country {
        "" => format!("*** *** {last}"),
        country => format!("+{country} *** *** {last}"),
    })
}

/// How many digits of an international number are its country code (ITU-T E.164, list of assigned codes).
pub(super) fn country_code_digits(number: &str) -> usize {
    const TWO: &[&str] = &[
        "20", "27", "30", "31", "32", "33", "34", "36", "39", "40", "41", "43", "44", "45", "46", "47", "48",
        "49", "51", "52", "53", "54", "55", "56", "57", "58", "60", "61", "62", "63", "64", "65", "66", "81",
        "82", "84", "86", "90", "91", "92", "93", "94", "95", "98",
    ];
    match number.get(..2) {
        _ if number.starts_with(['1', '7']) => 1,
        Some(two) if TWO.contains(&two) => 2,
        _ => 3,
    }
}

fn year(text: &str) -> Option<String> {
    match read_date(text)? {
        Dated::Day(date) => Some(format!("{:04}-**-**", date.year())),
        Dated::Ambiguous { year } => Some(format!("{year:04}-**-**")),
        Dated::Month { .. } | Dated::Year => None,
    }
}

/// The last three letters or digits, if at least four stay hidden.
fn last_three(text: &str) -> Option<String> {
    let plain: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).collect();
    let hidden = plain.len().checked_sub(3)?;
    (hidden >= 4).then(|| format!("{HIDDEN}{}", plain.iter().skip(hidden).collect::<String>()))
}

/// The country and the last four, as account holders know it from their bank.
fn iban(text: &str) -> Option<String> {
    let plain: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let hidden = plain.len().checked_sub(4).filter(|hidden| *hidden >= 10)?;
    let country: String = plain.iter().take(2).collect();
    let last: String = plain.iter().skip(hidden).collect();
    Some(format!("{country}{HIDDEN}{last}"))
}

/// The first 16 bits of an IPv4 address, the first 32 of an IPv6 one: a provider, not a household.
fn network(text: &str) -> Option<String> {
    Some(match text.parse().ok()? {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            format!("{a}.{b}.*.*")
        }
        IpAddr::V6(address) => {
            let [a, b, ..] = address.segments();
            format!("{a:x}:{b:x}:{HIDDEN}")
        }
    })
}

fn first_letter(text: &str) -> Option<String> {
    (letters(text) >= 5).then(|| format!("{}{HIDDEN}", first(text)))
}

/// How many letters and digits a text has, marks not counted.
fn letters(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphanumeric() && !is_combining_mark(*c)).count()
}

/// The first letter or digit with the marks that belong to it; empty if there is none.
fn first(text: &str) -> String {
    let mut rest =
        text.chars().skip_while(|c| is_direction_mark(*c) || !c.is_alphanumeric() || is_combining_mark(*c));
    let letter = rest.next();
    letter.into_iter().chain(rest.take_while(|c| is_combining_mark(*c)).take(MARKS_MAX)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn masks_show_a_little_and_never_all() {
        for (field, value, shown) in [
            (FieldType::Email, "jane.miller@example.com", "j***@example.com"),
            (FieldType::Email, " jane@example.com ", "j***@example.com"),
            (FieldType::Email, "jm@example.com", "***@example.com"),
            (FieldType::Email, "e\u{301}lodie@example.com", "e\u{301}***@example.com"),
            (FieldType::Email, "nobody", "***"),
            (FieldType::Email, "@x", "***"),
            (FieldType::Phone, "+34 600 123 372", "+34 *** *** 372"),
            (FieldType::Phone, "+1 (202) 555-0143", "+1 *** *** 143"),
            (FieldType::Phone, "+351 21 000 0000", "+351 *** *** 000"),
            (FieldType::Phone, "020 7946 0958", "*** *** 958"),
            (FieldType::Phone, "112", "***"),
            (FieldType::Phone, "+34112", "***"),
            (FieldType::FullName, "Jane Miller", "J. M."),
            (FieldType::FullName, "Jane van der Miller", "J. M."),
            (FieldType::FullName, "Cher", "C."),
            (FieldType::FullName, "J", "***"),
            (FieldType::FullName, "J M", "***"),
            (FieldType::FullName, "J. M.", "***"),
            (FieldType::FullName, "李明", "***"),
            (FieldType::FullName, "王小明", "王."),
            (FieldType::FullName, "\u{200f}מרים כהן", "מ. כ."),
            (FieldType::FullName, "O'Brien", "O."),
            (FieldType::FullName, "🎉🎉🎉", "***"),
            (FieldType::BirthDate, "1984-05-31", "1984-**-**"),
            (FieldType::BirthDate, "31/05/1984", "1984-**-**"),
            (FieldType::BirthDate, "05/06/1984", "1984-**-**"),
            (FieldType::BirthDate, "1984", "***"),
            (FieldType::PostalAddress, "1 High Street\nLondon", "***"),
            (FieldType::FreeText, "anything at all", "***"),
            (FieldType::DocumentNumber, "X1234567-L", "***67L"),
            (FieldType::Digits, "123456", "***"),
            (FieldType::Iban, "GB82 WEST 1234 5698 7654 32", "GB***5432"),
            (FieldType::IpAddress, "203.0.113.7", "203.0.*.*"),
            (FieldType::IpAddress, "2001:db8::1", "2001:db8:***"),
            (FieldType::Text, "anything", "a***"),
            (FieldType::Code, "yes", "***"),
        ] {
            assert_eq!(mask(field, value), shown, "{value:?} as {field:?}");
        }
        for field in FieldType::ALL {
            assert_eq!(mask(*field, ""), "***");
        }
    }

    proptest! {
        #[test]
        fn no_mask_holds_its_value(value in value(), field in proptest::sample::select(FieldType::ALL)) {
            let text = value.trim();
            let shown = mask(field, &value);
            prop_assert!(!shown.is_empty());
            prop_assert!(text.chars().all(|c| c == '*') || !shown.contains(text), "{shown:?}");
        }
    }

    /// Anything, and much that is nearly what the types expect.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-z\u{301}*. ]{0,6}@[a-z.*@]{0,8}",
            "\\+?[0-9 ()*-]{0,20}",
            "[0-9]{1,4}[-./][0-9]{1,2}[-./][0-9]{1,4}",
            "[A-Z]{2}[0-9]{2}[A-Z0-9]{0,31}",
            "\\PC{0,8}( \\PC{0,8}){0,3}",
        ]
    }
}
