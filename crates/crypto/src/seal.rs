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
    fn bytes(&self) -> Vec<u8> {
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
        let mut derived = Self { record_key: Zeroizing::new([0; KEY_BYTES]), commitment: [0; COMMITMENT_BYTES] };
        let (record_key, commitment) = both.split_at(KEY_BYTES);
        derived.record_key.copy_from_slice(record_key);
        derived.commitment.copy_from_slice(commitment);
        derived
    }
}
