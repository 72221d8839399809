//! Shortening what is dead in sealed segments.
//!
//! A pruned segment is written whole beside the old one, read back as a start would read it, and only then
//! renamed over it: a crash leaves one or the other. Readers that have the old file open go on with it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cloakroom_core::ids::EventNumber;

use super::end::check_sealed;
use super::folder::{free_bytes, io_error, numbered_files, sync_folder};
use super::frame::{self, Original};
use super::framing;
use super::log::{EmbeddedLog, Writer, lock, misuse};
use super::segment::{Lengths, Sealed, Segment};
use crate::StoreError;

/// How a segment is called until it takes the place of the one that it is made of.
const DRAFT_EXTENSION: &str = "pruning";

/// Removes what a crash in the middle of a pruning has left.
pub(super) fn remove_drafts(folder: &Path) -> Result<(), StoreError> {
    for (_, path) in numbered_files(folder, DRAFT_EXTENSION)? {
        fs::remove_file(path).map_err(io_error("removing a draft of a segment"))?;
    }
    Ok(())
}

impl EmbeddedLog {
    pub(super) fn sealed_now(&self) -> Vec<Range<u64>> {
        let segments = self.segments.load();
        let next = segments.iter().skip(1);
        segments
            .iter()
            .zip(next)
            .map(|(segment, next)| segment.header.first_event..next.header.first_event)
            .collect()
    }

    pub(super) fn prune_now(
        &self,
        first: EventNumber,
        shorter: &BTreeMap<u64, Bytes>,
    ) -> Result<u64, StoreError> {
        let _one_at_a_time = lock(&self.pruning);
        self.sound()?;
        if !matches!(*lock(&self.writer), Writer::Ready(_)) {
            return Err(misuse("pruning before the log's end was found and cut"));
        }
        let segments = self.segments.load_full();
        let place = segments.iter().position(|segment| segment.header.first_event == first.0);
        let (Some(old), Some(next)) =
            (place.and_then(|at| segments.get(at)), place.and_then(|at| segments.get(at + 1)))
        else {
            return Err(misuse("pruning what is no sealed segment"));
        };
        let original_bytes = next.header.previous_bytes;
        let old_bytes = old.file.metadata().map_err(io_error("reading a segment's length"))?.len();
        let free_bytes = free_bytes(&self.folder)?;
        let reserved_bytes = self.options.reserve_bytes;
        if free_bytes.saturating_sub(old_bytes) < reserved_bytes {
            return Err(StoreError::Full { free_bytes, reserved_bytes });
        }
        let path = old.path.with_extension(DRAFT_EXTENSION);
        let draft = Draft { segment: old, bytes: old_bytes, original_bytes, hashes: self.hashes };
        let drafted = draft.write(&path, shorter).and_then(|(file, bytes)| {
            let lengths = Lengths { before: original_bytes, now: bytes };
            let events = next.header.first_event - old.header.first_event;
            let sealed = Sealed { bytes, events };
            let pruned = Segment::new(
                old.header.pruned(),
                old.path.clone(),
                file,
                self.hashes,
                Some(lengths),
                Some(sealed),
            );
            // As a start reads it: whatever is not as it was is not put in its place.
            pruned.keep(check_sealed(&pruned, &next.header)?);
            Ok((pruned, bytes))
        });
        let (pruned, bytes) = match drafted {
            Ok((pruned, bytes)) if bytes < old_bytes => (pruned, bytes),
            other => {
                let _left_for_the_next_start = fs::remove_file(&path);
                return other.map(|_| 0);
            }
        };
        fs::rename(&path, &old.path).map_err(io_error("putting a pruned segment in its place"))?;
        pruned.seal(bytes);
        self.replace(pruned);
        sync_folder(&self.folder).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))?;
        Ok(old_bytes - bytes)
    }

    /// Readers find the pruned segment from here on.
    fn replace(&self, pruned: Segment) {
        // The writer changes the list too, under the same lock.
        let _writer = lock(&self.writer);
        let mut segments = Vec::clone(&self.segments.load());
        let pruned = Arc::new(pruned);
        for segment in &mut segments {
            if segment.header.first_event == pruned.header.first_event {
                *segment = Arc::clone(&pruned);
            }
        }
        self.segments.store(Arc::new(segments));
    }
}

/// A pruned segment that is being written.
struct Draft<'a> {
    segment: &'a Segment,
    bytes: u64,
    original_bytes: u64,
    hashes: crate::Hashes,
}

impl Draft<'_> {
    /// The file, synced, and its length.
    fn write(&self, path: &Path, shorter: &BTreeMap<u64, Bytes>) -> Result<(File, u64), StoreError> {
        let failed = io_error("writing a pruned segment");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(&failed)?;
        let header = |now| {
            let lengths = Lengths { before: self.original_bytes, now };
            self.segment.header.encode_pruned(lengths).ok_or_else(|| misuse("a header too long"))
        };
        let mut bytes = 0_u64;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let mut put = |block: &[u8]| {
            bytes += block.len() as u64;
            out.write_all(block).map_err(&failed)
        };
        put(&header(0)?)?;
        let mut at = self.segment.frames_at();
        while at < self.bytes {
            let damaged = || self.segment.damaged(at);
            let body = framing::read(&self.segment.file, at, self.bytes)?.ok_or_else(damaged)?;
            put(&self.frame(&body, shorter)?.ok_or_else(damaged)?)?;
            at += (framing::HEAD_BYTES + body.len()) as u64;
        }
        out.flush().map_err(&failed)?;
        drop(out);
        file.write_all_at(&header(bytes)?, 0).and_then(|()| file.sync_all()).map_err(&failed)?;
        Ok((file, bytes))
    }

    /// A frame as it will stand there, head and body; none if it is not sound.
    fn frame(&self, body: &Bytes, shorter: &BTreeMap<u64, Bytes>) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut decoded) = frame::decode(body)? else { return Ok(None) };
        let first = decoded.frame.first_event.0;
        let wanted = shorter.range(first..first + decoded.frame.events.len() as u64);
        let original = decoded.original.take();
        let hash = original.as_ref().map_or_else(|| (self.hashes.frame)(body), |original| original.hash);
        let mut leaves = original.map(|original| original.leaves).unwrap_or_default();
        let mut changed = false;
        for (number, short) in wanted {
            let place = (number - first) as usize;
            let Some(event) = decoded.frame.events.get_mut(place).filter(|event| short.len() < event.len())
            else {
                continue;
            };
            leaves.entry(place as u32).or_insert_with(|| (self.hashes.leaf)(event));
            *event = short.clone();
            changed = true;
        }
        if !changed {
            return Ok(framing::head(body).map(|head| [&head[..], body].concat()));
        }
        Ok(frame::encode_as(&decoded.frame, Some(&Original { hash, leaves })).map(|encoded| encoded.bytes))
    }
}
