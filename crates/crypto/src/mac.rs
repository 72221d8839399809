//! HMAC-SHA-256 (RFC 2104) under a key that is replaced daily: what a caller named its call is kept this way
//! only, since people put addresses into idempotency keys. And under a key that one process has for itself: what
//! tokens are found by.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::aead::leaving_nothing;
use crate::parts::length;
use crate::{KeyRef, labels, role};

impl KeyRef<'_, role::Idempotency> {
    /// The MAC over a list of parts, each preceded by its length.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        leaving_nothing(|| hmac(self.bytes(), labels::IDEMPOTENCY, parts))
    }
}

impl KeyRef<'_, role::Lookup> {
    /// The first 64 bits of the MAC over a list of parts, each preceded by its length: enough to find a value
    /// among billions, which is then opened and compared.
    pub fn mark(&self, parts: &[&[u8]]) -> u64 {
        leaving_nothing(|| {
            let [a, b, c, d, e, f, g, h, ..] = hmac(self.bytes(), labels::LOOKUP, parts);
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        })
    }
}

fn hmac(key: &[u8; 32], label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        panic!("HMAC takes keys of any length");
    };
    for part in [label.as_bytes()].iter().chain(parts) {
        mac.update(&length(part));
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use crate::Key;

    /// Computed with another implementation (Python's hmac).
    #[test]
    fn golden_bytes() {
        let key = Key::fixed(std::array::from_fn(|i| i as u8));
        assert_eq!(
            key.borrow().mac(&[b"billing", b"order-17"]),
            hex!("51baf4fd30ade43ffe697c00e2c20f839bf911ce52cb28c31129d4aad02b3fd9")
        );
    }

    #[test]
    fn lists_that_join_to_the_same_bytes_differ() {
        let key = Key::random();
        assert_ne!(key.borrow().mac(&[b"ab", b"c"]), key.borrow().mac(&[b"a", b"bc"]));
        assert_ne!(key.borrow().mac(&[b"a"]), Key::random().borrow().mac(&[b"a"]));
        let key = Key::random();
        assert_eq!(key.borrow().mark(&[b"ab", b"c"]), key.borrow().mark(&[b"ab", b"c"]));
        assert_ne!(key.borrow().mark(&[b"ab", b"c"]), key.borrow().mark(&[b"a", b"bc"]));
        assert_ne!(key.borrow().mark(&[b"a"]), Key::random().borrow().mark(&[b"a"]));
    }
}
