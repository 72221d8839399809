//! Ed25519 (RFC 8032): records on the bus, acknowledgements, certificates, checkpoints.

use std::io::{self, Read, Write};

use data_encoding::HEXLOWER;
use ed25519_dalek::Signature;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use sha2::Sha512;
use thiserror::Error;

use crate::aead::leaving_nothing;
use crate::parts::Parts;
use crate::{Key, KeyRef, hash, labels, role};

/// Why a key or signature was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SignError {
    /// Not 32 bytes that are a point on the curve, or a point of small order, under which anything verifies.
    #[error("not an Ed25519 public key")]
    NoPublicKey,
    /// Another key, another message, or no signature at all.
    #[error("signature does not verify")]
    Refused,
}

/// A private key: its seed in locked memory, expanded for each signature. No `Debug`, no `Clone`.
pub struct SigningKey {
    seed: Key<role::Signing>,
    public: VerifyingKey,
}

impl SigningKey {
    /// The key that a seed in the key tree stands for; keeps a copy of the seed.
    ///
    /// # Panics
    /// If the arena is full (see [`crate::arena`]).
    pub fn from_seed(seed: KeyRef<'_, role::Signing>) -> Self {
        Self::of(seed.keep())
    }

    /// A new key, for a downstream that keeps its seed in a file of its own.
    ///
    /// # Panics
    /// If the arena is full or the kernel gives no randomness.
    pub fn generate() -> Self {
        Self::of(Key::random())
    }

    /// Reads a seed that [`SigningKey::write_to`] wrote: 32 bytes, straight into locked memory. Give an
    /// unbuffered reader.
    ///
    /// # Errors
    /// As the reader, and `UnexpectedEof` where it holds less than a seed.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Self> {
        Key::from_reader(reader).map(Self::of)
    }

    /// Writes the seed's 32 bytes. Give an unbuffered writer, to a file that only its owner may read.
    ///
    /// # Errors
    /// As the writer.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(self.seed.borrow().bytes())
    }

    fn of(seed: Key<role::Signing>) -> Self {
        let public = leaving_nothing(|| {
            ed25519_dalek::VerifyingKey::from(&ExpandedSecretKey::from(seed.borrow().bytes()))
        });
        Self { seed, public: VerifyingKey(public) }
    }

    /// What others verify with.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs a message; the same message has always the same signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        leaving_nothing(|| {
            let expanded = ExpandedSecretKey::from(self.seed.borrow().bytes());
            // The public key is this seed's own (`of` alone makes it), without which this call would leak.
            raw_sign::<Sha512>(&expanded, message, &self.public.0).to_bytes()
        })
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// [`SignError::NoPublicKey`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignError> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| SignError::NoPublicKey)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| SignError::NoPublicKey)?;
        if key.is_weak() { Err(SignError::NoPublicKey) } else { Ok(Self(key)) }
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Its name: the first 16 hexadecimal digits of its SHA-256. Says which key to try, proves nothing.
    pub fn kid(&self) -> String {
        let mut kid = HEXLOWER.encode(&hash::sha256(self.as_bytes()));
        kid.truncate(16);
        kid
    }

    /// Checks a signature strictly: one encoding of it only, no points of small order.
    ///
    /// # Errors
    /// [`SignError::Refused`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignError> {
        let signature = Signature::from_slice(signature).map_err(|_| SignError::Refused)?;
        self.0.verify_strict(message, &signature).map_err(|_| SignError::Refused)
    }
}

/// What the signature of a Kafka record covers: topic, key, each header's name and value in the order given,
/// value. Both sides give the `ce_*` headers sorted by name.
pub fn record_bytes(topic: &str, key: &[u8], headers: &[(&str, &[u8])], value: &[u8]) -> Vec<u8> {
    let count = (headers.len() as u64).to_le_bytes();
    let parts = Parts::new(labels::BUS_RECORD).add(topic.as_bytes()).add(key).add(&count);
    headers.iter().fold(parts, |parts, (name, value)| parts.add(name.as_bytes()).add(value)).add(value).bytes()
}
