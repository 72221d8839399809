//! Why the daemon does not start.

use cloakroom_crypto::arena::ArenaError;
use cloakroom_crypto::process::HardenError;
use cloakroom_runtime::RuntimeError;

/// Why the daemon does not start. Names keys, never what is in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyholderError {
    /// The configuration, the certificates, a port, telemetry.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The configuration parses and still cannot be meant.
    #[error("the configuration's {key} is wrong: {reason}")]
    Config {
        /// Its key.
        key: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// Locked memory could not be had.
    #[error("memory for shares could not be locked")]
    Memory(#[from] ArenaError),
    /// The process can be looked into.
    #[error("the process cannot be kept from being looked into")]
    Harden(#[from] HardenError),
    /// A metric could not be registered.
    #[error("metrics cannot start")]
    Metrics(#[from] prometheus::Error),
}
