//! One file of the log: `{number of its first event}.log`, a header, frames.
//!
//! ```text
//! "CLOAKLOG" | format u32 | first event u64 | first frame u64 | first event of the segment before u64
//! | bytes of the segment before u64 | hash of the frame before [32] | CRC-32C of all before u32
//! | frames, each as in `framing`                                              (all little-endian)
//! ```
//! The header of a segment is evidence about the one before: that was synced, at that length, and ended with
//! that frame, before this one was made. So headers alone show whether a file between is missing or short.
//!
//! A segment that was pruned (`prune`) has format 2 and one more block before its frames: the length it had
//! before (u64), which is what the segment after it states, and the length it has (u64).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use bytes::{Buf, BufMut, Bytes};
use cloakroom_core::ids::{CommitPosition, FramePosition};

use super::folder::{file_name, io_error, sync_folder};
use super::frame;
use super::framing;
use super::table::Table;
use crate::StoreError;
use crate::log::{Frame, FrameHash, Hashes};

/// How the log's files end.
pub(super) const LOG_EXTENSION: &str = "log";
/// Where the first frame begins.
pub(super) const HEADER_BYTES: u64 = 80;

const MAGIC: [u8; 8] = *b"CLOAKLOG";
/// A segment as it was written.
const FORMAT: u32 = 1;
/// One that was pruned.
const PRUNED_FORMAT: u32 = 2;
/// What a pruned segment's first block holds.
const LENGTHS_BYTES: usize = 16;

/// What a segment says of itself and of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    format: u32,
    pub(super) first_event: u64,
    pub(super) first_frame: u64,
    /// 0 in the first segment.
    pub(super) previous_first_event: u64,
    /// 0 in the first segment.
    pub(super) previous_bytes: u64,
    pub(super) previous_hash: FrameHash,
}

impl SegmentHeader {
    /// Of a log's first segment.
    pub(super) fn first() -> SegmentHeader {
        SegmentHeader {
            format: FORMAT,
            first_event: 1,
            first_frame: 1,
            previous_first_event: 0,
            previous_bytes: 0,
            previous_hash: [0; 32],
        }
    }

    /// Of the segment that comes behind `full`, which ends at `bytes` with a frame that hashes to
    /// `previous_hash`.
    pub(super) fn behind(
        full: &Segment,
        bytes: u64,
        (first_frame, first_event): (u64, u64),
        previous_hash: FrameHash,
    ) -> SegmentHeader {
        SegmentHeader {
            format: FORMAT,
            first_event,
            first_frame,
            previous_first_event: full.header.first_event,
            previous_bytes: full.pruned.filter(|it| it.now == bytes).map_or(bytes, |it| it.before),
            previous_hash,
        }
    }

    /// Whether it is that of a log's first segment.
    pub(super) fn is_first(&self) -> bool {
        SegmentHeader { format: FORMAT, ..self.clone() } == SegmentHeader::first()
    }

    /// Of the segment that stands pruned for this one.
    pub(super) fn pruned(&self) -> SegmentHeader {
        SegmentHeader { format: PRUNED_FORMAT, ..self.clone() }
    }

    /// Whether the segment was pruned: its first block holds [`Lengths`].
    pub(super) fn is_pruned(&self) -> bool {
        self.format == PRUNED_FORMAT
    }

    /// The beginning of the segment that stands pruned for this one: its header, and the lengths.
    pub(super) fn encode_pruned(&self, lengths: Lengths) -> Option<Vec<u8>> {
        let mut bytes = self.pruned().encode();
        let mut body = Vec::with_capacity(LENGTHS_BYTES);
        body.put_u64_le(lengths.before);
        body.put_u64_le(lengths.now);
        bytes.put_slice(&framing::head(&body)?);
        bytes.put_slice(&body);
        Some(bytes)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(self.format);
        bytes.put_u64_le(self.first_event);
        bytes.put_u64_le(self.first_frame);
        bytes.put_u64_le(self.previous_first_event);
        bytes.put_u64_le(self.previous_bytes);
        bytes.put_slice(&self.previous_hash);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        bytes
    }

