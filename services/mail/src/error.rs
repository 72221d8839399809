//! Why a mail was not sent, or the service does not start. Never an address, a name, or what a relay wrote
//! back: it may quote either.

use std::net::SocketAddr;

use cloakroom_downstream::DownstreamError;
use cloakroom_downstream::daemon::status;
use tonic::Status;

/// Why a mail was not sent, or the service does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The kit.
    #[error(transparent)]
    Downstream(#[from] DownstreamError),
    /// The configuration parses and still cannot be meant.
    #[error("the configuration's {key} is wrong: {reason}")]
    Config {
        /// Its key.
        key: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The development sink cannot listen.
    #[error("the sink cannot listen on {address}")]
    Sink {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// What the token stands for is no address that mail can be sent to.
    #[error("UNMAILABLE: the value is no address that this relay takes")]
    Unmailable,
    /// The relay refused for good.
    #[error("REFUSED: the relay answered {code}")]
    Refused {
        /// Its SMTP code.
        code: u16,
    },
    /// The relay cannot be reached, or asks to come again.
    #[error("RELAY_UNAVAILABLE: the relay did not take the message")]
    RelayAway,
    /// A part of the request that cannot be taken.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The idempotency key stood for another message.
    #[error("CONFLICT: this idempotency key was used for another recipient")]
    Conflict,
    /// The same message is being sent right now.
    #[error("IN_PROGRESS: a message with this idempotency key is being sent")]
    InProgress,
}

impl From<MailError> for Status {
    fn from(error: MailError) -> Self {
        let said = error.to_string();
        match error {
            MailError::Downstream(error) => status(error),
            MailError::Unmailable | MailError::Refused { .. } => Self::failed_precondition(said),
            MailError::RelayAway => Self::unavailable(said),
            MailError::Invalid { .. } => Self::invalid_argument(said),
            MailError::Conflict => Self::already_exists(said),
            MailError::InProgress => Self::aborted(said),
            MailError::Config { .. } | MailError::Sink { .. } => Self::internal(said),
        }
    }
}
