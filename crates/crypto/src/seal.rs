//! A stored value: sealed once, under a key of its own, bound to whose and what it is.
//!
//! `{format 1, suite 1} ‖ commitment (32) ‖ AES-256-GCM(record key, padded value) ‖ tag (16)`, where
//! `record key ‖ commitment = HKDF-Expand(value key, context)` and the associated data is the context too.
//! The commitment is there because GCM does not commit to its key; it is compared in constant time before
//! anything is decrypted. The value is followed by `0x80` and zeros up to a bucket of 32, 64, 128, ... bytes.

use bytes::Bytes;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::aead::{self, FORMAT, HEADER_BYTES, SUITE, TAG_BYTES};
use crate::arena::KEY_BYTES;
use crate::parts::Parts;
use crate::{KeyRef, OpenError, Plaintext, labels, role};

const COMMITMENT_BYTES: usize = 32;
const BUCKET_BYTES_MIN: usize = 32;
const BUCKET_BYTES_MAX: usize = 128 * 1024;

/// The longest text that can be sealed, in bytes: the largest bucket less the padding's one byte. Values end
/// at 64 KiB, so that every value fits whatever its bytes.
pub const TEXT_BYTES_MAX: usize = BUCKET_BYTES_MAX - 1;

/// What a sealed value is bound to: what is known before the log gives it a number. It opens under exactly
/// the same alone.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The controller's id.
    pub controller: &'a str,
    /// The subject's 64 random bits.
    pub subject_bits: u64,
    /// The processing activity's id.
    pub activity: &'a str,
    /// The field's id.
    pub field: &'a str,
    /// The token's 64 random bits.
    pub bits: u64,
    /// The value's version, from 1; a rectified value has the next.
    pub value_version: u32,
}

impl Context<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        Parts::new(labels::VALUE)
            .add(&[FORMAT])
            .add(&[SUITE])
            .add(self.controller.as_bytes())
            .add(&self.subject_bits.to_le_bytes())
            .add(self.activity.as_bytes())
            .add(self.field.as_bytes())
            .add(&self.bits.to_le_bytes())
            .add(&self.value_version.to_le_bytes())
            .bytes()
    }
}

/// Why a value was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("a text of {len} bytes is too long to seal")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

impl KeyRef<'_, role::Value> {
    /// Seals `text`, bound to `context`. A value key seals one text, once: sealing a second one under it would
    /// repeat a nonce, so every value and version has a new key.
    ///
    /// # Errors
    /// [`SealError::TooLong`].
    pub fn seal(&self, text: &Plaintext, context: &Context<'_>) -> Result<Bytes, SealError> {
        let bucket = bucket_bytes(text.len()).ok_or(SealError::TooLong { len: text.len() })?;
        let context = context.bytes();
        let mut padded = Zeroizing::new(Vec::with_capacity(bucket));
        padded.extend_from_slice(text.as_bytes());
        padded.push(0x80);
        padded.resize(bucket, 0);

        let mut sealed = Vec::with_capacity(HEADER_BYTES + COMMITMENT_BYTES + bucket + TAG_BYTES);
        sealed.extend_from_slice(&[FORMAT, SUITE]);
        aead::leaving_nothing(|| {
            let derived = Derived::new(*self, &context);
            let tag = aead::encrypt(&derived.record_key, &context, &mut padded);
            sealed.extend_from_slice(&derived.commitment);
            sealed.extend_from_slice(&padded);
            sealed.extend_from_slice(&tag);
        });
        Ok(sealed.into())
    }

    /// Opens what [`KeyRef::seal`] gave under the same key and context.
    ///
    /// # Errors
    /// [`OpenError`], which does not tell a wrong key from a wrong context or changed bytes.
    pub fn open(&self, sealed: &[u8], context: &Context<'_>) -> Result<Plaintext, OpenError> {
        let body = aead::without_header(sealed)?;
        let (commitment, body) = body.split_at_checked(COMMITMENT_BYTES).ok_or(OpenError::Malformed)?;
        let (text, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Malformed)?;
        if !(BUCKET_BYTES_MIN..=BUCKET_BYTES_MAX).contains(&text.len()) || !text.len().is_power_of_two() {
            return Err(OpenError::Malformed);
        }
        let context = context.bytes();
        let mut opened = Plaintext::from_slice(text);
        aead::leaving_nothing(|| {
            let derived = Derived::new(*self, &context);
            if !bool::from(derived.commitment.ct_eq(commitment)) {
                return Err(OpenError::Refused);
            }
            aead::decrypt(&derived.record_key, &context, opened.as_mut_bytes(), tag)
        })?;
        let end = opened.as_bytes().iter().rposition(|byte| *byte != 0).ok_or(OpenError::Malformed)?;
        if opened.as_bytes().get(end) != Some(&0x80) || bucket_bytes(end) != Some(opened.len()) {
            return Err(OpenError::Malformed);
        }
        opened.cut(end);
        Ok(opened)
    }
}

