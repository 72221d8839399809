//! Inserting and destroying, by one task of one process.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, Slot, StartId, Subtree};
use cloakroom_crypto::page::Page;
use cloakroom_crypto::random;
use cloakroom_crypto::role::{Page as PageRole, Slotted};
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Batch;

use crate::Fault;
use crate::edit::{Drawn, Edit};
use crate::holder::{HolderError, OwnerNumber, RootHolder};
use crate::layout::{DIRECTORY, PageAddress, STATE_KEY, start_key};
use crate::start::encode_start;
use crate::state::TreeState;
use crate::tree::{Shared, Tree};

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
}

/// What a batch came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batched {
    /// The number of the root that is now the only one.
    pub epoch: u64,
    /// The commit that replaced the former root.
    pub at: CommitPosition,
}

/// Which paths a batch gives fresh keys to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Paths {
    /// Those to the dying slots.
    Doomed,
    /// Besides those to the end of every subtree and of the directory: a start.
    AndEnds,
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
        for (slot, _) in keys {
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
        self.batch_over(doomed, Paths::Doomed, also, log).await
    }

    pub(crate) async fn batch_over(
        &mut self,
        doomed: &[Slot],
        paths: Paths,
        also: Batch,
        log: Option<FramePosition>,
    ) -> Result<Batched, Fault> {
        let mut next = self.next_state(log);
        let root = RootId(random::id16());
        self.holder.create(next.tree, self.owner, root).await?;

        let mut edit = Edit::new(&self.shared);
        edit.empty(doomed.iter().copied()).await?;
        edit.rekey(paths == Paths::AndEnds).await?;
        let mut drawn = edit.draw(next.at.number);
        let Some(anchor) = &drawn.anchor else { return Err(Fault::Damaged("directory")) };
        let former = (next.root, std::mem::take(&mut next.anchor));
        next.anchor = self.holder.wrap(next.tree, root, anchor.borrow()).await?;
        next.root = root;
        next.epoch = next.epoch.saturating_add(1);
        drawn.changes.extend(also);
        self.commit(next, drawn).await?;

        self.former.push(former);
        self.destroy_former().await?;
        Ok(Batched { epoch: self.state.epoch, at: self.state.at })
    }

    /// Destroys every root of this tree numbered at or below this owner's but the current one, and proves that
    /// what the former roots wrapped no longer opens.
    ///
    /// # Errors
    /// [`Fault::RootStays`]
    pub async fn destroy_former(&mut self) -> Result<(), Fault> {
        let stays = |error| Fault::RootStays(Some(error));
        for held in self.holder.list(self.state.tree).await.map_err(stays)? {
            if held.root != self.state.root && held.owner <= self.owner {
                self.holder.destroy(self.state.tree, self.owner, held.root).await.map_err(stays)?;
            }
        }
        while let Some((root, anchor)) = self.former.last() {
            match self.holder.unwrap(self.state.tree, *root, anchor).await {
                Err(HolderError::NoSuchRoot(_) | HolderError::DoesNotOpen(_)) => {}
                Err(error) => return Err(stays(error)),
                Ok(_) => return Err(Fault::RootStays(None)),
            }
            self.former.pop();
        }
        Ok(())
    }

    fn next_state(&self, log: Option<FramePosition>) -> TreeState {
        TreeState {
            at: CommitPosition { start: self.start, number: self.state.at.number.saturating_add(1) },
            owner: self.owner.0,
            log: log.or(self.state.log),
            ..self.state.clone()
        }
    }

    /// Writes an edit, durably, and only then lets readers see it.
    async fn commit(&mut self, next: TreeState, drawn: Drawn) -> Result<(), Fault> {
        let mut changes = drawn.changes;
        changes.put(STATE_KEY, next.encode());
        if self.unrecorded_start {
            changes.put(start_key(next.at.number), encode_start(self.start, next.at.number));
        }
        self.shared.sequence.fetch_add(1, Ordering::AcqRel);
        let written = self.shared.records.commit(changes).await;
        if written.is_ok() {
            self.show(drawn.pages, drawn.ends, drawn.anchor).await;
        }
        self.shared.sequence.fetch_add(1, Ordering::AcqRel);
        written?;
        self.shared.epoch.store(next.epoch, Ordering::Release);
        self.state = next;
        self.unrecorded_start = false;
        Ok(())
    }

    /// Puts the commit's pages in place of the former ones and waits until those are wiped.
    async fn show(
        &self,
        pages: Vec<(PageAddress, Option<Arc<Page>>)>,
        ends: HashMap<Subtree, u64>,
        anchor: Option<Key<PageRole>>,
    ) {
        {
            let mut top = self.shared.top.write().unwrap_or_else(PoisonError::into_inner);
            top.ends = ends;
            top.anchor = anchor.map(Arc::new);
        }
        let former: Vec<_> = pages
            .into_iter()
            .filter_map(|(address, page)| self.shared.cache.replace(address, page))
            .collect();
        for mut page in former {
            // A reader holds a page for the time of one cipher call. When it lets go, the page is wiped.
            while let Err(held) = Arc::try_unwrap(page) {
                page = held;
                std::thread::yield_now();
            }
        }
    }
}
