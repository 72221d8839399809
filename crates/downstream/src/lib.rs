//! The kit for writing a downstream: a store that holds copies of personal data, is told when a token dies,
//! purges, and answers for it. Implement [`Purge`] (or use [`Copies`], which does), and the kit brings
//! consumption, verification, idempotence, retries, dead letters, answers, replay and metrics.
//!
//! Not here: what a downstream does with the data (`services/mail`, `services/affiliate`), and how the vault
//! decides that an erasure is complete.
//!
//! - [`copies`]: copies sealed under keys that a purge destroys
//! - [`erasure`]: what a downstream is told, and [`Purge`]
//! - [`reader`]: values from the vault, under the downstream's own purpose, into the copies
//! - [`kit`]: consumption, verification, retries, answers, replay
//! - [`daemon`]: a whole daemon around it: configuration, ports, who may call, the orderly end
//!
//! Invariants (design: broadcast.md):
//! - A token once purged stays purged: no later `put` brings its value back, and nobody uses a copy of it.
//! - A purge returns only when the keys of its copies are destroyed and the former root is gone.
//! - Copy, slot and purge mark change in one commit.

pub mod copies;
pub mod daemon;
pub mod erasure;
mod error;
pub mod kit;
pub mod reader;

pub use cloakroom_core::clock::{Clock, SystemClock, UnixMs};
pub use cloakroom_crypto::Plaintext;
pub use copies::{
    Copies, CopyGuard, Counts, Forget, NothingElse, RowEdit, Rows, Scope, Sequence, read_row, row_key,
};
pub use erasure::{Erasure, Purge, PurgeError, Purged, Rectified, Token};
pub use error::DownstreamError;
pub use kit::{Kit, KitConfig};
pub use reader::{Held, Read, Reader};

/// A new random id of 32 hexadecimal digits, for what an application names itself.
pub fn random_id() -> String {
    data_encoding::HEXLOWER.encode(&cloakroom_crypto::random::id16())
}
