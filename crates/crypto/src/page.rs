//! A page of the key tree: up to 64 keys, opened in locked memory, sealed under the key its parent holds.
//!
//! `{format 1, suite 1} ‖ salt (32) ‖ AES-256-GCM(sealing key, bitmap ‖ the keys there are, in order) ‖ tag (16)`,
//! where `sealing key = HKDF-Expand(page key, label ‖ salt)`, the bitmap is 8 bytes little-endian, and the
//! associated data names the page's place and version. Plaintext is in locked memory only.

use bytes::Bytes;
use cloakroom_core::ids::TreeId;
use zeroize::Zeroize;

use crate::aead::{self, FORMAT, HEADER_BYTES, SALT_BYTES, SUITE, TAG_BYTES};
use crate::arena::{KEY_BYTES, PAGE_BYTES, Slot};
use crate::parts::Parts;
use crate::{KeyRef, OpenError, labels, random, role};

/// Keys in a page.
pub const FAN_OUT: usize = 64;

const BITMAP_BYTES: usize = 8;

/// Which page, in which version: a page opens at its own place alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageContext {
    /// The tree.
    pub tree: TreeId,
    /// The part of the tree.
    pub subtree: u32,
    /// 0 for the leaves.
    pub level: u8,
    /// Counted from 0 within the level.
    pub index: u64,
    /// Counted up by every write.
    pub version: u64,
}

impl PageContext {
    fn bytes(&self) -> Vec<u8> {
        Parts::new(labels::PAGE)
            .add(&[FORMAT])
            .add(&[SUITE])
            .add(&self.tree.0)
            .add(&self.subtree.to_le_bytes())
            .add(&[self.level])
            .add(&self.index.to_le_bytes())
            .add(&self.version.to_le_bytes())
            .bytes()
    }
}

/// An opened page: keys at 64 places, in locked memory, wiped on drop. No `Debug`, no `Clone`
/// ([`Page::copy`] says that it copies).
///
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<cloakroom_crypto::page::Page>();
/// ```
/// ```compile_fail,E0277
/// fn printed<T: std::fmt::Debug>() {}
/// printed::<cloakroom_crypto::page::Page>();
/// ```
pub struct Page {
    /// One bit for each place that has a key.
    bitmap: u64,
    /// Place i holds its key at `KEYS_START + i * KEY_BYTES`, zeros where there is none.
    bytes: Slot<PAGE_BYTES>,
}

/// Before the keys lies room for the bitmap, so that a page can be opened and spread out in one place.
const KEYS_START: usize = KEY_BYTES;

impl Page {
    /// A page without keys.
    ///
    /// # Panics
    /// If the arena is full (see [`crate::arena`]).
    pub fn empty() -> Self {
        Self { bitmap: 0, bytes: Slot::zeroed() }
    }

    /// Bit i is set if there is a key at place i.
    pub fn bitmap(&self) -> u64 {
        self.bitmap
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.bitmap == 0
    }

    /// Whether there is a key at place `i`; never from 64 on.
    pub fn has(&self, i: usize) -> bool {
        i < FAN_OUT && self.bitmap & (1 << i) != 0
    }

    /// The key at place `i`. Which job it has is the tree's to know.
    pub fn key<R>(&self, i: usize) -> Option<KeyRef<'_, R>> {
        if !self.has(i) {
            return None;
        }
        self.bytes.get(place(i)..)?.first_chunk().map(KeyRef::new)
    }

    /// Puts a copy of `key` at place `i`, over the one that was there.
    ///
    /// # Panics
    /// If `i` is 64 or more.
    pub fn set<R>(&mut self, i: usize, key: KeyRef<'_, R>) {
        self.place_mut(i).copy_from_slice(key.bytes());
        self.bitmap |= 1 << i;
    }

    /// Wipes the key at place `i`, if there is one.
    ///
    /// # Panics
    /// If `i` is 64 or more.
    pub fn remove(&mut self, i: usize) {
        self.place_mut(i).zeroize();
        self.bitmap &= !(1 << i);
    }

    /// The same keys in a page of their own, for the next version of one that is being read.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn copy(&self) -> Self {
        let mut copy = Self { bitmap: self.bitmap, bytes: Slot::zeroed() };
        copy.bytes.copy_from_slice(&*self.bytes);
        copy
    }

    fn place_mut(&mut self, i: usize) -> &mut [u8] {
        assert!(i < FAN_OUT, "a page has 64 places");
        let (_, from) = self.bytes.split_at_mut(place(i));
        from.split_at_mut(KEY_BYTES).0
    }

    fn places(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        places_of(self.bitmap)
    }
}

