//! The steps of the protocol, recognised from outside: by the path and the call.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use cloakroom_testkit::recorder::{Act, Phase, Verdict};

/// One step of the protocol on disk (erasure.md, "The batch", "Commit order", "Start"; docs of `holder/file.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    FormatNamed,
    DatabaseMade,
    SegmentMade,
    /// By sled, at each opening of a database: a draft that a rename makes its newest snapshot.
    SnapshotDrafted,
    OwnerReplaced,
    KeyPagesWritten,
    KeysSynced,
    FrameAppended,
    LogSynced,
    AnswerSent,
    ProjectionWritten,
    AccessWritten,
    NoteReplaced,
    RootMade,
    RootOwnerWritten,
    RootKeyWritten,
    RootSynced,
    RootFolderSynced,
    OldRootOverwritten,
    OverwrittenRootSynced,
    OldRootUnlinked,
    DestructionSynced,
}

use Step::*;

/// What a vault is doing while it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Its first start, in empty folders.
    Birth,
    /// A start on what the one before left. Its frame is `Started`, its batch the one that every start makes.
    Start,
    /// It is ready and works.
    Service,
}

/// Where a kill hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Point {
    /// At a step's first, second, ... occurrence, counted from when it was asked for.
    Named(Stage, Step, bool),
    /// At any call that writes, syncs or sends: the so manieth.
    Any(Stage),
}

const BIRTH: [Step; 3] = [FormatNamed, DatabaseMade, SegmentMade];
const BATCH: [Step; 9] = [
    RootMade,
    RootOwnerWritten,
    RootKeyWritten,
    RootSynced,
    RootFolderSynced,
    OldRootOverwritten,
    OverwrittenRootSynced,
    OldRootUnlinked,
    DestructionSynced,
];
const COMMIT: [Step; 4] = [KeyPagesWritten, KeysSynced, FrameAppended, LogSynced];
const SERVICE: [Step; 4] = [AnswerSent, ProjectionWritten, AccessWritten, NoteReplaced];

/// Every named point of one stage, before and after each step.
pub(crate) fn named(stage: Stage) -> Vec<Point> {
    let steps: Vec<Step> = match stage {
        Stage::Birth => BIRTH.to_vec(),
        Stage::Start => [&[SnapshotDrafted, OwnerReplaced][..], &COMMIT, &BATCH].concat(),
        Stage::Service => [&COMMIT[..], &SERVICE, &BATCH].concat(),
    };
    steps.iter().flat_map(|step| [false, true].map(|after| Point::Named(stage, *step, after))).collect()
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(stage, step, after) => {
                let when = if *after { "after" } else { "before" };
                write!(f, "{stage:?}: {when} {step:?}")
            }
            Self::Any(stage) => write!(f, "{stage:?}: at random"),
        }
    }
}

impl Point {
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::Named(stage, ..) | Self::Any(stage) => stage,
        }
    }
}

/// Kills at one point, and says whether it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aim(Arc<AtomicU8>);

impl Aim {
    const WAITING: u8 = 0;
    const ON: u8 = 1;
    const HIT: u8 = 2;

    /// From now on.
    pub(crate) fn take(&self) {
        self.0.store(Self::ON, Ordering::SeqCst);
    }

    pub(crate) fn has_hit(&self) -> bool {
        self.0.load(Ordering::SeqCst) == Self::HIT
    }

    /// A hook for a recorder: once taken it lets the point pass `passed` times and kills at the next.
    pub(crate) fn at(
        &self,
        point: Point,
        passed: u64,
    ) -> impl FnMut(Phase, &Act) -> Verdict + Send + 'static {
        let aim = self.clone();
        let mut steps = Steps::default();
        let mut left = passed;
        move |phase, act| {
            let step = steps.of(phase, act);
            let here = match point {
                Point::Named(_, wanted, after) => step == Some(wanted) && after == (phase == Phase::After),
                Point::Any(_) => true,
            };
            if !here || aim.0.load(Ordering::SeqCst) == Self::WAITING || aim.has_hit() {
                return Verdict::Go;
            }
            match left.checked_sub(1) {
                Some(fewer) => {
                    left = fewer;
                    Verdict::Go
                }
                None => {
                    aim.0.store(Self::HIT, Ordering::SeqCst);
                    Verdict::Kill
                }
            }
        }
    }
}

