//! What a start finds, what it checks before it touches anything, and the batch it ends in.
//!
//! The order (erasure.md, "Start"): [`Found::look`] owns the tree and reads; the caller finds its log's end;
//! [`Found::check`] closes the gate or lets pass, with nothing changed; the caller marks its log;
//! [`Found::start`] runs the batch that makes an abandoned branch noise.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, Slot, StartId, Subtree, TreeId};
use cloakroom_core::mutants::Mutant;
use cloakroom_core::start::{self, KeyView, LogView};
use cloakroom_crypto::role::{Page as PageRole, Value};
use cloakroom_crypto::{Key, random};
use cloakroom_proto::record::v1 as record;
use cloakroom_store::{Batch, Records};
use prost::Message;

use crate::cache::Cache;
use crate::escrow::Besides;
use crate::holder::{HolderError, OwnerNumber, RootHolder};
use crate::layout::{DIRECTORY, END_PREFIX, PageAddress, START_PREFIX, STATE_KEY, levels};
use crate::leaving::{Former, own};
use crate::sequence::Sequence;
use crate::state::TreeState;
use crate::tree::{Shared, Top};
use crate::writer::{Batched, TreeWriter};
use crate::{Fault, GateReason, TreeOptions};

/// A tree that this process owns and has looked at, nothing more.
pub struct Found {
    pub(crate) shared: Arc<Shared>,
    pub(crate) holder: Arc<dyn RootHolder>,
    pub(crate) owner: OwnerNumber,
    pub(crate) state: Option<TreeState>,
    pub(crate) tree: TreeId,
    pub(crate) starts: Vec<(StartId, u64)>,
    /// The holder that the tree moves away from.
    former: Option<Former>,
    /// Escrows that the start's batch ends.
    pub(crate) ended: Vec<RootId>,
    /// Slots that died since the key backup that is being restored.
    pub(crate) again: Vec<Slot>,
}

impl Found {
    /// Owns the tree and reads where it stands. A database without a tree gets a new one at [`Found::start`].
    ///
    /// # Errors
    /// [`HolderError::Owned`] (in [`Fault::Holder`]) while another process lives.
    pub async fn look(
        records: Arc<dyn Records>,
        holder: Arc<dyn RootHolder>,
        options: TreeOptions,
    ) -> Result<Self, Fault> {
        Self::look_moving(records, holder, None, options).await
    }

    /// The same where the root may still lie in a `former` holder: the start's batch then makes its root in
    /// `holder`, and what `former` has goes like any former root. A `former` that is away or has another owner
    /// is an error only while the root lies there.
    ///
    /// # Errors
    /// As [`Found::look`].
    pub async fn look_moving(
        records: Arc<dyn Records>,
        holder: Arc<dyn RootHolder>,
        former: Option<Arc<dyn RootHolder>>,
        options: TreeOptions,
    ) -> Result<Self, Fault> {
        let tree = match read_state(&*records).await? {
            Some(state) => state.tree,
            None => TreeId(random::id16()),
        };
        let owner = own(&*holder, tree, options.take_over).await?;
        let former = former.map(|holder| Former::new(holder, tree, None, options.take_over));
        let state = read_state(&*records).await?;
        let starts = read_starts(&*records).await?;
        let ends = read_ends(&*records).await?;
        let shared = Arc::new(Shared {
            records,
            tree,
            cache: Cache::new(options.cache_bytes),
            top: RwLock::new(Top { anchor: None, ends }),
            commits: Sequence::default(),
            shown: Sequence::default(),
            epoch: AtomicU64::new(state.as_ref().map_or(0, |state| state.epoch)),
            lost: RwLock::new(state.as_ref().map(|state| state.lost.clone()).unwrap_or_default()),
        });
        let (ended, again) = (vec![], vec![]);
        Ok(Self { shared, holder, owner, state, tree, starts, former, ended, again })
    }

    /// The tree's name.
    pub fn tree_id(&self) -> TreeId {
        self.tree
    }

    /// The number that the holder gave this owner.
    pub fn owner(&self) -> OwnerNumber {
        self.owner
    }

    /// The newest log frame that the keys call durable.
    pub fn log(&self) -> Option<FramePosition> {
        self.state.as_ref().and_then(|state| state.log)
    }

    /// The newest key commit; none in a new tree.
    pub fn at(&self) -> Option<CommitPosition> {
        self.state.as_ref().map(|state| state.at)
    }

    /// Every start that the keys have seen with its first commit, oldest first.
    pub fn starts(&self) -> &[(StartId, u64)] {
        &self.starts
    }

    /// For each subtree the first slot that was never handed out.
    pub fn ends(&self) -> HashMap<Subtree, u64> {
        let top = self.shared.top.read().unwrap_or_else(PoisonError::into_inner);
        top.ends.iter().filter(|(subtree, _)| **subtree != DIRECTORY).map(|(s, end)| (*s, *end)).collect()
    }

