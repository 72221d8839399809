//! What the model's world holds: logs, key databases, a root holder, and every page ever written.
//!
//! Keys are numbers, and a page is what it wraps: whoever has a page's key has what lies in it. The tree has
//! three levels (root, top page, leaves of [`FAN_OUT`] slots), enough for a leaf that is rewritten under its
//! key, one that is re-keyed beside a living sibling, and one that a branch made and another did not.

use std::collections::{BTreeMap, BTreeSet};

use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, StartId, TreeId};
use cloakroom_core::start::{KeyView, LogView};

pub const FAN_OUT: u64 = 2;
pub const TREE: TreeId = TreeId([7; 16]);

/// A key of a page or of a value.
pub type KeyId = u16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Started,
    /// A value has come in under a key in a slot.
    Stored {
        slot: u64,
        key: KeyId,
    },
    /// What lies in these slots is to be forgotten.
    Fence {
        slots: Vec<u64>,
    },
    /// These fences, named by their frame, are closed.
    Closed {
        fences: Vec<FramePosition>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub at: FramePosition,
    pub rests_on: CommitPosition,
    /// The newest frame that was durable when this one was written.
    pub durable: u64,
    pub end: u64,
    pub abandons: Option<FramePosition>,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    pub frames: Vec<Frame>,
    /// How many of them a power cut leaves.
    pub synced: usize,
}

impl Log {
    pub fn newest(&self) -> Option<&Frame> {
        self.frames.last()
    }

    /// How far the slots go that its frames name.
    pub fn end(&self) -> u64 {
        self.frames.iter().map(|frame| frame.end).max().unwrap_or(0)
    }

    pub fn starts(&self) -> Vec<(StartId, u64)> {
        let mut starts: Vec<(StartId, u64)> = vec![];
        for frame in &self.frames {
            if starts.last().is_none_or(|(start, _)| *start != frame.at.start) {
                starts.push((frame.at.start, frame.at.number));
            }
        }
        starts
    }

    pub fn abandoned(&self) -> Vec<FramePosition> {
        self.frames.iter().filter_map(|frame| frame.abandons).collect()
    }

    /// Hands what this log says to a check.
    pub fn view<T>(&self, look: impl FnOnce(LogView<'_>) -> T) -> T {
        let (starts, abandoned) = (self.starts(), self.abandoned());
        look(LogView {
            tree: self.newest().map(|_| TREE),
            rests_on: self.newest().map(|frame| frame.rests_on),
            starts: &starts,
            newest: self.newest().map_or(0, |frame| frame.at.number),
            abandoned: &abandoned,
        })
    }

    /// Every fence with its slots, and whether a closing event names it.
    pub fn fences(&self) -> Vec<(FramePosition, Vec<u64>, bool)> {
        let closed: Vec<FramePosition> = self
            .frames
            .iter()
            .flat_map(|frame| &frame.events)
            .flat_map(|event| match event {
                Event::Closed { fences } => fences.clone(),
                _ => vec![],
            })
            .collect();
        let fence = |frame: &Frame| {
            frame.events.iter().find_map(|event| match event {
                Event::Fence { slots } => Some((frame.at, slots.clone(), closed.contains(&frame.at))),
                _ => None,
            })
        };
        self.frames.iter().filter_map(fence).collect()
    }

    /// The slots that hold something by this log, fenced or not, with their keys.
    pub fn stored(&self) -> impl Iterator<Item = (u64, KeyId)> {
        self.frames.iter().flat_map(|frame| &frame.events).filter_map(|event| match event {
            Event::Stored { slot, key } => Some((*slot, *key)),
            _ => None,
        })
    }

    pub fn fenced_slots(&self) -> BTreeSet<u64> {
        self.fences().into_iter().flat_map(|(_, slots, _)| slots).collect()
    }
}

/// A leaf page: its key, and the value keys in it.
pub type Leaf = (KeyId, BTreeMap<u64, KeyId>);

/// A key database as one commit left it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    pub at: CommitPosition,
    pub owner: u64,
    pub starts: Vec<(StartId, u64)>,
    pub root: RootId,
    pub top: KeyId,
    pub leaves: BTreeMap<u64, Leaf>,
    pub end: u64,
    pub log: Option<FramePosition>,
    /// Roots that a key backup still needs.
    pub escrow: Vec<RootId>,
}

impl Keys {
    pub fn view(&self) -> KeyView<'_> {
        KeyView { tree: TREE, at: self.at, starts: &self.starts, log: self.log }
    }

    pub fn key(&self, slot: u64) -> Option<KeyId> {
        self.leaves.get(&(slot / FAN_OUT)).and_then(|(_, slots)| slots.get(&slot)).copied()
    }
}

/// A folder of keys: what a process sees, and what a power cut leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyFolder {
    pub seen: Option<Keys>,
    pub synced: Option<Keys>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Each root with the owner that made it.
    pub roots: BTreeSet<(RootId, u64)>,
    pub owner: u64,
    pub noted: Option<CommitPosition>,
}

impl Holder {
    pub fn has(&self, root: RootId) -> bool {
        self.roots.iter().any(|(held, _)| *held == root)
    }
}

/// Every byte ever written to a key database, whatever became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Written {
    /// Top page keys as roots wrapped them.
    pub anchors: BTreeSet<(RootId, KeyId)>,
    /// Page keys with a key that lay in the page.
    pub pages: BTreeSet<(KeyId, KeyId)>,
}

impl Written {
    pub fn record(&mut self, keys: &Keys) {
        self.anchors.insert((keys.root, keys.top));
        for (leaf, slots) in keys.leaves.values() {
            self.pages.insert((keys.top, *leaf));
            self.pages.extend(slots.values().map(|key| (*leaf, *key)));
        }
    }

    /// All that opens to whoever has these roots and every byte: the disclosure graph.
    pub fn opens(&self, roots: impl Iterator<Item = RootId>) -> BTreeSet<KeyId> {
        let roots: BTreeSet<RootId> = roots.collect();
        let mut open: BTreeSet<KeyId> =
            self.anchors.iter().filter(|(root, _)| roots.contains(root)).map(|(_, top)| *top).collect();
        loop {
            let more: Vec<KeyId> = self
                .pages
                .iter()
                .filter(|(page, key)| open.contains(page) && !open.contains(key))
                .map(|(_, key)| *key)
                .collect();
            if more.is_empty() {
                return open;
            }
            open.extend(more);
        }
    }
}