/// The smallest bucket with room for `len` bytes and the padding's first.
fn bucket_bytes(len: usize) -> Option<usize> {
    let bucket = len.checked_add(1)?.checked_next_power_of_two()?.max(BUCKET_BYTES_MIN);
    (bucket <= BUCKET_BYTES_MAX).then_some(bucket)
}

/// What a value key gives for one context. Lives within [`aead::leaving_nothing`] alone.
struct Derived {
    record_key: Zeroizing<[u8; KEY_BYTES]>,
    commitment: [u8; COMMITMENT_BYTES],
}

impl Derived {
    fn new(key: KeyRef<'_, role::Value>, context: &[u8]) -> Self {
        let mut both = Zeroizing::new([0; KEY_BYTES + COMMITMENT_BYTES]);
        aead::expand(key.bytes(), &[context], both.as_mut_slice());
        let mut derived =
            Self { record_key: Zeroizing::new([0; KEY_BYTES]), commitment: [0; COMMITMENT_BYTES] };
        let (record_key, commitment) = both.split_at(KEY_BYTES);
        derived.record_key.copy_from_slice(record_key);
        derived.commitment.copy_from_slice(commitment);
        derived
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;
    use crate::Key;

    const CONTEXT: Context<'static> = Context {
        controller: "acme",
        subject_bits: 0x0102030405060708,
        activity: "ticketing",
        field: "email",
        bits: 0x1112131415161718,
        value_version: 1,
    };

    fn known_key() -> Key<role::Value> {
        Key::fixed(std::array::from_fn(|i| i as u8))
    }

    /// Computed with another implementation (Python's hmac and cryptography).
    #[test]
    fn golden_bytes() {
        let sealed = hex!(
            "0101e57a9e670ca26d06f77d3df2d18d31a87a175b9de9f633b5ba3f7ae950a5f4fe
             3747cd38586cfe8eb08fb7aeb80c99c820e8e8fe387e250245b0bb02f7d77e56
             36fbfbceb222a69436f41d6fb8059857"
        );
        let text = Plaintext::from_slice("zoë@example.com".as_bytes());
        assert_eq!(known_key().borrow().seal(&text, &CONTEXT).unwrap(), sealed.as_slice());
        assert!(known_key().borrow().open(&sealed, &CONTEXT).unwrap().same_as(&text));
    }

    #[test]
    fn length_shows_as_a_bucket_only() {
        let sealed_bytes = |len: usize| {
            let sealed = Key::random().borrow().seal(&Plaintext::new(vec![0x80; len]), &CONTEXT).unwrap();
            sealed.len() - HEADER_BYTES - COMMITMENT_BYTES - TAG_BYTES
        };
        let lengths = [0, 31, 32, 63, 64, 65_535, 65_536, TEXT_BYTES_MAX];
        assert_eq!(lengths.map(sealed_bytes), [32, 32, 64, 64, 128, 65_536, 131_072, 131_072]);
    }

    #[test]
    fn too_long_is_refused() {
        let text = Plaintext::new(vec![0; TEXT_BYTES_MAX + 1]);
        assert_eq!(
            Key::random().borrow().seal(&text, &CONTEXT),
            Err(SealError::TooLong { len: TEXT_BYTES_MAX + 1 })
        );
    }

    fn error_of(sealed: &[u8]) -> Option<OpenError> {
        known_key().borrow().open(sealed, &CONTEXT).err()
    }

