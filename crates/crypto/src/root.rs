//! The root: wraps the key of a tree's top page. Each root holder that keeps the root in a file or in shares
//! uses this; one that wraps inside a device does its own.
//!
//! `{format 1, suite 1} ‖ salt (32) ‖ AES-256-GCM(HKDF-Expand(root, label ‖ salt), page key) ‖ tag (16)`.

use bytes::Bytes;
use cloakroom_core::ids::{RootId, TreeId};

use crate::aead::{self, FORMAT, HEADER_BYTES, SALT_BYTES, SUITE, TAG_BYTES};
use crate::arena::{KEY_BYTES, Slot};
use crate::parts::Parts;
use crate::{Key, KeyRef, OpenError, labels, random, role};

const WRAPPED_BYTES: usize = HEADER_BYTES + SALT_BYTES + KEY_BYTES + TAG_BYTES;

/// Which root of which tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootContext {
    /// The tree.
    pub tree: TreeId,
    /// The root.
    pub root: RootId,
}

impl RootContext {
    fn bytes(&self) -> Vec<u8> {
        Parts::new(labels::ROOT).add(&[FORMAT]).add(&[SUITE]).add(&self.tree.0).add(&self.root.0).bytes()
    }
}

impl KeyRef<'_, role::Root> {
    /// Wraps the key of the tree's top page.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn wrap(&self, context: &RootContext, key: KeyRef<'_, role::Page>) -> Bytes {
        self.wrap_salted(context, key, &random::array())
    }

    fn wrap_salted(
        &self,
        context: &RootContext,
        key: KeyRef<'_, role::Page>,
        salt: &[u8; SALT_BYTES],
    ) -> Bytes {
        let mut text = Slot::<KEY_BYTES>::zeroed();
        text.copy_from_slice(key.bytes());
        let associated = context.bytes();
        let tag = aead::leaving_nothing(|| {
            let wrapping = aead::salted(self.bytes(), labels::ROOT_KEY, salt);
            aead::encrypt(&wrapping, &associated, text.as_mut_slice())
        });
        let mut wrapped = Vec::with_capacity(WRAPPED_BYTES);
        wrapped.extend_from_slice(&[FORMAT, SUITE]);
        wrapped.extend_from_slice(salt);
        wrapped.extend_from_slice(text.as_slice());
        wrapped.extend_from_slice(&tag);
        wrapped.into()
    }

    /// Unwraps it, if this is the root it was wrapped by.
    ///
    /// # Errors
    /// [`OpenError`], which does not tell a wrong root from a wrong context or changed bytes.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn unwrap(&self, context: &RootContext, wrapped: &[u8]) -> Result<Key<role::Page>, OpenError> {
        let body = aead::without_header(wrapped)?;
        let (salt, body) = body.split_first_chunk::<SALT_BYTES>().ok_or(OpenError::Malformed)?;
        let (text, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Malformed)?;
        let text: &[u8; KEY_BYTES] = text.try_into().map_err(|_| OpenError::Malformed)?;
        let mut key = Slot::<KEY_BYTES>::zeroed();
        key.copy_from_slice(text);
        let associated = context.bytes();
        aead::leaving_nothing(|| {
            let wrapping = aead::salted(self.bytes(), labels::ROOT_KEY, salt);
            aead::decrypt(&wrapping, &associated, key.as_mut_slice(), tag)
        })?;
        Ok(Key::from_slot(key))
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    const CONTEXT: RootContext = RootContext { tree: TreeId([0xaa; 16]), root: RootId([0xbb; 16]) };

    fn known_root() -> Key<role::Root> {
        Key::fixed(std::array::from_fn(|i| i as u8))
    }

    /// Computed with another implementation (Python's hmac and cryptography).
    #[test]
    fn golden_bytes() {
        let salt = std::array::from_fn(|i| 0x80 + i as u8);
        let wrapped = hex!(
            "0101808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
             48eb499fabca30171471ac46b17437bc025384b2f777cf625f3b6b80404edd2a
             7da5092d484b0e42195d02dda53c52b0"
        );
        let top = Key::fixed([0x77; 32]);
        assert_eq!(known_root().borrow().wrap_salted(&CONTEXT, top.borrow(), &salt), wrapped.as_slice());
        let again = known_root().borrow().unwrap(&CONTEXT, &wrapped).unwrap();
        assert_eq!(again.borrow().bytes(), &[0x77; 32]);
    }

    #[test]
    fn any_change_fails_to_unwrap() {
        let root = Key::random();
        let wrapped = root.borrow().wrap(&CONTEXT, Key::random().borrow()).to_vec();
        assert!(root.borrow().unwrap(&CONTEXT, &wrapped).is_ok());
        assert!(Key::random().borrow().unwrap(&CONTEXT, &wrapped).is_err());
        for bit in 0..wrapped.len() * 8 {
            let mut changed = wrapped.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(root.borrow().unwrap(&CONTEXT, &changed).is_err(), "bit {bit}");
        }
        for len in 0..wrapped.len() {
            assert!(root.borrow().unwrap(&CONTEXT, &wrapped[..len]).is_err(), "{len} bytes");
        }
        assert!(root.borrow().unwrap(&CONTEXT, &[&wrapped[..], &[0]].concat()).is_err());
        let other_tree = RootContext { tree: TreeId([0xab; 16]), ..CONTEXT };
        let other_root = RootContext { root: RootId([0xba; 16]), ..CONTEXT };
        assert!(root.borrow().unwrap(&other_tree, &wrapped).is_err());
        assert!(root.borrow().unwrap(&other_root, &wrapped).is_err());
    }

    #[test]
    fn every_wrap_has_a_salt_of_its_own() {
        let (root, top) = (Key::random(), Key::random());
        assert_ne!(root.borrow().wrap(&CONTEXT, top.borrow()), root.borrow().wrap(&CONTEXT, top.borrow()));
    }
}
