//! What the fuzz targets share. Each target is one parser of bytes from outside; `make fuzz` runs them all.
//!
//! A target that finds nothing has still to find nothing wrong: where a format can be written again, what was
//! read and written again must read the same.

use std::sync::LazyLock;

use cloakroom_crypto::sign::SigningKey;

/// A signer whom the parsers trust: what lies behind a signature is to be fuzzed too.
pub static SIGNER: LazyLock<SigningKey> = LazyLock::new(SigningKey::generate);

/// The input cut into parts, each behind its length (two bytes, little-endian; the last part may be shorter).
pub fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// The parts as one input, for seeds.
pub fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let length = |part: &[u8]| u16::try_from(part.len()).unwrap_or(u16::MAX).to_le_bytes();
    parts.iter().flat_map(|part| [&length(part)[..], part].concat()).collect()
}
