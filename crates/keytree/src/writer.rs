//! Inserting and destroying, by one task of one process.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, Slot, StartId, Subtree};
use cloakroom_core::mutants::Mutant;
use cloakroom_core::start::root_goes;
use cloakroom_crypto::page::Page;
use cloakroom_crypto::random;
use cloakroom_crypto::role::{Page as PageRole, Slotted};
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Batch;

use crate::Fault;
use crate::edit::{Drawn, Edit};
use crate::escrow::Besides;
use crate::holder::{HolderError, OwnerNumber, RootHolder};
use crate::layout::{DIRECTORY, FAN_OUT, PageAddress, STATE_KEY, start_key};
use crate::leaving::Former;
use crate::start::encode_start;
use crate::state::TreeState;
use crate::tree::{Shared, Tree};

/// Leaves that one commit changes: with the pages above them some 2 MiB of locked memory at the worst. A batch
/// of more becomes several, each with a root of its own.
const LEAVES_MAX: usize = 512;

/// The one writer of a tree.
///
/// After [`Fault::Store`] from anything here the process stops: nothing is known about the disk.
pub struct TreeWriter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) holder: Arc<dyn RootHolder>,
    pub(crate) owner: OwnerNumber,
    pub(crate) start: StartId,
    pub(crate) state: TreeState,
    /// Where the next slot of each subtree is; at or behind the ends on disk.
    pub(crate) next: HashMap<Subtree, u64>,
    /// Set until this start's first commit has recorded it.
    pub(crate) unrecorded_start: bool,
    /// The anchors of roots that a batch replaced and that are not yet proved gone.
    pub(crate) former: Vec<(RootId, Bytes)>,
    /// The holder that the tree moves away from, until its roots are proved gone.
    pub(crate) former_holder: Option<Former>,
    /// The current root lies there still.
    pub(crate) in_former: bool,
    /// Doomed slots that the newest batch could not get at.
    pub(crate) unreached: Vec<Slot>,
    /// What the next batch does besides.
    pub(crate) besides: Besides,
}

/// What a batch came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batched {
    /// The number of the root that is now the only one.
    pub epoch: u64,
    /// The commit that replaced the former root.
    pub at: CommitPosition,
}

/// What one commit of a batch does.
#[derive(Default)]
struct Part {
    doomed: Vec<Slot>,
    /// Subtrees on whose path to the end every page gets a fresh key.
    ends: Vec<Subtree>,
    besides: Besides,
}

impl TreeWriter {
    /// For readers.
    pub fn tree(&self) -> Tree {
        Tree(Arc::clone(&self.shared))
    }

    /// The newest commit.
    pub fn at(&self) -> CommitPosition {
        self.state.at
    }

    /// Where the tree stands.
    pub fn state(&self) -> &TreeState {
        &self.state
    }

    /// The id of this start.
    pub fn start_id(&self) -> StartId {
        self.start
    }

