//! What a caller can tell apart: nobody there, not let in, or an answer that is a refusal.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use tonic::{Code, Status, TimeoutExpired};

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The endpoint's address or server name cannot be used.
    #[error("not a usable {what}: {text}")]
    Endpoint {
        /// Which part of it.
        what: &'static str,
        /// What stands there.
        text: String,
    },
    /// A certificate or key file cannot be read.
    #[error("{path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key file holds nothing usable, or a key is open to others than its owner.
    #[error("{path}: {reason}")]
    Identity {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody answers there.
    #[error("{address} cannot be reached")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// One side does not accept the other's certificate.
    #[error("{address}: TLS refused")]
    Refused {
        /// Where.
        address: String,
        /// Who refused, and why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server answered with a status. Its message holds ids and codes, never values.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// The answer is not one to what was asked.
    #[error("the answer has {found} items where {wanted} were asked for")]
    Malformed {
        /// Items in the answer.
        found: usize,
        /// Items in the request.
        wanted: usize,
    },
}

impl ClientError {
    /// The exit code of a command that ends with this: 1 refused, 2 usage, 3 unreachable.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::Status(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => 3,
            Self::Endpoint { .. } | Self::File { .. } | Self::Identity { .. } => 2,
            Self::Refused { .. } | Self::Status(_) | Self::Malformed { .. } => 1,
        }
    }

    /// The gRPC code, where the server answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            _ => None,
        }
    }

    /// Sorts what came back from a channel to `address`; for generated clients over [`crate::channel`].
    pub fn of_status(address: &str, status: Status) -> Self {
        match Cause::of(&status) {
            Cause::Answer => Self::Status(Box::new(status)),
            Cause::Tls(source) => Self::Refused { address: address.to_owned(), source },
            Cause::Files(reason) => reason,
            Cause::Late => Self::Status(Box::new(Status::deadline_exceeded("no answer in time"))),
            Cause::Transport => Self::Unreachable { address: address.to_owned(), source: Box::new(status) },
        }
    }

    /// Sorts why a channel to `address` could not be made.
    pub(crate) fn of_transport(address: &str, error: tonic::transport::Error) -> Self {
        match Cause::of(&error) {
            Cause::Tls(source) => Self::Refused { address: address.to_owned(), source },
            Cause::Files(reason) => reason,
            Cause::Answer | Cause::Late | Cause::Transport => {
                Self::Unreachable { address: address.to_owned(), source: Box::new(error) }
            }
        }
    }
}

/// What lies at the bottom of an error.
enum Cause {
    Answer,
    Late,
    Transport,
    Tls(Box<dyn Error + Send + Sync>),
    Files(ClientError),
}

impl Cause {
    fn of(error: &(dyn Error + 'static)) -> Self {
        // A status that came over the wire has no source; one that was made here has.
        let mut cause = Self::Answer;
        let mut source = error.source();
        while let Some(error) = source {
            cause = Self::Transport;
            if error.is::<TimeoutExpired>() {
                return Self::Late;
            }
            if let Some(refused) = error.downcast_ref::<io::Error>().and_then(alert) {
                return Self::Tls(refused);
            }
            match error.downcast_ref::<ClientError>() {
                Some(ClientError::File { path, source }) => {
                    let source = io::Error::new(source.kind(), source.to_string());
                    return Self::Files(ClientError::File { path: path.clone(), source });
                }
                Some(ClientError::Identity { path, reason }) => {
                    return Self::Files(ClientError::Identity { path: path.clone(), reason });
                }
                Some(ClientError::Refused { source, .. }) => return Self::Tls(source.to_string().into()),
                _ => {}
            }
            source = error.source();
        }
        cause
    }
}

/// A server that does not accept our certificate says so after the TLS 1.3 handshake, in an alert. On its
/// way up through HTTP/2 rustls' own error is lost and its text is left.
fn alert(error: &io::Error) -> Option<Box<dyn Error + Send + Sync>> {
    let text = error.to_string();
    let is_alert = error.kind() == io::ErrorKind::InvalidData && text.starts_with("received fatal alert");
    is_alert.then(|| text.into())
}
