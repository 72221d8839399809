//! Why the daemon does not start.

use cloakroom_engine::{EngineError, HolderError};
use cloakroom_runtime::RuntimeError;

/// Why the daemon does not start. Names keys and files, never what is in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
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
    /// The root holder cannot be used.
    #[error("the root holder cannot be opened")]
    Holder(#[from] HolderError),
    /// A keyholder's address is none, or the certificate for it cannot be used.
    #[error("a keyholder cannot be called")]
    Keyholder(#[from] cloakroom_client::ClientError),
    /// The stores could not be opened.
    #[error("the vault cannot be opened")]
    Open(#[from] EngineError),
    /// The descriptors that reflection serves do not read.
    #[error("gRPC reflection cannot start")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl VaultError {
    /// For whoever asked: the whole chain, once.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }
}
