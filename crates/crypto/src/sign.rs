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
    headers
        .iter()
        .fold(parts, |parts, (name, value)| parts.add(name.as_bytes()).add(value))
        .add(value)
        .bytes()
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    fn key_of(seed: [u8; 32]) -> SigningKey {
        SigningKey::from_seed(Key::fixed(seed).borrow())
    }

    /// RFC 8032, section 7.1, tests 1 and 2.
    #[test]
    fn rfc_8032_vectors() {
        let key = key_of(hex!("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
        let public = hex!("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(key.verifying_key().as_bytes(), &public);
        assert_eq!(
            key.sign(b""),
            hex!(
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b
                 d25bf5f0595bbe24655141438e7a100b"
            )
        );
        let key = key_of(hex!("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
        let public = hex!("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = hex!(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c
             387b2eaeb4302aeeb00d291612bb0c00"
        );
        assert_eq!(key.sign(&[0x72]), signature);
        VerifyingKey::from_bytes(&public).unwrap().verify(&[0x72], &signature).unwrap();
    }

    #[test]
    fn anything_else_does_not_verify() {
        let key = SigningKey::generate();
        let signature = key.sign(b"message");
        let public = key.verifying_key();
        assert_eq!(public.verify(b"message", &signature), Ok(()));
        assert_eq!(public.verify(b"messagE", &signature), Err(SignError::Refused));
        assert_eq!(public.verify(b"message", &signature[..63]), Err(SignError::Refused));
        assert_eq!(
            SigningKey::generate().verifying_key().verify(b"message", &signature),
            Err(SignError::Refused)
        );
        for bit in 0..512 {
            let mut changed = signature;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(public.verify(b"message", &changed), Err(SignError::Refused), "bit {bit}");
        }
    }

    #[test]
    fn keys_under_which_anything_verifies_are_none() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(VerifyingKey::from_bytes(&identity), Err(SignError::NoPublicKey));
        assert_eq!(VerifyingKey::from_bytes(&[0; 31]), Err(SignError::NoPublicKey));
    }

    #[test]
    fn a_seed_goes_out_and_comes_back() {
        let key = SigningKey::generate();
        let mut file = Vec::new();
        key.write_to(&mut file).unwrap();
        let again = SigningKey::read_from(&mut file.as_slice()).unwrap();
        assert_eq!(again.verifying_key(), key.verifying_key());
        assert_eq!(again.sign(b"m"), key.sign(b"m"));
        assert!(SigningKey::read_from(&mut &file[1..]).is_err());
    }

    /// Computed with another implementation (Python's hashlib and struct).
    #[test]
    fn golden_bytes() {
        let key = key_of(hex!("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
        assert_eq!(key.verifying_key().kid(), "21fe31dfa154a261");
        let headers = [("ce_id", b"1".as_slice()), ("ce_type", b"t")];
        assert_eq!(
            record_bytes("cloakroom.acme.erasure.v1", b"tok_x", &headers, b"v"),
            hex!(
                "17000000636c6f616b726f6f6d20627573207265636f72642076311900000063
                 6c6f616b726f6f6d2e61636d652e657261737572652e763105000000746f6b5f
                 780800000002000000000000000500000063655f696401000000310700000063
                 655f7479706501000000740100000076"
            )
        );
    }

    #[test]
    fn a_header_cannot_pass_for_the_value() {
        let with_header = record_bytes("t", b"k", &[("a", b"b")], b"v");
        assert_ne!(with_header, record_bytes("t", b"k", &[], b"v"));
        assert_ne!(with_header, record_bytes("t", b"k", &[("a", b"v")], b"b"));
        assert_ne!(with_header, record_bytes("t", b"k", &[("a", b"b"), ("v", b"")], b""));
    }
}