fn place(i: usize) -> usize {
    KEYS_START + i * KEY_BYTES
}

fn places_of(bitmap: u64) -> impl DoubleEndedIterator<Item = usize> {
    (0..FAN_OUT).filter(move |i| bitmap & (1 << i) != 0)
}

/// Bytes of bitmap and keys together.
fn packed_bytes(bitmap: u64) -> usize {
    BITMAP_BYTES + bitmap.count_ones() as usize * KEY_BYTES
}

impl KeyRef<'_, role::Page> {
    /// Seals a page under this key, for this place and version. The salt is new for every call, so a key may
    /// seal any number of versions.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn seal_page(&self, page: &Page, context: &PageContext) -> Bytes {
        self.seal_page_salted(page, context, &random::array())
    }

    fn seal_page_salted(&self, page: &Page, context: &PageContext, salt: &[u8; SALT_BYTES]) -> Bytes {
        let mut scratch = Slot::<PAGE_BYTES>::zeroed();
        let (packed, _) = scratch.split_at_mut(packed_bytes(page.bitmap));
        let (bitmap, keys) = packed.split_at_mut(BITMAP_BYTES);
        bitmap.copy_from_slice(&page.bitmap.to_le_bytes());
        for (to, i) in keys.chunks_exact_mut(KEY_BYTES).zip(page.places()) {
            if let Some(key) = page.key::<role::Page>(i) {
                to.copy_from_slice(key.bytes());
            }
        }
        let associated = context.bytes();
        let tag = aead::leaving_nothing(|| {
            let sealing = aead::salted(self.bytes(), labels::PAGE_KEY, salt);
            aead::encrypt(&sealing, &associated, packed)
        });
        let mut sealed = Vec::with_capacity(HEADER_BYTES + SALT_BYTES + packed.len() + TAG_BYTES);
        sealed.extend_from_slice(&[FORMAT, SUITE]);
        sealed.extend_from_slice(salt);
        sealed.extend_from_slice(packed);
        sealed.extend_from_slice(&tag);
        sealed.into()
    }

    /// Opens a page, if this is its key, its place and its version.
    ///
    /// # Errors
    /// [`OpenError`], which does not tell a wrong key from a wrong context or changed bytes.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn open_page(&self, sealed: &[u8], context: &PageContext) -> Result<Page, OpenError> {
        let body = aead::without_header(sealed)?;
        let (salt, body) = body.split_first_chunk::<SALT_BYTES>().ok_or(OpenError::Malformed)?;
        let (text, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Malformed)?;
        let mut page = Page::empty();
        let packed = page.bytes.get_mut(..text.len()).ok_or(OpenError::Malformed)?;
        packed.copy_from_slice(text);
        let associated = context.bytes();
        aead::leaving_nothing(|| {
            let sealing = aead::salted(self.bytes(), labels::PAGE_KEY, salt);
            aead::decrypt(&sealing, &associated, packed, tag)
        })?;
        let bitmap = u64::from_le_bytes(*packed.first_chunk().ok_or(OpenError::Malformed)?);
        if packed_bytes(bitmap) != text.len() {
            return Err(OpenError::Malformed);
        }
        // From the last key to the first: each moves towards the end, never onto one that has yet to move.
        let mut from = text.len();
        for i in places_of(bitmap).rev() {
            page.bytes.copy_within(from - KEY_BYTES..from, place(i));
            from -= KEY_BYTES;
        }
        for i in places_of(!bitmap) {
            page.place_mut(i).zeroize();
        }
        page.bytes.split_at_mut(KEYS_START).0.zeroize();
        page.bitmap = bitmap;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;
    use crate::Key;

    const CONTEXT: PageContext =
        PageContext { tree: TreeId([0xaa; 16]), subtree: 3, level: 2, index: 5, version: 7 };

    fn known_key() -> Key<role::Page> {
        Key::fixed(std::array::from_fn(|i| i as u8))
    }

    /// A page with keys of `0x10 + i` at the places set.
    fn page_of(bitmap: u64) -> Page {
        let mut page = Page::empty();
        for i in places_of(bitmap) {
            page.set(i, Key::<role::Value>::fixed([0x10 + i as u8; 32]).borrow());
        }
        page
    }

    fn assert_same(one: &Page, other: &Page) {
        assert_eq!(one.bitmap, other.bitmap);
        assert_eq!(one.bytes[..], other.bytes[..], "nothing but the keys is left in memory");
    }

    /// Computed with another implementation (Python's hmac and cryptography).
    #[test]
    fn golden_bytes() {
        let salt = std::array::from_fn(|i| 0x80 + i as u8);
        let page = page_of(1 | 1 << 5 | 1 << 63);
        let sealed = hex!(
            "0101808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
             0c65d54dbc7662c0b111e5ba1f624b86a3a09b113822e41da056993eaed14287
             ea50636cc1d536172adf18ee49d076ab94e102c6493fb569c5452254c5ed1698
             94b2164bac0b3b7b12f1706654501cc3f3d8fc55b89abe712ce9eeaccbe5020c
             875bbc3a8c0e7af86439fc4f4b6cdf3e401cc68fdc61337f"
        );
        assert_eq!(known_key().borrow().seal_page_salted(&page, &CONTEXT, &salt), sealed.as_slice());
        assert_same(&known_key().borrow().open_page(&sealed, &CONTEXT).unwrap(), &page);
    }

    #[test]
    fn a_removed_key_is_gone_from_memory() {
        let mut page = page_of(u64::MAX);
        page.remove(63);
        assert!(!page.has(63) && page.key::<role::Value>(63).is_none());
        assert_eq!(page.bytes[place(63)..], [0; 32]);
        assert_eq!(page.key::<role::Value>(62).unwrap().bytes(), &[0x10 + 62; 32]);
        (0..63).for_each(|i| page.remove(i));
        assert!(page.is_empty());
        assert_eq!(page.bytes[..], [0; PAGE_BYTES]);
    }

    #[test]
    fn there_is_no_place_64() {
        let page = page_of(u64::MAX);
        assert!(!page.has(64) && page.key::<role::Value>(64).is_none());
    }

    #[test]
    fn every_write_has_a_salt_of_its_own() {
        let (key, page) = (Key::random(), page_of(3));
        assert_ne!(key.borrow().seal_page(&page, &CONTEXT), key.borrow().seal_page(&page, &CONTEXT));
    }

    proptest! {
        #[test]
        fn opens_to_what_was_sealed(bitmap in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]) {
            let (key, page) = (Key::random(), page_of(bitmap));
            let sealed = key.borrow().seal_page(&page, &CONTEXT);
            prop_assert_eq!(sealed.len(), 2 + 32 + 8 + 32 * bitmap.count_ones() as usize + 16);
            assert_same(&key.borrow().open_page(&sealed, &CONTEXT).unwrap(), &page);
            assert_same(&page.copy(), &page);
        }

        #[test]
        fn any_changed_bit_fails_to_open(bitmap: u64, bit in any::<prop::sample::Index>()) {
            let mut sealed = known_key().borrow().seal_page(&page_of(bitmap), &CONTEXT).to_vec();
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(known_key().borrow().open_page(&sealed, &CONTEXT).is_err());
        }

        #[test]
        fn any_bytes_are_refused_quietly(bytes in prop::collection::vec(any::<u8>(), 0..2300), version: bool) {
            let bytes = if version { [&[FORMAT, SUITE][..], &bytes].concat() } else { bytes };
            prop_assert!(known_key().borrow().open_page(&bytes, &CONTEXT).is_err());
        }

        #[test]
        fn any_other_context_fails_to_open(which in 0..5, by in 1_u64..) {
            let sealed = known_key().borrow().seal_page(&page_of(by), &CONTEXT);
            let mut other = CONTEXT;
            match which {
                0 => other.tree.0[(by % 16) as usize] ^= 1,
                1 => other.subtree ^= (by as u32).max(1),
                2 => other.level ^= (by as u8).max(1),
                3 => other.index ^= by,
                _ => other.version ^= by,
            }
            prop_assert!(known_key().borrow().open_page(&sealed, &CONTEXT).is_ok());
            prop_assert!(matches!(known_key().borrow().open_page(&sealed, &other), Err(OpenError::Refused)));
        }
    }
}
