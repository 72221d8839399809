//! Key backups: the tree as it is at one commit, its root kept in escrow for a time, and at once a batch as at a
//! start, so that this root reaches no value born later.
//!
//! Which roots are in escrow stands in the tree's state, in the commit that replaces them: a batch and a start destroy
//! every other one. Going on from a backup begins with a commit too ([`Found::adopt`]): from there on every start
//! finishes it, so that no start can take the backup's tree for today's.

use std::collections::HashMap;
use std::io;
use std::sync::PoisonError;

use bytes::Bytes;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, Slot, SlotRange, StartId, Subtree};
use cloakroom_core::mutants::Mutant;
use cloakroom_core::start::{LogView, Starts};
use cloakroom_store::Batch;

use crate::edit::Edit;
use crate::holder::HolderError;
use crate::layout::{STATE_KEY, start_key};
use crate::start::{Found, encode_start};
use crate::state::{Escrow, TreeState};
use crate::writer::TreeWriter;
use crate::{Fault, GateReason};

/// Records that a backup reads at once.
const AT_ONCE: usize = 1_000;

/// Takes the records of a key backup, one after the other.
pub type Snapshot<'a> = &'a mut (dyn FnMut(&[u8], &[u8]) -> io::Result<()> + Send);

/// What a batch does besides forgetting slots.
#[derive(Default)]
pub(crate) struct Besides {
    /// The root that it replaces goes into escrow: from when, until when.
    pub(crate) escrow: Option<(UnixMs, UnixMs)>,
    /// Escrows that it ends.
    pub(crate) end: Vec<RootId>,
    /// Ends of subtrees that the log knows and a restored backup lacks.
    pub(crate) raise: Vec<(Subtree, u64)>,
    /// With this batch a key backup is restored.
    pub(crate) restored: bool,
}

impl Besides {
    /// Writes into a batch's state what becomes of the roots: of `former`, which it replaces, and of those in
    /// escrow. Gives those that must be gone after it.
    pub(crate) fn on_roots(
        &self,
        next: &mut TreeState,
        former: (RootId, Bytes),
        epoch: u64,
    ) -> Vec<(RootId, Bytes)> {
        let (ended, kept) = next.escrows.drain(..).partition(|escrow| self.end.contains(&escrow.root));
        next.escrows = kept;
        let ended: Vec<Escrow> = ended;
        let mut gone: Vec<_> = ended.into_iter().map(|escrow| (escrow.root, escrow.anchor)).collect();
        match self.escrow {
            Some((made, until)) => {
                next.escrows.push(Escrow { root: former.0, anchor: former.1, epoch, made, until });
            }
            // That mutant put it there before: a root in escrow is not asked to be gone.
            None if Mutant::KeyBackupWithoutBatch.lives() && kept_for_backup(next, former.0) => {}
            None => gone.push(former),
        }
        if self.restored {
            next.restoring = None;
        }
        gone
    }
}

impl TreeWriter {
    /// Makes a key backup: gives every record of the tree as it is now to `out`, puts its root in escrow from `made`
    /// until `until`, and replaces that root in a batch with fresh keys on the path to every subtree's end. The
    /// escrow counts with the batch's commit.
    ///
    /// # Errors
    /// [`Fault::RootStays`] before anything is done where an earlier former root is not gone; after the batch, as
    /// [`TreeWriter::batch`] says it. [`Fault::Backup`] if `out` fails, [`Fault::Holder`] if no new root can be made:
    /// nothing was changed.
    pub async fn back_up(
        &mut self,
        (made, until): (UnixMs, UnixMs),
        out: Snapshot<'_>,
        log: Option<FramePosition>,
    ) -> Result<(), Fault> {
        self.destroy_former().await?;
        let mut after: Option<Bytes> = None;
        loop {
            let records = self.shared.records.scan(b"", after.as_deref(), AT_ONCE).await?;
            for (key, value) in &records {
                out(key, value).map_err(Fault::Backup)?;
            }
            match records.last() {
                Some((last, _)) if records.len() == AT_ONCE => after = Some(last.clone()),
                _ => break,
            }
        }
        if Mutant::KeyBackupWithoutBatch.lives() {
            return self.escrow_the_current((made, until), log).await;
        }
        let ends: Vec<Subtree> = {
            let top = self.shared.top.read().unwrap_or_else(PoisonError::into_inner);
            top.ends.keys().copied().collect()
        };
        self.besides.escrow = Some((made, until));
        let batched = self.batch_over(&[], &[], &ends, Batch::default(), log).await;
        self.besides = Besides::default();
        batched.map(drop)
    }

    /// What no sound backup does: goes on with the root that it puts in escrow.
    async fn escrow_the_current(
        &mut self,
        (made, until): (UnixMs, UnixMs),
        log: Option<FramePosition>,
    ) -> Result<(), Fault> {
        let mut next = self.next_state(log);
        let TreeState { root, anchor, epoch, .. } = next.clone();
        next.escrows.push(Escrow { root, anchor, epoch, made, until });
        let drawn = Edit::new(&self.shared).draw(next.at.number);
        self.commit(next, drawn).await
    }

