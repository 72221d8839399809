//! What can go wrong while a daemon starts, reloads or stops. Names files and keys, never their contents.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a daemon could not start, or one of its parts could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The configuration has a key that nothing reads.
    #[error("the configuration has an unknown key: {key}")]
    UnknownKey {
        /// Its whole path, as in `admin.listen`.
        key: String,
    },
    /// The configuration is not what it should be.
    #[error("the configuration ({origin}) is wrong: {reason}")]
    Config {
        /// The file, variable or flag.
        origin: String,
        /// What is wrong, in the parser's words.
        reason: String,
    },
    /// A file could not be read, written or looked at.
    #[error("{path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A secret file can be read by others than its owner.
    #[error("{path} has mode {mode:04o}: others than its owner can read it; wanted is 0600")]
    OpenToOthers {
        /// Which file.
        path: PathBuf,
        /// The permission bits it has.
        mode: u32,
    },
    /// A file holds no usable certificate or key.
    #[error("{path} holds no usable {wanted}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Certificate, key and authority do not make a TLS identity.
    #[error("certificate and key cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    /// The authority's certificate cannot verify clients.
    #[error("the authority's certificate cannot be used to verify others")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A certificate could not be made.
    #[error("the certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// Not a name that a certificate or its file may bear.
    #[error("not a usable {what}: use {wanted}")]
    Name {
        /// What it should have been.
        what: &'static str,
        /// What is allowed.
        wanted: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread, or no event queue for one.
    #[error("cannot start threads for connections")]
    Threads(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// Telemetry cannot be started.
    #[error("telemetry cannot start: {reason}")]
    Telemetry {
        /// What the exporter or subscriber said.
        reason: String,
    },
}

impl RuntimeError {
    /// Turns what the system said about `path` into an error that names it.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
