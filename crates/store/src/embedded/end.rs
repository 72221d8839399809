//! Finding the log's end, and cutting off what lies beyond it (erasure.md, Start, 3 and 5).
//!
//! Only the last segment can be torn, as every segment was synced before the next was made; a bad frame
//! elsewhere, or a last segment that shows that its bad frame was durable once, is damage. Read are the
//! headers and lengths of all segments, and the frames of those that the keys do not call durable as a whole;
//! frames further back are checked whenever they are read.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use super::folder::{Room, file_name, io_error, numbered_files, sync_folder};
use super::frame::durable_number_stated_in;
use super::log::{EmbeddedLog, Tail, Writer, lock, misuse};
use super::prune::remove_drafts;
use super::segment::{HEADER_BYTES, LOG_EXTENSION, Lengths, Scan, Sealed, Segment, SegmentHeader};
use super::table::Table;
use crate::StoreError;
use crate::log::LogEnd;

/// The end, and what lies beyond it.
pub(super) struct Found {
    tail: Tail,
    /// A last file whose header was never whole.
    headless: Option<PathBuf>,
}

impl EmbeddedLog {
    pub(super) fn find_end_now(&self, durable_number: u64) -> Result<LogEnd, StoreError> {
        let mut writer = lock(&self.writer);
        if let Writer::Ready(tail) = &*writer {
            return reached(tail, durable_number);
        }
        let (segments, headless) = self.open_segments()?;
        let tail = find_tail(&segments, durable_number)?;
        let end = reached(&tail, durable_number)?;
        self.segments.store(Arc::new(segments));
        *writer = Writer::Found(Found { tail, headless });
        Ok(end)
    }

    /// Answers where the log now ends: a segment's first event and bytes; none in an empty log.
    pub(super) fn cut_now(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let mut writer = lock(&self.writer);
        let found = match std::mem::replace(&mut *writer, Writer::Unknown) {
            Writer::Unknown => return Err(misuse("a cut before the log's end was found")),
            Writer::Found(found) => found,
            ready @ Writer::Ready(_) => {
                *writer = ready;
                return Ok(Some(self.synced()));
            }
        };
        let failed = io_error("cutting the log");
        let mut end = None;
        if let Some(segment) = &found.tail.segment {
            let torn_bytes = segment.file.metadata().map_err(&failed)?.len().saturating_sub(found.tail.bytes);
            if torn_bytes > 0 {
                tracing::warn!(torn_bytes, "cutting off a torn tail of the log");
                segment.file.set_len(found.tail.bytes).map_err(&failed)?;
            }
            segment.state_length(found.tail.bytes)?;
            segment.file.sync_all().map_err(&failed)?;
            end = Some((segment.header.first_event, found.tail.bytes));
        }
        if let Some(path) = &found.headless {
            fs::remove_file(path).map_err(&failed)?;
        }
        remove_drafts(&self.folder)?;
        sync_folder(&self.folder)?;
        *writer = Writer::Ready(found.tail);
        Ok(end)
    }

    /// All segments in order, checked against each other by their headers and lengths, and a last file that
    /// has no header yet.
    fn open_segments(&self) -> Result<(Vec<Arc<Segment>>, Option<PathBuf>), StoreError> {
        let files = numbered_files(&self.folder, LOG_EXTENSION)?;
        let mut opened = Vec::with_capacity(files.len());
        let mut headless = None;
        let last = files.len().saturating_sub(1);
        for (index, (first_event, path)) in files.into_iter().enumerate() {
            let damaged = || StoreError::Damaged { what: file_name(&path), at: 0 };
            let failed = io_error("opening a segment");
            // The last but one too: if the last has no header, frames go on there.
            let grows = index + 1 >= last;
            let file = OpenOptions::new().read(true).write(grows).open(&path).map_err(&failed)?;
            let bytes = file.metadata().map_err(&failed)?.len();
            match SegmentHeader::read(&file)? {
                Some(header) if header.first_event == first_event => {
                    let lengths = if header.is_pruned() { Lengths::read(&file)? } else { None };
                    // The last may have been restored to an earlier end.
                    let fits =
                        |lengths: Lengths| lengths.now == bytes || (index == last && bytes < lengths.now);
                    if header.is_pruned() && !lengths.is_some_and(fits) {
                        return Err(damaged());
                    }
                    opened.push((header, path, file, bytes, lengths));
                }
                // Nothing is written into a segment before its header is durable.
                None if index == last && bytes <= HEADER_BYTES => headless = Some(path),
                _ => return Err(damaged()),
            }
        }
        let mut segments = Vec::with_capacity(opened.len());
        let mut before: Option<(u64, u64)> = None;
        let mut opened = opened.into_iter().peekable();
        while let Some((header, path, file, bytes, lengths)) = opened.next() {
            let follows = match before {
                None => header.is_first(),
                Some(before) => before == (header.previous_first_event, header.previous_bytes),
            };
            if !follows {
                return Err(StoreError::Damaged { what: file_name(&path), at: 0 });
            }
            before = Some((header.first_event, lengths.map_or(bytes, |lengths| lengths.before)));
            let sealed = opened.peek().map(|(next, ..)| Sealed {
                bytes,
                events: next.first_event.saturating_sub(header.first_event),
            });
            segments.push(Arc::new(Segment::new(header, path, file, self.hashes, lengths, sealed)));
        }
        Ok((segments, headless))
    }
}

