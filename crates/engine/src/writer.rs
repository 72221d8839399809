//! The one task that writes: groups proposals, gives out numbers and slots, makes the keys durable, then the
//! frame, and only then answers. Between groups it runs the batches that close fences.
//!
//! Order within a group (erasure.md, "Commit order"): guards on the state that includes every frame ahead;
//! the slots' pages durable in the key database; the frame written and durable in the log; projections and
//! memory; the answers. After any failed write or sync it stops for good: nothing is known about the disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::clock::Clock;
use cloakroom_core::event::{Body, Event, KeysDestroyed, SystemKeyKind};
use cloakroom_core::ids::{EventNumber, FramePosition, Slot, StartId, Subtree};
use cloakroom_core::mutants::Mutant;
use cloakroom_keytree::{Fault, HolderError, TreeWriter};
use cloakroom_store::{Batch, Frame, FrameHash, Log, Records, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::EngineError;
use crate::durable::Durable;
use crate::key_backups::{Escrowed, NotFinal};
use crate::keys::Asked;
use crate::lease::Held;
use crate::lookup::Mark;
use crate::mutants;
use crate::projection;
use crate::proposal::{Closed, Declined, Draft, Guard, Proposal, Written, fill, link};
use crate::state::State;

/// After this long without a key commit the log's position is recorded all the same.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// The root holder hears of the newest key commit at most so often.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// A former root that would not go, or a new one that could not be made, is tried again after this long.
const ROOT_RETRY: Duration = Duration::from_secs(1);
/// After a disk was found full, writes that are not urgent are refused for this long without asking it again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// A day key dies when every request it could recognise is older than the 24 hours for which they are kept.
pub(crate) const DAY_KEY_MS: i64 = 48 * 60 * 60 * 1_000;

/// What was remembered under a day key that is dead is taken away so many requests at a time, this far apart.
const FORGOTTEN_AT_ONCE: usize = 10_000;
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// How groups and batches are sized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterLimits {
    pub(crate) commit_events_max: usize,
    pub(crate) erase_batch: Duration,
}

/// Where the log stands for the next frame.
#[derive(Clone, Copy)]
pub(crate) struct Tail {
    pub(crate) newest: Option<(FramePosition, FrameHash)>,
    pub(crate) events: u64,
}

/// A fence that no batch has closed yet.
struct OpenFence {
    number: EventNumber,
    slots: Vec<Slot>,
    closed: Option<oneshot::Sender<Closed>>,
}

pub(crate) struct Writer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) projections: Arc<dyn Records>,
    pub(crate) tree: TreeWriter,
    pub(crate) state: Arc<State>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: WriterLimits,
    pub(crate) tail: Tail,
    pub(crate) log_ends: HashMap<Subtree, u64>,
    /// Durable fences that no batch has taken in yet.
    fences: Vec<OpenFence>,
    oldest_fence: Option<Instant>,
    /// Fences that a batch has taken in, while a former root is not gone.
    dying: Vec<OpenFence>,
    /// Slots whose keys went in with a frame that did not: they die in the next batch, and before that no
    /// frame names a slot behind them.
    orphans: Vec<Slot>,
    pub(crate) root_stays: Option<Instant>,
    /// What the root holder failed to do, until it does.
    pub(crate) trouble: Option<String>,
    /// Key backups whose roots are in escrow, and what they reach.
    pub(crate) escrowed: Escrowed,
    /// Hears of another holder to be owned.
    pub(crate) moved: watch::Sender<Option<Held>>,
    no_batch_until: Option<Instant>,
    full_until: Option<Instant>,
    newest_start: Option<StartId>,
    last_key_commit: Instant,
    checkpointed: u64,
    last_note: Instant,
    noted: u64,
    last_forgot: Instant,
}

/// What a group has taken in.
#[derive(Default)]
struct Group {
    events: Vec<Event>,
    keys: Vec<(Slot, crate::proposal::NewKey)>,
    heads: HashMap<EventNumber, EventNumber>,
    remembered: HashSet<[u8; 32]>,
    tokens: HashSet<String>,
    registers: HashSet<String>,
    new_day_key: bool,
    answers: Vec<(oneshot::Sender<Written>, Vec<EventNumber>)>,
    marks: Vec<(EventNumber, Mark)>,
    fences: Vec<OpenFence>,
    urgent: bool,
}

