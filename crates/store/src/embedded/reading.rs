//! The files of both logs as somebody beside their owner reads them: from the front, nothing but forward, and
//! without changing anything. For copies of a log that another process may be writing, and for copies of copies.
//!
//! What is read ends at the first block that is not whole: of a file that still grows, a prefix.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use cloakroom_core::ids::EventNumber;

use super::folder::{io_error, numbered_files};
use super::frame::Decoded;
use super::segment::{HEADER_BYTES, LOG_EXTENSION, Lengths, SegmentHeader};
use super::{access, frame, framing};
use crate::log::{Frame, FrameHash};
use crate::{StoreError, embedded};

/// The files of the log in `folder`, by the numbers of their first events, in order.
///
/// # Errors
/// [`StoreError::Io`] if the folder cannot be listed.
pub fn log_files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    numbered_files(folder, LOG_EXTENSION)
}

/// The files of the access log in `folder`, by the numbers of their first entries, in order.
///
/// # Errors
/// [`StoreError::Io`] if the folder cannot be listed.
pub fn access_files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    numbered_files(folder, access::EXTENSION)
}

/// How a file of the log is called in its folder.
pub fn log_file_name(first_event: u64) -> String {
    format!("{first_event:020}.{LOG_EXTENSION}")
}

/// How a file of the access log is called in its folder.
pub fn access_file_name(first_entry: u64) -> String {
    format!("{first_entry:020}.{}", access::EXTENSION)
}

/// Where the file before one of the log ended: it was durable up to there when this one was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// The first event of the file before; 0 for none.
    pub first_event: u64,
    /// Its length.
    pub bytes: u64,
    /// Its last frame; zeros for none.
    pub hash: FrameHash,
}

/// A leaf of the log's Merkle tree (RFC 6962 section 2.1).
pub type LeafHash = [u8; 32];

/// Reads the frames of one file of the log.
pub struct FrameReader<R> {
    blocks: Blocks<R>,
    hash: fn(&[u8]) -> FrameHash,
    header: SegmentHeader,
    /// Of a file that was pruned.
    pruned: Option<Lengths>,
    next_frame: u64,
    next_event: u64,
    previous_hash: FrameHash,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header; none where there is no sound one, as in a file that was only just made.
    ///
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Io`].
    pub fn open(mut file: R, hash: fn(&[u8]) -> FrameHash) -> Result<Option<Self>, StoreError> {
        let mut bytes = [0; HEADER_BYTES as usize];
        if !fill(&mut file, &mut bytes)? {
            return Ok(None);
        }
        let Some(header) = SegmentHeader::parse(&bytes)? else { return Ok(None) };
        let mut blocks = Blocks { file, end: HEADER_BYTES };
        let mut pruned = None;
        if header.is_pruned() {
            let Some(body) = blocks.peek()? else { return Ok(None) };
            pruned = Lengths::parse(&body);
            blocks.take(&body);
        }
        Ok(Some(Self {
            blocks,
            pruned,
            hash,
            next_frame: header.first_frame,
            next_event: header.first_event,
            previous_hash: header.previous_hash,
            header,
        }))
    }

    /// The next frame with its hash; none behind the last one that is whole and follows the one before.
    ///
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Io`].
    pub fn next_frame(&mut self) -> Result<Option<(Frame, FrameHash)>, StoreError> {
        Ok(self.next_decoded()?.map(|decoded| (decoded.frame, self.previous_hash)))
    }

    /// The same with the leaf hashes of its events, also of those that were pruned; `leaf` hashes the others.
    ///
    /// # Errors
    /// As [`FrameReader::next_frame`].
    pub fn next_frame_with_leaves(
        &mut self,
        leaf: fn(&[u8]) -> [u8; 32],
    ) -> Result<Option<(Frame, Vec<LeafHash>)>, StoreError> {
        let Some(decoded) = self.next_decoded()? else { return Ok(None) };
        let events = decoded.frame.events.iter().enumerate();
        let leaves = events.map(|(place, event)| decoded.leaf(place, event, leaf)).collect();
        Ok(Some((decoded.frame, leaves)))
    }

    fn next_decoded(&mut self) -> Result<Option<Decoded>, StoreError> {
        let Some(body) = self.blocks.peek()? else { return Ok(None) };
        let Some(decoded) = frame::decode(&body)? else { return Ok(None) };
        let hash = decoded.hash(&body, self.hash);
        let frame = &decoded.frame;
        let follows = frame.at.number == self.next_frame
            && frame.previous_hash == self.previous_hash
            && frame.first_event.0 == self.next_event;
        if !follows {
            return Ok(None);
        }
        self.blocks.take(&body);
        self.next_frame = self.next_frame.saturating_add(1);
        self.next_event = self.next_event.saturating_add(frame.events.len() as u64);
        self.previous_hash = hash;
        Ok(Some(decoded))
    }

    /// What the header says of the file before.
    pub fn before(&self) -> Before {
        Before {
            first_event: self.header.previous_first_event,
            bytes: self.header.previous_bytes,
            hash: self.header.previous_hash,
        }
    }

    /// What the file after this one says of it, once all its frames were given. A file that was pruned is told
    /// by the length that it had before.
    pub fn as_before(&self) -> Before {
        let bytes = self.bytes();
        let whole = self.pruned.filter(|lengths| lengths.now == bytes);
        Before {
            first_event: self.header.first_event,
            bytes: whole.map_or(bytes, |lengths| lengths.before),
            hash: self.previous_hash,
        }
    }

    /// The number of the file's first event.
    pub fn first_event(&self) -> EventNumber {
        EventNumber(self.header.first_event)
    }

    /// The number of the event that would come next.
    pub fn next_event(&self) -> EventNumber {
        EventNumber(self.next_event)
    }

    /// The newest frame given, or the last of the file before.
    pub fn newest_hash(&self) -> FrameHash {
        self.previous_hash
    }

    /// Where in the file the newest frame given ends.
    pub fn bytes(&self) -> u64 {
        self.blocks.end
    }
}