    /// Checks keys, log and holder against each other. Nothing is changed.
    ///
    /// # Errors
    /// [`Fault::Gate`] with the first reason found.
    pub async fn check(&self, log: LogView<'_>) -> Result<(), Fault> {
        let noted = self.holder.noted(self.tree).await?;
        self.check_noted(log, noted).await
    }

    /// The same, where the holder has noted that commit.
    pub(crate) async fn check_noted(
        &self,
        log: LogView<'_>,
        noted: Option<CommitPosition>,
    ) -> Result<(), Fault> {
        let log = if Mutant::KnownByNumberAlone.lives() { self.by_number_alone(log) } else { log };
        let keys = self.state.as_ref().map(|state| KeyView {
            tree: self.tree,
            at: state.at,
            starts: &self.starts,
            log: state
                .log
                .filter(|recorded| !Mutant::KnownByNumberAlone.lives() || recorded.number > log.newest),
        });
        start::check(keys, log, noted)?;
        let Some(state) = &self.state else { return Ok(()) };
        let (anchor, in_former) = self.unwrap_anchor(state).await?;
        if let Some(former) = self.former.as_ref().filter(|_| in_former) {
            start::check(keys, log, former.holder.noted(self.tree).await?)?;
            self.may_leave(state)?;
        }
        let directory = self.shared.top.read().unwrap_or_else(PoisonError::into_inner).end(DIRECTORY);
        let top = PageAddress::top(DIRECTORY, levels(directory.unwrap_or_default()));
        self.shared.read(top, anchor.borrow()).await?.ok_or(Fault::Missing(top)).map(drop)
    }

    /// Makes the tree where there is none, so that a log's first frame has keys to rest on. Returns the commit
    /// that this start's mark in the log rests on.
    pub async fn prepare(&mut self, start: StartId) -> Result<CommitPosition, Fault> {
        if let Some(state) = &self.state {
            return Ok(state.at);
        }
        let root = RootId(random::id16());
        self.holder.create(self.tree, self.owner, root).await?;
        let state = TreeState {
            tree: self.tree,
            at: CommitPosition { start, number: 0 },
            owner: self.owner.0,
            epoch: 0,
            root,
            anchor: Bytes::new(),
            log: None,
            subtrees: 0,
            holder: self.holder.place(),
            destroy_class: self.holder.destroy_class().to_owned(),
            left: vec![],
            former_classes: vec![],
            escrows: vec![],
            restoring: None,
            lost: vec![],
        };
        let mut writer = self.writer(start, state);
        // The directory's first page: a tree has a top page before it has a subtree.
        let subtree = writer.new_subtree();
        let slot = writer.next_slot(subtree);
        let key = Key::<Value>::random();
        let at = writer.insert(&[(slot, key.borrow().for_slot())], Batch::default(), None).await?;
        self.starts.push((start, at.number));
        self.state = Some(writer.state.clone());
        Ok(at)
    }

    /// The batch that every start is: without the slots beyond `log_ends`, without the `fenced` ones, with fresh
    /// keys on the path to every end. `log_ends` lists for each subtree the first slot that no frame names; a
    /// subtree that it lacks has none that count. A caller without a log gives `None`: all slots count.
    ///
    /// # Errors
    /// [`Fault::RootStays`] comes with a writer that works: see [`Started::root_stays`].
    pub async fn start(
        mut self,
        start: StartId,
        log_ends: Option<&HashMap<Subtree, u64>>,
        fenced: &[Slot],
        log: Option<FramePosition>,
    ) -> Result<Started, Fault> {
        self.prepare(start).await?;
        let Some(state) = self.state.clone() else { return Err(Fault::Damaged("state")) };
        let (anchor, in_former) = self.unwrap_anchor(&state).await?;
        self.shared.top.write().unwrap_or_else(PoisonError::into_inner).anchor = Some(Arc::new(anchor));
        let mut doomed = if Mutant::FencesNotApplied.lives() { vec![] } else { fenced.to_vec() };
        let mut writer = self.writer(start, state);
        (writer.former_holder, writer.in_former) = (self.former.take(), in_former);
        doomed.append(&mut self.again);
        writer.besides.end = std::mem::take(&mut self.ended);
        if writer.state.restoring.is_some() {
            writer.besides.restored = true;
            writer.besides.raise = log_ends.into_iter().flatten().map(|(at, end)| (*at, *end)).collect();
        }
        if let Some(log_ends) = log_ends {
            if !Mutant::SlotsBeyondKept.lives() {
                doomed.extend(start::beyond(self.ends(), log_ends));
            }
            for (subtree, end) in log_ends {
                let next = writer.next.entry(*subtree).or_default();
                *next = if Mutant::SlotsHandedOutAgain.lives() { *end } else { (*next).max(*end) };
            }
        }
        let ends: Vec<Subtree> = {
            let top = self.shared.top.read().unwrap_or_else(PoisonError::into_inner);
            top.ends.keys().copied().filter(|_| !Mutant::PathsNotRekeyed.lives()).collect()
        };
        if Mutant::StartWithoutBatch.lives() {
            let batched = Batched { epoch: writer.state.epoch, at: writer.state.at };
            return Ok(Started { writer, batched, root_stays: None });
        }
        let batched = match writer.batch_over(&doomed, fenced, &ends, Batch::default(), log).await {
            Ok(batched) => (batched, None),
            Err(Fault::RootStays(error)) => {
                let batched = Batched { epoch: writer.state.epoch, at: writer.state.at };
                (batched, Some(Fault::RootStays(error)))
            }
            Err(fault) => return Err(fault),
        };
        Ok(Started { writer, batched: batched.0, root_stays: batched.1 })
    }

