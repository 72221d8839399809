//! The log in segment files: one write a frame, one `fdatasync` a group, one positioned read an event.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use cloakroom_core::ids::EventNumber;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::end::Found;
use super::folder::{Room, free_bytes, io_error, make_folder, settle};
use super::frame::{self, Encoded};
use super::segment::{HEADER_BYTES, Newest, Segment, SegmentHeader};
use crate::log::{Frame, FrameHash, Hashes, Log, LogEnd};
use crate::{Answer, StoreError};

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A segment that would grow beyond this gets a successor; a larger frame has one for itself. Below 4 GiB,
    /// as offsets within a segment are 32 bits.
    pub segment_bytes: u64,
    /// What must stay free on the disk for starts, fences and batches; frames that are not urgent are refused
    /// before they would use it.
    pub reserve_bytes: u64,
}

impl Default for LogOptions {
    /// Segments of 16 MiB: read in a moment at a start, and 60,000 events at most whose hashes are still in memory. A
    /// reserve of 256 MiB: thousands of batches of some 100 KB of pages each.
    fn default() -> Self {
        LogOptions { segment_bytes: 16 << 20, reserve_bytes: 256 << 20 }
    }
}

/// The embedded [`Log`]. Calls do their work before they answer: a writer belongs on a thread of its own.
pub struct EmbeddedLog {
    pub(super) folder: PathBuf,
    pub(super) hashes: Hashes,
    pub(super) options: LogOptions,
    /// What readers see: in order, the newest last.
    pub(super) segments: ArcSwap<Vec<Arc<Segment>>>,
    pub(super) writer: Mutex<Writer>,
    /// How far the newest synced segment is known to be durable: its first event, and bytes. Held through a
    /// sync: of two at once on one file the system tells its error to one alone. Taken after `writer`.
    synced: Mutex<(u64, u64)>,
    pub(super) broken: AtomicBool,
    /// Held through a pruning: one at a time.
    pub(super) pruning: Mutex<()>,
}

/// How far the finding of the end has come.
pub(super) enum Writer {
    /// Not looked yet.
    Unknown,
    /// The end is found, what lies beyond it is still there.
    Found(Found),
    /// Ready for frames.
    Ready(Tail),
}

/// Where the next frame goes, and what it must say.
pub(super) struct Tail {
    /// None in an empty log.
    pub(super) segment: Option<Arc<Segment>>,
    /// Where in the segment.
    pub(super) bytes: u64,
    pub(super) newest: Option<Newest>,
    pub(super) next_frame: u64,
    pub(super) next_event: u64,
    pub(super) previous_hash: FrameHash,
    pub(super) room: Room,
}

impl EmbeddedLog {
    /// Opens the log in `folder`, which is made where missing and must belong to this process
    /// ([`super::Folder`]). Syncs it and drops it from the page cache; looks at nothing else before
    /// [`Log::find_end`]. Raises the process's soft limit of open files to the hard one.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be made, listed or synced.
    pub fn open(folder: &Path, hashes: Hashes, options: LogOptions) -> Result<EmbeddedLog, StoreError> {
        make_folder(folder)?;
        settle(folder)?;
        allow_many_files();
        Ok(EmbeddedLog {
            folder: folder.to_owned(),
            hashes,
            options,
            segments: ArcSwap::default(),
            writer: Mutex::new(Writer::Unknown),
            synced: Mutex::new((0, 0)),
            broken: AtomicBool::new(false),
            pruning: Mutex::new(()),
        })
    }

