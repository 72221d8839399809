//! Suite 1: AES-256-GCM under a key that HKDF-Expand with SHA-256 gives.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{AesGcm, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroizing, zeroize_stack};

use crate::arena::KEY_BYTES;
use crate::OpenError;
use crate::parts::Parts;

/// The one format version so far, the first byte of everything sealed.
pub(crate) const FORMAT: u8 = 1;
/// AES-256-GCM and HKDF-SHA-256, the second byte of everything sealed.
pub(crate) const SUITE: u8 = 1;
/// Format version and suite id.
pub(crate) const HEADER_BYTES: usize = 2;
/// A salt that makes a sealing key new for every write.
pub(crate) const SALT_BYTES: usize = 32;
/// GCM's tag, in full length.
pub(crate) const TAG_BYTES: usize = 16;

/// Only the half of the key schedule that GCM needs.
type Aes256Gcm = AesGcm<aes::Aes256Enc, aes::cipher::consts::U12>;

/// Every key seals once, so the nonce says nothing and may be fixed.
fn nonce() -> Nonce<aes::cipher::consts::U12> {
    Nonce::default()
}

/// More than the deepest call here uses (a test looks for what is left); 8 KiB take some 100 ns to wipe.
const STACK_BYTES: usize = 8 * 1024;

/// Does `work` and wipes what it left on the stack: key schedules spilled there, and the blocks that hkdf
/// and hmac 0.13 do not wipe (the last output, the padded key).
pub(crate) fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    let done = apart(work);
    zeroize_stack::<STACK_BYTES>();
    done
}

/// HKDF-Expand (RFC 5869, section 2.3) with SHA-256; `key` is uniformly random, so Extract is not needed.
/// Call it inside [`leaving_nothing`].
pub(crate) fn expand(key: &[u8; KEY_BYTES], info: &[&[u8]], out: &mut [u8]) {
    let expanded = Hkdf::<Sha256>::from_prk(key).is_ok_and(|prk| prk.expand_multi_info(info, out).is_ok());
    assert!(expanded, "a 32-byte key and at most 255 blocks");
}

/// The sealing key for one write: `key` expanded with a label and that write's salt.
pub(crate) fn salted(
    key: &[u8; KEY_BYTES],
    label: &str,
    salt: &[u8; SALT_BYTES],
) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut sealing = Zeroizing::new([0; KEY_BYTES]);
    expand(key, &[&Parts::new(label).add(salt).bytes()], sealing.as_mut_slice());
    sealing
}

/// Encrypts in place and gives the tag. Call it inside [`leaving_nothing`].
pub(crate) fn encrypt(key: &[u8; KEY_BYTES], associated: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
    match Aes256Gcm::new(key.into()).encrypt_inout_detached(&nonce(), associated, text.into()) {
        Ok(tag) => tag.into(),
        Err(_) => panic!("a text below 64 GiB"),
    }
}

/// Checks the tag, then decrypts in place; `text` is unchanged where it fails. Call it inside
/// [`leaving_nothing`].
pub(crate) fn decrypt(
    key: &[u8; KEY_BYTES],
    associated: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), OpenError> {
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(&nonce(), associated, text.into(), &Tag::from(*tag))
        .map_err(|_| OpenError::Refused)
}

/// Takes the header off, refusing what this version does not know.
pub(crate) fn without_header(sealed: &[u8]) -> Result<&[u8], OpenError> {
    match sealed {
        [FORMAT, SUITE, body @ ..] => Ok(body),
        [FORMAT, suite, ..] => Err(OpenError::UnknownSuite(*suite)),
        [format, _, ..] => Err(OpenError::UnknownFormat(*format)),
        _ => Err(OpenError::Malformed),
    }
}