    /// What no sound check asks for: what the log says, its starts renamed as the keys know them, so that only
    /// numbers are left to compare.
    fn by_number_alone<'a>(&self, log: LogView<'a>) -> LogView<'a> {
        let of_ours = |number: u64| self.starts.iter().rfind(|(_, first)| *first <= number);
        let rests_on = log.rests_on.map(|at| {
            let start = of_ours(at.number).map_or(at.start, |(start, _)| *start);
            CommitPosition { start, number: at.number }
        });
        LogView { rests_on, ..log }
    }

    fn writer(&self, start: StartId, state: TreeState) -> TreeWriter {
        let next = self.shared.top.read().unwrap_or_else(PoisonError::into_inner).ends.clone();
        let unrecorded_start = self.starts.last().is_none_or(|(newest, _)| *newest != start);
        TreeWriter {
            shared: Arc::clone(&self.shared),
            holder: Arc::clone(&self.holder),
            owner: self.owner,
            start,
            state,
            next,
            unrecorded_start,
            unreached: vec![],
            besides: Besides::default(),
            former: vec![],
            former_holder: None,
            in_former: false,
        }
    }

    /// The key of the directory's top page, and whether the former holder's root opened it.
    async fn unwrap_anchor(&self, state: &TreeState) -> Result<(Key<PageRole>, bool), Fault> {
        let gone = match self.holder.unwrap(self.tree, state.root, &state.anchor).await {
            Ok(key) => return Ok((key, false)),
            Err(error @ (HolderError::NoSuchRoot(_) | HolderError::DoesNotOpen(_))) => error,
            Err(error) => return Err(error.into()),
        };
        if let (Some(former), HolderError::NoSuchRoot(_)) = (&self.former, gone) {
            former.owner().await?;
            match former.holder.unwrap(self.tree, state.root, &state.anchor).await {
                Ok(key) => return Ok((key, true)),
                Err(HolderError::NoSuchRoot(_) | HolderError::DoesNotOpen(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let configured = self.former.iter().map(|former| &former.holder).chain([&self.holder]);
        if state.holder.is_empty() || configured.map(|holder| holder.place()).any(|at| at == state.holder) {
            return Err(GateReason::RootGone { epoch: state.epoch }.into());
        }
        Err(GateReason::RootElsewhere { epoch: state.epoch, holder: state.holder.clone() }.into())
    }
}

/// A tree in service.
pub struct Started {
    /// Its one writer.
    pub writer: TreeWriter,
    /// The batch that the start was.
    pub batched: Batched,
    /// A former root that would not go: fences stay open until [`TreeWriter::destroy_former`] succeeds.
    pub root_stays: Option<Fault>,
}

pub(crate) fn encode_start(start: StartId, first_commit: u64) -> Vec<u8> {
    record::TreeStart { start_id: Bytes::copy_from_slice(&start.0), first_commit }.encode_to_vec()
}

async fn read_state(records: &dyn Records) -> Result<Option<TreeState>, Fault> {
    records.get(STATE_KEY).await?.map(|bytes| TreeState::decode(&bytes)).transpose()
}

async fn read_starts(records: &dyn Records) -> Result<Vec<(StartId, u64)>, Fault> {
    let damaged = || Fault::Damaged("list of starts");
    let mut starts = vec![];
    for (_, bytes) in all(records, START_PREFIX).await? {
        let read = record::TreeStart::decode(bytes).map_err(|_| damaged())?;
        starts.push((StartId::from_slice(&read.start_id).ok_or_else(damaged)?, read.first_commit));
    }
    Ok(starts)
}

async fn read_ends(records: &dyn Records) -> Result<HashMap<Subtree, u64>, Fault> {
    let mut ends = HashMap::new();
    for (key, value) in all(records, END_PREFIX).await? {
        let subtree =
            key.get(END_PREFIX.len()..).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let end = value.as_ref().try_into().ok().map(u64::from_be_bytes);
        let (Some(subtree), Some(end)) = (subtree, end) else { return Err(Fault::Damaged("list of ends")) };
        ends.insert(Subtree(subtree), end);
    }
    Ok(ends)
}

async fn all(records: &dyn Records, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Fault> {
    const AT_ONCE: usize = 1_000;
    let mut found: Vec<(Bytes, Bytes)> = vec![];
    loop {
        let after = found.last().map(|(key, _)| key.clone());
        let more = records.scan(prefix, after.as_deref(), AT_ONCE).await?;
        let last = more.len() < AT_ONCE;
        found.extend(more);
        if last {
            return Ok(found);
        }
    }
}
