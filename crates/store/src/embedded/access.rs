//! The access log in files: who read what, handed to the system before the answer is given.
//!
//! `{number of its first entry}.access` holds a header and entries, each as in `framing`; when it is full it
//! is synced, hashed, and its hash kept beside it. An event of the log names it with that hash.
//!
//! ```text
//! "CLOAKACC" | format u32 | first entry u64 | CRC-32C of all before u32 | entries   (all little-endian)
//! ```
//! Entries are synced apart from reads, so a power cut may take the newest; what a start finds torn it cuts
//! off. A kill of the process takes none.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwap;
use bytes::{Buf, BufMut};

use super::folder::{
    Room, file_name, io_error, make_folder, numbered_files, settle, sync_folder, write_file,
};
use super::framing;
use super::log::{lock, misuse};
use crate::{AccessLog, Answer, SealedFile, StoreError};

pub(super) const EXTENSION: &str = "access";
const MAGIC: [u8; 8] = *b"CLOAKACC";
const FORMAT: u32 = 1;
const HEADER_BYTES: u64 = 24;
/// Every so manieth entry's offset is kept: a read walks over half as many, and a million entries take 128 KB.
const MARK_EVERY: u64 = 64;

/// How an access log is kept.
#[derive(Clone, Copy, Debug)]
pub struct AccessLogOptions {
    /// A file that would grow beyond this gets a successor.
    pub file_bytes: u64,
    /// What must stay free on the disk; entries are refused before they would use it.
    pub reserve_bytes: u64,
}

impl Default for AccessLogOptions {
    /// Files of 16 MiB: one is hashed in one piece of memory. A reserve of half the log's: reads go on for a
    /// while after writes have ended, and leave erasures room all the same.
    fn default() -> Self {
        AccessLogOptions { file_bytes: 16 << 20, reserve_bytes: 128 << 20 }
    }
}

/// The embedded [`AccessLog`]. Calls do their work before they answer.
pub struct EmbeddedAccessLog {
    folder: PathBuf,
    hash: fn(&[u8]) -> [u8; 32],
    options: AccessLogOptions,
    /// In order, the newest last; never empty.
    parts: ArcSwap<Vec<Arc<Part>>>,
    writing: Mutex<Writing>,
    /// Full ones that have no hash yet. Held through a sync, taken after `writing`.
    unhashed: Mutex<Vec<Arc<Part>>>,
    /// Full ones that have. Taken last.
    sealed: Mutex<Vec<SealedFile>>,
    broken: AtomicBool,
}

/// Where entries go.
struct Writing {
    part: Arc<Part>,
    room: Room,
}

/// One file.
struct Part {
    first_entry: u64,
    path: PathBuf,
    file: File,
    places: OnceLock<RwLock<Places>>,
}

/// Where a file's entries lie.
#[derive(Clone, Default)]
struct Places {
    /// The offset of every [`MARK_EVERY`]th entry.
    marks: Vec<u64>,
    entries: u64,
    /// Behind the last entry.
    end: u64,
}

impl EmbeddedAccessLog {
    /// Opens the log in `folder`, which is made where missing and must belong to this process
    /// ([`super::Folder`]), after syncing it and dropping it from the page cache; cuts off a torn entry.
    /// `hash` is what files are hashed with.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a file is missing or has no header.
    pub fn open(
        folder: &Path,
        hash: fn(&[u8]) -> [u8; 32],
        options: AccessLogOptions,
    ) -> Result<EmbeddedAccessLog, StoreError> {
        make_folder(folder)?;
        settle(folder)?;
        let mut parts = Vec::new();
        let files = numbered_files(folder, EXTENSION)?;
        let last = files.len().saturating_sub(1);
        for (index, (first_entry, path)) in files.into_iter().enumerate() {
            parts.extend(Part::open(first_entry, path, index, last)?);
        }
        let newest = match parts.pop() {
            Some(newest) => newest,
            None => Part::create(folder, 0)?,
        };
        newest.cut()?;
        let newest = Arc::new(newest);
        let mut parts: Vec<_> = parts.into_iter().map(Arc::new).collect();
        parts.push(Arc::clone(&newest));
        let (mut unhashed, mut sealed) = (Vec::new(), Vec::new());
        for pair in parts.windows(2) {
            let [part, next] = pair else { continue };
            match part.kept_hash() {
                Some(hash) => sealed.push(part.sealed_before(next, hash)),
                None => unhashed.push(Arc::clone(part)),
            }
        }
        Ok(EmbeddedAccessLog {
            folder: folder.to_owned(),
            hash,
            options,
            parts: ArcSwap::from_pointee(parts),
            writing: Mutex::new(Writing { part: newest, room: Room::default() }),
            unhashed: Mutex::new(unhashed),
            sealed: Mutex::new(sealed),
            broken: AtomicBool::new(false),
        })
    }

