//! Where the secret lies that opens a device.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::HolderError;
use super::file::check_secret;

/// Names where a PIN or password is found; never the secret itself, so it may be printed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// A file of mode 0600; a line's end at its end does not count.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
}

impl SecretSource {
    /// Reads it. What it was read through is wiped, and so is the answer when it is dropped.
    pub(super) fn read(&self) -> Result<Zeroizing<String>, HolderError> {
        let mut secret = Zeroizing::new(String::with_capacity(256));
        match self {
            Self::File(path) => {
                let failed = |source| HolderError::Io { what: "reading a device's secret", source };
                let mut file = File::open(path).map_err(failed)?;
                check_secret(path, &file)?;
                file.read_to_string(&mut secret).map_err(failed)?;
                let length = secret.trim_end_matches(['\r', '\n']).len();
                secret.truncate(length);
            }
            Self::Env(name) => match std::env::var(name) {
                Ok(value) => secret.push_str(&Zeroizing::new(value)),
                Err(_) => return Err(HolderError::Refused(format!("{name} is not in the environment"))),
            },
        }
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_gives_its_line_and_must_be_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        fs::write(&path, "12 34\r\n").unwrap();
        let source = SecretSource::File(path.clone());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(source.read(), Err(HolderError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*source.read().unwrap(), "12 34");
        fs::remove_file(&path).unwrap();
        assert!(matches!(source.read(), Err(HolderError::Io { .. })));
    }

    #[test]
    fn the_environment_gives_it_or_says_what_is_missing() {
        assert!(!SecretSource::Env("PATH".to_owned()).read().unwrap().is_empty());
        let missing = SecretSource::Env("CLOAKROOM_NO_SUCH_PIN".to_owned()).read();
        assert!(matches!(missing, Err(HolderError::Refused(text)) if text.contains("CLOAKROOM_NO_SUCH_PIN")));
    }
}
