//! The log of events: the truth that everything else can be rebuilt from.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, EventNumber, FramePosition, Subtree};

use crate::{Answer, StoreError};

/// SHA-256-sized hash of a frame, made by the caller: the store knows no cryptography.
pub type FrameHash = [u8; 32];

/// How the caller hashes: the store computes none of its own.
#[derive(Clone, Copy)]
pub struct Hashes {
    /// Over an encoded frame.
    pub frame: fn(&[u8]) -> FrameHash,
    /// Over an encoded event: its leaf in the Merkle tree (RFC 6962, section 2.1).
    pub leaf: fn(&[u8]) -> [u8; 32],
}

/// What one group commit writes: all of it counts or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The start that writes it, and its number.
    pub at: FramePosition,
    /// The hash of the frame before; zeros before the first.
    pub previous_hash: FrameHash,
    /// The key commit that this frame's slots are durable in.
    pub rests_on: CommitPosition,
    /// The newest frame known to be durable when this one is written; 0 if none.
    pub durable_number: u64,
    /// For each subtree touched, the first slot that neither this frame nor one before it names.
    pub ends: Vec<(Subtree, u64)>,
    /// The number of the first event in here.
    pub first_event: EventNumber,
    /// Encoded events, numbered on from `first_event`.
    pub events: Vec<Bytes>,
}

/// Where a log ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogEnd {
    /// The newest frame; none in an empty log.
    pub newest: Option<(FramePosition, FrameHash)>,
    /// How many events there are; the newest has this number.
    pub events: u64,
    /// The key commit that the newest frame rests on.
    pub rests_on: Option<CommitPosition>,
}

/// An append-only sequence of frames. One task writes, any number read.
///
/// Hashes are what the functions given to the engine at its making say ([`Hashes`]); engines call them, so
/// that the store stays free of cryptography.
pub trait Log: Send + Sync {
    /// Finds the end: beyond `durable_number` (the newest frame that the keys call durable; engines raise it
    /// by what valid frames say themselves) the log ends at the first bad frame. Nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where a frame up to that number is missing or bad.
    fn find_end(&self, durable_number: u64) -> Answer<'_, Result<LogEnd, StoreError>>;

    /// Cuts off what lies beyond the end that `find_end` found, durably.
    fn cut(&self) -> Answer<'_, Result<(), StoreError>>;

    /// Writes a frame behind the newest, in the order of the calls; returns its hash. Not durable yet.
    /// `urgent` frames (a start's, fences, what closes them) may use the room that is reserved for them.
    ///
    /// # Errors
    /// [`StoreError::Full`] before anything is written, and never for an urgent frame; any other is fatal.
    fn append(&self, frame: &Frame, urgent: bool) -> Answer<'_, Result<FrameHash, StoreError>>;

    /// Makes everything appended before durable. A failure is fatal.
    fn sync(&self) -> Answer<'_, Result<(), StoreError>>;

    /// One event, as soon as it was appended; `None` beyond the end.
    fn event(&self, number: EventNumber) -> Answer<'_, Result<Option<Bytes>, StoreError>>;

    /// The frame that holds event `number` with its hash, for replay; `None` beyond the end.
    fn frame_of(&self, number: EventNumber) -> Answer<'_, Result<Option<(Frame, FrameHash)>, StoreError>>;

    /// The leaf hashes of up to `limit` events from `from` on, kept beside the events since they were appended.
    fn leaves(&self, from: EventNumber, limit: usize) -> Answer<'_, Result<Vec<[u8; 32]>, StoreError>>;

    /// The parts that get no more frames, in order: from the first event of each to the one behind its last.
    /// They are what [`Log::prune`] takes.
    fn sealed(&self) -> Answer<'_, Result<Vec<Range<u64>>, StoreError>>;

    /// Puts shorter events in the places of those with their numbers, in the sealed part that begins with
    /// `first`, durably, and drops what stood there; what an event or a frame hashed to when it was appended
    /// stays. Answers how many bytes that freed: none where nothing would get smaller. May run beside everything
    /// else; a crash leaves the part as it was or as it becomes.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Damaged`], and with nothing changed [`StoreError::Io`]; an error of
    /// the last sync is fatal.
    fn prune(&self, first: EventNumber, shorter: BTreeMap<u64, Bytes>)
    -> Answer<'_, Result<u64, StoreError>>;
}
