//! The downstream's own signing key: 32 bytes in a file of mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cloakroom_crypto::sign::SigningKey;
use cloakroom_runtime::identity::refuse_open_to_others;

use crate::DownstreamError;

/// Opens the key, or makes one that lasts, durably.
///
/// # Errors
/// [`DownstreamError::KeyFile`] with the path; [`DownstreamError::Runtime`] if others can read it.
pub(super) fn open_or_make(path: &Path) -> Result<SigningKey, DownstreamError> {
    let failed = |source| DownstreamError::KeyFile { path: path.to_owned(), source };
    match File::open(path) {
        Ok(mut file) => {
            refuse_open_to_others(path)?;
            SigningKey::read_from(&mut file).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// After a crash the key is there whole or not at all.
fn make(path: &Path) -> io::Result<SigningKey> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let key = SigningKey::generate();
    key.write_to(&mut file)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owner_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/mail.key");
        let made = open_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open_or_make(&path).unwrap().verifying_key(), made.verifying_key());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open_or_make(&path), Err(DownstreamError::Runtime(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [1; 31]).unwrap();
        assert!(matches!(open_or_make(&path), Err(DownstreamError::KeyFile { .. })), "not silently replaced");
    }
}