    fn append_now(&self, entry: &[u8]) -> Result<(), StoreError> {
        self.sound()?;
        let mut block = framing::head(entry).ok_or_else(|| misuse("an entry of 4 GiB"))?.to_vec();
        block.extend_from_slice(entry);
        let mut writing = lock(&self.writing);
        let block_bytes = block.len() as u64;
        writing.room.need(&self.folder, block_bytes, self.options.reserve_bytes)?;
        self.write(&mut writing, &block).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))
    }

    fn write(&self, writing: &mut Writing, block: &[u8]) -> Result<(), StoreError> {
        let block_bytes = block.len() as u64;
        self.part_for(&mut writing.part, block_bytes)?;
        let mut places = writing.part.places()?.write().unwrap_or_else(PoisonError::into_inner);
        writing.part.file.write_all_at(block, places.end).map_err(io_error("writing the access log"))?;
        places.add(block_bytes);
        writing.room.used(block_bytes);
        Ok(())
    }

    /// Makes a new file if the newest is full.
    fn part_for(&self, newest: &mut Arc<Part>, block_bytes: u64) -> Result<(), StoreError> {
        let Places { entries, end, .. } = newest.snapshot()?;
        if entries == 0 || end + block_bytes <= self.options.file_bytes {
            return Ok(());
        }
        let mut unhashed = lock(&self.unhashed);
        self.sound()?;
        sync_data(&newest.file)?;
        let next = Arc::new(Part::create(&self.folder, newest.first_entry + entries)?);
        unhashed.push(Arc::clone(newest));
        let mut parts = Vec::clone(&self.parts.load());
        parts.push(Arc::clone(&next));
        self.parts.store(Arc::new(parts));
        *newest = next;
        Ok(())
    }

    fn sync_now(&self) -> Result<(), StoreError> {
        let newest = Arc::clone(&lock(&self.writing).part);
        let mut unhashed = lock(&self.unhashed);
        self.sound()?;
        sync_data(&newest.file).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))?;
        // One a time: a hash takes some milliseconds, and the next sync is near.
        if let Some(part) = unhashed.last() {
            let hash = part.keep_hash(self.hash)?;
            let parts = self.parts.load();
            let next = parts.partition_point(|other| other.first_entry <= part.first_entry);
            lock(&self.sealed).extend(parts.get(next).map(|next| part.sealed_before(next, hash)));
            unhashed.pop();
        }
        Ok(())
    }

    fn hash_of(&self, first_entry: u64) -> Result<Option<[u8; 32]>, StoreError> {
        let parts = self.parts.load();
        let Some(part) = parts.iter().find(|part| part.first_entry == first_entry) else { return Ok(None) };
        // By its path: what was removed or replaced while it is open here is gone too.
        match fs::read(&part.path) {
            Ok(bytes) => Ok(Some((self.hash)(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("reading a file of the access log")(error)),
        }
    }

    fn read_now(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let parts = self.parts.load();
        let after = parts.partition_point(|part| part.first_entry <= from);
        let mut found = Vec::new();
        for part in parts.iter().skip(after.saturating_sub(1)) {
            let next = from + found.len() as u64;
            if found.len() >= limit || part.first_entry > next {
                break;
            }
            part.read(next - part.first_entry, limit, &mut found)?;
        }
        Ok(found)
    }

    fn sound(&self) -> Result<(), StoreError> {
        match self.broken.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(StoreError::Io {
                what: "a write or a sync before this",
                source: std::io::Error::other("the access log has stopped"),
            }),
        }
    }
}

impl AccessLog for EmbeddedAccessLog {
    fn append(&self, entry: &[u8]) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.append_now(entry))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.sync_now())
    }

    fn read(&self, from: u64, limit: usize) -> Answer<'_, Result<Vec<Vec<u8>>, StoreError>> {
        Answer::now(self.read_now(from, limit))
    }

    fn sealed(&self, known: usize) -> Answer<'_, Result<Vec<SealedFile>, StoreError>> {
        Answer::now(Ok(lock(&self.sealed).iter().skip(known).copied().collect()))
    }

    fn hash_now(&self, first_entry: u64) -> Answer<'_, Result<Option<[u8; 32]>, StoreError>> {
        Answer::now(self.hash_of(first_entry))
    }
}

impl Places {
    fn empty() -> Places {
        Places { end: HEADER_BYTES, ..Places::default() }
    }

    fn add(&mut self, block_bytes: u64) {
        if self.entries.is_multiple_of(MARK_EVERY) {
            self.marks.push(self.end);
        }
        self.entries += 1;
        self.end += block_bytes;
    }
}

