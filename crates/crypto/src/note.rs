//! Signed notes (C2SP signed-note) with Ed25519: how a checkpoint of the log is signed, so that the tools of
//! other transparency logs verify it.
//!
//! ```text
//! <text, lines>
//!
//! — <name> <base64 of key id (4 bytes) ‖ signature (64 bytes)>
//! ```
//! The signature covers the text with its last newline. The key id is the beginning of
//! `SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)`. Lines of other signers, witnesses for one, are passed over.

use data_encoding::{BASE64, HEXLOWER};
use thiserror::Error;

use crate::hash;
use crate::sign::{SigningKey, VerifyingKey};

/// Ed25519, as notes name it.
const ALGORITHM: u8 = 1;
const SIGNATURE_LINE: &str = "\u{2014} ";

/// Why a note was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Not text, an empty line and signatures.
    #[error("not a signed note")]
    Malformed,
    /// None of the keys given, under the name given, has signed it.
    #[error("not signed by a known key")]
    UnknownKey,
    /// A line that names a known key does not verify.
    #[error("signature does not verify")]
    Refused,
}

/// The key as verifiers of notes are given it: `<name>+<key id, hex>+<base64 of algorithm and key>`.
pub fn verifier_key(name: &str, key: &VerifyingKey) -> String {
    let id = HEXLOWER.encode(&key_id(name, key));
    format!("{name}+{id}+{}", BASE64.encode(&[&[ALGORITHM][..], key.as_bytes()].concat()))
}

/// Signs `text`, which ends with a newline, under a name without blanks and `+`.
pub fn sign(text: &str, name: &str, key: &SigningKey) -> String {
    let signature = [&key_id(name, key.verifying_key())[..], &key.sign(text.as_bytes())].concat();
    format!("{text}\n{SIGNATURE_LINE}{name} {}\n", BASE64.encode(&signature))
}

/// The text of a note that one of `keys` has signed under `name`, and which did.
///
/// # Errors
/// [`NoteError`].
pub fn open<'a, 'k>(
    note: &'a str,
    name: &str,
    keys: &'k [VerifyingKey],
) -> Result<(&'a str, &'k VerifyingKey), NoteError> {
    let (text, signatures) = split(note).ok_or(NoteError::Malformed)?;
    let mut signer = None;
    for line in signatures.split_terminator('\n') {
        let (signed_by, signature) = line
            .strip_prefix(SIGNATURE_LINE)
            .and_then(|line| line.split_once(' '))
            .filter(|(name, _)| !name.is_empty())
            .ok_or(NoteError::Malformed)?;
        let signature = BASE64.decode(signature.as_bytes()).map_err(|_| NoteError::Malformed)?;
        let (id, signature) = signature.split_first_chunk::<4>().ok_or(NoteError::Malformed)?;
        let known = keys.iter().find(|key| signed_by == name && key_id(name, key) == *id);
        if let Some(key) = known {
            key.verify(text.as_bytes(), signature).map_err(|_| NoteError::Refused)?;
            signer.get_or_insert(key);
        }
    }
    signer.map(|key| (text, key)).ok_or(NoteError::UnknownKey)
}

/// The text, its newline included, and the lines of signatures.
fn split(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    let (text, rest) = note.split_at_checked(at.checked_add(1)?)?;
    let signatures = rest.strip_prefix('\n')?;
    let plain = !note.chars().any(|letter| letter < ' ' && letter != '\n');
    (plain && !text.is_empty() && signatures.ends_with('\n')).then_some((text, signatures))
}

fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let [a, b, c, d, ..] = hash::sha256(&[name.as_bytes(), b"\n", &[ALGORITHM], key.as_bytes()].concat());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;
    use crate::Key;

    /// The example of Go's `golang.org/x/mod/sumdb/note`: its key and its signed text.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn peter() -> VerifyingKey {
        let (_, key) = PETER.rsplit_once('+').unwrap();
        VerifyingKey::from_bytes(&BASE64.decode(key.as_bytes()).unwrap()[1..]).unwrap()
    }

    #[test]
    fn another_implementation_s_note_opens() {
        let key = peter();
        assert_eq!(verifier_key("PeterNeumann", &key), PETER);
        let keys = [SigningKey::generate().verifying_key().clone(), key];
        let (text, signer) = open(NOTE, "PeterNeumann", &keys).unwrap();
        assert!(text.starts_with("If you think") && text.ends_with("is.\n"));
        assert_eq!(signer, &keys[1]);
        assert_eq!(open(NOTE, "PeterNeumann", &keys[..1]), Err(NoteError::UnknownKey));
        assert_eq!(open(NOTE, "Another", &keys), Err(NoteError::UnknownKey));
        let changed = NOTE.replace("answer", "Answer");
        assert_eq!(open(&changed, "PeterNeumann", &keys), Err(NoteError::Refused));
    }

    #[test]
    fn what_is_signed_opens_beside_others_signatures() {
        let seed = hex!("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = SigningKey::from_seed(Key::fixed(seed).borrow());
        let note = sign("a\nb\n", "log", &key);
        let (text, signer) = open(&note, "log", std::slice::from_ref(key.verifying_key())).unwrap();
        assert_eq!((text, signer), ("a\nb\n", key.verifying_key()));
        // A witness's line beside ours changes nothing, a broken one of ours does.
        let witnessed = format!("{note}\u{2014} witness {}\n", BASE64.encode(&[9; 68]));
        assert!(open(&witnessed, "log", std::slice::from_ref(key.verifying_key())).is_ok());
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let key = SigningKey::generate();
        let note = sign("cloakroom/x\n3\nAAAA\n", "cloakroom/x", &key);
        let keys = [key.verifying_key().clone()];
        assert!(open(&note, "cloakroom/x", &keys).is_ok());
        for at in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[at] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(open(&changed, "cloakroom/x", &keys).is_err(), "byte {at}");
            }
        }
        for wrong in ["", "\n\n", "a\n", "a\n\n", "\n\n\u{2014} a b\n", "a\n\nb\n", "a\n\n\u{2014} x\n"] {
            assert!(open(wrong, "a", &keys).is_err(), "{wrong:?}");
        }
    }
}
