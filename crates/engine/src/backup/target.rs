//! Where backups go: anything that keeps bytes under a name. A folder today; an object store needs no more.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cloakroom_crypto::hash;
use cloakroom_store::embedded::reading::{make_folder, sync_folder};
use data_encoding::HEXLOWER;

use super::failed;
use crate::EngineError;

/// How files are called that are not whole yet.
const DRAFT: &str = "part";

/// Keeps bytes under names of two words, `folder/name`.
pub trait BackupTarget: Send + Sync {
    /// Keeps what `bytes` gives, whole and durable when it returns; nothing at all if it or `bytes` fails.
    ///
    /// # Errors
    /// What the store says; [`io::ErrorKind::StorageFull`] if there is no room.
    fn put(&self, name: &str, bytes: &mut dyn Read) -> io::Result<()>;

    /// What is kept under a name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is nothing.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read>>;

    /// How long it is; none where there is nothing.
    ///
    /// # Errors
    /// What the store says.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;

    /// The names in a folder, in order, without it.
    ///
    /// # Errors
    /// What the store says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
}

/// A folder, 0700: what lies there tells who read what.
#[derive(Clone, Debug)]
pub struct FolderTarget(PathBuf);

impl FolderTarget {
    /// The folder at `path`, made at the first backup.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl BackupTarget for FolderTarget {
    fn put(&self, name: &str, bytes: &mut dyn Read) -> io::Result<()> {
        let path = self.0.join(name);
        let folder = path.parent().unwrap_or(&self.0);
        make_folder(folder).map_err(io::Error::other)?;
        let draft = path.with_added_extension(DRAFT);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).mode(0o600).open(&draft)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another backup is being written to this target"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let written = file
            .set_len(0)
            .and_then(|()| pass_all(bytes, &mut file))
            .and_then(|_| file.sync_all())
            .and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft); // a draft is nothing, there or not
            return Err(error);
        }
        sync_folder(folder).map_err(io::Error::other)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.0.join(name)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.0.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let mut names = vec![];
        for entry in entries {
            let path = entry?.path();
            let whole = path.extension().is_none_or(|extension| extension != DRAFT);
            names.extend(path.file_name().filter(|_| whole).map(|name| name.to_string_lossy().into_owned()));
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Bytes that must have a SHA-256: at their end they fail where they have another.
pub(super) struct Checked<R> {
    bytes: R,
    sum: Option<hash::Sum>,
    wanted: String,
}

impl<R> Checked<R> {
    pub(super) fn new(bytes: R, wanted: String) -> Self {
        Self { bytes, sum: Some(hash::Sum::default()), wanted }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        match &mut self.sum {
            Some(sum) if count > 0 => sum.add(buffer.get(..count).unwrap_or_default()),
            _ if count > 0 || buffer.is_empty() => {}
            sum => {
                let found = sum.take().map(|sum| HEXLOWER.encode(&sum.finish()));
                if found.is_some_and(|found| found != self.wanted) {
                    return Err(io::Error::other("the bytes are not those that their checksum names"));
                }
            }
        }
        Ok(count)
    }
}

/// Reads `bytes` to their end.
pub(super) fn pass(bytes: &mut dyn Read, mut see: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut all = 0_u64;
    loop {
        let count = bytes.read(&mut buffer)?;
        if count == 0 {
            return Ok(all);
        }
        see(buffer.get(..count).unwrap_or_default());
        all = all.saturating_add(count as u64);
    }
}

fn pass_all(bytes: &mut dyn Read, file: &mut File) -> io::Result<u64> {
    io::copy(bytes, file)
}

/// A data folder that is being restored: beside its place until it is whole.
pub(super) struct Draft {
    place: PathBuf,
    draft: PathBuf,
}

impl Draft {
    /// # Errors
    /// [`EngineError::BackupRefused`] where the place is taken, or an earlier restore was left.
    pub(super) fn beside(place: &Path) -> Result<Self, EngineError> {
        let failed = failed("looking at the folder to restore to");
        let taken = place.exists() && fs::read_dir(place).map_err(&failed)?.next().is_some();
        if taken {
            let text = format!("{} is not empty: a backup is restored to a new place", place.display());
            return Err(EngineError::BackupRefused(text));
        }
        let draft = place.with_added_extension("restoring");
        if let Some(above) = place.parent().filter(|above| !above.as_os_str().is_empty()) {
            make_folder(above)?;
        }
        match DirBuilder::new().mode(0o700).create(&draft) {
            Ok(()) => Ok(Self { place: place.to_owned(), draft }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let text = format!("{} was left by a restore that did not end: remove it", draft.display());
                Err(EngineError::BackupRefused(text))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes a file of all of `bytes`, then cuts it to `length`.
    pub(super) fn file(
        &self,
        name: &str,
        bytes: &mut dyn Read,
        length: Option<u64>,
    ) -> Result<(), EngineError> {
        let path = self.draft.join(name);
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        let mut write = || -> io::Result<()> {
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
            io::copy(bytes, &mut file)?;
            if let Some(length) = length {
                file.set_len(length)?;
            }
            file.flush()?;
            file.sync_all()
        };
        write().map_err(failed("writing a restored file"))
    }

    /// Puts it in its place.
    pub(super) fn publish(self) -> Result<(), EngineError> {
        for folder in ["log", "access", ""] {
            let folder = self.draft.join(folder);
            if folder.is_dir() {
                sync_folder(&folder)?;
            }
        }
        let failed = failed("putting the restored folder in its place");
        if self.place.exists() {
            fs::remove_dir(&self.place).map_err(&failed)?;
        }
        fs::rename(&self.draft, &self.place).map_err(&failed)?;
        let above = self.place.parent().filter(|above| !above.as_os_str().is_empty());
        Ok(sync_folder(above.unwrap_or(Path::new(".")))?)
    }
}
