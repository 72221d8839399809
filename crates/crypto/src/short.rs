//! Tokens of shapes with too little room for an address: random, with an entry in a projection.

use crate::random;

/// Digits after `+999` in a phone token.
const PHONE_DIGITS: usize = 11;
/// Below this many digits tokens would soon run out or be guessed.
const DIGITS_MIN: usize = 8;
/// The longest value that a `DIGITS` token stands for.
const DIGITS_MAX: usize = 64;

/// A phone number that nobody has: `+999` is no country, and 14 digits keep within E.164's 15.
pub fn phone() -> String {
    format!("+999{}", random_digits(PHONE_DIGITS))
}

/// `len` digits that are no valid card or account number (never Luhn-valid), from 8 to 64 of them; `None` for
/// fewer, which leave too little room, and for more. The caller sees to it that the token is not the value.
pub fn digits(len: usize) -> Option<String> {
    if !(DIGITS_MIN..=DIGITS_MAX).contains(&len) {
        return None;
    }
    loop {
        let drawn = random_digits(len); // one in ten is Luhn-valid
        if !luhn_valid(&drawn) {
            return Some(drawn);
        }
    }
}

/// A random UUID (RFC 9562, version 4): 122 random bits.
pub fn uuid() -> String {
    uuid_of(random::id16())
}

fn uuid_of(random: [u8; 16]) -> String {
    let version_4 = 4_u128 << 76;
    let variant = 0b10_u128 << 62;
    let cleared = u128::from_be_bytes(random) & !(0xf << 76) & !(0b11 << 62);
    let number = cleared | version_4 | variant;
    let (time_low, time_mid, time_high) = (number >> 96, number >> 80 & 0xffff, number >> 64 & 0xffff);
    let (clock, node) = (number >> 48 & 0xffff, number & 0xffff_ffff_ffff);
    format!("{time_low:08x}-{time_mid:04x}-{time_high:04x}-{clock:04x}-{node:012x}")
}

/// Each digit equally likely: bytes from 250 on are drawn again.
fn random_digits(len: usize) -> String {
    let mut digits = String::with_capacity(len);
    while digits.len() < len {
        let drawn: [u8; 64] = random::array();
        let fair = drawn.iter().filter(|byte| **byte < 250).map(|byte| char::from(b'0' + byte % 10));
        digits.extend(fair.take(len - digits.len()));
    }
    digits
}

/// ISO/IEC 7812-1: from the right every second digit doubled, the sum of all digits a multiple of ten.
fn luhn_valid(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .map(|byte| u32::from(byte.wrapping_sub(b'0')))
        .enumerate()
        .map(|(i, digit)| if i % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luhn_examples() {
        // ISO/IEC 7812-1's own example, and card numbers that payment processors publish for tests.
        for valid in ["79927398713", "4242424242424242", "378282246310005", "00"] {
            assert!(luhn_valid(valid), "{valid}");
        }
        for invalid in ["79927398710", "4242424242424241", "1"] {
            assert!(!luhn_valid(invalid), "{invalid}");
        }
    }

    #[test]
    fn digits_keep_their_length_and_are_never_luhn_valid() {
        for len in (8..=64).cycle().take(2_000) {
            let token = digits(len).unwrap();
            assert_eq!(token.len(), len);
            assert!(token.bytes().all(|byte| byte.is_ascii_digit()) && !luhn_valid(&token), "{token}");
        }
        assert!([0, 1, 7, 65].into_iter().all(|len| digits(len).is_none()));
    }

    #[test]
    fn every_digit_comes_up_everywhere() {
        let seen: std::collections::HashSet<(usize, u8)> =
            (0..500).flat_map(|_| random_digits(11).into_bytes().into_iter().enumerate()).collect();
        assert_eq!(seen.len(), 11 * 10);
    }

    #[test]
    fn phone_is_e_164_under_999() {
        let token = phone();
        let digits = token.strip_prefix("+999").unwrap();
        assert!(digits.len() == 11 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{token}");
        assert_ne!(phone(), token);
    }

    #[test]
    fn uuid_is_version_4() {
        assert_eq!(uuid_of([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid_of([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        // RFC 9562, appendix A.3.
        let known = 0x919108f7_52d1_4320_9bac_f847db4148a8_u128;
        assert_eq!(uuid_of(known.to_be_bytes()), "919108f7-52d1-4320-9bac-f847db4148a8");
        assert_ne!(uuid(), uuid());
    }
}