    /// Bytes that may still be written to the log's disk, the reserve included.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the system does not say.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        free_bytes(&self.folder)
    }

    /// Where the log's files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The log's files, by the numbers of their first events, in order.
    #[cfg(feature = "contract")]
    pub(crate) fn segment_files(&self) -> Result<Vec<(u64, PathBuf)>, StoreError> {
        super::folder::numbered_files(&self.folder, super::segment::LOG_EXTENSION)
    }

    /// What a segment begins with.
    #[cfg(feature = "contract")]
    pub(crate) const SEGMENT_HEADER_BYTES: u64 = HEADER_BYTES;

    /// How far the log is known to be durable: the first event of the segment that was synced last, and how
    /// many of its bytes. Segments before it are durable as a whole.
    pub fn synced(&self) -> (u64, u64) {
        *lock(&self.synced)
    }

    fn append_now(&self, frame: &Frame, urgent: bool) -> Result<FrameHash, StoreError> {
        self.sound()?;
        let mut writer = lock(&self.writer);
        let Writer::Ready(tail) = &mut *writer else {
            return Err(misuse("a frame before the log's end was found and cut"));
        };
        if frame.at.number != tail.next_frame
            || frame.previous_hash != tail.previous_hash
            || frame.first_event.0 != tail.next_event
            || frame.durable_number >= frame.at.number
        {
            return Err(misuse("a frame that does not come next"));
        }
        let encoded = frame::encode(frame)
            .filter(|encoded| encoded.bytes.len() as u64 + HEADER_BYTES <= u64::from(u32::MAX))
            .ok_or_else(|| misuse("a frame of 4 GiB"))?;
        if !urgent {
            tail.room.need(&self.folder, encoded.bytes.len() as u64, self.options.reserve_bytes)?;
        }
        self.write(tail, frame, &encoded).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))
    }

    fn write(&self, tail: &mut Tail, frame: &Frame, encoded: &Encoded) -> Result<FrameHash, StoreError> {
        let frame_bytes = encoded.bytes.len() as u64;
        let segment = match &tail.segment {
            // A file is named by its first event, so one without events has no successor.
            // What was pruned takes no more frames: its length is stated within.
            Some(segment)
                if segment.pruned.is_none()
                    && (tail.next_event == segment.header.first_event
                        || tail.bytes + frame_bytes <= self.options.segment_bytes) =>
            {
                Arc::clone(segment)
            }
            _ => self.next_segment(tail)?,
        };
        segment.file.write_all_at(&encoded.bytes, tail.bytes).map_err(io_error("writing a frame"))?;
        segment
            .note(tail.bytes, &encoded.events_at, frame)
            .ok_or_else(|| misuse("a segment beyond 4 GiB"))?;
        let hash = (self.hashes.frame)(encoded.body());
        tail.bytes += frame_bytes;
        tail.next_frame += 1;
        tail.next_event += frame.events.len() as u64;
        tail.previous_hash = hash;
        tail.newest = Some(Newest { at: frame.at, hash, rests_on: frame.rests_on });
        tail.room.used(frame_bytes);
        Ok(hash)
    }

    /// Syncs and seals the segment that is full and makes the one after it.
    fn next_segment(&self, tail: &mut Tail) -> Result<Arc<Segment>, StoreError> {
        let mut header = SegmentHeader::first();
        if let Some(full) = &tail.segment {
            let mut synced = lock(&self.synced);
            self.sound()?;
            sync_data(full).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))?;
            *synced = (full.header.first_event, tail.bytes);
            full.seal(tail.bytes);
            let next = (tail.next_frame, tail.next_event);
            header = SegmentHeader::behind(full, tail.bytes, next, tail.previous_hash);
        }
        let segment = Arc::new(Segment::create(&self.folder, header, self.hashes)?);
        let mut segments = Vec::clone(&self.segments.load());
        segments.push(Arc::clone(&segment));
        self.segments.store(Arc::new(segments));
        tail.segment = Some(Arc::clone(&segment));
        tail.bytes = HEADER_BYTES;
        Ok(segment)
    }

    fn sync_now(&self) -> Result<(), StoreError> {
        let (segment, bytes) = match &*lock(&self.writer) {
            Writer::Ready(Tail { segment: Some(segment), bytes, .. }) => (Arc::clone(segment), *bytes),
            _ => return self.sound(),
        };
        let mut synced = lock(&self.synced);
        self.sound()?;
        let reached = (segment.header.first_event, bytes);
        if *synced < reached {
            sync_data(&segment).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))?;
            *synced = reached;
        }
        Ok(())
    }

    /// Refuses after a write or a sync has failed: nothing is known about the disk any more.
    pub(super) fn sound(&self) -> Result<(), StoreError> {
        match self.broken.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(StoreError::Io {
                what: "a write or a sync before this",
                source: std::io::Error::other("the log has stopped"),
            }),
        }
    }

    fn segment_of(&self, number: EventNumber) -> Option<Arc<Segment>> {
        let segments = self.segments.load();
        let after = segments.partition_point(|segment| segment.header.first_event <= number.0);
        segments.get(after.checked_sub(1)?).cloned()
    }

    fn leaves_now(&self, from: EventNumber, limit: usize) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut leaves = Vec::new();
        while let Some(wanted) = limit.checked_sub(leaves.len()).filter(|wanted| *wanted > 0) {
            let next = from.0 + leaves.len() as u64;
            let Some(segment) = self.segment_of(EventNumber(next)) else { break };
            let found = segment.leaves(next, wanted)?;
            if found.is_empty() {
                break;
            }
            leaves.extend(found);
        }
        Ok(leaves)
    }
}

impl Log for EmbeddedLog {
    fn find_end(&self, durable_number: u64) -> Answer<'_, Result<LogEnd, StoreError>> {
        Answer::now(self.find_end_now(durable_number))
    }

    fn cut(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.sound().and_then(|()| {
            let end = self.cut_now().inspect_err(|_| self.broken.store(true, Ordering::SeqCst))?;
            if let Some(end) = end {
                *lock(&self.synced) = end;
            }
            Ok(())
        }))
    }

    fn append(&self, frame: &Frame, urgent: bool) -> Answer<'_, Result<FrameHash, StoreError>> {
        Answer::now(self.append_now(frame, urgent))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.sync_now())
    }

    fn event(&self, number: EventNumber) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        Answer::now(self.segment_of(number).map_or(Ok(None), |segment| segment.event(number.0)))
    }

    fn frame_of(&self, number: EventNumber) -> Answer<'_, Result<Option<(Frame, FrameHash)>, StoreError>> {
        Answer::now(self.segment_of(number).map_or(Ok(None), |segment| segment.frame_of(number.0)))
    }

    fn leaves(&self, from: EventNumber, limit: usize) -> Answer<'_, Result<Vec<[u8; 32]>, StoreError>> {
        Answer::now(self.leaves_now(from, limit))
    }

    fn sealed(&self) -> Answer<'_, Result<Vec<Range<u64>>, StoreError>> {
        Answer::now(Ok(self.sealed_now()))
    }

    fn prune(
        &self,
        first: EventNumber,
        shorter: BTreeMap<u64, Bytes>,
    ) -> Answer<'_, Result<u64, StoreError>> {
        Answer::now(self.prune_now(first, &shorter))
    }
}

