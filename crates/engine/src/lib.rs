//! The use cases of the vault: a file per verb, one writer, one announcer, one collector.
//!
//! `core` decides, this does: it seals and opens, commits in the order of erasure.md, tells the others and
//! collects what they answer. It knows no wire format of services and no files but through `store`.
//!
//! - verbs: [`tokenize`], [`detokenize`], [`describe`], [`lookup`], `rectify`, `release`, [`fact`], [`erase`],
//!   [`registers`], [`downstreams`], [`view`] (erasures and certificates), [`status`] (and `log verify`)
//! - [`Engine::log_checkpoint`] and on: `proof` (the log's Merkle tree, its tiles and proofs), `prune`
//! - the way in: `proposal` (what a verb asks for), `writer` (the one task that commits), [`durable`]
//! - the way back: `house` (reading), `projection`, `state`, [`codec`]
//! - [`open`]: a start; [`backup`]: copies of the data; [`key_backups`]: of the keys, for a time;
//!   [`offline`]: reading the log with no vault beside it; [`restore`]: what a restored vault lacks;
//!   [`ledger`]: what was erased since; `announce`, `collect`: the bus
//!
//! Invariants:
//! - An answer that says something was written holds a [`durable::Durable`], which only the writer makes.
//! - A frame names only slots that were durable before it; what no frame names dies at the next start.
//! - From its fence on, a value is never returned again; a fence closes only after every former root is gone.

mod access;
mod announce;
pub mod backup;
pub mod codec;
mod collect;
pub mod describe;
pub mod detokenize;
pub mod downstreams;
pub mod durable;
mod engine;
pub mod erase;
mod error;
pub mod fact;
mod house;
mod idempotency;
pub mod key_backups;
pub mod keys;
mod lease;
pub mod ledger;
pub mod lookup;
mod mutants;
pub mod offline;
pub mod open;
mod projection;
mod proof;
mod proposal;
mod prune;
mod rectify;
pub mod registers;
mod release;
pub mod restore;
mod state;
pub mod status;
pub mod tokenize;
mod tokens;
mod trace;
pub mod verify;
pub mod view;
mod witness;
mod writer;

pub use cloakroom_bus::{Bootstrap, BusConfig, Security};
pub use cloakroom_crypto::Plaintext;
pub use cloakroom_crypto::process::{HardenError, Hardened, harden};
pub use cloakroom_keytree::{FileHolder, GateReason, HolderError, RootHolder, holder};
pub use cloakroom_store::Answer;
pub use describe::{Description, TokenState};
pub use detokenize::DetokenizeRequest;
pub use downstreams::{DownstreamInfo, Registered, Registration, Replay, ReplayItem};
pub use engine::{BusOptions, Engine, Options};
pub use erase::{ErasureRequest, Preview, Who};
pub use error::EngineError;
pub use fact::Fact;
pub use key_backups::{KeyBackupFile, KeyBackupView};
pub use keys::KeysView;
pub use ledger::Replayed;
pub use lookup::{LookupItem, LookupRequest, Match, Matches};
pub use open::Opened;
pub use prune::Pruned;
pub use registers::AppliedRegister;
pub use restore::Standing;
pub use status::Status;
pub use tokenize::{ITEMS_MAX, SubjectRef, TokenizeItem, TokenizeRequest, Tokenized};
pub use trace::traced;
pub use verify::LogVerdict;
pub use view::{DownstreamView, ErasureFilter, ErasureState, ErasureView};
