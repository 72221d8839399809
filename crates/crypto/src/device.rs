//! The key of a tree's top page, wrapped inside a device that never gives its root out.
//!
//! `{format 1, suite 2} ‖ nonce (12) ‖ AES-256-GCM(root in the device, page key) ‖ tag (16)`. The nonce is random,
//! the device's own or ours: a root wraps a handful of times in its life, so none repeats. The device does the
//! arithmetic; what stands here is what it is given and what becomes of its answer.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::aead::{FORMAT, HEADER_BYTES, TAG_BYTES};
use crate::arena::{KEY_BYTES, Slot};
use crate::parts::Parts;
use crate::root::RootContext;
use crate::{Key, KeyRef, OpenError, labels, role};

/// AES-256-GCM inside a device, under a random nonce.
const DEVICE_SUITE: u8 = 2;
/// GCM's nonce.
pub const NONCE_BYTES: usize = 12;
/// GCM's tag, in bits, as devices ask for it.
pub const TAG_BITS: u64 = 128;

impl RootContext {
    /// The associated data that binds what a device wraps to tree and root.
    pub fn for_device(&self) -> Vec<u8> {
        Parts::new(labels::DEVICE_ROOT)
            .add(&[FORMAT])
            .add(&[DEVICE_SUITE])
            .add(&self.tree.0)
            .add(&self.root.0)
            .bytes()
    }
}

impl KeyRef<'_, role::Page> {
    /// Hands the key's bytes to a device that wraps them. `wrap` must keep no copy.
    pub fn hand_to_device<T>(self, wrap: impl FnOnce(&[u8]) -> T) -> T {
        wrap(self.bytes())
    }
}

impl Key<role::Page> {
    /// Takes what a device has unwrapped into locked memory and wipes where it lay.
    ///
    /// # Errors
    /// [`OpenError::Malformed`] where it is not a key.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn take_from_device(unwrapped: Vec<u8>) -> Result<Self, OpenError> {
        let unwrapped = Zeroizing::new(unwrapped);
        let bytes: &[u8; KEY_BYTES] = unwrapped.as_slice().try_into().map_err(|_| OpenError::Malformed)?;
        let mut key = Slot::<KEY_BYTES>::zeroed();
        key.copy_from_slice(bytes);
        Ok(Self::from_slot(key))
    }
}

/// What is stored of a wrapped key: the nonce, and what the device gave (text and tag).
pub fn anchor(nonce: &[u8; NONCE_BYTES], wrapped: &[u8]) -> Bytes {
    [&[FORMAT, DEVICE_SUITE], &nonce[..], wrapped].concat().into()
}

/// Takes that apart again.
///
/// # Errors
/// [`OpenError`] where [`anchor`] cannot have made it.
pub fn from_anchor(anchor: &[u8]) -> Result<([u8; NONCE_BYTES], &[u8]), OpenError> {
    let (header, body) = anchor.split_first_chunk::<HEADER_BYTES>().ok_or(OpenError::Malformed)?;
    match *header {
        [FORMAT, DEVICE_SUITE] => {}
        [FORMAT, suite] => return Err(OpenError::UnknownSuite(suite)),
        [format, _] => return Err(OpenError::UnknownFormat(format)),
    }
    let (nonce, wrapped) = body.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Malformed)?;
    if wrapped.len() != KEY_BYTES + TAG_BYTES {
        return Err(OpenError::Malformed);
    }
    Ok((*nonce, wrapped))
}

#[cfg(test)]
mod tests {
    use cloakroom_core::ids::{RootId, TreeId};
    use hex_literal::hex;

    use super::*;

    const NONCE: [u8; NONCE_BYTES] = [5; NONCE_BYTES];

    #[test]
    fn golden_associated_data() {
        let context = RootContext { tree: TreeId([0xaa; 16]), root: RootId([0xbb; 16]) };
        let expected = hex!(
            "18000000 636c6f616b726f6f6d2064657669636520726f6f74207631
             01000000 01 01000000 02
             10000000 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
             10000000 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
        );
        assert_eq!(context.for_device(), expected);
    }

    #[test]
    fn an_anchor_comes_apart_as_it_was_put_together() {
        let stored = anchor(&NONCE, &[7; 48]);
        assert_eq!(&stored[..4], [1, 2, 5, 5]);
        assert_eq!(from_anchor(&stored).unwrap(), (NONCE, &[7; 48][..]));
        for len in 0..stored.len() {
            assert!(from_anchor(&stored[..len]).is_err(), "{len} bytes");
        }
        assert!(from_anchor(&[&stored[..], b"x"].concat()).is_err());
        let mut other = stored.to_vec();
        other[1] = 1;
        assert_eq!(from_anchor(&other), Err(OpenError::UnknownSuite(1)), "another holder's");
        other[0] = 2;
        assert_eq!(from_anchor(&other), Err(OpenError::UnknownFormat(2)));
    }

    #[test]
    fn a_key_goes_to_a_device_and_comes_back() {
        let key = Key::random();
        let given = key.borrow().hand_to_device(<[u8]>::to_vec);
        assert_eq!(given, key.borrow().bytes());
        let again = Key::take_from_device(given).unwrap();
        assert_eq!(again.borrow().bytes(), key.borrow().bytes());
        for len in [0, 31, 33] {
            assert!(Key::take_from_device(vec![1; len]).is_err());
        }
    }
}