    /// Ends escrows with the next batch, which destroys and probes their roots like any former one.
    pub fn end_escrows(&mut self, roots: Vec<RootId>) {
        self.besides.end = roots;
    }
}

impl Found {
    /// Former roots that key backups need.
    pub fn escrows(&self) -> &[Escrow] {
        self.state.as_ref().map_or(&[], |state| &state.escrows)
    }

    /// The root of the key backup that is being restored: this start finishes what one before began.
    pub fn restoring(&self) -> Option<RootId> {
        self.state.as_ref().and_then(|state| state.restoring)
    }

    /// The root that the keys point at.
    pub fn root(&self) -> Option<RootId> {
        self.state.as_ref().map(|state| state.root)
    }

    /// Slots that the log names and that a restored key backup lacked.
    pub fn lost(&self) -> &[SlotRange] {
        self.state.as_ref().map_or(&[], |state| &state.lost)
    }

    /// Ends escrows with the start's batch.
    pub fn end_escrows(&mut self, roots: Vec<RootId>) {
        self.ended = roots;
    }

    /// These died since the key backup that is being restored: the start's batch forgets them again.
    pub fn forget_again(&mut self, slots: Vec<Slot>) {
        self.again = slots;
    }

    /// What [`Found::check`] checks, of keys that are known to be older than the log and their holder's note: whether
    /// they are this log's, and whether their root still opens them. Nothing is changed.
    ///
    /// # Errors
    /// As [`Found::check`].
    pub async fn check_backup(&self, log: LogView<'_>) -> Result<(), Fault> {
        self.check_noted(LogView { rests_on: None, ..log }, None).await
    }

    /// Slots that the log names and these keys never handed out.
    pub fn lacking(&self, log_ends: &HashMap<Subtree, u64>) -> Vec<SlotRange> {
        let ends = self.ends();
        let lacking = log_ends.iter().map(|(subtree, end)| SlotRange {
            subtree: *subtree,
            first: ends.get(subtree).copied().unwrap_or_default(),
            end: *end,
        });
        let mut lacking: Vec<_> = lacking.filter(|range| range.slots() > 0).collect();
        lacking.sort_by_key(|range| range.subtree);
        lacking
    }

    /// Takes these keys, restored from a backup, for the tree's newest: one commit above every one that the holder has
    /// noted and that the log rests on, which says what is lost and that every start from now on finishes the
    /// restoring. All escrows end with that start's batch, this backup's too.
    ///
    /// # Errors
    /// [`Fault::Store`]
    pub async fn adopt(
        &mut self,
        start: StartId,
        log_ends: &HashMap<Subtree, u64>,
        rests_on: Option<CommitPosition>,
    ) -> Result<(), Fault> {
        let lacking = self.lacking(log_ends);
        let Some(mut next) = self.state.clone() else { return Err(GateReason::KeysMissing.into()) };
        let mut changes = Batch::default();
        let mut seen: Vec<_> =
            [self.holder.noted(self.tree).await?, rests_on].into_iter().flatten().collect();
        seen.sort_unstable_by_key(|at| at.number);
        for at in seen {
            // What went on elsewhere was given up by name: no start asks for it again.
            if !Starts(&self.starts).contain(at.start, at.number, next.at.number)
                && at.number > next.at.number
            {
                changes.put(start_key(at.number), encode_start(at.start, at.number));
                self.starts.push((at.start, at.number));
                next.epoch = next.epoch.saturating_add(at.number.saturating_sub(next.at.number));
                next.at.number = at.number;
            }
        }
        let number = next.at.number.saturating_add(1);
        changes.put(start_key(number), encode_start(start, number));
        self.starts.push((start, number));
        (next.at, next.owner) = (CommitPosition { start, number }, self.owner.0);
        next.escrows.clear();
        next.restoring = Some(next.root);
        next.lost.extend(lacking);
        changes.put(STATE_KEY, next.encode());
        self.shared.records.commit(changes).await?;
        *self.shared.lost.write().unwrap_or_else(PoisonError::into_inner) = next.lost.clone();
        self.state = Some(next);
        Ok(())
    }

    /// Whether the tree may leave its holder: not while that one keeps what a key backup needs.
    pub(crate) fn may_leave(&self, state: &TreeState) -> Result<(), Fault> {
        state.escrows.first().map_or(Ok(()), |escrow| Err(in_escrow(escrow).into()))
    }
}

/// Whether a key backup needs that root.
fn kept_for_backup(state: &TreeState, root: RootId) -> bool {
    state.escrows.iter().any(|escrow| escrow.root == root)
}

/// Why a tree does not leave its holder.
pub(crate) fn in_escrow(escrow: &Escrow) -> HolderError {
    HolderError::Refused(format!(
        "root {} of a key backup is in escrow there: the root can move when that has ended (cloakroom keys backup end)",
        escrow.root
    ))
}
