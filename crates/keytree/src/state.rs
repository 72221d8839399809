//! The record that every commit writes: where the tree stands.

use bytes::Bytes;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, SlotRange, StartId, Subtree, TreeId};
use cloakroom_proto::record::v1 as record;
use prost::Message;

use crate::Fault;

const VERSION: u32 = 1;

/// Where a tree stands after a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeState {
    /// The tree's name for its whole life.
    pub tree: TreeId,
    /// This commit.
    pub at: CommitPosition,
    /// The owner that made it.
    pub owner: u64,
    /// The number of the current root.
    pub epoch: u64,
    /// The current root.
    pub root: RootId,
    /// The key of the directory's top page, wrapped by the root.
    pub anchor: Bytes,
    /// The newest log frame that was durable then.
    pub log: Option<FramePosition>,
    /// How many subtrees were handed out.
    pub subtrees: u32,
    /// Where the root lies, in its holder's words.
    pub holder: String,
    /// What that holder's destructions are worth.
    pub destroy_class: String,
    /// Roots that a move left behind and that are not proved gone.
    pub left: Vec<LeftRoot>,
    /// What destructions were worth before, where that is something else.
    pub former_classes: Vec<String>,
    /// Former roots that key backups need.
    pub escrows: Vec<Escrow>,
    /// The root of the key backup that is being restored, until its start's batch is done.
    pub restoring: Option<RootId>,
    /// Slots that the log names and that a restored key backup lacked.
    pub lost: Vec<SlotRange>,
}

/// A former root that a key backup needs: no batch destroys it while it stands here.
#[derive(Clone, Debug, PartialEq)]
pub struct Escrow {
    /// The root; names the backup.
    pub root: RootId,
    /// What it wraps: it must not open any more once the escrow has ended.
    pub anchor: Bytes,
    /// Its number.
    pub epoch: u64,
    /// When the backup was made.
    pub made: UnixMs,
    /// When the escrow ends.
    pub until: UnixMs,
}

/// A root in a holder that the tree has left.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftRoot {
    /// The holder, in its own words.
    pub holder: String,
    /// The root.
    pub root: RootId,
    /// What it wrapped.
    pub anchor: Bytes,
}

impl TreeState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        record::TreeState {
            version: VERSION,
            tree_id: Bytes::copy_from_slice(&self.tree.0),
            at: Some(encode_commit(self.at)),
            owner_number: self.owner,
            epoch: self.epoch,
            root_id: Bytes::copy_from_slice(&self.root.0),
            anchor: self.anchor.clone(),
            log: self.log.map(|log| record::FramePosition {
                start_id: Bytes::copy_from_slice(&log.start.0),
                number: log.number,
            }),
            subtrees: self.subtrees,
            holder: self.holder.clone(),
            destroy_class: self.destroy_class.clone(),
            left: self.left.iter().map(LeftRoot::encode).collect(),
            former_classes: self.former_classes.clone(),
            escrows: self.escrows.iter().map(Escrow::encode).collect(),
            restoring: self.restoring.map(|root| Bytes::copy_from_slice(&root.0)).unwrap_or_default(),
            lost: self.lost.iter().map(encode_range).collect(),
        }
        .encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let damaged = || Fault::Damaged("state");
        let read = record::TreeState::decode(bytes).map_err(|_| damaged())?;
        if read.version != VERSION {
            return Err(Fault::Store(cloakroom_store::StoreError::Newer {
                what: "key tree",
                found: read.version,
                known: VERSION,
            }));
        }
        let at = read.at.and_then(|at| decode_commit(&at)).ok_or_else(damaged)?;
        let log = match read.log {
            None => None,
            Some(log) => Some(FramePosition {
                start: StartId::from_slice(&log.start_id).ok_or_else(damaged)?,
                number: log.number,
            }),
        };
        Ok(Self {
            tree: TreeId::from_slice(&read.tree_id).ok_or_else(damaged)?,
            at,
            owner: read.owner_number,
            epoch: read.epoch,
            root: RootId::from_slice(&read.root_id).ok_or_else(damaged)?,
            anchor: read.anchor,
            log,
            subtrees: read.subtrees,
            holder: read.holder,
            destroy_class: read.destroy_class,
            left: read.left.into_iter().map(LeftRoot::decode).collect::<Option<_>>().ok_or_else(damaged)?,
            former_classes: read.former_classes,
            escrows: read
                .escrows
                .into_iter()
                .map(Escrow::decode)
                .collect::<Option<_>>()
                .ok_or_else(damaged)?,
            restoring: match read.restoring.as_ref() {
                [] => None,
                root => Some(RootId::from_slice(root).ok_or_else(damaged)?),
            },
            lost: read.lost.iter().map(decode_range).collect(),
        })
    }

    /// What a tree's state comes back as when it is written again: a way in for fuzzing.
    #[cfg(feature = "contract")]
    #[doc(hidden)]
    pub fn again(bytes: &[u8]) -> Result<(Self, Self), Fault> {
        let read = Self::decode(bytes)?;
        let again = Self::decode(&read.encode())?;
        Ok((read, again))
    }

    /// What an erasure's destruction is worth: what it was worth in every holder that the root lay in, as an
    /// older copy of the keys may still have a root from there.
    pub fn destroyed_as(&self) -> String {
        let classes = self.former_classes.iter().chain([&self.destroy_class]);
        classes.map(String::as_str).collect::<Vec<_>>().join("+")
    }
}

