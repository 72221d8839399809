//! RFC 4648 base32 of 16 bytes: lower case, no padding, spare bits zero. One spelling only.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// 128 bits in letters of five.
pub(crate) const CHARS: usize = 26;

pub(crate) fn encode(block: [u8; 16]) -> String {
    let number = u128::from_be_bytes(block);
    // 26 letters hold 130 bits: the last one's two low bits are zero.
    (0..CHARS)
        .map(|i| if i < 25 { number >> (123 - 5 * i) } else { number << 2 })
        .filter_map(|bits| ALPHABET.get((bits & 31) as usize))
        .map(|letter| char::from(*letter))
        .collect()
}

pub(crate) fn decode(text: &str) -> Option<[u8; 16]> {
    if text.len() != CHARS {
        return None;
    }
    let mut number: u128 = 0;
    for (i, letter) in text.bytes().enumerate() {
        let bits = match letter {
            b'a'..=b'z' => letter - b'a',
            b'2'..=b'7' => letter - b'2' + 26,
            _ => return None,
        };
        if i < 25 {
            number = number << 5 | u128::from(bits);
        } else if bits & 3 == 0 {
            number = number << 3 | u128::from(bits >> 2);
        } else {
            return None;
        }
    }
    Some(number.to_be_bytes())
}
