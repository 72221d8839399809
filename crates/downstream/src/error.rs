//! What can go wrong in a downstream. Carries tokens' states and codes, never values.

use std::path::PathBuf;

use cloakroom_bus::BusError;
use cloakroom_client::ClientError;
use cloakroom_crypto::OpenError;
use cloakroom_crypto::arena::ArenaError;
use cloakroom_crypto::process::HardenError;
use cloakroom_crypto::seal::SealError;
use cloakroom_crypto::sign::SignError;
use cloakroom_keytree::{Fault, HolderError};
use cloakroom_proto::vault::v1::ErrorCode;
use cloakroom_runtime::RuntimeError;
use cloakroom_store::StoreError;

/// Why a downstream did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownstreamError {
    /// The token was purged here: its value is not kept, not used, not read again.
    #[error("the token was purged")]
    Purged,
    /// The value was rectified while it was on its way here: read it again.
    #[error("the value was rectified on its way")]
    Stale,
    /// Not something that can be a token.
    #[error("not a token: 1 to 320 printable ASCII characters")]
    NotAToken,
    /// The vault refused to give the value.
    #[error("the vault refuses the value: {}", .code.as_str_name())]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Whether the same may succeed later.
        retryable: bool,
    },
    /// The value is not text.
    #[error("the value is not UTF-8")]
    NotText,
    /// The vault could not be asked.
    #[error("the vault did not answer")]
    Vault(#[from] ClientError),
    /// The change was not written; nothing of it counts.
    #[error("not written")]
    NotWritten,
    /// The store is closed or closing.
    #[error("the store of copies is closed")]
    Closed,
    /// The tree that the copies' keys hang in.
    #[error("the copies' key tree failed")]
    Tree(#[from] Fault),
    /// The tree's root holder.
    #[error("the copies' root holder failed")]
    Holder(#[from] HolderError),
    /// The database of copies.
    #[error("the copies' database failed")]
    Store(#[from] StoreError),
    /// The value is too long to keep.
    #[error("the value cannot be sealed")]
    Seal(#[from] SealError),
    /// A copy does not open although its key is there.
    #[error("a copy does not open")]
    Open(#[from] OpenError),
    /// A record does not read as what it should be.
    #[error("the database's {0} does not read")]
    Damaged(&'static str),
    /// An application's own rows do not allow what was asked; a code of the application's.
    #[error("refused by the application: {0}")]
    Application(&'static str),
    /// Kafka.
    #[error("the bus failed")]
    Bus(#[from] BusError),
    /// The signing key's file.
    #[error("{path}")]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Configuration, certificates, ports.
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
    /// This process cannot keep keys from core dumps.
    #[error("the process cannot be hardened")]
    Harden(#[from] HardenError),
    /// This process cannot lock memory for keys.
    #[error("no locked memory for keys")]
    Memory(#[from] ArenaError),
    /// The descriptors that reflection serves do not read.
    #[error("gRPC reflection cannot start")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The vault gave a key that is none.
    #[error("the vault named a key that is no Ed25519 key")]
    AnnouncerKey(#[from] SignError),
    /// The vault fell silent in the middle of a replay.
    #[error("the vault fell silent in the middle of a replay")]
    Silent,
    /// A replayed record is not the announcer's, or cannot be read.
    #[error("a replayed record is refused")]
    Replayed(#[source] cloakroom_bus::Refused),
    /// The purge itself said that it cannot go on.
    #[error("purging failed: {0}")]
    Purge(#[from] crate::PurgeError),
}