impl Writer {
    #[allow(clippy::too_many_arguments)] // made in one place, at the start
    pub(crate) fn new(
        log: Arc<dyn Log>,
        projections: Arc<dyn Records>,
        tree: TreeWriter,
        state: Arc<State>,
        clock: Arc<dyn Clock>,
        limits: WriterLimits,
        tail: Tail,
        log_ends: HashMap<Subtree, u64>,
    ) -> Self {
        Self {
            newest_start: tail.newest.map(|(at, _)| at.start),
            checkpointed: tail.newest.map_or(0, |(at, _)| at.number),
            noted: 0,
            log,
            projections,
            tree,
            state,
            clock,
            limits,
            tail,
            log_ends,
            fences: vec![],
            oldest_fence: None,
            dying: vec![],
            orphans: vec![],
            root_stays: None,
            trouble: None,
            escrowed: Escrowed::default(),
            moved: watch::Sender::new(None),
            no_batch_until: None,
            full_until: None,
            last_key_commit: Instant::now(),
            last_note: Instant::now(),
            last_forgot: Instant::now(),
        }
    }

    /// Fences that were open when the log was read; the start's batch has killed their slots already.
    pub(crate) async fn close_old_fences(
        &mut self,
        fences: Vec<(EventNumber, Vec<Slot>)>,
        roots_gone: bool,
    ) -> Result<(), EngineError> {
        self.dies(
            fences.into_iter().map(|(number, slots)| OpenFence { number, slots, closed: None }).collect(),
        );
        if roots_gone {
            return self.close_fences().await;
        }
        self.root_stays = Some(Instant::now());
        self.trouble = Some("a former root is not gone since the start".to_owned());
        self.tell();
        Ok(())
    }

    /// Commits one proposal, before the task runs: for what a start needs.
    pub(crate) async fn commit_now(&mut self, drafts: Vec<Draft>) -> Result<Vec<EventNumber>, EngineError> {
        let (written, answer) = oneshot::channel();
        self.commit(vec![Proposal { guards: vec![], drafts, urgent: true, written, closed: None }]).await?;
        match answer.await {
            Ok(Ok(numbers)) => Ok(numbers.into_inner()),
            _ => Err(EngineError::Stopped),
        }
    }

    /// What another writer goes on with.
    pub(crate) fn into_parts(self) -> (TreeWriter, Tail, HashMap<Subtree, u64>) {
        (self.tree, self.tail, self.log_ends)
    }