    /// `None` where no sound header lies.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a newer version wrote it.
    pub(super) fn read(file: &File) -> Result<Option<SegmentHeader>, StoreError> {
        let failed = io_error("reading a segment's header");
        if file.metadata().map_err(&failed)?.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut bytes, 0).map_err(&failed)?;
        Self::parse(&bytes)
    }

    /// The same of bytes in memory.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES as usize]) -> Result<Option<SegmentHeader>, StoreError> {
        let mut rest = &bytes[..];
        let mut magic = [0; 8];
        rest.copy_to_slice(&mut magic);
        let format = rest.get_u32_le();
        if magic == MAGIC && format > PRUNED_FORMAT {
            return Err(StoreError::Newer {
                what: "a segment of the log",
                found: format,
                known: PRUNED_FORMAT,
            });
        }
        let mut header = SegmentHeader {
            format,
            first_event: rest.get_u64_le(),
            first_frame: rest.get_u64_le(),
            previous_first_event: rest.get_u64_le(),
            previous_bytes: rest.get_u64_le(),
            previous_hash: [0; 32],
        };
        rest.copy_to_slice(&mut header.previous_hash);
        let known = matches!(format, FORMAT | PRUNED_FORMAT);
        Ok((known && header.encode() == bytes[..]).then_some(header))
    }
}

/// How long a pruned segment was, and is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    /// As the segment after it states.
    pub(super) before: u64,
    pub(super) now: u64,
}

impl Lengths {
    /// Those of a pruned segment; none where its first block is not sound.
    pub(super) fn read(file: &File) -> Result<Option<Lengths>, StoreError> {
        let end = HEADER_BYTES + (framing::HEAD_BYTES + LENGTHS_BYTES) as u64;
        if file.metadata().map_err(io_error("reading a segment's header"))?.len() < end {
            return Ok(None);
        }
        Ok(framing::read(file, HEADER_BYTES, end)?.and_then(|body| Lengths::parse(&body)))
    }

    /// The same of the first block.
    pub(super) fn parse(body: &[u8]) -> Option<Lengths> {
        let mut body = <&[u8; LENGTHS_BYTES]>::try_from(body).ok()?.as_slice();
        Some(Lengths { before: body.get_u64_le(), now: body.get_u64_le() })
    }
}

/// What the segment after it proves about a sealed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) bytes: u64,
    pub(super) events: u64,
}

/// One file of the log.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    pub(super) file: File,
    hashes: Hashes,
    /// Of one that was pruned.
    pub(super) pruned: Option<Lengths>,
    /// None for the newest, whose table is there from the start.
    sealed: Option<Sealed>,
    table: OnceLock<RwLock<Table>>,
}

/// The newest frame met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newest {
    pub(super) at: FramePosition,
    pub(super) hash: FrameHash,
    pub(super) rests_on: CommitPosition,
}

/// What a walk over a segment's frames has found.
pub(super) struct Scan {
    pub(super) table: Table,
    /// Where the first bad frame, or the file's end, is.
    pub(super) end: u64,
    pub(super) newest: Option<Newest>,
    pub(super) next_frame: u64,
    pub(super) next_event: u64,
    pub(super) previous_hash: FrameHash,
}

impl Segment {
    /// Makes a segment, durably, under its folder.
    pub(super) fn create(
        folder: &Path,
        header: SegmentHeader,
        hashes: Hashes,
    ) -> Result<Segment, StoreError> {
        let failed = io_error("making a segment");
        let path = folder.join(format!("{:020}.{LOG_EXTENSION}", header.first_event));
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(&failed)?;
        file.write_all_at(&header.encode(), 0).and_then(|()| file.sync_all()).map_err(&failed)?;
        sync_folder(folder)?;
        Ok(Segment {
            header,
            path,
            file,
            hashes,
            pruned: None,
            sealed: None,
            table: OnceLock::from(RwLock::new(Table::empty())),
        })
    }

