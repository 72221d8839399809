//! The three files of a TLS identity.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// Where certificate, key and authority lie, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TlsFiles {
    /// The certificate, and after it any intermediate ones.
    pub cert: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
    /// The authority or authorities whose certificates are let in.
    pub ca: PathBuf,
}

pub(super) struct Loaded {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) roots: RootCertStore,
}

impl TlsFiles {
    /// The files as `certs issue` names them: `<name>.pem`, `<name>.key` and `ca.pem` in `folder`.
    pub fn named(folder: &Path, name: &str) -> Self {
        Self {
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            ca: folder.join("ca.pem"),
        }
    }

    pub(super) fn load(&self) -> Result<Loaded, RuntimeError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate)?;
        }
        Ok(Loaded { chain: certificates(&self.cert)?, key: private_key(&self.key)?, roots })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RuntimeError> {
    let pem = std::fs::read(path).map_err(RuntimeError::file(path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or(RuntimeError::Pem { path: path.into(), wanted: "certificate" })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, RuntimeError> {
    let mut file = File::open(path).map_err(RuntimeError::file(path))?;
    // Looked at through the open file: what is checked is what is read.
    refuse_mode(path, file.metadata().map_err(RuntimeError::file(path))?.mode())?;
    let mut pem = Vec::new();
    file.read_to_end(&mut pem).map_err(RuntimeError::file(path))?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| RuntimeError::Pem { path: path.into(), wanted: "private key" })
}

/// Refuses a secret file that its group or everybody can read or write.
///
/// # Errors
/// [`RuntimeError::OpenToOthers`] with the mode it has, [`RuntimeError::File`] if it cannot be looked at.
pub fn refuse_open_to_others(path: &Path) -> Result<(), RuntimeError> {
    refuse_mode(path, std::fs::metadata(path).map_err(RuntimeError::file(path))?.mode())
}

fn refuse_mode(path: &Path, mode: u32) -> Result<(), RuntimeError> {
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(RuntimeError::OpenToOthers { path: path.into(), mode: mode & 0o7777 }),
    }
}

/// What tells that a file was written or replaced: device, inode, size, seconds and nanoseconds of change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

#[derive(PartialEq, Eq)]
pub(super) struct Stamps([Stamp; 3]);

impl Stamps {
    pub(super) fn of(files: &TlsFiles) -> Self {
        Self([&files.cert, &files.key, &files.ca].map(|path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
        }))
    }
}