/// Follows the protocol far enough to tell steps apart that are the same call.
#[derive(Debug, Default)]
struct Steps {
    roots: HashMap<PathBuf, Root>,
    unlinked: bool,
    log_synced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// Made and not yet synced.
    Fresh,
    Doomed,
}

impl Steps {
    /// Which step a call belongs to; called before and after each.
    fn of(&mut self, phase: Phase, act: &Act) -> Option<Step> {
        let step = self.step(act);
        if phase == Phase::After {
            self.follow(act, step);
        }
        step
    }

    fn step(&self, act: &Act) -> Option<Step> {
        match act {
            Act::Open { path, creates: true } => match () {
                () if is_root(path) => Some(RootMade),
                () if is_log(path) => Some(SegmentMade),
                () if is_keys(path) => Some(DatabaseMade),
                () => None,
            },
            Act::Write { path, offset, .. } => match () {
                () if is_root(path) && *offset == 0 => Some(RootOwnerWritten),
                () if is_root(path) && self.is(path, Root::Fresh) => Some(RootKeyWritten),
                () if is_root(path) => Some(OldRootOverwritten),
                () if is_keys(path) => Some(KeyPagesWritten),
                () if file_name(path).starts_with("snap.") => Some(SnapshotDrafted),
                () if is_log(path) => Some(FrameAppended),
                () if path.starts_with("vault/data/projections") => Some(ProjectionWritten),
                () if path.starts_with("vault/data/access") => Some(AccessWritten),
                () => None,
            },
            Act::Sync { path } => match () {
                () if is_root(path) && self.is(path, Root::Doomed) => Some(OverwrittenRootSynced),
                () if is_root(path) => Some(RootSynced),
                () if is_keys(path) => Some(KeysSynced),
                () if is_log(path) => Some(LogSynced),
                () => None,
            },
            Act::SyncFolder { path } if is_tree_of_roots(path) => {
                Some(if self.unlinked { DestructionSynced } else { RootFolderSynced })
            }
            Act::Rename { to, .. } => match to.file_name().and_then(OsStr::to_str) {
                Some("owner") => Some(OwnerReplaced),
                Some("note") => Some(NoteReplaced),
                Some("FORMAT") => Some(FormatNamed),
                _ => None,
            },
            Act::Unlink { path } if is_root(path) => Some(OldRootUnlinked),
            Act::Send if self.log_synced => Some(AnswerSent),
            _ => None,
        }
    }

    fn follow(&mut self, act: &Act, step: Option<Step>) {
        match (act, step) {
            (Act::Open { path, .. }, Some(RootMade)) => drop(self.roots.insert(path.clone(), Root::Fresh)),
            (Act::Write { path, .. }, Some(OldRootOverwritten)) => {
                self.roots.insert(path.clone(), Root::Doomed);
            }
            (Act::Sync { path }, Some(RootSynced)) => drop(self.roots.remove(path)),
            (_, Some(OldRootUnlinked)) => self.unlinked = true,
            (_, Some(DestructionSynced)) => self.unlinked = false,
            (_, Some(LogSynced)) => self.log_synced = true,
            (_, Some(AnswerSent)) => self.log_synced = false,
            _ => {}
        }
    }

    fn is(&self, path: &Path, root: Root) -> bool {
        self.roots.get(path) == Some(&root)
    }
}

pub(crate) fn is_root(path: &Path) -> bool {
    path.starts_with("roots") && file_name(path).starts_with("root-")
}

fn is_tree_of_roots(path: &Path) -> bool {
    path.parent() == Some(Path::new("roots"))
}

fn is_log(path: &Path) -> bool {
    path.starts_with("vault/data/log") && file_name(path).ends_with(".log")
}

fn is_keys(path: &Path) -> bool {
    path == Path::new("vault/keys/tree/db")
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}
