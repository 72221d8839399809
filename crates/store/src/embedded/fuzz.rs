//! Ways in for the fuzz targets of `crates/testkit/fuzz`, which are outside this crate.

use bytes::Bytes;

use super::{frame, framing, segment};
use crate::log::Frame;

/// The frame that `body` encodes, and its body as this version writes that frame.
pub fn frame(body: &Bytes) -> Option<(Frame, Bytes)> {
    let decoded = frame::decode(body).ok()??;
    let again = frame::encode_as(&decoded.frame, decoded.original.as_ref())?;
    let body = Bytes::copy_from_slice(again.body());
    Some((decoded.frame, body))
}

/// A log's first segment of those bodies, checksums and all: what only somebody who means it gets right.
pub fn segment<'a>(bodies: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = segment::SegmentHeader::first().encode();
    for body in bodies {
        bytes.extend(framing::head(body).into_iter().flatten());
        bytes.extend_from_slice(body);
    }
    bytes
}