    /// Runs until the queue is closed, then stops cleanly; or until something fails that cannot be survived.
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Proposal>,
        mut orders: mpsc::Receiver<Asked>,
    ) -> Result<(), EngineError> {
        loop {
            let mut order = None;
            let first = tokio::select! {
                first = tokio::time::timeout(CHECKPOINT_EVERY, queue.recv()) => match first {
                    Ok(Some(first)) => Some(first),
                    Ok(None) => return self.stop().await,
                    Err(_) => None,
                },
                Some(asked) = orders.recv() => {
                    order = Some(asked);
                    None
                }
            };
            if let Some(asked) = order {
                self.obey(asked).await?;
            }
            if let Some(first) = first {
                let mut size = first.drafts.len();
                let mut group = vec![first];
                while size < self.limits.commit_events_max
                    && let Ok(next) = queue.try_recv()
                {
                    size = size.saturating_add(next.drafts.len());
                    group.push(next);
                }
                self.commit(group).await?;
            }
            self.housekeep().await?;
            let gathered = queue.is_empty()
                || self.oldest_fence.is_some_and(|oldest| oldest.elapsed() >= self.limits.erase_batch);
            if gathered || !self.orphans.is_empty() {
                self.batch(false).await?;
            }
        }
    }

    /// Commits what is urgent in one frame and the rest in another: only the urgent may use a full disk's
    /// reserve.
    async fn commit(&mut self, proposals: Vec<Proposal>) -> Result<(), EngineError> {
        let (urgent, ordinary) = proposals.into_iter().partition(|proposal| proposal.urgent);
        self.commit_group(urgent).await?;
        self.commit_group(ordinary).await
    }

    async fn commit_group(&mut self, proposals: Vec<Proposal>) -> Result<(), EngineError> {
        let mut group = Group::default();
        for proposal in proposals {
            if self.is_full_for(&proposal) {
                decline(proposal, Declined::Full);
            } else if self.stands(&proposal.guards, &group).await? {
                self.take_in(proposal, &mut group).await?;
            } else {
                decline(proposal, Declined::Stale);
            }
        }
        if group.events.is_empty() { Ok(()) } else { self.write(group).await }
    }

    /// A frame that named a slot behind an orphan would make it look as if that counted.
    fn is_full_for(&self, proposal: &Proposal) -> bool {
        let names_slots = proposal.drafts.iter().any(|draft| draft.key.is_some());
        (names_slots && !self.orphans.is_empty())
            || (!proposal.urgent && self.full_until.is_some_and(|until| Instant::now() < until))
    }

    /// Whether all that a proposal was made from is still so, frames of this group included.
    async fn stands(&self, guards: &[Guard], group: &Group) -> Result<bool, EngineError> {
        for guard in guards {
            let stands = match guard {
                Guard::Head { aggregate, newest } => {
                    let head = match group.heads.get(aggregate) {
                        Some(head) => Some(*head),
                        None => self.head(*aggregate).await?,
                    };
                    head == Some(*newest)
                }
                Guard::NewestDayKey(day_key) => !group.new_day_key && self.state.newest_day_key() == *day_key,
                Guard::Unremembered { day_key, mac } => {
                    !group.remembered.contains(mac)
                        && self.is_absent(&projection::remembered(*day_key, mac)).await?
                }
                Guard::FreeToken(token) => {
                    !group.tokens.contains(token)
                        && self.is_absent(&projection::key(b'k', token.as_bytes())).await?
                }
                Guard::Register { controller, version } => {
                    !group.registers.contains(controller)
                        && self.state.register(controller).map_or(0, |known| known.version) == *version
                }
            };
            if !stands {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn take_in(&mut self, proposal: Proposal, group: &mut Group) -> Result<(), EngineError> {
        let first = self.tail.events.saturating_add(group.events.len() as u64).saturating_add(1);
        let numbers: Vec<EventNumber> =
            (0..proposal.drafts.len() as u64).map(|place| EventNumber(first.saturating_add(place))).collect();
        for guard in &proposal.guards {
            match guard {
                Guard::Unremembered { mac, .. } => drop(group.remembered.insert(*mac)),
                Guard::FreeToken(token) => drop(group.tokens.insert(token.clone())),
                Guard::Register { controller, .. } => drop(group.registers.insert(controller.clone())),
                Guard::Head { .. } | Guard::NewestDayKey(_) => {}
            }
        }
        let at = self.clock.now_unix_ms();
        let mut fences = vec![];
        for (mut draft, number) in proposal.drafts.into_iter().zip(&numbers) {
            let slot = draft.key.as_ref().map(|(subtree, _)| self.tree.next_slot(*subtree));
            let subtree = draft.new_subtree.then(|| self.tree.new_subtree());
            fill(&mut draft.body, &numbers, slot, subtree);
            if let Some((aggregate, _)) = draft.body.chain()
                && !group.heads.contains_key(&aggregate)
                && let Some(head) = self.head(aggregate).await?
            {
                group.heads.insert(aggregate, head);
            }
            link(&mut draft.body, *number, &mut group.heads);
            if let (Some(slot), Some((_, key))) = (slot, draft.key) {
                group.keys.push((slot, key));
            }
            group.new_day_key |= matches!(
                &draft.body,
                Body::SystemKeyMade(made) if made.kind == SystemKeyKind::Idempotency
            );
            if draft.body.is_fence() {
                let kept = Mutant::RectifiedSlotKept.lives() && matches!(draft.body, Body::ValueRectified(_));
                let slots = if kept { vec![] } else { draft.body.dooms() };
                fences.push(OpenFence { number: *number, slots, closed: None });
            }
            group.marks.extend(draft.mark.map(|mark| (*number, mark)));
            group.events.push(Event { at, body: draft.body });
        }
        if let Some(last) = fences.last_mut() {
            last.closed = proposal.closed; // fences of one proposal are closed by one batch
        }
        group.fences.extend(fences);
        group.urgent |= proposal.urgent;
        group.answers.push((proposal.written, numbers));
        Ok(())
    }

    /// Keys, frame, projections, answers, in this order.
    async fn write(&mut self, group: Group) -> Result<(), EngineError> {
        if !self.state.is_owner() {
            return Err(EngineError::LeaseEnded);
        }
        let mut keys: Vec<_> = group.keys.iter().map(|(slot, key)| (*slot, key.for_slot())).collect();
        keys.sort_by_key(|(slot, _)| *slot);
        if !keys.is_empty() {
            self.tree.insert(&keys, Batch::default(), self.durable()).await?;
            self.last_key_commit = Instant::now();
            self.checkpointed = self.tail.newest.map_or(0, |(at, _)| at.number);
        }
        let frame = self.frame(&group);
        let hash = match self.log.append(&frame, group.urgent).await {
            Ok(hash) => hash,
            Err(StoreError::Full { free_bytes, reserved_bytes }) => {
                tracing::warn!(free_bytes, reserved_bytes, "disk nearly full: writes are refused");
                self.full_until = Some(Instant::now() + FULL_PAUSE);
                self.orphans.extend(group.keys.iter().map(|(slot, _)| *slot));
                for (written, _) in group.answers {
                    drop(written.send(Err(Declined::Full)));
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.log.sync().await?;
        self.tail = Tail {
            newest: Some((frame.at, hash)),
            events: self.tail.events.saturating_add(group.events.len() as u64),
        };
        self.log_ends.extend(frame.ends.iter().copied());
        let numbered = || (frame.first_event.0..).map(EventNumber).zip(&group.events);
        let ended: Vec<EventNumber> = numbered().flat_map(|(_, event)| self.state.ended(event)).collect();
        numbered().for_each(|(number, event)| self.state.raise(number, event));
        self.state.lookups.forget(&ended);
        let mut changes = projection::changes(&frame, &group.events, self.newest_start);
        if Mutant::KeyInProjection.lives() {
            mutants::leave_a_key(&mut changes, &group.keys);
        }
        self.projections.apply(changes).await?;
        self.newest_start = Some(frame.at.start);
        for (number, event) in numbered() {
            self.state.apply(number, event)?;
        }
        self.state.lookups.enter(group.marks);
        // Whoever is answered finds the log as long as the answer says.
        self.state.events.send_replace(self.tail.events);
        for (written, numbers) in group.answers {
            drop(written.send(Ok(Durable::after_sync(numbers)))); // a caller that left has no use for it
        }
        if !group.fences.is_empty() {
            self.oldest_fence.get_or_insert_with(Instant::now);
            self.fences.extend(group.fences);
        }
        Ok(())
    }

    fn frame(&self, group: &Group) -> Frame {
        let mut ends: HashMap<Subtree, u64> = HashMap::new();
        for (slot, _) in &group.keys {
            let end = ends.entry(slot.subtree).or_insert(0);
            *end = (*end).max(slot.index.saturating_add(1));
        }
        let mut ends: Vec<_> = ends.into_iter().collect();
        ends.sort_unstable();
        let (number, previous_hash) = self.tail.newest.map_or((0, [0; 32]), |(at, hash)| (at.number, hash));
        Frame {
            at: FramePosition { start: self.tree.start_id(), number: number.saturating_add(1) },
            previous_hash,
            rests_on: self.tree.at(),
            durable_number: number, // one frame at a time is in flight
            ends,
            first_event: EventNumber(self.tail.events.saturating_add(1)),
            events: group.events.iter().map(crate::codec::encode).collect(),
        }
    }

    /// Forgets what the durable fences condemn, and closes them. While a former root stays, only orphans are
    /// worth another root that may stay too. `forced`, it replaces the root though nobody waits for that.
    pub(crate) async fn batch(&mut self, forced: bool) -> Result<(), EngineError> {
        let old_day_keys = self.old_day_keys();
        let nothing = self.fences.is_empty() && old_day_keys.is_empty();
        let waits = self.orphans.is_empty() && (nothing || self.root_stays.is_some())
            || self.no_batch_until.is_some_and(|until| Instant::now() < until);
        if waits && !forced {
            return Ok(());
        }
        let mut doomed: Vec<Slot> = self.fences.iter().flat_map(|fence| &fence.slots).copied().collect();
        doomed.extend(&old_day_keys);
        let may_stay = doomed.clone();
        doomed.extend(&self.orphans);
        let batch = self.tree.batch_past_damage(&doomed, &may_stay, Batch::default(), self.durable());
        let result = batch.await;
        self.no_batch_until = None;
        match &result {
            // Nothing was committed: nothing of it counts, and the next batch destroys its root.
            Err(Fault::Holder(error)) if !matches!(error, HolderError::Replaced { .. }) => {
                tracing::error!(%error, "no new root can be made: fences stay open");
                self.no_batch_until = Some(Instant::now() + ROOT_RETRY);
                self.trouble = Some(format!("no new root can be made: {error}"));
                self.tell();
                return Ok(());
            }
            Ok(_) | Err(Fault::RootStays(_)) => {}
            Err(_) => return result.map(drop).map_err(EngineError::from),
        }
        self.last_key_commit = Instant::now();
        self.oldest_fence = None;
        let fences = std::mem::take(&mut self.fences);
        self.dies(fences);
        self.orphans.clear();
        self.forget_day_keys(&old_day_keys);
        match result {
            Err(Fault::RootStays(error)) if !Mutant::ClosedWhileRootLives.lives() => {
                let error = error.map(|error| error.to_string());
                tracing::error!(error, "a former root is not gone: fences stay open");
                self.root_stays = Some(Instant::now());
                self.trouble = Some(format!("a former root is not gone: {}", error.unwrap_or_default()));
                self.tell();
                Ok(())
            }
            _ => self.close_fences().await,
        }
    }

    /// Fences that a batch has taken in wait for the former root to go. One whose page of keys could not be opened
    /// stays open, and its values answer ERASED, until a start finds the page whole.
    fn dies(&mut self, fences: Vec<OpenFence>) {
        let unreached = self.tree.unreached();
        let (stuck, dying): (Vec<_>, Vec<_>) =
            fences.into_iter().partition(|fence| fence.slots.iter().any(|slot| unreached.contains(slot)));
        self.dying.extend(dying);
        if !stuck.is_empty() {
            tracing::error!(
                fences = stuck.len(),
                "a page of keys does not open: what it holds cannot be destroyed"
            );
            self.state.stick(stuck.iter().map(|fence| fence.number));
        }
    }

    /// Every former root is destroyed and probed: writes the closing event of every fence that a batch has taken
    /// in. Those that came later wait for their own.
    pub(crate) async fn close_fences(&mut self) -> Result<(), EngineError> {
        self.root_stays = None;
        self.trouble = None;
        self.tell();
        self.finalise().await?;
        let fences = std::mem::take(&mut self.dying);
        if fences.is_empty() {
            return Ok(());
        }
        let later: Vec<_> =
            fences.iter().filter_map(|fence| Some((fence.number, self.final_at(&fence.slots)?))).collect();
        let epoch = self.tree.state().epoch;
        let closing = Body::KeysDestroyed(KeysDestroyed {
            fences: fences.iter().map(|fence| fence.number).collect(),
            epoch,
            destroy_class: self.tree.state().destroyed_as(),
            later: later.clone(),
        });
        let closed = self.commit_now(vec![Draft::of(closing)]).await?;
        let closed = closed.first().copied().ok_or(EngineError::Stopped)?;
        for fence in fences {
            self.state.unfence(&fence.slots);
            if later.iter().any(|(number, _)| *number == fence.number) {
                let slots = fence.slots.clone();
                self.escrowed.not_final.push(NotFinal { fence: fence.number, closed, slots });
            }
            if let Some(closed) = fence.closed {
                let _left = closed.send(Closed { epoch }); // a caller that left has no use for it
            }
        }
        self.tell();
        Ok(())
    }

    /// A former root stays: no fence closes before it is gone.
    pub(crate) fn root_stays_after_all(&mut self) {
        self.root_stays = Some(Instant::now());
        self.trouble = Some("a former root is not gone".to_owned());
    }

    /// A root that stayed is tried again; escrows that are over end; a second of log growth without a key commit is recorded.
    async fn housekeep(&mut self) -> Result<(), EngineError> {
        if self.root_stays.is_some_and(|since| since.elapsed() >= ROOT_RETRY) {
            self.retry_root().await?;
        }
        if self.root_stays.is_none() && self.no_batch_until.is_none_or(|until| Instant::now() >= until) {
            self.end_old_backups().await?;
        }
        if self.last_key_commit.elapsed() >= CHECKPOINT_EVERY
            && self.tail.newest.is_some_and(|(at, _)| at.number > self.checkpointed)
        {
            self.checkpoint().await?;
        }
        if self.last_note.elapsed() >= NOTE_EVERY && self.tree.at().number > self.noted {
            self.note().await?;
        }
        if self.last_forgot.elapsed() >= FORGET_EVERY {
            self.forget_requests().await?;
        }
        Ok(())
    }

    async fn retry_root(&mut self) -> Result<(), EngineError> {
        match self.tree.destroy_former().await {
            Ok(()) => self.close_fences().await,
            Err(Fault::RootStays(_)) => {
                self.root_stays = Some(Instant::now());
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    async fn checkpoint(&mut self) -> Result<(), EngineError> {
        self.tree.checkpoint(self.durable()).await?;
        self.projections.sync().await?;
        self.last_key_commit = Instant::now();
        self.checkpointed = self.tail.newest.map_or(0, |(at, _)| at.number);
        Ok(())
    }

    /// A note that fails leaves a clone harder to tell from this tree, no more; but whoever was replaced stops.
    async fn note(&mut self) -> Result<(), EngineError> {
        self.last_note = Instant::now();
        match self.tree.note().await {
            Ok(()) => self.noted = self.tree.at().number,
            Err(fault @ Fault::Holder(HolderError::Replaced { .. })) => return Err(fault.into()),
            Err(fault) => tracing::warn!(
                error = EngineError::from(fault).chain(),
                "the root holder was not told how far the keys are"
            ),
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), EngineError> {
        if self.root_stays.is_some() {
            self.retry_root().await?;
        }
        self.batch(false).await?;
        self.checkpoint().await?;
        self.note().await
    }

    /// Keys of days whose requests nobody can repeat any more.
    fn old_day_keys(&self) -> Vec<Slot> {
        let now = self.clock.now_unix_ms();
        let keys = crate::state::read(&self.state.day_keys);
        keys.iter().filter(|key| now.saturating_sub(key.made_at) > DAY_KEY_MS).map(|key| key.slot).collect()
    }

    fn forget_day_keys(&self, dead: &[Slot]) {
        let mut keys = self.state.day_keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.retain(|key| !dead.contains(&key.slot));
    }

    /// Takes away what was remembered under the keys of days before the oldest that lives: nothing finds it any more.
    /// What a crash brings back goes the same way.
    async fn forget_requests(&mut self) -> Result<(), EngineError> {
        self.last_forgot = Instant::now();
        let oldest = crate::state::read(&self.state.day_keys).iter().map(|day| day.event).min();
        let oldest = projection::about(b'i', oldest.unwrap_or_else(|| self.state.newest_day_key()));
        let mut dead = Batch::default();
        for (key, _) in self.projections.scan(b"i", None, FORGOTTEN_AT_ONCE).await? {
            if key.as_ref() >= oldest.as_slice() {
                break;
            }
            dead.remove(key.to_vec());
        }
        if dead.changes.is_empty() { Ok(()) } else { Ok(self.projections.apply(dead).await?) }
    }

    pub(crate) fn durable(&self) -> Option<FramePosition> {
        self.tail.newest.map(|(at, _)| at)
    }

    async fn head(&self, aggregate: EventNumber) -> Result<Option<EventNumber>, EngineError> {
        let head = projection::read_number(&*self.projections, &projection::about(b'h', aggregate)).await?;
        Ok(head.map(EventNumber))
    }

    async fn is_absent(&self, key: &[u8]) -> Result<bool, EngineError> {
        Ok(self.projections.get(key).await?.is_none())
    }
}

fn decline(proposal: Proposal, reason: Declined) {
    drop(proposal.written.send(Err(reason)));
}
