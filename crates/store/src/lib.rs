//! Where Cloakroom keeps things: a log of events, records beside it, and the key tree's pages.
//!
//! The store is blind: it sees ciphertext, positions and checksums, and depends on no cryptography.
//! One set of traits and engines behind them:
//! - [`log`]: events in frames, the truth; [`records`]: by key, in atomic batches; [`access`]: who read what
//! - [`embedded`]: a segmented log of our own and sled, on one machine
//! - `contract` (feature `contract`): one suite that every engine must pass
//! - `faulty` (feature `contract`): engines that fail, and power cuts, on purpose; `memory`: records of a test's
//!   own; `through`: what a layer passes on
//!
//! Invariants:
//! - A [`Log`] never changes what it has called durable, and cuts nothing off before [`Log::cut`].
//! - A [`Records::commit`] is seen whole or not at all, also after a power cut.
//! - After an error of a write or a sync nothing is known about the disk: the caller stops the process.

pub mod access;
pub mod answer;
#[cfg(feature = "contract")]
pub mod contract;
pub mod embedded;
#[cfg(feature = "contract")]
pub mod faulty;
pub mod log;
#[cfg(feature = "contract")]
pub mod memory;
pub mod records;
#[cfg(feature = "contract")]
pub mod through;

pub use access::{AccessLog, SealedFile};
pub use answer::Answer;
pub use log::{Frame, FrameHash, Hashes, Log, LogEnd};
pub use records::{Batch, Records};

/// Why a store could not do what it was asked. Carries positions and codes, never contents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk or the server failed. After a write or a sync: stop the process.
    #[error("{what} failed")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The embedded database failed; treated like [`StoreError::Io`].
    #[error("{what} failed in the embedded database")]
    Database {
        /// The step that failed.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What lies there is not what was written, before a position that was durable.
    #[error("damage in {what} at {at}")]
    Damaged {
        /// The file or table.
        what: String,
        /// The byte offset or record number.
        at: u64,
    },
    /// Written by a newer version.
    #[error("{what} has format {found}; this version reads up to {known}")]
    Newer {
        /// The file or table.
        what: &'static str,
        /// The format found.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// Another process has it.
    #[error("{what} is in use by another process")]
    Locked {
        /// The folder.
        what: String,
    },
    /// Less is free than a fence, a batch and a start need.
    #[error("disk nearly full: {free_bytes} bytes free, {reserved_bytes} reserved")]
    Full {
        /// What is free.
        free_bytes: u64,
        /// What must stay free.
        reserved_bytes: u64,
    },
}