impl Part {
    fn create(folder: &Path, first_entry: u64) -> Result<Part, StoreError> {
        let failed = io_error("making a file of the access log");
        let path = folder.join(format!("{first_entry:020}.{EXTENSION}"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(&failed)?;
        file.write_all_at(&header(first_entry), 0).and_then(|()| file.sync_all()).map_err(&failed)?;
        sync_folder(folder)?;
        Ok(Part { first_entry, path, file, places: OnceLock::from(RwLock::new(Places::empty())) })
    }

    /// File `index` of those up to `last`; `None` if it is the last and its header was never whole: removed,
    /// as nothing can be in it.
    fn open(first_entry: u64, path: PathBuf, index: usize, last: usize) -> Result<Option<Part>, StoreError> {
        let failed = io_error("opening a file of the access log");
        // The last but one too: if the last has no header, entries go on there.
        let grows = index + 1 >= last;
        let file = OpenOptions::new().read(true).write(grows).open(&path).map_err(&failed)?;
        let bytes = file.metadata().map_err(&failed)?.len();
        let mut found = vec![0; bytes.min(HEADER_BYTES) as usize];
        file.read_exact_at(&mut found, 0).map_err(&failed)?;
        if found == header(first_entry) {
            return Ok(Some(Part { first_entry, path, file, places: OnceLock::new() }));
        }
        if index == last && bytes <= HEADER_BYTES {
            fs::remove_file(&path).map_err(&failed)?;
            return Ok(None);
        }
        let format = found.get(8..12).map_or(0, |mut rest| rest.get_u32_le());
        if found.starts_with(&MAGIC) && format > FORMAT {
            return Err(StoreError::Newer { what: "the access log", found: format, known: FORMAT });
        }
        Err(self::damaged(&path, 0))
    }

    /// Cuts off what lies behind the last sound entry.
    fn cut(&self) -> Result<(), StoreError> {
        let failed = io_error("cutting the access log");
        let (places, bytes) = self.walk()?;
        if places.end < bytes {
            tracing::warn!(torn_bytes = bytes - places.end, "cutting off a torn tail of the access log");
            self.file.set_len(places.end).and_then(|()| self.file.sync_all()).map_err(failed)?;
        }
        let _ = self.places.set(RwLock::new(places));
        Ok(())
    }

    /// All sound entries from the beginning, and the file's length.
    fn walk(&self) -> Result<(Places, u64), StoreError> {
        let bytes = self.file.metadata().map_err(io_error("reading the access log"))?.len();
        let mut places = Places::empty();
        while let Some(entry) = framing::read(&self.file, places.end, bytes)? {
            places.add((framing::HEAD_BYTES + entry.len()) as u64);
        }
        Ok((places, bytes))
    }

    fn places(&self) -> Result<&RwLock<Places>, StoreError> {
        if let Some(places) = self.places.get() {
            return Ok(places);
        }
        let (places, bytes) = self.walk()?;
        if places.end < bytes {
            return Err(damaged(&self.path, places.end));
        }
        Ok(self.places.get_or_init(|| RwLock::new(places)))
    }

    fn snapshot(&self) -> Result<Places, StoreError> {
        let places = self.places()?.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Places { marks: Vec::new(), ..*places })
    }

    /// Adds entries from entry `index` of this file on, until `found` holds `limit`.
    fn read(&self, index: u64, limit: usize, found: &mut Vec<Vec<u8>>) -> Result<(), StoreError> {
        let places = self.places()?.read().unwrap_or_else(PoisonError::into_inner);
        let (entries, end) = (places.entries, places.end);
        let mark = usize::try_from(index / MARK_EVERY).ok().and_then(|mark| places.marks.get(mark).copied());
        drop(places);
        let Some(mut offset) = mark else { return Ok(()) };
        for at in index / MARK_EVERY * MARK_EVERY..entries {
            if found.len() >= limit {
                break;
            }
            let entry = framing::read(&self.file, offset, end)?.ok_or_else(|| damaged(&self.path, offset))?;
            offset += (framing::HEAD_BYTES + entry.len()) as u64;
            if at >= index {
                found.push(entry.into());
            }
        }
        Ok(())
    }

    /// This file, which hashes to `hash`, and ends where `next` begins.
    fn sealed_before(&self, next: &Part, hash: [u8; 32]) -> SealedFile {
        let (first_entry, next) = (self.first_entry, next.first_entry);
        SealedFile { first_entry, entries: next.saturating_sub(first_entry), hash }
    }

    fn hash_path(&self) -> PathBuf {
        self.path.with_extension("hash")
    }

    /// Hash and its checksum.
    fn keep_hash(&self, hash: fn(&[u8]) -> [u8; 32]) -> Result<[u8; 32], StoreError> {
        let failed = io_error("hashing a file of the access log");
        let hash = hash(&fs::read(&self.path).map_err(&failed)?);
        let mut kept = hash.to_vec();
        kept.put_u32_le(crc32c::crc32c(&kept));
        write_file(&self.hash_path(), &kept).and_then(|file| file.sync_all()).map_err(&failed)?;
        Ok(hash)
    }

    fn kept_hash(&self) -> Option<[u8; 32]> {
        let kept = fs::read(self.hash_path()).ok()?;
        let (hash, stated) = kept.split_first_chunk::<32>()?;
        (stated == crc32c::crc32c(hash).to_le_bytes()).then_some(*hash)
    }
}

pub(super) fn header(first_entry: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(FORMAT);
    bytes.put_u64_le(first_entry);
    bytes.put_u32_le(crc32c::crc32c(&bytes));
    bytes
}

fn sync_data(file: &File) -> Result<(), StoreError> {
    rustix::fs::fdatasync(file)
        .map_err(|error| StoreError::Io { what: "syncing the access log", source: error.into() })
}

fn damaged(path: &Path, at: u64) -> StoreError {
    StoreError::Damaged { what: file_name(path), at }
}