    #[test]
    fn unknown_formats_and_suites_are_refused() {
        let text = Plaintext::from_slice(b"x");
        let sealed = known_key().borrow().seal(&text, &CONTEXT).unwrap().to_vec();
        let with = |place: usize, byte: u8| {
            let mut changed = sealed.clone();
            changed[place] = byte;
            error_of(&changed)
        };
        assert_eq!(with(0, 2), Some(OpenError::UnknownFormat(2)));
        assert_eq!(with(1, 2), Some(OpenError::UnknownSuite(2)));
        assert_eq!(error_of(b""), Some(OpenError::Malformed));
        assert_eq!(error_of(&[1]), Some(OpenError::Malformed));
    }

    /// Sealed under the right key, but padded as sealing never pads.
    #[test]
    fn odd_padding_is_refused() {
        let open = |padded: [u8; 64]| {
            let (mut padded, context) = (padded, CONTEXT.bytes());
            let key = known_key();
            let derived = Derived::new(key.borrow(), &context);
            let tag = aead::encrypt(&derived.record_key, &context, &mut padded);
            error_of(&[&[FORMAT, SUITE], derived.commitment.as_slice(), &padded, &tag].concat())
        };
        let ending_at = |end: usize, byte: u8| {
            let mut padded = [0; 64];
            padded[end] = byte;
            open(padded)
        };
        assert_eq!(ending_at(32, 0x80), None);
        assert_eq!(ending_at(31, 0x80), Some(OpenError::Malformed), "fits a smaller bucket");
        assert_eq!(ending_at(32, 0x81), Some(OpenError::Malformed));
        assert_eq!(open([0; 64]), Some(OpenError::Malformed));
    }

    proptest! {
        #[test]
        fn opens_to_what_was_sealed(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let key = Key::random();
            let text = Plaintext::new(text);
            let sealed = key.borrow().seal(&text, &CONTEXT).unwrap();
            prop_assert!(key.borrow().open(&sealed, &CONTEXT).unwrap().same_as(&text));
        }

        #[test]
        fn any_changed_bit_fails_to_open(len in 0_usize..100, bit in any::<prop::sample::Index>()) {
            let mut sealed = known_key().borrow().seal(&Plaintext::new(vec![b'a'; len]), &CONTEXT).unwrap().to_vec();
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(error_of(&sealed).is_some());
        }

        #[test]
        fn any_other_length_fails_to_open(len in 0_usize..100, cut in any::<prop::sample::Index>()) {
            let sealed = known_key().borrow().seal(&Plaintext::new(vec![b'a'; len]), &CONTEXT).unwrap();
            prop_assert!(error_of(&sealed[..cut.index(sealed.len())]).is_some());
            prop_assert!(error_of(&[&sealed, &[0; 64][..len % 63 + 1]].concat()).is_some());
        }

        #[test]
        fn any_other_context_fails_to_open(which in 0_usize..9, by in 1_u64.., letter in "[a-z]") {
            let sealed = known_key().borrow().seal(&Plaintext::from_slice(b"value"), &CONTEXT).unwrap();
            let longer = |text: &str| format!("{text}{letter}");
            let (controller, activity, field) = (longer("acme"), longer("ticketing"), longer("email"));
            let moved = format!("{}{}", CONTEXT.activity, &CONTEXT.field[..1]);
            let mut other = CONTEXT;
            match which {
                0 => other.controller = &controller,
                1 => other.activity = &activity,
                2 => other.field = &field,
                3 => other.subject_bits ^= by,
                4 => other.bits ^= by,
                5 => other.value_version ^= (by as u32).max(1),
                6 => (other.bits, other.subject_bits) = (other.subject_bits, other.bits),
                7 => (other.activity, other.field) = (&moved, &CONTEXT.field[1..]),
                _ => (other.activity, other.field) = (other.field, other.activity),
            }
            prop_assert!(known_key().borrow().open(&sealed, &CONTEXT).is_ok());
            prop_assert!(matches!(known_key().borrow().open(&sealed, &other), Err(OpenError::Refused)));
        }

        #[test]
        fn another_key_fails_to_open(text in prop::collection::vec(any::<u8>(), 0..80)) {
            let sealed = Key::random().borrow().seal(&Plaintext::new(text), &CONTEXT).unwrap();
            prop_assert!(matches!(Key::random().borrow().open(&sealed, &CONTEXT), Err(OpenError::Refused)));
        }
    }
}
