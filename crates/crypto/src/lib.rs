//! The only place with key bytes: making keys, sealing and opening, addresses, signatures, hashes.
//!
//! What it is not: it stores nothing, knows no clock and no network, and decides nothing. Whoever holds a
//! [`Key`] here can use it and drop it; nobody can print, compare, copy or serialise it.
//!
//! | module | what happens there |
//! | --- | --- |
//! | [`arena`] | locked, undumpable memory, wiped on drop; the one module with unsafe code |
//! | [`process`] | no core dumps, not dumpable, is there swap |
//! | [`keys`] | [`Key`] and [`KeyRef`], one type per job ([`role`]) |
//! | [`plaintext`] | [`Plaintext`], a value on its way through |
//! | [`seal`] | a value sealed under its own key, bound to its context |
//! | [`page`] | 64 keys of the key tree, sealed as one page |
//! | [`root`] | the key of the top page, wrapped by the root |
//! | [`device`] | the same, wrapped inside a device that keeps its root to itself |
//! | [`share`] | a root in shares, any few of which give it back, and sealed on their way |
//! | [`address`] | tokens, subject ids, erasure ids and purge ids as one encrypted block |
//! | [`short`] | tokens of shapes with too little room for an address |
//! | [`sign`], [`jws`] | Ed25519 signatures: records on the bus, certificates, key sets |
//! | [`note`] | signed notes: checkpoints of the log |
//! | [`mac`], [`hash`] | keyed and plain hashes, none of them ever over a person's value |
//! | [`random`] | the kernel's randomness |
//! | [`labels`] | every label that keeps one use of a key or hash apart from another |
//!
//! Invariants
//! - Keys lie in the [`arena`] alone; what an algorithm needs of them on the stack is wiped before it returns.
//! - A key made here is random, from the kernel, drawn for itself. What is derived (record keys, sealing
//!   keys) is never stored and dies with the call.
//! - A sealing key seals once: a value's because its value key does, a page's and a root's because a fresh
//!   salt of 256 bits goes into it. So the nonce is fixed and can never repeat under a key.
//! - Everything sealed begins with its format version and suite id; what is not known is refused.
//! - Whatever is hashed, signed or bound is a list of parts, each preceded by its length, the first a label:
//!   no two different lists give the same bytes.
//! - Formats and labels are frozen by golden bytes in the tests.

pub mod address;
mod aead;
pub mod arena;
mod base32;
pub mod device;
pub mod hash;
pub mod jws;
pub mod keys;
pub mod labels;
pub mod mac;
pub mod note;
pub mod page;
mod parts;
pub mod plaintext;
pub mod process;
pub mod random;
pub mod root;
pub mod seal;
pub mod share;
pub mod short;
pub mod sign;

pub use keys::{Key, KeyRef, role};
pub use plaintext::Plaintext;

use thiserror::Error;

/// Why something sealed did not open. Says nothing about what was inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Too short, or of a length that sealing never gives.
    #[error("not something sealed here")]
    Malformed,
    /// Written by a newer version, or not by this program.
    #[error("sealed in unknown format {0}")]
    UnknownFormat(u8),
    /// Sealed with algorithms this version does not know.
    #[error("sealed with unknown suite {0}")]
    UnknownSuite(u8),
    /// Another key, another context, or changed bytes: these cannot be told apart.
    #[error("does not open: another key, another context, or changed")]
    Refused,
}
