//! Payment card numbers, which no field may hold: the companies' documents say that none is kept, and
//! holding one would bring the whole vault into the scope of PCI DSS.
//!
//! A value is a card number if the whole of it, blanks, dashes, what is not seen and a leading `+` aside, is
//! 12 to 19 digits, passes Luhn, and has an issuer's prefix with a length which that issuer uses. A valid `+E.164` number in
//! a phone field is none: country codes and issuer prefixes overlap.
//!
//! Prefixes and lengths: ISO/IEC 7812-1 (numbering, Luhn in its annex B) and the issuers' published ranges
//! as gathered in Wikipedia, "Payment card number", section "Issuer identification number (IIN)".

use crate::field::{FieldType, is_direction_mark};

/// The shortest (Maestro) and longest numbers that ISO/IEC 7812 cards have.
const DIGITS_MIN: usize = 12;
const DIGITS_MAX: usize = 19;

/// E.164 allows 15 digits with the country code.
const E164_DIGITS_MAX: usize = 15;

/// One issuer's range: its first digits from `from` to `to` (of equal length), and its numbers' lengths.
struct Range {
    from: u32,
    to: u32,
    lengths: &'static [usize],
}

const fn range(from: u32, to: u32, lengths: &'static [usize]) -> Range {
    Range { from, to, lengths }
}

const FOURTEEN_UP: &[usize] = &[14, 15, 16, 17, 18, 19];
const SIXTEEN_UP: &[usize] = &[16, 17, 18, 19];
const MAESTRO: &[usize] = &[12, 13, 14, 15, 16, 17, 18, 19];

const ISSUERS: &[Range] = &[
    range(4, 4, &[13, 16, 19]),       // Visa
    range(51, 55, &[16]),             // Mastercard
    range(2221, 2720, &[16]),         // Mastercard, since 2017
    range(34, 34, &[15]),             // American Express
    range(37, 37, &[15]),             // American Express
    range(6011, 6011, SIXTEEN_UP),    // Discover
    range(644, 649, SIXTEEN_UP),      // Discover
    range(65, 65, SIXTEEN_UP),        // Discover
    range(300, 305, FOURTEEN_UP),     // Diners Club International
    range(3095, 3095, FOURTEEN_UP),   // Diners Club International
    range(36, 36, FOURTEEN_UP),       // Diners Club International
    range(38, 39, FOURTEEN_UP),       // Diners Club International
    range(3528, 3589, SIXTEEN_UP),    // JCB
    range(5018, 5018, MAESTRO),       // Maestro
    range(5020, 5020, MAESTRO),       // Maestro
    range(5038, 5038, MAESTRO),       // Maestro
    range(5893, 5893, MAESTRO),       // Maestro
    range(6304, 6304, MAESTRO),       // Maestro
    range(6759, 6759, MAESTRO),       // Maestro
    range(6761, 6763, MAESTRO),       // Maestro
    range(676_770, 676_770, MAESTRO), // Maestro UK
    range(676_774, 676_774, MAESTRO), // Maestro UK
    range(62, 62, SIXTEEN_UP),        // UnionPay
    range(8100, 8171, SIXTEEN_UP),    // UnionPay
];

/// Whether `value`, given for a field of type `field`, is a payment card number.
pub fn is_card_number(field: FieldType, value: &str) -> bool {
    let trimmed = value.trim_start_matches(is_unseen);
    let (plus, rest) = match trimmed.strip_prefix(['+', '\u{ff0b}']) {
        Some(rest) => (true, rest),
        None => (false, trimmed),
    };
    let mut digits = Vec::with_capacity(DIGITS_MAX);
    for c in rest.chars() {
        if is_unseen(c) || is_dash(c) {
            continue;
        }
        match digit(c) {
            Some(_) if digits.len() == DIGITS_MAX => return false,
            Some(d) => digits.push(d),
            None => return false,
        }
    }
    let is_phone = field == FieldType::Phone
        && plus
        && digits.len() <= E164_DIGITS_MAX
        && digits.first().is_some_and(|&first| first != 0);
    digits.len() >= DIGITS_MIN && !is_phone && has_issuer(&digits) && passes_luhn(&digits)
}

/// Whether digits (0 to 9 each, check digit last) pass the Luhn test of ISO/IEC 7812-1, annex B.
pub fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| {
            let digit = u32::from(digit);
            match (place % 2, digit * 2) {
                (0, _) => digit,
                (_, twice @ 0..=9) => twice,
                (_, twice) => twice - 9,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn has_issuer(digits: &[u8]) -> bool {
    ISSUERS.iter().any(|issuer| {
        let places = issuer.from.ilog10() as usize + 1;
        let prefix = digits.iter().take(places).fold(0_u32, |number, &d| number * 10 + u32::from(d));
        (issuer.from..=issuer.to).contains(&prefix) && issuer.lengths.contains(&digits.len())
    })
}

/// ASCII digits, and those that Arabic, Persian, Indian and East Asian keyboards give.
fn digit(c: char) -> Option<u8> {
    const ZEROS: [char; 5] = ['0', '\u{660}', '\u{6f0}', '\u{966}', '\u{ff10}'];
    ZEROS.iter().find_map(|zero| {
        let digit = u32::from(c).checked_sub(u32::from(*zero)).filter(|digit| *digit <= 9)?;
        u8::try_from(digit).ok()
    })
}

/// Blanks, and what is pasted along with a number without being seen: control characters, marks of direction,
/// joiners.
fn is_unseen(c: char) -> bool {
    let joins = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}');
    c.is_whitespace() || c.is_control() || is_direction_mark(c) || joins
}

fn is_dash(c: char) -> bool {
    matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ff0d}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The issuers' own published test numbers.
    const CARDS: &[&str] = &[
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        " 4222222222222\t",
        "+4111111111111111",
        "５５５５５５５５５５５５４４４４",
        "٤١١١١١١١١١١١١١١١",
        "\u{202a}4111\u{200b}1111\u{ad}1111 1111\u{202c}",
        "\u{feff}+4111111111111111",
        "4111111111111111\0",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "371449635398431",
        "6011111111111117",
        "30569309025904",
        "38520000023237",
        "36227206271667",
        "3530111333300000",
        "6759649826438453",
        "6200000000000005",
    ];

    #[test]
    fn card_numbers_are_known_in_every_field() {
        for card in CARDS {
            for field in FieldType::ALL {
                assert!(is_card_number(*field, card), "{card} in {field:?}");
            }
        }
    }

    #[test]
    fn other_numbers_are_none() {
        for (field, value) in [
            (FieldType::Text, "4111111111111112"),     // fails Luhn
            (FieldType::Text, "9111111111111119"),     // nobody's prefix
            (FieldType::Text, "411111111111116"),      // Visa has no 15 digits
            (FieldType::Text, "41111111111111111111"), // 20 digits
            (FieldType::Text, "4111x111111111111"),
            (FieldType::FreeText, "my card is 4111111111111111"), // not the whole value
            (FieldType::Text, ""),
            (FieldType::Text, "-"),
            (FieldType::Text, "00000000000"),
            (FieldType::Phone, "+4222222222222"), // 13 digits under a country code: E.164
        ] {
            assert!(!is_card_number(field, value), "{value} in {field:?}");
        }
    }

    #[test]
    fn a_phone_field_excuses_only_e164() {
        assert!(is_card_number(FieldType::Phone, "4222222222222"), "no plus");
        assert!(is_card_number(FieldType::Phone, "+4111111111111111"), "16 digits");
        assert!(is_card_number(FieldType::Text, "+4222222222222"), "not a phone field");
    }
}
