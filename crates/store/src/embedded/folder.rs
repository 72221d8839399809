//! A data folder: whose it is, what format it has, what room is left, and what its disk really holds.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloakroom_core::mutants::Mutant;
use rustix::fs::{Advice, FlockOperation};

use crate::StoreError;

const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_WORD: &str = "cloakroom";

/// A data folder that is this process's alone until the value is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    format: u32,
    warnings: Vec<String>,
    /// Holds the flock; the system gives it back when the process dies, however it dies.
    _lock: File,
}

impl Folder {
    /// Makes the folder (0700) where it is missing, locks it, and reads or writes its format.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another owner lives, [`StoreError::Newer`] if its format is above `format`,
    /// [`StoreError::Damaged`] if its format cannot be read.
    pub fn claim(path: &Path, format: u32) -> Result<Folder, StoreError> {
        make_folder(path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(io_error("opening the lock file"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { what: format!("the folder {}", path.display()) });
            }
            Err(error) => {
                return Err(StoreError::Io { what: "locking the data folder", source: error.into() });
            }
        }
        let format = agree_on_format(path, format)?;
        // Also what a start that was killed has made in here and not synced.
        sync_folder(path)?;
        let mode =
            fs::metadata(path).map_err(io_error("reading the data folder's mode"))?.permissions().mode();
        let warnings = match mode & 0o077 {
            0 => Vec::new(),
            _ => vec![format!(
                "the data folder has mode {:o}; others can reach it, 700 keeps them out",
                mode & 0o777
            )],
        };
        Ok(Folder { path: path.to_owned(), format, warnings, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format found in it, or written if it was new.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// What an operator should know, in sentences without paths.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn agree_on_format(folder: &Path, known: u32) -> Result<u32, StoreError> {
    let path = folder.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let failed = io_error("writing the format file");
            let draft = folder.join("FORMAT.new");
            write_file(&draft, format!("{FORMAT_WORD} {known}\n").as_bytes())
                .and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&draft, &path))
                .map_err(failed)?;
            return Ok(known);
        }
        Err(source) => return Err(StoreError::Io { what: "reading the format file", source }),
    };
    let found = text
        .trim_end()
        .strip_prefix(FORMAT_WORD)
        .and_then(|rest| rest.trim_start().parse::<u32>().ok())
        .ok_or_else(|| StoreError::Damaged { what: FORMAT_FILE.to_owned(), at: 0 })?;
    if found > known {
        return Err(StoreError::Newer { what: "the data folder", found, known });
    }
    Ok(found)
}

/// Syncs everything in `folder` and drops it from the page cache, so that what is read next is what the disk
/// has: a killed process leaves bytes in the cache that a power cut would take back (erasure.md, Start, 2).
/// A folder that is missing has nothing to settle.
///
/// # Errors
/// [`StoreError::Io`] if a sync fails.
pub fn settle(folder: &Path) -> Result<(), StoreError> {
    if Mutant::PageCacheBelieved.lives() {
        return Ok(());
    }
    let failed = io_error("settling the data folder");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(&failed)?;
        let kind = entry.file_type().map_err(&failed)?;
        if kind.is_dir() {
            settle(&entry.path())?;
        } else if kind.is_file() {
            let file = File::open(entry.path()).map_err(&failed)?;
            file.sync_all().map_err(&failed)?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| failed(error.into()))?;
        }
    }
    sync_folder(folder)
}

/// Bytes that this process may still write to the disk under `folder`.
pub(super) fn free_bytes(folder: &Path) -> Result<u64, StoreError> {
    let disk = rustix::fs::statvfs(folder)
        .map_err(|error| StoreError::Io { what: "asking for free disk space", source: error.into() })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Makes a folder and those above it that are missing (0700), each durable in the one above it.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make_folder(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if !path.is_dir() => Err(io_error("making a folder")(error)),
        _ => sync_folder(above),
    }
}

/// Writes a file (0600) in one piece, over what was there. Not synced.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// What may be written to a disk before its reserve is touched. The disk is asked at most once a second,
/// unless the reserve comes near.
#[derive(Default)]
pub(super) struct Room {
    /// When the disk was asked, and what was free then, less what was written since.
    believed: Option<(Instant, u64)>,
}