    /// What its holder's destructions are worth.
    pub fn destroy_class(&self) -> &'static str {
        self.holder.destroy_class()
    }

    /// Hands out a new subtree; it counts once a slot in it is filled.
    pub fn new_subtree(&mut self) -> Subtree {
        let subtree = Subtree(self.state.subtrees);
        self.state.subtrees = self.state.subtrees.saturating_add(1);
        subtree
    }

    /// Sees to it that no subtree below `counts` is handed out: one that was named but never filled leaves no
    /// trace in the tree.
    pub fn raise_subtrees(&mut self, counts: impl IntoIterator<Item = u32>) {
        self.state.subtrees = counts.into_iter().fold(self.state.subtrees, u32::max);
    }

    /// Hands out the next slot of a subtree. One that is never filled stays dead.
    pub fn next_slot(&mut self, subtree: Subtree) -> Slot {
        let next = self.next.entry(subtree).or_default();
        let slot = Slot { subtree, index: *next };
        *next = next.saturating_add(1);
        slot
    }

    /// Fills slots with keys, and applies `also`, in one durable commit. `log` is the newest log frame that is
    /// durable now.
    ///
    /// # Errors
    /// [`Fault::Slot`] for a slot that was not handed out in order.
    pub async fn insert(
        &mut self,
        keys: &[(Slot, KeyRef<'_, Slotted>)],
        also: Batch,
        log: Option<FramePosition>,
    ) -> Result<CommitPosition, Fault> {
        let mut edit = Edit::new(&self.shared);
        for of_subtree in keys.chunk_by(|(one, _), (next, _)| one.subtree == next.subtree) {
            let Some((slot, _)) = of_subtree.first() else { continue };
            if slot.subtree == DIRECTORY {
                return Err(Fault::Slot(*slot));
            }
            edit.raise(DIRECTORY, u64::from(slot.subtree.0).saturating_add(1)).await?;
        }
        edit.fill(keys).await?;
        let mut next = self.next_state(log);
        let mut drawn = edit.draw(next.at.number);
        if drawn.anchor_changed
            && let Some(anchor) = &drawn.anchor
        {
            next.anchor = self.holder.wrap(next.tree, next.root, anchor.borrow()).await?;
        }
        drawn.changes.extend(also);
        self.commit(next, drawn).await?;
        Ok(self.state.at)
    }

    /// Records the log's position alone, so that a log that lost its end is noticed.
    pub async fn checkpoint(&mut self, log: Option<FramePosition>) -> Result<CommitPosition, Fault> {
        self.insert(&[], Batch::default(), log).await
    }

    /// Tells the root holder of the newest commit: at most once a second, and at a clean stop.
    pub async fn note(&self) -> Result<(), Fault> {
        Ok(self.holder.note(self.state.tree, self.owner, self.state.at).await?)
    }

    /// The one step by which anything is forgotten: re-keys every path to the `doomed` slots without them,
    /// replaces the root, and destroys the former one. `also` is applied in the same commit.
    ///
    /// # Errors
    /// [`Fault::RootStays`]: the new root counts, a former one is not gone. Call [`TreeWriter::destroy_former`]
    /// until it succeeds; no fence may close before. Any other error before the commit leaves nothing that
    /// counts, and the next batch destroys its root.
    pub async fn batch(
        &mut self,
        doomed: &[Slot],
        also: Batch,
        log: Option<FramePosition>,
    ) -> Result<Batched, Fault> {
        self.batch_past_damage(doomed, &[], also, log).await
    }

    /// The same, but goes on past those of `may_stay` whose page, or one above it, does not open:
    /// [`TreeWriter::unreached`] names them afterwards. Their keys live on where they are, so nothing that condemned
    /// them is done.
    ///
    /// # Errors
    /// As [`TreeWriter::batch`].
    pub async fn batch_past_damage(
        &mut self,
        doomed: &[Slot],
        may_stay: &[Slot],
        also: Batch,
        log: Option<FramePosition>,
    ) -> Result<Batched, Fault> {
        self.batch_over(doomed, may_stay, &[], also, log).await
    }

    /// Doomed slots that the newest batch could not get at.
    pub fn unreached(&self) -> &[Slot] {
        &self.unreached
    }

    /// The same, and besides fresh keys on the path to the end of each subtree in `ends`: a start names all of
    /// them, the directory too.
    pub(crate) async fn batch_over(
        &mut self,
        doomed: &[Slot],
        may_stay: &[Slot],
        ends: &[Subtree],
        also: Batch,
        log: Option<FramePosition>,
    ) -> Result<Batched, Fault> {
        self.unreached.clear();
        let mut parts = parts(doomed, ends)?;
        let besides = std::mem::take(&mut self.besides);
        if let Some(last) = parts.last_mut() {
            last.besides.restored = besides.restored;
        }
        if let Some(first) = parts.first_mut() {
            first.besides = Besides { restored: first.besides.restored, ..besides };
        }
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            match self.batch_part(part, may_stay, Batch::default(), log).await {
                // The last part tries every former root again.
                Ok(()) | Err(Fault::RootStays(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        self.batch_part(last, may_stay, also, log).await?;
        Ok(Batched { epoch: self.state.epoch, at: self.state.at })
    }

    async fn batch_part(
        &mut self,
        part: Part,
        may_stay: &[Slot],
        also: Batch,
        log: Option<FramePosition>,
    ) -> Result<(), Fault> {
        let mut next = self.next_state(log);
        let root = RootId(random::id16());
        self.holder.create(next.tree, self.owner, root).await?;
        let root =
            if Mutant::FailedRootUsedAgain.lives() { self.oldest_but_current(root).await? } else { root };

        let mut edit = Edit::new(&self.shared);
        for (subtree, end) in &part.besides.raise {
            edit.raise(DIRECTORY, u64::from(subtree.0).saturating_add(1)).await?;
            edit.raise(*subtree, *end).await?;
        }
        let unreached = edit.empty(part.doomed, may_stay).await?;
        edit.rekey(&part.ends).await?;
        let mut drawn = edit.draw(next.at.number);
        let Some(anchor) = &drawn.anchor else { return Err(Fault::Damaged("directory")) };
        let former = (next.root, std::mem::take(&mut next.anchor));
        next.anchor = self.holder.wrap(next.tree, root, anchor.borrow()).await?;
        next.root = root;
        self.say_where(&mut next, &former);
        next.epoch = next.epoch.saturating_add(1);
        let former = part.besides.on_roots(&mut next, former, self.state.epoch);
        drawn.changes.extend(also);
        if Mutant::NewKeyWrappedByOld.lives()
            && let Some(anchor) = &drawn.anchor
        {
            let wrapped = self.holder.wrap(next.tree, self.state.root, anchor.borrow()).await?;
            drawn.changes.put(b"w".to_vec(), wrapped);
        }
        if Mutant::DestroyedBeforeDurable.lives() {
            self.holder.destroy(next.tree, self.owner, self.state.root).await?;
        }
        self.commit(next, drawn).await?;
        self.unreached.extend(unreached);
        self.in_former = false;

        self.former.extend(former);
        self.destroy_former().await
    }

    /// Destroys every root of this tree numbered at or below this owner's but the current one, and every root in
    /// a holder that the tree has left; proves that what the former roots wrapped no longer opens.
    ///
    /// # Errors
    /// [`Fault::RootStays`]
    pub async fn destroy_former(&mut self) -> Result<(), Fault> {
        let stays = |error| Fault::RootStays(Some(error));
        if Mutant::OldRootKept.lives() {
            return Ok(());
        }
        let mut first_error = None;
        let escrowed: Vec<RootId> = self.state.escrows.iter().map(|escrow| escrow.root).collect();
        for held in self.holder.list(self.state.tree).await.map_err(stays)? {
            let wakes = Mutant::FormerOwnerDestroys.lives() && held.root != self.state.root;
            if (wakes || root_goes(held.root, held.owner.0, self.state.root, self.owner.0, &escrowed))
                && let Err(error) = self.holder.destroy(self.state.tree, self.owner, held.root).await
            {
                first_error.get_or_insert(error);
            }
        }
        if let Some(error) = first_error {
            return Err(stays(error));
        }
        while let Some((root, anchor)) = self.former.last() {
            match self.holder.unwrap(self.state.tree, *root, anchor).await {
                Err(HolderError::NoSuchRoot(_) | HolderError::DoesNotOpen(_)) => {}
                Err(error) => return Err(stays(error)),
                Ok(_) => return Err(Fault::RootStays(None)),
            }
            self.former.pop();
        }
        self.leave().await
    }

    /// What no sound batch asks for: a root that is held beside the current one, made before `root` if there is
    /// such a one.
    async fn oldest_but_current(&self, root: RootId) -> Result<RootId, Fault> {
        let held = self.holder.list(self.state.tree).await?;
        let left = held.iter().find(|held| held.root != self.state.root && held.root != root);
        Ok(left.map_or(root, |left| left.root))
    }

    pub(crate) fn next_state(&self, log: Option<FramePosition>) -> TreeState {
        TreeState {
            at: CommitPosition { start: self.start, number: self.state.at.number.saturating_add(1) },
            owner: self.owner.0,
            log: log.or(self.state.log),
            ..self.state.clone()
        }
    }

    /// Writes an edit, durably, and only then lets readers see it.
    pub(crate) async fn commit(&mut self, next: TreeState, drawn: Drawn) -> Result<(), Fault> {
        let mut changes = drawn.changes;
        changes.put(STATE_KEY, next.encode());
        if self.unrecorded_start {
            changes.put(start_key(next.at.number), encode_start(self.start, next.at.number));
        }
        let under_way = self.shared.commits.begin();
        self.shared.records.commit(changes).await?;
        self.show(drawn.pages, drawn.ends, drawn.anchor);
        self.shared.epoch.store(next.epoch, Ordering::Release);
        drop(under_way);
        self.state = next;
        self.unrecorded_start = false;
        Ok(())
    }

    /// Puts the commit's pages in place of the former ones and waits until those are wiped.
    fn show(
        &self,
        pages: Vec<(PageAddress, Option<Arc<Page>>)>,
        ends: HashMap<Subtree, u64>,
        anchor: Option<Key<PageRole>>,
    ) {
        let shown = self.shared.shown.begin();
        let former_anchor = {
            let mut top = self.shared.top.write().unwrap_or_else(PoisonError::into_inner);
            top.ends = ends;
            std::mem::replace(&mut top.anchor, anchor.map(Arc::new))
        };
        let former: Vec<_> = pages
            .into_iter()
            .filter_map(|(address, page)| self.shared.cache.replace(address, page))
            .collect();
        drop(shown);
        former.into_iter().for_each(wait_for_readers);
        former_anchor.into_iter().for_each(wait_for_readers);
    }
}

/// A reader holds a key for the time of one cipher call. When the last lets go, it is wiped.
fn wait_for_readers<T>(mut held: Arc<T>) {
    while let Err(still) = Arc::try_unwrap(held) {
        held = still;
        std::thread::yield_now();
    }
}

/// Cuts a batch into commits that locked memory bears; at least one.
fn parts(doomed: &[Slot], ends: &[Subtree]) -> Result<Vec<Part>, Fault> {
    let mut doomed = doomed.to_vec();
    doomed.sort_unstable();
    doomed.dedup();
    if let Some(slot) = doomed.iter().find(|slot| slot.subtree == DIRECTORY) {
        return Err(Fault::Slot(*slot));
    }
    let mut parts = vec![Part::default()];
    let (mut leaves, mut newest) = (0_usize, None);
    for slot in doomed {
        let leaf = (slot.subtree, slot.index / FAN_OUT);
        if newest != Some(leaf) {
            newest = Some(leaf);
            leaves = leaves.saturating_add(1);
            if leaves > LEAVES_MAX {
                parts.push(Part::default());
                leaves = 1;
            }
        }
        if let Some(part) = parts.last_mut() {
            part.doomed.push(slot);
        }
    }
    // A path to an end counts as a leaf.
    for ends in ends.chunks(LEAVES_MAX) {
        match parts.last_mut() {
            Some(part) if leaves.saturating_add(ends.len()) <= LEAVES_MAX => part.ends = ends.to_vec(),
            _ => parts.push(Part { ends: ends.to_vec(), ..Part::default() }),
        }
        leaves = LEAVES_MAX;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_where_locked_memory_would_not_bear_it() {
        let slot = |index| Slot { subtree: Subtree(1), index };
        let ends: Vec<Subtree> = (0..3).map(Subtree).collect();
        let small = parts(&[slot(5), slot(3), slot(5)], &ends).unwrap();
        assert_eq!(small.len(), 1);
        assert_eq!((&small[0].doomed, &small[0].ends), (&vec![slot(3), slot(5)], &ends));

        let wide: Vec<Slot> = (0..2 * LEAVES_MAX as u64 + 1).map(|leaf| slot(leaf * FAN_OUT)).collect();
        let ends: Vec<Subtree> = (0..LEAVES_MAX as u32 + 1).map(Subtree).collect();
        let cut = parts(&wide, &ends).unwrap();
        assert!(cut.iter().all(|part| part.doomed.len() + part.ends.len() <= LEAVES_MAX));
        assert_eq!(cut.iter().flat_map(|part| part.doomed.clone()).collect::<Vec<_>>(), wide);
        assert_eq!(cut.iter().flat_map(|part| part.ends.clone()).collect::<Vec<_>>(), ends);
        assert_eq!(parts(&[], &[]).unwrap().len(), 1, "a batch of nothing replaces the root all the same");
        assert!(parts(&[Slot { subtree: DIRECTORY, index: 0 }], &[]).is_err(), "no value lies there");
    }
}
