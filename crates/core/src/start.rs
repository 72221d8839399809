//! What a start decides, and what a batch destroys: pure, so that the vault and the model of its protocol
//! (`crates/core/tests/model`) run the same lines. Source: erasure.md, "Start" and "The batch".

use std::collections::HashMap;

use crate::ids::{CommitPosition, FramePosition, RootId, Slot, StartId, Subtree, TreeId};

/// All starts that one side (the log, or the keys) has seen, oldest first, each with its first frame or commit.
/// Tells whether a position lies on this branch of the side's life, which a number alone cannot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Starts<'a>(pub &'a [(StartId, u64)]);

impl Starts<'_> {
    /// Whether what `start` wrote under `number` lies on the branch that ends at `newest`.
    pub fn contain(&self, start: StartId, number: u64, newest: u64) -> bool {
        self.0.iter().enumerate().any(|(at, (known, first))| {
            let next = self.0.get(at.saturating_add(1)).map_or(newest.saturating_add(1), |(_, next)| *next);
            *known == start && (*first..next).contains(&number)
        })
    }
}

/// What the log says. A downstream's copies have none: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogView<'a> {
    /// The tree that the log was written with; none in an empty log.
    pub tree: Option<TreeId>,
    /// The key commit that the newest frame rests on.
    pub rests_on: Option<CommitPosition>,
    /// Every start that the log has seen with its first frame, oldest first.
    pub starts: &'a [(StartId, u64)],
    /// The newest frame's number; 0 in an empty log.
    pub newest: u64,
    /// What starts that accepted an older log have abandoned: the newest frame of the log given up.
    pub abandoned: &'a [FramePosition],
}

/// What the keys say.
#[derive(Clone, Copy, Debug)]
pub struct KeyView<'a> {
    /// The tree's name.
    pub tree: TreeId,
    /// The newest commit.
    pub at: CommitPosition,
    /// Every start that the keys have seen with its first commit, oldest first.
    pub starts: &'a [(StartId, u64)],
    /// The newest log frame that the keys call durable.
    pub log: Option<FramePosition>,
}

/// Why a start closes its gate: nothing was changed, and the reason says which side went back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateReason {
    /// The log lacks what the keys have seen.
    #[error("the log lacks frame {} that the keys recorded: the data was rolled back or replaced", .lacking.number)]
    LogBehindKeys {
        /// The frame that the keys recorded.
        lacking: FramePosition,
    },
    /// The keys lack what the log rests on.
    #[error("the keys lack commit {} that the log rests on: the keys were rolled back, or two branches were mixed; bring the newest keys", .lacking.number)]
    KeysBehindLog {
        /// The key commit that the newest frame rests on.
        lacking: CommitPosition,
    },
    /// The holder has noted a commit that these keys lack.
    #[error("the root holder has noted key commit {} that these keys lack: they are an old copy of a tree that went on elsewhere", .lacking.number)]
    KeysBehindHolder {
        /// The commit noted.
        lacking: CommitPosition,
    },
    /// The root that the keys point at is gone or does not open them.
    #[error("the root of epoch {epoch} does not open these keys: they are older than their root holder")]
    RootGone {
        /// The epoch that the keys stand at.
        epoch: u64,
    },
    /// The root that the keys point at lies in another holder than the configured one.
    #[error(
        "the root of epoch {epoch} lies in another root holder ({holder}): the keys moved there, or never left it; configure that one, or name it as the former holder to finish the move"
    )]
    RootElsewhere {
        /// The epoch that the keys stand at.
        epoch: u64,
        /// The holder that has it, in its own words.
        holder: String,
    },
    /// Data, keys and root agree, and somebody outside has seen more of this vault.
    #[error("the witness on Kafka has seen frame {}, which this log neither holds nor has given up: the machine was rolled back as a whole, or is a clone", .seen.number)]
    Witnessed {
        /// The newest frame that the witness has seen.
        seen: FramePosition,
    },
    /// There is a log, but no keys at all.
    #[error("there is a log but the key database is empty: bring the keys")]
    KeysMissing,
    /// The log belongs to another tree.
    #[error("the log was written with another key tree")]
    OtherTree,
}