impl LeftRoot {
    fn encode(&self) -> record::LeftRoot {
        record::LeftRoot {
            holder: self.holder.clone(),
            root_id: Bytes::copy_from_slice(&self.root.0),
            anchor: self.anchor.clone(),
        }
    }

    fn decode(read: record::LeftRoot) -> Option<Self> {
        Some(Self { holder: read.holder, root: RootId::from_slice(&read.root_id)?, anchor: read.anchor })
    }
}

impl Escrow {
    fn encode(&self) -> record::EscrowedRoot {
        record::EscrowedRoot {
            root_id: Bytes::copy_from_slice(&self.root.0),
            anchor: self.anchor.clone(),
            epoch: self.epoch,
            made_unix_ms: self.made,
            until_unix_ms: self.until,
        }
    }

    fn decode(read: record::EscrowedRoot) -> Option<Self> {
        Some(Self {
            root: RootId::from_slice(&read.root_id)?,
            anchor: read.anchor,
            epoch: read.epoch,
            made: read.made_unix_ms,
            until: read.until_unix_ms,
        })
    }
}

fn encode_range(range: &SlotRange) -> record::SlotRange {
    record::SlotRange { subtree: range.subtree.0, first: range.first, end: range.end }
}

fn decode_range(range: &record::SlotRange) -> SlotRange {
    SlotRange { subtree: Subtree(range.subtree), first: range.first, end: range.end }
}

pub(crate) fn encode_commit(at: CommitPosition) -> record::CommitPosition {
    record::CommitPosition { start_id: Bytes::copy_from_slice(&at.start.0), number: at.number }
}

pub(crate) fn decode_commit(at: &record::CommitPosition) -> Option<CommitPosition> {
    Some(CommitPosition { start: StartId::from_slice(&at.start_id)?, number: at.number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let state = TreeState {
            tree: TreeId([0xaa; 16]),
            at: CommitPosition { start: StartId([0xbb; 16]), number: 300 },
            owner: 7,
            epoch: 5,
            root: RootId([0xcc; 16]),
            anchor: Bytes::from_static(&[1, 2, 3]),
            log: Some(FramePosition { start: StartId([0xdd; 16]), number: 9 }),
            subtrees: 4,
            holder: String::new(),
            destroy_class: String::new(),
            left: vec![],
            former_classes: vec![],
            escrows: vec![],
            restoring: None,
            lost: vec![],
        };
        let hex = |id: &str| id.repeat(16);
        let golden = [
            "0801",
            "1210",
            &hex("aa"),
            "1a150a10",
            &hex("bb"),
            "10ac02",
            "2007",
            "2805",
            "3210",
            &hex("cc"),
            "3a03010203",
            "42140a10",
            &hex("dd"),
            "1009",
            "4804",
        ]
        .concat();
        let bytes = state.encode();
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden);
        assert_eq!(TreeState::decode(&bytes).unwrap(), state);
        let left =
            LeftRoot { holder: "a".into(), root: RootId([0xee; 16]), anchor: Bytes::from_static(&[9]) };
        let moved = TreeState {
            holder: "file /r".into(),
            destroy_class: "hsm".into(),
            left: vec![left],
            former_classes: vec!["overwritten".into()],
            ..state.clone()
        };
        let tail = ["520766696c65202f72", "5a0368736d", "62180a01611210", &hex("ee"), "1a0109"].concat();
        let golden = [golden, tail, "6a0b6f7665727772697474656e".to_owned()].concat();
        assert_eq!(data_encoding::HEXLOWER.encode(&moved.encode()), golden);
        assert_eq!(TreeState::decode(&moved.encode()).unwrap(), moved);
        assert_eq!(moved.destroyed_as(), "overwritten+hsm");
        let escrow = Escrow {
            root: RootId([0x11; 16]),
            anchor: Bytes::from_static(&[7]),
            epoch: 4,
            made: 1_000,
            until: 2_000,
        };
        let restored = TreeState {
            escrows: vec![escrow],
            restoring: Some(RootId([0x22; 16])),
            lost: vec![SlotRange { subtree: Subtree(3), first: 5, end: 300 }],
            ..state.clone()
        };
        let tail =
            ["721d0a10", &hex("11"), "120107180420e80728d00f", "7a10", &hex("22"), "82010708031005 18ac02"]
                .concat()
                .replace(' ', "");
        let golden = [&data_encoding::HEXLOWER.encode(&bytes), tail.as_str()].concat();
        assert_eq!(data_encoding::HEXLOWER.encode(&restored.encode()), golden);
        assert_eq!(TreeState::decode(&restored.encode()).unwrap(), restored);
        let newer = TreeState::decode(&[&[8, 2], &bytes[2..]].concat());
        assert!(matches!(newer, Err(Fault::Store(cloakroom_store::StoreError::Newer { found: 2, .. }))));
        let start = crate::start::encode_start(StartId([0xee; 16]), 300);
        assert_eq!(data_encoding::HEXLOWER.encode(&start), ["0a10", &hex("ee"), "10ac02"].concat());
    }
}
