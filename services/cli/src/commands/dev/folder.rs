//! The run folder: owned by one `dev` at a time, begun anew each time, removed only if `dev` made it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Says that `dev` made the folder, and is locked while one runs there.
const MARK: &str = ".cloakroom-dev";

/// A folder of mode 0700, held by a lock until dropped.
pub(super) struct Folder {
    /// As it was typed, for commands to print.
    typed: PathBuf,
    absolute: PathBuf,
    _mark: File,
}

impl Folder {
    /// Makes the folder, or empties the one that an earlier run left.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a folder that `dev` did not make, or where another one runs.
    pub(super) fn begin(path: &Path) -> Result<Self, CliError> {
        let failed = || CliError::file(path);
        let mark = path.join(MARK);
        if path.exists() && !mark.exists() && std::fs::read_dir(path).map_err(failed())?.next().is_some() {
            let path = path.display();
            return Err(CliError::Usage(format!(
                "{path} holds other things than an earlier run's; name another folder"
            )));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed())?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, private).map_err(failed())?;
        let held = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&mark);
        let held = held.map_err(CliError::file(&mark))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::Usage(format!("another `cloakroom dev` runs in {}", path.display())));
            }
            Err(TryLockError::Error(error)) => return Err(CliError::file(&mark)(error)),
        }
        for entry in std::fs::read_dir(path).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if entry.file_name() == MARK {
                continue;
            }
            let remove = if entry.file_type().map_err(failed())?.is_dir() {
                std::fs::remove_dir_all(entry.path())
            } else {
                std::fs::remove_file(entry.path())
            };
            remove.map_err(CliError::file(entry.path()))?;
        }
        let absolute = path.canonicalize().map_err(failed())?;
        Ok(Self { typed: path.to_owned(), absolute, _mark: held })
    }

    /// A place in the folder, as it was typed.
    pub(super) fn typed(&self, name: &str) -> PathBuf {
        self.typed.join(name)
    }

    /// A place in the folder, absolute.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.absolute.join(name)
    }

    /// Where the daemons' logs lie.
    pub(super) fn logs(&self) -> PathBuf {
        self.typed("logs")
    }

    /// Makes a folder in it, private as itself.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf, CliError> {
        let path = self.at(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(CliError::file(&path))?;
        Ok(path)
    }

    /// Writes a file in it.
    pub(super) fn write(&self, name: &str, text: &[u8]) -> Result<PathBuf, CliError> {
        let path = self.at(name);
        std::fs::write(&path, text).map_err(CliError::file(&path))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_anew_in_a_folder_of_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run/dev");
        let folder = Folder::begin(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        folder.make("vault/data").unwrap();
        folder.write("vault/data/segment", b"x").unwrap();
        assert!(matches!(Folder::begin(&path), Err(CliError::Usage(_))), "one at a time");
        drop(folder);
        let folder = Folder::begin(&path).unwrap();
        assert!(!folder.at("vault").exists());
    }

    #[test]
    fn what_dev_did_not_make_is_not_removed() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("thesis"), "x").unwrap();
        assert!(matches!(Folder::begin(parent.path()), Err(CliError::Usage(_))));
        assert!(parent.path().join("thesis").exists());
    }
}
