//! What goes wrong in a tree, and what closes its gate.

use cloakroom_core::ids::{CommitPosition, FramePosition, Slot};
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
    /// A start found what must not be started from. Nothing was changed.
    #[error("the gate is closed")]
    Gate(#[from] GateReason),
}

/// Why a start closes its gate: nothing was changed, and the reason says which side went back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateReason {
    /// The log lacks what the keys have seen.
    #[error("the log lacks frame {} that the keys recorded: the data was rolled back or replaced", .lacking.number)]
    LogBehindKeys {
        /// The frame that the keys recorded.
        lacking: FramePosition,
    },
    /// The keys lack what the log rests on.
    #[error("the keys lack commit {} that the log rests on: the keys were rolled back, or two branches were mixed; bring the newest keys", .lacking.number)]
    KeysBehindLog {
        /// The key commit that the newest frame rests on.
        lacking: CommitPosition,
    },
    /// The holder has noted a commit that these keys lack.
    #[error("the root holder has noted key commit {} that these keys lack: they are an old copy of a tree that went on elsewhere", .lacking.number)]
    KeysBehindHolder {
        /// The commit noted.
        lacking: CommitPosition,
    },
    /// The root that the keys point at is gone or does not open them.
    #[error("the root of epoch {epoch} does not open these keys: they are older than their root holder")]
    RootGone {
        /// The epoch that the keys stand at.
        epoch: u64,
    },
    /// There is a log, but no keys at all.
    #[error("there is a log but the key database is empty: bring the keys")]
    KeysMissing,
    /// The log belongs to another tree.
    #[error("the log was written with another key tree")]
    OtherTree,
}
