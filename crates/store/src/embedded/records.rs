//! Records on sled 0.34: its batches are atomic, its sync is not one, so this file adds it.
//!
//! sled keeps what is written in memory until a flush, which hands it to the system and ends in
//! `sync_file_range`: neither the file's length nor the disk's own cache is covered. [`Records::sync`]
//! therefore calls `fdatasync` on a handle of its own to the `db` file, and on blobs, which sled writes
//! beside it for pages above 128 KiB and never syncs. sled's background thread syncs too and only logs a
//! failure; on Linux a handle opened before the failure still reports it, so ours does.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::folder::{io_error, make_folder, settle, sync_folder, write_file};
use super::log::lock;
use crate::records::{Batch, Records};
use crate::{Answer, StoreError};

/// What sled may keep of its pages in memory, by its own count, which leaves out much; one page in each of its 256
/// shards stays whatever its size. The kernel's page cache has the rest.
const CACHE_BYTES: u64 = 1 << 20;
/// How often a record that was read is touched. sled counts touches 64 at a time in each of 256 shards, and what it
/// has not counted it does not let go: 16,384 pages of 8 to 16 records, were each touched once. So often touched, they
/// are a quarter, for a microsecond or two a read.
const TOUCHES: usize = 4;
/// How often sled's own thread works. It alone moves live pages out of old segments: without it the file
/// would only ever grow.
const CLEANED_EVERY_MS: u64 = 500;
/// How sled names its snapshots, and those it has not finished.
const SNAPSHOT_PREFIX: &str = "snap.";
const SNAPSHOT_DRAFT_SUFFIX: &str = ".generating";
/// Lies in the folder until the first open has made all of it durable.
const FIRST_OPEN: &str = "FIRST-OPEN";
/// A database that was closed a moment ago gives its lock back when sled's threads let go of it.
const LOCK_WAITED: Duration = Duration::from_secs(5);

/// The embedded [`Records`]. Calls do their work before they answer.
pub struct EmbeddedRecords {
    database: sled::Db,
    /// Opened before anything is written, so that it learns of every failure since.
    file: File,
    blobs: PathBuf,
    /// Blobs that are known to be durable. Held through a sync: of two at once on one file the system tells
    /// its error to one alone.
    blobs_synced: Mutex<HashSet<OsString>>,
    broken: AtomicBool,
}

impl EmbeddedRecords {
    /// Opens the database in `folder`, which is made where missing and must belong to this process
    /// ([`super::Folder`]). Syncs it and drops it from the page cache first.
    ///
    /// # Errors
    /// [`StoreError::Database`] if sled finds it unreadable, [`StoreError::Locked`] if someone else has it.
    pub fn open(folder: &Path) -> Result<EmbeddedRecords, StoreError> {
        make_folder(folder)?;
        settle(folder)?;
        let first = begin(folder)?;
        remove_drafts(folder)?;
        let database = open_database(folder)?;
        let failed = io_error("opening the database file");
        let file = File::open(folder.join("db")).map_err(&failed)?;
        let blobs = folder.join("blobs");
        let records = EmbeddedRecords {
            database,
            file,
            blobs,
            blobs_synced: Mutex::default(),
            broken: AtomicBool::new(false),
        };
        records.sync_now()?;
        // sled writes its settings file without a sync.
        File::open(folder.join("conf")).and_then(|file| file.sync_all()).map_err(&failed)?;
        sync_folder(folder)?;
        if first {
            fs::remove_file(folder.join(FIRST_OPEN)).map_err(&failed)?;
            sync_folder(folder)?;
        }
        Ok(records)
    }

    /// A batch makes sled write twice and wait for the disk each time. One change is atomic without.
    fn apply_now(&self, batch: Batch) -> Result<(), StoreError> {
        self.sound()?;
        let applied = match batch.changes.as_slice() {
            [(key, Some(value))] => self.database.insert(key, &value[..]).map(drop),
            [(key, None)] => self.database.remove(key).map(drop),
            changes => {
                let mut together = sled::Batch::default();
                for (key, value) in changes {
                    match value {
                        Some(value) => together.insert(key.as_slice(), &value[..]),
                        None => together.remove(key.as_slice()),
                    }
                }
                self.database.apply_batch(together)
            }
        };
        applied.map_err(database_error("applying a batch")).inspect_err(|_| {
            self.broken.store(true, Ordering::SeqCst);
        })
    }

    /// Hands to the system what sled still holds. Costs as much as a sync: sled waits for the disk here.
    fn flush(&self) -> Result<(), StoreError> {
        self.database.flush().map_err(database_error("flushing")).inspect_err(|_| {
            self.broken.store(true, Ordering::SeqCst);
        })?;
        Ok(())
    }

    fn sync_now(&self) -> Result<(), StoreError> {
        let mut blobs_synced = lock(&self.blobs_synced);
        self.sound()?;
        self.flush()?;
        self.sync_blobs(&mut blobs_synced)
            .and_then(|()| {
                rustix::fs::fdatasync(&self.file)
                    .map_err(|error| StoreError::Io { what: "syncing the database", source: error.into() })
            })
            .inspect_err(|_| self.broken.store(true, Ordering::SeqCst))
    }

