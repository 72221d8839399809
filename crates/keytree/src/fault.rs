//! What goes wrong in a tree, and what closes its gate.

use cloakroom_core::ids::Slot;
pub use cloakroom_core::start::GateReason;
use cloakroom_crypto::OpenError;
use cloakroom_store::StoreError;

use crate::holder::HolderError;
use crate::layout::PageAddress;

/// Why a tree did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The database failed; after a commit: stop the process.
    #[error("the key database failed")]
    Store(#[from] StoreError),
    /// The root holder failed or refused.
    #[error("the root holder failed")]
    Holder(#[from] HolderError),
    /// A page does not open under the key that its parent holds for it.
    #[error("page {0:?} does not open")]
    Page(PageAddress, #[source] OpenError),
    /// A page is not there although its parent holds a key for it.
    #[error("page {0:?} is missing")]
    Missing(PageAddress),
    /// A slot was named that was never handed out, or that is taken.
    #[error("slot {0:?} is not the caller's to fill")]
    Slot(Slot),
    /// A record of the key database does not read as what it should be.
    #[error("the key database's {0} does not read")]
    Damaged(&'static str),
    /// A former root could not be destroyed, or still opens what it wrapped. No fence may close.
    #[error("a former root is not gone")]
    RootStays(#[source] Option<HolderError>),
    /// A key backup could not be written; nothing was changed.
    #[error("the key backup could not be written")]
    Backup(#[source] std::io::Error),
    /// A start found what must not be started from. Nothing was changed.
    #[error("the gate is closed")]
    Gate(#[from] GateReason),
}
