//! What can go wrong on the command line, and the exit code it ends with.

use std::io;
use std::path::{Path, PathBuf};

use cloakroom_client::ClientError;
use cloakroom_core::register::RegisterError;
use cloakroom_engine::EngineError;
use cloakroom_runtime::RuntimeError;

use crate::commands::import::ImportError;

/// Why a command did not do what it was asked. Never holds a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// A call failed as a whole.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Certificates or configuration.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A backup could not be made, read or restored.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An import stopped.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A register is not one.
    #[error("{path}")]
    Register {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: RegisterError,
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
    #[error("the system refuses")]
    System(#[from] io::Error),
    /// What was typed makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The answer is no.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    /// 1 refused or not found, 2 wrong usage, 3 unreachable.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Import(error) => error.exit_code(),
            Self::Engine(_) | Self::Register { .. } | Self::Refused(_) | Self::System(_) => 1,
            Self::Runtime(_) | Self::File { .. } | Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    /// Turns what the system said about `path` into an error that names it.
    pub(crate) fn file(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File { path, source }
    }
}
