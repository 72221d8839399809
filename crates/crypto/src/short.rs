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
    sum % 10 == 0
}
