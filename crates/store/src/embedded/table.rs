//! Where a segment's events and frames lie, and their leaf hashes: 8 bytes an event and 8 a frame in memory. An event's
//! length is not among them: what comes next in the segment tells where it ends.
//!
//! A sealed segment has its table in a file beside it, which saves reading the segment and is never believed
//! over it: it is checksummed, built again where it is missing, torn or of another length, and every event
//! read through it is checked against its own checksum.
//!
//! ```text
//! "CLOAKIDX" | format u32 | first event u64 | segment's bytes u64 | events u32 | frames u32
//! | end of the last event u32 | events x (offset u32, CRC-32C u32) | frames x (event u32, offset u32)
//! | events x leaf [32] | CRC-32C of all before u32                                  (all little-endian)
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use super::folder::{io_error, write_file};
use crate::StoreError;

const MAGIC: [u8; 8] = *b"CLOAKIDX";
/// 1 had the length of each event. Such a table is built again.
const FORMAT: u32 = 2;
const TABLE_HEADER_BYTES: usize = 40;
const POSITION_BYTES: usize = 8;
const FRAME_START_BYTES: usize = 8;
const LEAF_BYTES: usize = 32;

/// Where an event begins within its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    offset: u32,
    checksum: u32,
}

/// Where an event's bytes are to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    /// Where the next event of its frame begins, behind its key and length; of a frame's last event, its end.
    pub(super) until: u32,
    /// Whether there is a next one.
    pub(super) followed: bool,
    pub(super) checksum: u32,
}

/// Where a frame begins, and with which of its segment's events, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameStart {
    event: u32,
    offset: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Leaves {
    /// While the segment grows.
    Memory(Vec<[u8; LEAF_BYTES]>),
    /// In the table's file, which was whole when it was written or read.
    File(PathBuf),
}

/// What is known of one segment's inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    positions: Vec<Position>,
    frames: Vec<FrameStart>,
    /// Where the last event ends.
    end: u32,
    leaves: Leaves,
}

impl Table {
    pub(super) fn empty() -> Table {
        Table { positions: Vec::new(), frames: Vec::new(), end: 0, leaves: Leaves::Memory(Vec::new()) }
    }

    /// How many events.
    pub(super) fn events(&self) -> u64 {
        self.positions.len() as u64
    }

