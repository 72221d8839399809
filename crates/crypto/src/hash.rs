//! SHA-256, and what is built from it. Never over a person's value: a hash of a name is the name to anyone
//! with a list of names.

use sha2::{Digest, Sha256};

use crate::labels;
use crate::parts::{Parts, length};

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of bytes that come piece by piece.
#[derive(Default)]
pub struct Sum(Sha256);

impl Sum {
    /// The next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all pieces.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The root of an empty tree: the hash of nothing (RFC 6962, section 2.1).
pub fn empty() -> [u8; 32] {
    sha256(b"")
}

/// A leaf of the log's Merkle tree: `SHA-256(0x00 ‖ event)` (RFC 6962, section 2.1).
pub fn leaf(event: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(event).finalize().into()
}

/// An inner node of the log's Merkle tree: `SHA-256(0x01 ‖ left ‖ right)` (RFC 6962, section 2.1).
pub fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A frame of the log, as the next frame names it.
pub fn frame(bytes: &[u8]) -> [u8; 32] {
    let label = labels::FRAME.as_bytes();
    let hash = Sha256::new().chain_update(length(label)).chain_update(label);
    hash.chain_update(length(bytes)).chain_update(bytes).finalize().into()
}

/// How a certificate names its subject: whoever has the salt (it is in the answer to the request, and kept
/// nowhere) can show that the certificate is about this subject, and nobody else can tell.
pub fn commitment(salt: &[u8; 32], subject_id: &str) -> [u8; 32] {
    sha256(&Parts::new(labels::SUBJECT_COMMITMENT).add(salt).add(subject_id.as_bytes()).bytes())
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    /// The vectors of Certificate Transparency's reference implementation of RFC 6962, section 2.1.
    #[test]
    fn rfc_6962_vectors() {
        assert_eq!(empty(), hex!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
        assert_eq!(leaf(b""), hex!("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"));
        assert_eq!(
            node(&leaf(b""), &leaf(&[0])),
            hex!("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125")
        );
    }

    /// Computed with another implementation (Python's hashlib).
    #[test]
    fn golden_bytes() {
        assert_eq!(frame(b"frame"), hex!("836a28ee2d3cb1ece14d82f0b72df4048daa9ba514f935b2e3212bd91454eb38"));
        let salt = std::array::from_fn(|i| 0x80 + i as u8);
        assert_eq!(
            commitment(&salt, "sub_x"),
            hex!("3b2a585be58c7d7c1cc8cca67f9aa7cc8258b157f02c48f05e49bcc96d168f11")
        );
    }
}
