//! The heart: a store of value keys in which removing one makes every old copy of the store unable to
//! yield it. What it holds are [`Slot`]s; what forgets is the batch ([`TreeWriter::batch`]).
//!
//! It is not: the log (`crates/store`), the cipher (`crates/crypto`), or the erase protocol (`crates/engine`).
//!
//! - [`holder`]: the one trait of root holders, the holders, and (feature `contract`) the suite they all pass
//! - [`layout`]: which page holds which slot, and under which record it lies
//! - [`tree`]: reading a key, from any task
//! - [`writer`]: inserting and destroying, by one task
//! - `leaving`: moving to another root holder
//! - [`escrow`]: key backups, whose roots outlive the batch for a time, and going on from one
//! - [`start`]: what a start checks before it touches anything, and the batch it ends in
//!
//! Invariants (design: erasure.md):
//! - A page's key lies in its parent page alone; the directory's key is wrapped by the root alone.
//! - After a batch no page on a path to a destroyed slot keeps its key, and the former roots are gone.
//! - Nothing is destroyed before the commit that replaces it is durable.
//! - No slot is handed out twice, also not after a crash or a rollback.

mod cache;
#[cfg(feature = "contract")]
#[allow(clippy::arithmetic_side_effects, reason = "for tests")]
pub mod disclosure;
mod edit;
pub mod escrow;
mod fault;
pub mod holder;
pub mod layout;
mod leaving;
mod mutants;
mod sequence;
pub mod start;
mod state;
pub mod tree;
pub mod writer;

pub use cloakroom_core::ids::{Slot, SlotRange, Subtree};
pub use cloakroom_core::start::LogView;
pub use fault::{Fault, GateReason};
pub use holder::{FileHolder, HeldRoot, HolderError, OwnerNumber, RootHolder};
pub use start::Found;
pub use state::{Escrow, LeftRoot, TreeState};
pub use tree::Tree;
pub use writer::{Batched, TreeWriter};

/// How much a tree keeps in memory.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Bytes of locked memory for opened pages.
    pub cache_bytes: usize,
    /// Take the tree from an owner that is known to be dead, without waiting for its lease.
    pub take_over: bool,
}

impl Default for TreeOptions {
    /// 4 MiB: some 2,000 opened pages, within the memory lock that most systems grant.
    fn default() -> Self {
        Self { cache_bytes: 4 << 20, take_over: false }
    }
}
