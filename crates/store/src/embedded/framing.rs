//! Length, checksum, bytes: how both logs put things into files, so that a torn one is seen.
//!
//! ```text
//! length u32 LE | CRC-32C u32 LE over length and body | body
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::folder::io_error;
use crate::StoreError;

/// Bytes before a body.
pub(super) const HEAD_BYTES: usize = 8;

/// What stands before `body`; none if it is too long for its length to be told.
pub(super) fn head(body: &[u8]) -> Option<[u8; HEAD_BYTES]> {
    let length = u32::try_from(body.len()).ok()?.to_le_bytes();
    let checksum = checksum(length, body).to_le_bytes();
    let mut head = [0; HEAD_BYTES];
    let (first, second) = head.split_at_mut(4);
    first.copy_from_slice(&length);
    second.copy_from_slice(&checksum);
    Some(head)
}

/// The body of the block at `offset`; none where no whole and sound block lies before `end`.
pub(super) fn read(file: &File, offset: u64, end: u64) -> Result<Option<Bytes>, StoreError> {
    let failed = io_error("reading a log");
    let Some(room) = end.checked_sub(offset).and_then(|left| left.checked_sub(HEAD_BYTES as u64)) else {
        return Ok(None);
    };
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, offset).map_err(&failed)?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = [l0, l1, l2, l3];
    let body_bytes = u32::from_le_bytes(length);
    if u64::from(body_bytes) > room {
        return Ok(None);
    }
    let mut body = vec![0; body_bytes as usize];
    file.read_exact_at(&mut body, offset + HEAD_BYTES as u64).map_err(&failed)?;
    Ok((checksum(length, &body) == u32::from_le_bytes([c0, c1, c2, c3])).then(|| body.into()))
}

/// The same within bytes in memory: the block that begins `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (stated, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (checksum(*length, body) == u32::from_le_bytes(*stated)).then_some(body)
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("blocks");
        let mut bytes = head(b"body").unwrap().to_vec();
        bytes.extend_from_slice(b"body");
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read(&file, 0, 12).unwrap().unwrap(), &b"body"[..]);
        assert_eq!(parse(&bytes), Some(&b"body"[..]));
        for end in 0..12 {
            assert_eq!(read(&file, 0, end).unwrap(), None, "cut at {end}");
        }
        for at in 0..12 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(parse(&flipped), None, "flipped at {at}");
        }
    }
}