    /// The place of the segment's event `index`.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        let at = usize::try_from(index).ok()?;
        let Position { offset, checksum } = *self.positions.get(at)?;
        let next_frame =
            self.frames.get(self.frames_until(index)).filter(|it| u64::from(it.event) == index + 1);
        let next_event = self.positions.get(at + 1);
        let (until, followed) = match (next_frame, next_event) {
            (Some(frame), _) => (frame.offset, false),
            (None, Some(event)) => (event.offset, true),
            (None, None) => (self.end, false),
        };
        Some(Place { offset, until, followed, checksum })
    }

    /// How many frames begin with this event or before.
    fn frames_until(&self, index: u64) -> usize {
        self.frames.partition_point(|frame| u64::from(frame.event) <= index)
    }

    /// The offset of the frame that holds the segment's event `index`.
    pub(super) fn frame_offset(&self, index: u64) -> Option<u64> {
        self.positions.get(usize::try_from(index).ok()?)?;
        self.frames.get(self.frames_until(index).checked_sub(1)?).map(|frame| u64::from(frame.offset))
    }

    /// The offset of the newest frame.
    pub(super) fn newest_frame_offset(&self) -> Option<u64> {
        self.frames.last().map(|frame| u64::from(frame.offset))
    }

    /// Adds a frame that begins at `offset` and holds events at offsets within the file, with their leaf hashes.
    /// `None`, and nothing added, beyond 4 GiB.
    pub(super) fn add<'a>(
        &mut self,
        offset: u64,
        events: impl Iterator<Item = (u64, &'a [u8], [u8; LEAF_BYTES])>,
    ) -> Option<()> {
        let start = FrameStart {
            event: u32::try_from(self.positions.len()).ok()?,
            offset: u32::try_from(offset).ok()?,
        };
        let mut end = self.end;
        let (positions, hashes): (Vec<_>, Vec<_>) = events
            .map(|(offset, event, leaf)| {
                end = u32::try_from(offset + event.len() as u64).ok()?;
                let offset = u32::try_from(offset).ok()?;
                Some((Position { offset, checksum: crc32c::crc32c(event) }, leaf))
            })
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .unzip();
        let Leaves::Memory(leaves) = &mut self.leaves else { return None };
        leaves.extend(hashes);
        self.positions.extend(positions);
        self.frames.push(start);
        self.end = end;
        Some(())
    }

    /// Up to `limit` leaf hashes from the segment's event `from` on.
    pub(super) fn leaves(&self, from: u64, limit: usize) -> Result<Vec<[u8; LEAF_BYTES]>, StoreError> {
        let Some(left) = self.positions.len().checked_sub(usize::try_from(from).unwrap_or(usize::MAX)) else {
            return Ok(Vec::new());
        };
        let count = left.min(limit);
        match &self.leaves {
            Leaves::Memory(leaves) => Ok(leaves.iter().skip(from as usize).take(count).copied().collect()),
            Leaves::File(path) => {
                let failed = io_error("reading leaf hashes");
                let file = File::open(path).map_err(&failed)?;
                let mut bytes = vec![0; count * LEAF_BYTES];
                let before = TABLE_HEADER_BYTES
                    + self.positions.len() * POSITION_BYTES
                    + self.frames.len() * FRAME_START_BYTES;
                file.read_exact_at(&mut bytes, before as u64 + from * LEAF_BYTES as u64).map_err(&failed)?;
                Ok(bytes.as_chunks().0.to_vec())
            }
        }
    }

    /// Writes the table of a sealed segment to `path` and lets go of the hashes in memory. Not synced: it can
    /// be built again.
    pub(super) fn seal(
        &mut self,
        path: &Path,
        first_event: u64,
        segment_bytes: u64,
    ) -> Result<(), StoreError> {
        let Leaves::Memory(leaves) = &self.leaves else { return Ok(()) };
        let mut bytes = Vec::with_capacity(
            TABLE_HEADER_BYTES
                + self.positions.len() * (POSITION_BYTES + LEAF_BYTES)
                + self.frames.len() * FRAME_START_BYTES
                + 4,
        );
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(FORMAT);
        bytes.put_u64_le(first_event);
        bytes.put_u64_le(segment_bytes);
        // A segment is below 4 GiB: `add` saw to it.
        bytes.put_u32_le(self.positions.len() as u32);
        bytes.put_u32_le(self.frames.len() as u32);
        bytes.put_u32_le(self.end);
        for position in &self.positions {
            bytes.put_u32_le(position.offset);
            bytes.put_u32_le(position.checksum);
        }
        for frame in &self.frames {
            bytes.put_u32_le(frame.event);
            bytes.put_u32_le(frame.offset);
        }
        leaves.iter().for_each(|leaf| bytes.put_slice(leaf));
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        // Renamed: whoever has the former table of a pruned segment open reads either whole.
        let draft = path.with_extension("index-new");
        write_file(&draft, &bytes)
            .and_then(|_| fs::rename(&draft, path))
            .map_err(io_error("writing a segment's table"))?;
        self.positions.shrink_to_fit();
        self.frames.shrink_to_fit();
        self.leaves = Leaves::File(path.to_owned());
        Ok(())
    }

    /// The table in the file `path`, if it is sound and of this segment at this length.
    pub(super) fn open(
        path: &Path,
        first_event: u64,
        segment_bytes: u64,
    ) -> Result<Option<Table>, StoreError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Table::parse(&bytes, path, first_event, segment_bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { what: "reading a segment's table", source }),
        }
    }

    fn parse(bytes: &[u8], path: &Path, first_event: u64, segment_bytes: u64) -> Option<Table> {
        let (content, stated) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*stated) {
            return None;
        }
        let (mut header, mut rest) =
            content.split_first_chunk::<TABLE_HEADER_BYTES>().map(|(h, r)| (&h[..], r))?;
        let mut magic = [0; 8];
        header.copy_to_slice(&mut magic);
        if magic != MAGIC
            || header.get_u32_le() != FORMAT
            || header.get_u64_le() != first_event
            || header.get_u64_le() != segment_bytes
        {
            return None;
        }
        let (events, frames) = (header.get_u32_le() as usize, header.get_u32_le() as usize);
        let end = header.get_u32_le();
        if rest.len() != events * (POSITION_BYTES + LEAF_BYTES) + frames * FRAME_START_BYTES {
            return None;
        }
        let positions = (0..events)
            .map(|_| Position { offset: rest.get_u32_le(), checksum: rest.get_u32_le() })
            .collect();
        let frames =
            (0..frames).map(|_| FrameStart { event: rest.get_u32_le(), offset: rest.get_u32_le() }).collect();
        Some(Table { positions, frames, end, leaves: Leaves::File(path.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(event: &[u8]) -> [u8; 32] {
        [event.first().copied().unwrap_or_default(); 32]
    }

    fn three_events() -> Table {
        let mut table = Table::empty();
        let hashed = |(at, event): (u64, &'static [u8])| (at, event, leaf(event));
        table.add(80, [(100, &b"a"[..]), (110, b"bb")].map(hashed).into_iter()).unwrap();
        table.add(200, std::iter::empty()).unwrap();
        table.add(300, [(310, &b"c"[..])].map(hashed).into_iter()).unwrap();
        table
    }

    #[test]
    fn a_table_in_a_file_says_what_it_said_in_memory() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("table");
        let grown = three_events();
        let mut sealed = three_events();
        sealed.seal(&path, 7, 400).unwrap();
        let opened = Table::open(&path, 7, 400).unwrap().unwrap();
        assert_eq!(opened, sealed);
        for (from, limit) in [(0, 9), (1, 1), (2, 5), (3, 5), (9, 1)] {
            assert_eq!(opened.leaves(from, limit).unwrap(), grown.leaves(from, limit).unwrap());
        }
        assert_eq!(opened.leaves(1, 2).unwrap(), [[b'b'; 32], [b'c'; 32]]);
        assert_eq!(
            [0, 1, 2, 3].map(|event| opened.frame_offset(event)),
            [Some(80), Some(80), Some(300), None]
        );
        assert_eq!(opened.newest_frame_offset(), Some(300));
        let bounds = |table: &Table| {
            [0, 1, 2, 3].map(|event| table.place(event).map(|it| (it.offset, it.until, it.followed)))
        };
        let expected = [Some((100, 110, true)), Some((110, 200, false)), Some((310, 311, false)), None];
        assert_eq!((bounds(&opened), bounds(&grown)), (expected, expected));
    }

    #[test]
    fn a_table_that_is_torn_flipped_or_of_another_segment_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("table");
        three_events().seal(&path, 7, 400).unwrap();
        let whole = fs::read(&path).unwrap();
        assert!(Table::open(&path, 8, 400).unwrap().is_none());
        assert!(Table::open(&path, 7, 401).unwrap().is_none());
        for cut in 0..whole.len() {
            assert!(Table::parse(&whole[..cut], &path, 7, 400).is_none(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(Table::parse(&flipped, &path, 7, 400).is_none(), "flipped at {at}");
        }
    }
}
