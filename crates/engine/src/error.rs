//! What goes wrong inside, as opposed to what is refused ([`cloakroom_core::refusal`]).

use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_keytree::Fault;
use cloakroom_store::StoreError;

use crate::codec::Unreadable;

/// Why the engine could not do its work. Carries ids and codes, never values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The log, the projections or the access log failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The key tree failed.
    #[error("the key tree failed")]
    Tree(#[from] Fault),
    /// An event of the log does not read.
    #[error("the log does not read")]
    Event(#[from] Unreadable),
    /// A projection does not read; a start rebuilds them.
    #[error("a projection does not read")]
    Projection,
    /// The register that the log holds for a controller does not parse.
    #[error("the register of {0} does not parse")]
    Register(String),
    /// A key of the vault's own is not in its slot.
    #[error("a key of the vault's own is missing")]
    SystemKey,
    /// The bus failed in a way that waiting does not mend.
    #[error("the bus failed")]
    Bus(#[from] cloakroom_bus::BusError),
    /// Locked memory could not be had.
    #[error("memory for keys could not be locked")]
    Memory(#[from] cloakroom_crypto::arena::ArenaError),
    /// A step of a backup or of its restoring failed; nothing half-done counts.
    #[error("{what} failed")]
    Backup {
        /// The step.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A backup or its restoring makes no sense like this.
    #[error("{0}")]
    BackupRefused(String),
    /// The ownership of the key tree ended before it was renewed: another process may own it.
    #[error("the ownership of the key tree has ended")]
    LeaseEnded,
    /// The writer has stopped; nothing is written any more.
    #[error("the vault is stopping")]
    Stopped,
}

impl EngineError {
    /// For the edge: the whole chain, once.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    /// What one item's caller is told: nothing is known about the value, least of all that it is erased.
    pub(crate) fn for_item(&self) -> Refusal {
        tracing::error!(error = self.chain(), "an item could not be answered");
        Refusal::new(Code::KeyUnavailable, "the key or the record cannot be read now")
    }

    /// What a caller is told.
    pub(crate) fn for_call(&self) -> CallRefusal {
        tracing::error!(error = self.chain(), "a call could not be answered");
        CallRefusal::Unavailable("the store cannot be read or written now".to_owned())
    }
}