/// Checks log, keys and the holder's note against each other; whether the root opens the top page is the
/// caller's to try, last.
///
/// # Errors
/// The first reason found to close the gate.
pub fn check(
    keys: Option<KeyView<'_>>,
    log: LogView<'_>,
    noted: Option<CommitPosition>,
) -> Result<(), GateReason> {
    let Some(keys) = keys else {
        return if log.newest == 0 { Ok(()) } else { Err(GateReason::KeysMissing) };
    };
    if log.tree.is_some_and(|tree| tree != keys.tree) {
        return Err(GateReason::OtherTree);
    }
    if let Some(recorded) = keys.log
        && !Starts(log.starts).contain(recorded.start, recorded.number, log.newest)
        && !log.abandoned.contains(&recorded)
    {
        return Err(GateReason::LogBehindKeys { lacking: recorded });
    }
    let has =
        |commit: CommitPosition| Starts(keys.starts).contain(commit.start, commit.number, keys.at.number);
    if let Some(lacking) = log.rests_on.filter(|rests_on| !has(*rests_on)) {
        return Err(GateReason::KeysBehindLog { lacking });
    }
    if let Some(lacking) = noted.filter(|noted| !has(*noted)) {
        return Err(GateReason::KeysBehindHolder { lacking });
    }
    Ok(())
}

/// Slots that the tree handed out (`ends`) and no frame names: `counted` lists for each subtree the first such
/// slot, and a subtree that it lacks has none that count. They die in the start's batch.
pub fn beyond(
    ends: impl IntoIterator<Item = (Subtree, u64)>,
    counted: &HashMap<Subtree, u64>,
) -> impl Iterator<Item = Slot> {
    ends.into_iter().flat_map(move |(subtree, end)| {
        let first = counted.get(&subtree).copied().unwrap_or_default();
        (first..end).map(move |index| Slot { subtree, index })
    })
}

/// Whether a root goes once the commit that points at `current` is durable: every one of this tree that was
/// made by this owner or one before it, but the current one and those in escrow. Roots of later owners are
/// theirs: a process that slept through its replacement harms nothing.
pub fn root_goes(root: RootId, maker: u64, current: RootId, owner: u64, escrowed: &[RootId]) -> bool {
    root != current && maker <= owner && !escrowed.contains(&root)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StartId = StartId([1; 16]);
    const B: StartId = StartId([2; 16]);
    const C: StartId = StartId([3; 16]);
    const TREE: TreeId = TreeId([9; 16]);

    #[test]
    fn a_position_of_a_branch_that_never_was_is_not_contained() {
        let starts = Starts(&[(A, 1), (B, 5)]);
        assert!(starts.contain(A, 4, 7) && starts.contain(B, 7, 7));
        assert!(!starts.contain(A, 5, 7), "a was followed by b at 5");
        assert!(!starts.contain(B, 8, 7), "not made yet");
        assert!(!starts.contain(B, 4, 7), "b's first was 5");
        assert!(!starts.contain(C, 5, 7), "the same number in another branch");
    }

    #[test]
    fn an_older_log_passes_once_a_start_in_it_abandons_what_the_keys_recorded() {
        let recorded = FramePosition { start: B, number: 9 };
        let keys = KeyView {
            tree: TREE,
            at: CommitPosition { start: B, number: 4 },
            starts: &[(A, 1), (B, 3)],
            log: Some(recorded),
        };
        let older = LogView {
            tree: Some(TREE),
            rests_on: Some(CommitPosition { start: A, number: 2 }),
            starts: &[(A, 1)],
            newest: 6,
            abandoned: &[],
        };
        assert_eq!(check(Some(keys), older, None), Err(GateReason::LogBehindKeys { lacking: recorded }));
        let accepted = LogView { abandoned: &[recorded], ..older };
        assert_eq!(check(Some(keys), accepted, None), Ok(()));
        let other = [FramePosition { start: C, number: 9 }];
        let sibling = LogView { abandoned: &other, ..older };
        assert!(check(Some(keys), sibling, None).is_err(), "what another start gave up says nothing here");
    }

    #[test]
    fn only_roots_of_owners_up_to_this_one_go() {
        let root = |n| RootId([n; 16]);
        assert!(root_goes(root(1), 3, root(2), 3, &[]));
        assert!(!root_goes(root(2), 3, root(2), 3, &[]), "the current one");
        assert!(!root_goes(root(1), 4, root(2), 3, &[]), "a later owner's");
        assert!(!root_goes(root(1), 3, root(2), 3, &[root(1)]), "one in escrow");
    }

    #[test]
    fn what_no_frame_names_is_beyond() {
        let ends = [(Subtree(0), 3), (Subtree(1), 2), (Subtree(2), 1)];
        let counted = HashMap::from([(Subtree(0), 2), (Subtree(1), 2)]);
        let slots: Vec<_> = beyond(ends, &counted).collect();
        let slot = |subtree, index| Slot { subtree: Subtree(subtree), index };
        assert_eq!(slots, [slot(0, 2), slot(2, 0)]);
    }
}