/// Reads the entries of one file of the access log.
pub struct EntryReader<R> {
    blocks: Blocks<R>,
    entries: u64,
}

impl<R: Read> EntryReader<R> {
    /// Reads the header; none where it is not that of a file whose first entry is `first_entry`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(mut file: R, first_entry: u64) -> Result<Option<Self>, StoreError> {
        let wanted = access::header(first_entry);
        let mut bytes = vec![0; wanted.len()];
        let sound = fill(&mut file, &mut bytes)? && bytes == wanted;
        Ok(sound.then(|| Self { blocks: Blocks { file, end: bytes.len() as u64 }, entries: 0 }))
    }

    /// The next entry; none behind the last whole one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn next_entry(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(entry) = self.blocks.peek()? else { return Ok(None) };
        self.blocks.take(&entry);
        self.entries = self.entries.saturating_add(1);
        Ok(Some(entry))
    }

    /// Entries given so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Where in the file the newest entry given ends.
    pub fn bytes(&self) -> u64 {
        self.blocks.end
    }
}

/// Blocks one behind the other, as in `framing`.
struct Blocks<R> {
    file: R,
    end: u64,
}

impl<R: Read> Blocks<R> {
    /// The next whole and sound block. The file has gone on behind it; [`Blocks::take`] counts it.
    fn peek(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut head = [0; framing::HEAD_BYTES];
        if !fill(&mut self.file, &mut head)? {
            return Ok(None);
        }
        let length = (&head[..]).get_u32_le();
        let mut block = head.to_vec();
        // As much as there is: a length that was torn or forged takes no memory.
        let read = (&mut self.file).take(length.into()).read_to_end(&mut block);
        read.map_err(io_error("reading a log"))?;
        let sound = framing::parse(&block).is_some();
        Ok(sound.then(|| Bytes::from(block).slice(framing::HEAD_BYTES..)))
    }

    fn take(&mut self, body: &Bytes) {
        self.end = self.end.saturating_add(framing::HEAD_BYTES as u64).saturating_add(body.len() as u64);
    }
}

/// Whether there was enough to fill `bytes`.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> Result<bool, StoreError> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(StoreError::Io { what: "reading a log", source }),
    }
}