fn find_tail(segments: &[Arc<Segment>], durable_number: u64) -> Result<Tail, StoreError> {
    let Some((last, before)) = segments.split_last() else {
        let first = SegmentHeader::first();
        return Ok(Tail {
            segment: None,
            bytes: 0,
            newest: None,
            next_frame: first.first_frame,
            next_event: first.first_event,
            previous_hash: first.previous_hash,
            room: Room::default(),
        });
    };
    for (segment, next) in before.iter().zip(segments.iter().skip(1)) {
        // The header after it calls it durable, the keys do not yet: worth a look at every frame.
        if next.header.first_frame > durable_number.saturating_add(1) {
            segment.keep(check_sealed(segment, &next.header)?);
        }
    }
    let failed = io_error("reading a segment");
    let bytes = last.file.metadata().map_err(&failed)?.len();
    let Scan { table, end, newest, next_frame, next_event, previous_hash } = last.scan(bytes)?;
    if end < bytes && last.pruned.is_some() {
        return Err(last.damaged(end)); // it was whole when it took the other's place
    }
    if end < bytes {
        let mut beyond = vec![0; usize::try_from(bytes - end).unwrap_or(usize::MAX)];
        std::os::unix::fs::FileExt::read_exact_at(&last.file, &mut beyond, end).map_err(&failed)?;
        // The frame after a bad one tells whether that was durable once.
        if durable_number.max(durable_number_stated_in(&beyond)) >= next_frame {
            return Err(last.damaged(end));
        }
    }
    last.keep(table);
    let newest = match (newest, before.last()) {
        (None, Some(segment)) => {
            let newest = segment.newest()?;
            if newest.is_none_or(|newest| newest.hash != last.header.previous_hash) {
                return Err(last.damaged(0));
            }
            newest
        }
        (newest, _) => newest,
    };
    Ok(Tail {
        segment: Some(Arc::clone(last)),
        bytes: end,
        newest,
        next_frame,
        next_event,
        previous_hash,
        room: Room::default(),
    })
}

/// Reads every frame of a sealed segment, which must end as `next` says; gives its table.
pub(super) fn check_sealed(segment: &Segment, next: &SegmentHeader) -> Result<Table, StoreError> {
    let bytes = segment.pruned.map_or(next.previous_bytes, |lengths| lengths.now);
    let Scan { table, end, next_frame, next_event, previous_hash, .. } = segment.scan(bytes)?;
    let ends_as_told = end == bytes
        && next_frame == next.first_frame
        && next_event == next.first_event
        && previous_hash == next.previous_hash;
    if ends_as_told { Ok(table) } else { Err(segment.damaged(end)) }
}

/// What `tail` says to the caller, if it reaches what the keys call durable.
fn reached(tail: &Tail, durable_number: u64) -> Result<LogEnd, StoreError> {
    if durable_number >= tail.next_frame {
        let what =
            tail.segment.as_ref().map_or_else(|| "the log".to_owned(), |segment| file_name(&segment.path));
        return Err(StoreError::Damaged { what, at: tail.bytes });
    }
    Ok(LogEnd {
        newest: tail.newest.map(|newest| (newest.at, newest.hash)),
        events: tail.next_event.saturating_sub(1),
        rests_on: tail.newest.map(|newest| newest.rests_on),
    })
}
