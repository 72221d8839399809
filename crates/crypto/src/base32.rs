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

#[cfg(test)]
mod tests {
    use data_encoding::BASE32_NOPAD;
    use proptest::prelude::*;

    use super::*;

    /// RFC 4648, section 10: "fooba" is MZXW6YTB, and "f" is MY.
    #[test]
    fn rfc_4648_vectors() {
        assert_eq!(encode(*b"foobafoobafoobaf"), "mzxw6ytbmzxw6ytbmzxw6ytbmy");
        assert_eq!(decode("mzxw6ytbmzxw6ytbmzxw6ytbmy"), Some(*b"foobafoobafoobaf"));
    }

    #[test]
    fn other_spellings_are_none() {
        let refused = [
            "",
            "mzxw6ytbmzxw6ytbmzxw6ytbm",   // short
            "mzxw6ytbmzxw6ytbmzxw6ytbmya", // long
            "mzxw6ytbmzxw6ytbmzxw6ytbm=",
            "mzxw6ytbmzxw6ytbmzxw6ytbmz", // spare bits
            "mzxw6ytbmzxw6ytbmzxw6ytbm2",
            "Mzxw6ytbmzxw6ytbmzxw6ytbmy",
            "mzxw6ytbmzxw6ytbmzxw6ytb1y",
            "mzxw6ytb mzxw6ytbmzxw6ytby",
            "mzxw6ytbmzxw6ytbmzxw6ytbé",
        ];
        for text in refused {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(block: [u8; 16]) {
            prop_assert_eq!(encode(block), BASE32_NOPAD.encode(&block).to_ascii_lowercase());
            prop_assert_eq!(decode(&encode(block)), Some(block));
        }

        #[test]
        fn what_is_read_is_written_the_same(text in "[a-z2-7]{26}") {
            if let Some(block) = decode(&text) {
                prop_assert_eq!(encode(block), text);
            }
        }
    }
}
