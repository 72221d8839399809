//! A log's only segment, found at a start: its end, its events, its pruning; and the same file read from beside.
//! The first byte says whether the rest is the file, or bodies that get a header and checksums that hold; its
//! other bits how far the keys call the log durable.
#![no_main]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;
use cloakroom_core::ids::EventNumber;
use cloakroom_crypto::hash;
use cloakroom_fuzz::parts;
use cloakroom_store::embedded::reading::{FrameReader, log_file_name};
use cloakroom_store::embedded::{EmbeddedLog, LogOptions, fuzz};
use cloakroom_store::{Hashes, Log, StoreError};
use futures_util::FutureExt;

const HASHES: Hashes = Hashes { frame: hash::sha256, leaf: hash::leaf };

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((told, rest)) = bytes.split_first() else { return };
    let segment = if told & 1 == 0 { rest.to_vec() } else { fuzz::segment(parts(rest).into_iter()) };
    read_beside(&segment);
    let place = tempfile::tempdir().expect("a folder");
    std::fs::write(place.path().join(log_file_name(1)), &segment).expect("a file");
    let _ = start(place.path(), u64::from(told >> 1));
});

fn read_beside(segment: &[u8]) {
    let Ok(Some(mut reader)) = FrameReader::open(Cursor::new(segment), hash::sha256) else { return };
    while let Ok(Some(_)) = reader.next_frame() {}
}

fn start(folder: &Path, durable: u64) -> Result<(), StoreError> {
    let log = EmbeddedLog::open(folder, HASHES, LogOptions { segment_bytes: 1 << 20, reserve_bytes: 0 })?;
    let now = "the embedded log answers at once";
    let end = log.find_end(durable).now_or_never().expect(now)?;
    log.cut().now_or_never().expect(now)?;
    for number in 1..=end.events.min(64) {
        let event = log.event(EventNumber(number)).now_or_never().expect(now)?;
        assert!(event.is_some(), "an event before the end is not there");
        log.frame_of(EventNumber(number)).now_or_never().expect(now)?;
    }
    log.leaves(EventNumber(1), 64).now_or_never().expect(now)?;
    for sealed in log.sealed().now_or_never().expect(now)? {
        let shorter = BTreeMap::from([(sealed.start, Bytes::new())]);
        log.prune(EventNumber(sealed.start), shorter).now_or_never().expect(now)?;
    }
    Ok(())
}