/// Makes durable what `file` holds, also what another process wrote: what was read from it before is then no
/// more than what a power cut leaves.
///
/// # Errors
/// [`StoreError::Io`] if the sync fails.
pub fn make_durable(file: &std::fs::File) -> Result<(), StoreError> {
    rustix::fs::fdatasync(file)
        .map_err(|error| StoreError::Io { what: "syncing a log", source: error.into() })
}

/// Makes a folder (0700) and those above it that are missing, durably.
///
/// # Errors
/// [`StoreError::Io`].
pub fn make_folder(path: &Path) -> Result<(), StoreError> {
    embedded::folder::make_folder(path)
}

/// Makes durable which files a folder holds.
///
/// # Errors
/// [`StoreError::Io`].
pub fn sync_folder(path: &Path) -> Result<(), StoreError> {
    embedded::folder::sync_folder(path)
}

#[cfg(test)]
mod tests {
    use cloakroom_core::ids::{CommitPosition, FramePosition, StartId};

    use super::*;
    use crate::embedded::{EmbeddedLog, LogOptions};
    use crate::{Hashes, Log};

    fn sum(bytes: &[u8]) -> [u8; 32] {
        let mut sum = [0; 32];
        sum[..4].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        sum
    }

    /// A log of three frames in two files; its folder, and the hash of each frame.
    fn three_frames() -> (tempfile::TempDir, Vec<FrameHash>) {
        let place = tempfile::tempdir().unwrap();
        let options = LogOptions { segment_bytes: 400, reserve_bytes: 0 };
        let log = EmbeddedLog::open(place.path(), Hashes { frame: sum, leaf: sum }, options).unwrap();
        let mut hashes: Vec<FrameHash> = vec![[0; 32]];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            log.find_end(0).await.unwrap();
            log.cut().await.unwrap();
            for number in 1..=3_u64 {
                let frame = Frame {
                    at: FramePosition { start: StartId([1; 16]), number },
                    previous_hash: *hashes.last().unwrap(),
                    rests_on: CommitPosition { start: StartId([2; 16]), number: 9 },
                    durable_number: number - 1,
                    ends: Vec::new(),
                    first_event: EventNumber(number),
                    events: vec![Bytes::from(vec![b'e'; 40])],
                };
                hashes.push(log.append(&frame, true).await.unwrap());
            }
            log.sync().await.unwrap();
        });
        hashes.remove(0);
        (place, hashes)
    }

    fn open(path: &Path) -> FrameReader<std::fs::File> {
        FrameReader::open(std::fs::File::open(path).unwrap(), sum).unwrap().unwrap()
    }

    #[test]
    fn frames_are_read_as_they_were_written_and_a_torn_one_ends_them() {
        let (place, hashes) = three_frames();
        let files = log_files(place.path()).unwrap();
        let mut found = vec![];
        let mut before = Before { first_event: 0, bytes: 0, hash: [0; 32] };
        for (first, path) in &files {
            let mut reader = open(path);
            assert_eq!((reader.before(), reader.first_event()), (before, EventNumber(*first)));
            while let Some((_, hash)) = reader.next_frame().unwrap() {
                found.push(hash);
            }
            assert_eq!(reader.bytes(), std::fs::metadata(path).unwrap().len());
            before = Before { first_event: *first, bytes: reader.bytes(), hash: reader.newest_hash() };
        }
        assert_eq!((found, files.len()), (hashes, 2));

        let (first, path) = files.first().unwrap();
        let whole = std::fs::read(path).unwrap();
        for cut in HEADER_BYTES as usize..whole.len() {
            std::fs::write(path, &whole[..cut]).unwrap();
            let mut reader = open(path);
            while reader.next_frame().unwrap().is_some() {}
            assert!(reader.bytes() <= cut as u64 && reader.first_event().0 == *first, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(path, &flipped).unwrap();
            let reader = FrameReader::open(std::fs::File::open(path).unwrap(), sum);
            if let Ok(Some(mut reader)) = reader {
                while reader.next_frame().unwrap().is_some() {}
                assert!(reader.bytes() <= at as u64, "flipped at {at}");
            }
        }
    }
}