fn sync_data(segment: &Segment) -> Result<(), StoreError> {
    rustix::fs::fdatasync(&segment.file)
        .map_err(|error| StoreError::Io { what: "syncing the log", source: error.into() })
}

/// A call that the order of things does not allow.
pub(super) fn misuse(what: &'static str) -> StoreError {
    StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() }
}

/// What a panicked writer left is still whole: every change is made by one assignment or is poisoned.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every segment's file is open, and a shell's usual soft limit is 1,024: 16 GiB.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }); // then it stays as it was
    }
}

#[cfg(test)]
mod tests {
    use cloakroom_core::ids::{CommitPosition, FramePosition, StartId};

    use super::*;

    fn sum(bytes: &[u8]) -> [u8; 32] {
        let mut sum = [0; 32];
        sum[..4].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        sum
    }

    const HASHES: Hashes = Hashes { frame: sum, leaf: sum };

    fn frame(number: u64, previous_hash: FrameHash, first_event: u64, events: &[&'static [u8]]) -> Frame {
        Frame {
            at: FramePosition { start: StartId([1; 16]), number },
            previous_hash,
            rests_on: CommitPosition { start: StartId([2; 16]), number: 9 },
            durable_number: 0,
            ends: Vec::new(),
            first_event: EventNumber(first_event),
            events: events.iter().map(|event| Bytes::from_static(event)).collect(),
        }
    }

    fn ready(folder: &Path, options: LogOptions) -> EmbeddedLog {
        let log = EmbeddedLog::open(folder, HASHES, options).unwrap();
        log.find_end_now(0).unwrap();
        log.cut_now().unwrap();
        log
    }

    #[test]
    fn as_many_files_may_be_open_as_the_hard_limit_allows() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit { current: before.maximum.map(|most| most / 2).or(Some(512)), ..before },
        )
        .unwrap();
        let place = tempfile::tempdir().unwrap();
        EmbeddedLog::open(place.path(), HASHES, LogOptions::default()).unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    fn ordinary_frames_leave_the_reserve_alone_and_urgent_ones_do_not() {
        let place = tempfile::tempdir().unwrap();
        let log = ready(place.path(), LogOptions { reserve_bytes: u64::MAX, ..LogOptions::default() });
        let first = frame(1, [0; 32], 1, &[b"a"]);
        assert!(matches!(
            log.append_now(&first, false),
            Err(StoreError::Full { reserved_bytes: u64::MAX, .. })
        ));
        let hash = log.append_now(&first, true).unwrap();
        // Nothing was poisoned and nothing written by the refused one.
        assert!(matches!(log.append_now(&frame(2, hash, 2, &[b"b"]), false), Err(StoreError::Full { .. })));
        log.append_now(&frame(2, hash, 2, &[b"b"]), true).unwrap();
        log.sync_now().unwrap();
    }

    #[test]
    fn a_frame_that_does_not_come_next_is_refused_and_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let log = ready(place.path(), LogOptions { reserve_bytes: 0, ..LogOptions::default() });
        let first = frame(1, [0; 32], 1, &[b"a"]);
        for wrong in [
            frame(2, [0; 32], 1, &[b"a"]),
            frame(1, [9; 32], 1, &[b"a"]),
            frame(1, [0; 32], 2, &[b"a"]),
            Frame { durable_number: 1, ..first.clone() },
        ] {
            assert!(log.append_now(&wrong, false).is_err());
        }
        log.append_now(&first, false).unwrap();
    }

    #[test]
    fn after_a_failed_write_nothing_is_taken_any_more() {
        let place = tempfile::tempdir().unwrap();
        let log = ready(place.path(), LogOptions { segment_bytes: 100, reserve_bytes: 0 });
        let hash = log.append_now(&frame(1, [0; 32], 1, &[b"a"]), false).unwrap();
        // The next segment's name is taken.
        std::fs::create_dir(place.path().join("00000000000000000002.log")).unwrap();
        assert!(log.append_now(&frame(2, hash, 2, &[b"b"]), false).is_err());
        std::fs::remove_dir(place.path().join("00000000000000000002.log")).unwrap();
        assert!(log.append_now(&frame(2, hash, 2, &[b"b"]), false).is_err());
        assert!(log.sync_now().is_err());
        let reopened = EmbeddedLog::open(place.path(), HASHES, LogOptions::default()).unwrap();
        assert_eq!(reopened.find_end_now(1).unwrap().events, 1);
    }
}
