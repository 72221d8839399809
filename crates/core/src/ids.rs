//! Names of things. Each is a type of its own, so that none can stand where another is meant.

use std::fmt;

/// The number of an event in the log, counted from 1. The first event of an aggregate (a subject, a
/// value, an erasure, a register) names the aggregate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventNumber(pub u64);

/// A subject: the number of its `SubjectCreated` event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubjectNumber(pub u64);

/// A part of the key tree: [`Subtree::SYSTEM`] holds the vault's own keys, every controller has one more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subtree(pub u32);

impl Subtree {
    /// The vault's own keys: addresses, signatures, idempotency.
    pub const SYSTEM: Subtree = Subtree(0);
}

/// A place for one value key. Within a subtree slots are handed out in order and never twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// The part of the tree.
    pub subtree: Subtree,
    /// Counted from 0.
    pub index: u64,
}

/// Slots of one subtree that lie side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotRange {
    /// The part of the tree.
    pub subtree: Subtree,
    /// The first of them.
    pub first: u64,
    /// The first slot behind them.
    pub end: u64,
}

impl SlotRange {
    /// Whether `slot` is one of them.
    pub fn contains(&self, slot: Slot) -> bool {
        slot.subtree == self.subtree && (self.first..self.end).contains(&slot.index)
    }

    /// How many they are.
    pub fn slots(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads an id from exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

random_id!(
    /// A key tree, for its whole life.
    TreeId
);
random_id!(
    /// One start of a process that owns a tree: no two starts share one, not even of a clone.
    StartId
);
random_id!(
    /// One root of a tree.
    RootId
);

/// Where a frame stands in the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FramePosition {
    /// The start that wrote it.
    pub start: StartId,
    /// Counted from 1 through the log's life, over all starts.
    pub number: u64,
}

/// Where a commit to a key database stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CommitPosition {
    /// The start that made it.
    pub start: StartId,
    /// Counted from 1 through the tree's life, over all starts.
    pub number: u64,
}