    fn sync_blobs(&self, synced: &mut HashSet<OsString>) -> Result<(), StoreError> {
        let failed = io_error("syncing the database's blobs");
        let mut present = HashSet::new();
        let mut new = false;
        for entry in fs::read_dir(&self.blobs).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name();
            if !synced.contains(&name) {
                match File::open(entry.path()) {
                    Ok(blob) => blob.sync_all().map_err(&failed)?,
                    // sled removes a blob once its page was written anew.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed(error)),
                }
                new = true;
            }
            present.insert(name);
        }
        *synced = present;
        if new { sync_folder(&self.blobs) } else { Ok(()) }
    }

    fn sound(&self) -> Result<(), StoreError> {
        match self.broken.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(StoreError::Io {
                what: "a write or a sync before this",
                source: std::io::Error::other("the database has stopped"),
            }),
        }
    }

    fn scan_now(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = Vec::new();
        for record in self.database.range::<&[u8], _>((from, Bound::Unbounded)).take(limit) {
            let (key, value) = record.map_err(database_error("scanning"))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
        }
        Ok(found)
    }
}

impl Records for EmbeddedRecords {
    fn get(&self, key: &[u8]) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        let mut found = self.database.get(key);
        for _ in 1..TOUCHES {
            found = found.and_then(|_| self.database.get(key));
        }
        Answer::now(
            found
                .map_err(database_error("reading"))
                .map(|value| value.map(|value| Bytes::copy_from_slice(&value))),
        )
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Answer<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        Answer::now(self.scan_now(prefix, after, limit))
    }

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.apply_now(batch))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.sync_now())
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.apply_now(batch).and_then(|()| self.sync_now()))
    }
}

/// Whether the database is opened for the first time. A power cut in that may leave files that sled calls corrupt; as
/// nothing was ever committed to them, they are removed and made anew.
fn begin(folder: &Path) -> Result<bool, StoreError> {
    let failed = io_error("making the database");
    let entries: Vec<_> = fs::read_dir(folder).and_then(Iterator::collect).map_err(&failed)?;
    let (marks, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.file_name() == FIRST_OPEN);
    if marks.is_empty() {
        if others.is_empty() {
            write_file(&folder.join(FIRST_OPEN), b"").and_then(|file| file.sync_all()).map_err(&failed)?;
            sync_folder(folder)?;
        }
        return Ok(others.is_empty());
    }
    for entry in others {
        let removed = match entry.file_type().map_err(&failed)?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        removed.map_err(&failed)?;
    }
    Ok(true)
}

/// Removes what sled had not finished. It writes a snapshot under another name and renames it when it is whole,
/// but reads such a draft, which a kill cuts short, as its newest snapshot, and calls the database corrupt. A
/// draft never counts: the snapshot before it goes only after the rename.
fn remove_drafts(folder: &Path) -> Result<(), StoreError> {
    let failed = io_error("removing a draft of the database");
    for entry in fs::read_dir(folder).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let is_draft =
            |name: &str| name.starts_with(SNAPSHOT_PREFIX) && name.ends_with(SNAPSHOT_DRAFT_SUFFIX);
        if entry.file_name().to_str().is_some_and(is_draft) {
            fs::remove_file(entry.path()).map_err(&failed)?;
        }
    }
    Ok(())
}

fn open_database(folder: &Path) -> Result<sled::Db, StoreError> {
    let config =
        sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(Some(CLEANED_EVERY_MS));
    let waiting_since = Instant::now();
    loop {
        // sled panics on some damage; a start must refuse it in words.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| StoreError::Damaged { what: "the database".to_owned(), at: 0 })?;
        match opened {
            Ok(database) => return Ok(database),
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if waiting_since.elapsed() > LOCK_WAITED {
                    return Err(StoreError::Locked { what: "the database".to_owned() });
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(sled::Error::Corruption { .. }) => {
                return Err(StoreError::Damaged { what: "the database".to_owned(), at: 0 });
            }
            Err(error) => return Err(database_error("opening")(error)),
        }
    }
}

fn database_error(what: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |error| StoreError::Database { what, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_open_that_was_cut_short_is_made_anew_and_no_other_is() {
        let place = tempfile::tempdir().unwrap();
        let half = |name: &str| fs::write(place.path().join(name), b"half").unwrap();
        [FIRST_OPEN, "conf", "db"].iter().for_each(|name| half(name));
        let mut batch = Batch::default();
        batch.put(&b"key"[..], &b"value"[..]);
        let records = EmbeddedRecords::open(place.path()).unwrap();
        assert!(!place.path().join(FIRST_OPEN).exists(), "from here on everything counts");
        records.apply_now(batch).unwrap();
        records.sync_now().unwrap();
        drop(records);
        let records = EmbeddedRecords::open(place.path()).unwrap();
        assert_eq!(records.scan_now(b"key", None, 2).unwrap()[0].1, "value");
        drop(records);
        // Once opened it may hold something: opened or refused, never thrown away.
        half("conf");
        if let Ok(records) = EmbeddedRecords::open(place.path()) {
            assert_eq!(records.scan_now(b"key", None, 2).unwrap()[0].1, "value");
        }
    }

    #[test]
    fn a_snapshot_that_a_kill_cut_short_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let mut batch = Batch::default();
        batch.put(&b"key"[..], &b"value"[..]);
        let records = EmbeddedRecords::open(place.path()).unwrap();
        records.apply_now(batch).unwrap();
        records.sync_now().unwrap();
        drop(records);
        for draft in [&b""[..], b"half a snapshot"] {
            fs::write(place.path().join("snap.FFFFFFFFFFFFFFFF.generating"), draft).unwrap();
            let records = EmbeddedRecords::open(place.path()).unwrap();
            assert_eq!(records.scan_now(b"key", None, 2).unwrap()[0].1, "value");
        }
    }
}