    /// A segment that is there.
    pub(super) fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: File,
        hashes: Hashes,
        pruned: Option<Lengths>,
        sealed: Option<Sealed>,
    ) -> Segment {
        Segment { header, path, file, hashes, pruned, sealed, table: OnceLock::new() }
    }

    /// Where its first frame begins.
    pub(super) fn frames_at(&self) -> u64 {
        match self.pruned {
            Some(_) => HEADER_BYTES + (framing::HEAD_BYTES + LENGTHS_BYTES) as u64,
            None => HEADER_BYTES,
        }
    }

    /// Writes into a pruned segment that it has these bytes, where it says another number: it was restored to an
    /// earlier end. Not synced.
    pub(super) fn state_length(&self, bytes: u64) -> Result<(), StoreError> {
        if self.pruned.is_none_or(|lengths| lengths.now == bytes) {
            return Ok(());
        }
        let stated = self.header.encode_pruned(Lengths { before: bytes, now: bytes });
        let stated = stated.ok_or_else(|| self.damaged(0))?;
        self.file.write_all_at(&stated, 0).map_err(io_error("writing a segment's header"))
    }

    /// Takes the table that a scan has made, unless there is one.
    pub(super) fn keep(&self, table: Table) {
        let _ = self.table.set(RwLock::new(table));
    }

    /// Damage at `at`.
    pub(super) fn damaged(&self, at: u64) -> StoreError {
        StoreError::Damaged { what: file_name(&self.path), at }
    }

    /// Walks the frames below `bytes` until one is bad: unsound, or not the one that comes next.
    pub(super) fn scan(&self, bytes: u64) -> Result<Scan, StoreError> {
        let mut found = Scan {
            table: Table::empty(),
            end: self.frames_at(),
            newest: None,
            next_frame: self.header.first_frame,
            next_event: self.header.first_event,
            previous_hash: self.header.previous_hash,
        };
        while let Some(body) = framing::read(&self.file, found.end, bytes)? {
            let Some(decoded) = frame::decode(&body)? else { break };
            let frame = &decoded.frame;
            let comes_next = frame.at.number == found.next_frame
                && frame.previous_hash == found.previous_hash
                && frame.first_event.0 == found.next_event;
            let body_at = found.end + framing::HEAD_BYTES as u64;
            let events =
                decoded.events_at.iter().zip(&frame.events).enumerate().map(|(place, (at, event))| {
                    (body_at + *at as u64, &event[..], decoded.leaf(place, event, self.hashes.leaf))
                });
            if !comes_next || found.table.add(found.end, events).is_none() {
                break;
            }
            found.end = body_at + body.len() as u64;
            found.next_frame += 1;
            found.next_event += frame.events.len() as u64;
            found.previous_hash = decoded.hash(&body, self.hashes.frame);
            found.newest = Some(Newest { at: frame.at, hash: found.previous_hash, rests_on: frame.rests_on });
        }
        Ok(found)
    }

    /// The event `number`; `None` if it is not in here.
    pub(super) fn event(&self, number: u64) -> Result<Option<Bytes>, StoreError> {
        let Some(place) = self.with_table(|table| Ok(table.place(self.index_of(number))))? else {
            return Ok(None);
        };
        let damaged = || self.damaged(place.offset.into());
        let mut event = vec![0; place.until.checked_sub(place.offset).ok_or_else(damaged)? as usize];
        self.file.read_exact_at(&mut event, u64::from(place.offset)).map_err(io_error("reading an event"))?;
        if place.followed {
            event.truncate(frame::event_before_another(&event).ok_or_else(damaged)?);
        }
        if crc32c::crc32c(&event) != place.checksum {
            return Err(damaged());
        }
        Ok(Some(event.into()))
    }

    /// The frame that holds event `number`, with its hash.
    pub(super) fn frame_of(&self, number: u64) -> Result<Option<(Frame, FrameHash)>, StoreError> {
        match self.with_table(|table| Ok(table.frame_offset(self.index_of(number))))? {
            Some(offset) => self.frame_at(offset).map(Some),
            None => Ok(None),
        }
    }

    /// The newest frame in here.
    pub(super) fn newest(&self) -> Result<Option<Newest>, StoreError> {
        let Some(offset) = self.with_table(|table| Ok(table.newest_frame_offset()))? else { return Ok(None) };
        let (frame, hash) = self.frame_at(offset)?;
        Ok(Some(Newest { at: frame.at, hash, rests_on: frame.rests_on }))
    }

    /// Leaf hashes of up to `limit` events from event `from` on.
    pub(super) fn leaves(&self, from: u64, limit: usize) -> Result<Vec<[u8; 32]>, StoreError> {
        self.with_table(|table| table.leaves(self.index_of(from), limit))
    }

    /// Notes a frame that was written at `offset`, its events at offsets within it. `None` beyond 4 GiB.
    pub(super) fn note(&self, offset: u64, events_at: &[usize], frame: &Frame) -> Option<()> {
        let events = events_at
            .iter()
            .zip(&frame.events)
            .map(|(at, event)| (offset + *at as u64, &event[..], (self.hashes.leaf)(event)));
        self.table.get()?.write().unwrap_or_else(PoisonError::into_inner).add(offset, events)
    }

    /// Writes the table beside a segment that gets no more frames.
    pub(super) fn seal(&self, bytes: u64) {
        if let Some(table) = self.table.get() {
            self.write_table(&mut table.write().unwrap_or_else(PoisonError::into_inner), bytes);
        }
    }

    /// The file of its table.
    pub(super) fn table_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    fn index_of(&self, number: u64) -> u64 {
        number.checked_sub(self.header.first_event).unwrap_or(u64::MAX)
    }

    fn frame_at(&self, offset: u64) -> Result<(Frame, FrameHash), StoreError> {
        let end = self.file.metadata().map_err(io_error("reading a segment's length"))?.len();
        let body = framing::read(&self.file, offset, end)?.ok_or_else(|| self.damaged(offset))?;
        let decoded = frame::decode(&body)?.ok_or_else(|| self.damaged(offset))?;
        let hash = decoded.hash(&body, self.hashes.frame);
        Ok((decoded.frame, hash))
    }

    fn with_table<T>(&self, read: impl FnOnce(&Table) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.table.get().is_none() {
            self.keep(self.load_table()?);
        }
        match self.table.get() {
            Some(table) => read(&table.read().unwrap_or_else(PoisonError::into_inner)),
            None => Err(self.damaged(0)),
        }
    }

    /// The table from its file, or from the segment itself.
    fn load_table(&self) -> Result<Table, StoreError> {
        let Sealed { bytes, events } = self.sealed.ok_or_else(|| self.damaged(0))?;
        let path = self.table_path();
        let in_file = Table::open(&path, self.header.first_event, bytes)?;
        if let Some(table) = in_file.filter(|table| table.events() == events) {
            return Ok(table);
        }
        let Scan { mut table, end, .. } = self.scan(bytes)?;
        if end != bytes || table.events() != events {
            return Err(self.damaged(end));
        }
        tracing::info!(segment = self.header.first_event, "built the table of a segment again");
        self.write_table(&mut table, bytes);
        Ok(table)
    }

    /// A table that cannot be written, on a full disk for one, stays in memory: it is built again next time.
    fn write_table(&self, table: &mut Table, bytes: u64) {
        if let Err(error) = table.seal(&self.table_path(), self.header.first_event, bytes) {
            tracing::warn!(segment = self.header.first_event, %error, "the table of a segment was not written");
        }
    }
}