const ROOM_BELIEVED: Duration = Duration::from_secs(1);

impl Room {
    /// Is there room for so many bytes, with so many left?
    ///
    /// # Errors
    /// [`StoreError::Full`]; [`StoreError::Io`] if the system does not say.
    pub(super) fn need(&mut self, folder: &Path, bytes: u64, reserved_bytes: u64) -> Result<(), StoreError> {
        let enough = |free_bytes: u64| free_bytes.saturating_sub(bytes) >= reserved_bytes;
        if self.believed.is_some_and(|(asked, free)| asked.elapsed() < ROOM_BELIEVED && enough(free)) {
            return Ok(());
        }
        let free_bytes = free_bytes(folder)?;
        self.believed = Some((Instant::now(), free_bytes));
        if enough(free_bytes) { Ok(()) } else { Err(StoreError::Full { free_bytes, reserved_bytes }) }
    }

    /// So many bytes were written.
    pub(super) fn used(&mut self, bytes: u64) {
        if let Some((_, free)) = &mut self.believed {
            *free = free.saturating_sub(bytes);
        }
    }
}

/// Makes durable which files a folder holds.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(io_error("syncing a folder"))
}

/// Says which step an error of the system came from.
pub(super) fn io_error(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { what, source }
}

/// The files of `folder` that end in `.{extension}`, with the numbers that they are named by, in order.
pub(super) fn numbered_files(folder: &Path, extension: &str) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let failed = io_error("listing a folder");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|found| found == extension)) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// A file's name for people; the folder is not for messages.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_until_the_first_is_dropped() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("data");
        let first = Folder::claim(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(first.warnings().is_empty());
        let refused = Folder::claim(&path, 1).unwrap_err().to_string();
        assert_eq!(refused, format!("the folder {} is in use by another process", path.display()));
        drop(first);
        Folder::claim(&path, 1).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_and_an_older_one_told() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(Folder::claim(place.path(), 2).unwrap().format(), 2);
        assert!(matches!(
            Folder::claim(place.path(), 1),
            Err(StoreError::Newer { what: "the data folder", found: 2, known: 1 })
        ));
        assert_eq!(Folder::claim(place.path(), 3).unwrap().format(), 2);
        fs::write(place.path().join(FORMAT_FILE), "something else").unwrap();
        assert!(matches!(Folder::claim(place.path(), 3), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_folder_open_to_others_is_claimed_with_a_warning() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = Folder::claim(place.path(), 1).unwrap();
        assert!(folder.warnings().iter().any(|warning| warning.contains("755")));
    }

    #[test]
    fn folders_above_are_made_and_are_their_owner_s_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b/c");
        make_folder(&path).unwrap();
        make_folder(&path).unwrap();
        for made in path.ancestors().take(3) {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
        fs::write(place.path().join("file"), "").unwrap();
        assert!(matches!(make_folder(&place.path().join("file/below")), Err(StoreError::Io { .. })));
        assert!(matches!(make_folder(&place.path().join("file")), Err(StoreError::Io { .. })));
    }

    #[test]
    fn room_that_was_used_is_not_room() {
        let place = tempfile::tempdir().unwrap();
        let mut room = Room::default();
        let free = free_bytes(place.path()).unwrap();
        room.need(place.path(), 1, free / 2).unwrap();
        room.used(free);
        // What is believed is used up: the disk is asked again, and has it.
        room.need(place.path(), 1, free / 2).unwrap();
        assert!(matches!(room.need(place.path(), free, free), Err(StoreError::Full { .. })));
        assert!(matches!(room.need(place.path(), 0, u64::MAX), Err(StoreError::Full { .. })));
    }

    #[test]
    fn settling_keeps_every_byte() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("inner")).unwrap();
        fs::write(place.path().join("inner/file"), [7; 10_000]).unwrap();
        settle(place.path()).unwrap();
        assert_eq!(fs::read(place.path().join("inner/file")).unwrap(), [7; 10_000]);
        settle(&place.path().join("missing")).unwrap();
    }
}
