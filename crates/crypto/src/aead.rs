//! Suite 1: AES-256-GCM under a key that HKDF-Expand with SHA-256 gives.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{AesGcm, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroizing, zeroize_stack};

use crate::OpenError;
use crate::arena::KEY_BYTES;
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

/// Twice what the deepest call here uses (a signature, some 1.8 KiB); a test looks for what is left.
const STACK_BYTES: usize = 4 * 1024;

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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use hex_literal::hex;

    use super::*;
    use crate::seal::Context;
    use crate::{Key, Plaintext, role};

    /// The Galois/Counter Mode of Operation (McGrew, Viega), appendix B, test cases 13 and 14: key and nonce
    /// of zeros, the only nonce used here.
    #[test]
    fn gcm_vectors() {
        let tag = encrypt(&[0; 32], b"", &mut []);
        assert_eq!(tag, hex!("530f8afbc74536b9a963b4f1c4cb738b"));
        let mut text = [0; 16];
        let tag = encrypt(&[0; 32], b"", &mut text);
        assert_eq!(text, hex!("cea7403d4d606b6e074ec5d3baf39d18"));
        assert_eq!(tag, hex!("d0d1c8a799996bf0265b98b5d48ab919"));
        decrypt(&[0; 32], b"", &mut text, &tag).unwrap();
        assert_eq!(text, [0; 16]);
    }

    #[test]
    fn what_is_refused_stays_as_it_was() {
        let mut text = *b"ciphertext";
        let refused = decrypt(&[1; 32], b"", &mut text, &[0; TAG_BYTES]);
        assert_eq!((refused, &text), (Err(OpenError::Refused), b"ciphertext"));
    }

    /// RFC 5869, appendix A, test cases 1 to 3: the Expand step.
    #[test]
    fn hkdf_expand_vectors() {
        let mut okm = [0; 42];
        let prk = hex!("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        expand(&prk, &[&hex!("f0f1f2f3f4f5f6f7f8f9")], &mut okm);
        assert_eq!(
            okm,
            hex!("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
        );
        let prk = hex!("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244");
        let info: Vec<u8> = (0xb0..=0xff).collect();
        let mut okm = [0; 82];
        expand(&prk, &[&info], &mut okm);
        assert_eq!(
            okm,
            hex!(
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09
                 da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            )
        );
        let prk = hex!("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04");
        let mut okm = [0; 42];
        expand(&prk, &[], &mut okm);
        assert_eq!(
            okm,
            hex!("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
        );
    }

    /// What lies on this thread's stack below the caller's frame, read through the kernel.
    #[inline(never)]
    fn stack_below() -> Vec<u8> {
        let here = 0_u8;
        let end = (&raw const here as u64) & !4095;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut found = Vec::new();
        for page in 1..=32 {
            let mut bytes = vec![0; 4096];
            if memory.read_exact_at(&mut bytes, end - page * 4096).is_err() {
                break;
            }
            found.splice(0..0, bytes);
        }
        found
    }

    /// Does `work` so deep that looking at what it left does not lie over it.
    #[inline(never)]
    fn deep_down<T>(work: impl FnOnce() -> T) -> T {
        let above = [0_u8; 16 * 1024];
        std::hint::black_box(&above);
        let done = work();
        std::hint::black_box(&above);
        done
    }

    #[inline(never)]
    fn leave(pattern: &[u8; 32]) {
        let left = [*pattern; 512];
        std::hint::black_box(&left);
    }

    fn holds(memory: &[u8], wanted: &[u8]) -> bool {
        memory.windows(wanted.len()).any(|bytes| bytes == wanted)
    }

    #[test]
    fn nothing_of_a_key_stays_on_the_stack() {
        let key = Key::<role::Value>::random();
        let text = Plaintext::from_slice(&[7; 20]);
        let context = Context {
            controller: "acme",
            subject_bits: 1,
            activity: "ticketing",
            field: "email",
            bits: 2,
            value_version: 1,
        };
        let sealed = deep_down(|| key.borrow().seal(&text, &context).unwrap());
        let after_sealing = stack_below();
        deep_down(|| drop(key.borrow().open(&sealed, &context).unwrap()));
        let after_opening = stack_below();

        let mut record_key = [0; KEY_BYTES];
        expand(key.borrow().bytes(), &[&context.bytes()], &mut record_key);
        let padded_by_hmac = [0x36, 0x5c].map(|pad| key.borrow().bytes().map(|byte| byte ^ pad));
        for trace in [*key.borrow().bytes(), padded_by_hmac[0], padded_by_hmac[1], record_key] {
            // Registers are spilled in words: without the wipe two of the record key's are found.
            for word in trace.chunks(8) {
                assert!(!holds(&after_sealing, word) && !holds(&after_opening, word));
            }
        }
        let planted = *key.borrow().bytes();
        deep_down(|| leave(&planted));
        assert!(holds(&stack_below(), &planted), "what is left there is found");
    }
}
