//! Why a run ended early. Never holds a value.

use std::io;
use std::path::{Path, PathBuf};

use cloakroom_client::ClientError;
use cloakroom_runtime::RuntimeError;

/// A run that ended early has measured nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoadError {
    /// A connection could not be made, or a call of preparation failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Certificates could not be made.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A call under load was refused as a whole.
    #[error("{verb}: {}: {}", status.code(), status.message())]
    Call {
        /// What was called.
        verb: &'static str,
        /// What came back.
        status: Box<tonic::Status>,
    },
    /// An answer is not the one that is known to be right.
    #[error("{verb}: wrong answer to item {reference}: {what}")]
    Wrong {
        /// What was called.
        verb: &'static str,
        /// The item as the request named it.
        reference: String,
        /// What is wrong with it: a code or a kind, no value.
        what: String,
    },
    /// A file or folder could not be used.
    #[error("{path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that is no file.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A server ended, or never came up.
    #[error("{name} {what}")]
    Server {
        /// Which program.
        name: &'static str,
        /// What it did.
        what: String,
    },
    /// TLS of the echo.
    #[error("the echo's TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// A part of this program broke.
    #[error("this program broke: {0}")]
    Broken(String),
}

impl LoadError {
    /// Turns what the system said about `path` into an error that names it.
    pub(crate) fn file(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File { path, source }
    }

    /// Turns what the system said about anything else into an error that says what was tried.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// Turns a status into an error that says what was called.
    pub(crate) fn call(verb: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call { verb, status: Box::new(status) }
    }
}
