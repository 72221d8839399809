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

    fn wrap_salted(&self, context: &RootContext, key: KeyRef<'_, role::Page>, salt: &[u8; SALT_BYTES]) -> Bytes {
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
