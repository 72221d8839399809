//! The protocol of erasure.md as steps that anything may come between.
//!
//! What a start checks, which slots its batch dooms and which roots a batch destroys is decided by
//! `cloakroom_core::start`, the code that the vault runs; what is told here is the order of the steps.

use cloakroom_core::ids::{CommitPosition, FramePosition, RootId, Slot, StartId, Subtree};
use cloakroom_core::start::{GateReason, beyond, check, root_goes};

use crate::disk::{Event, FAN_OUT, Frame, Holder, KeyFolder, KeyId, Keys, Leaf, Log, Written};

const ONLY: Subtree = Subtree(0);

/// The protocol broken in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    DestroyBeforeDurable,
    NoBatchAtStart,
    NoStarted,
    SlotsHandedOutAgain,
    FenceClosedBecauseDead,
    RootsWithoutOwners,
    AnswerBeforeDurable,
    BackupWithoutBatch,
}

/// How this world differs from the plainest one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    pub mutant: Option<Mutant>,
    /// The holder cannot refuse a former owner (PKCS#11): what protects are the numbers on the roots alone.
    pub lax_holder: bool,
    /// A group's keys and frame may be written while the frame before it is not durable yet.
    pub in_flight: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Look,
    Gated(GateReasonSeen),
    Mark {
        abandons: Option<FramePosition>,
    },
    MarkSync,
    MakeRoot,
    CommitBatch {
        root: RootId,
    },
    SyncBatch,
    Destroy,
    Close,
    CloseSync,
    CommitKey {
        slot: u64,
        key: KeyId,
        replaces: Option<u64>,
    },
    SyncKey {
        slot: u64,
        key: KeyId,
        replaces: Option<u64>,
    },
    AppendStored {
        slot: u64,
        key: KeyId,
        replaces: Option<u64>,
    },
    AppendFence {
        slot: u64,
    },
    SyncLog,
    Idle,
    /// The holder refuses whoever was replaced: the process is gone.
    Ended,
}

/// [`GateReason`], to be part of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateReasonSeen(pub GateReason);

impl std::hash::Hash for GateReasonSeen {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_string().hash(state);
    }
}

/// What a batch is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch {
    pub doomed: Vec<u64>,
    /// Fences that close once the former roots are gone.
    pub fences: Vec<FramePosition>,
    /// A start's, or a key backup's: fresh keys on the path to the end too.
    pub ends: bool,
    pub escrow: Vec<RootId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub data: usize,
    pub keys: usize,
    pub owner: u64,
    pub start: StartId,
    pub recorded: bool,
    /// Slept beyond its lease: the one call that is under way may still land, nothing after it.
    pub asleep: bool,
    pub step: Step,
    pub next: u64,
    pub batch: Batch,
    /// It has been in service.
    pub ready: bool,
    /// The keys come from a backup whose root was in escrow.
    pub escrowed: bool,
    /// The holder would not destroy a former root: its fences stay open.
    pub stays: bool,
}

/// How often what may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub starts: u8,
    pub stores: u8,
    pub rectifies: u8,
    pub erases: u8,
    pub kills: u8,
    pub power_cuts: u8,
    pub sleeps: u8,
    pub refusals: u8,
    pub data_copies: u8,
    pub key_copies: u8,
    pub accepts: u8,
    pub backups: u8,
    pub notes: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub logs: [Log; 2],
    pub keys: [KeyFolder; 3],
    pub holder: Holder,
    pub written: Written,
    pub processes: [Option<Process>; 2],
    pub left: Budget,
    /// Keys of values whose storing was acknowledged, with their slot.
    pub acknowledged: Vec<(u64, KeyId)>,
    /// Keys of values that the log calls forgotten.
    pub forgotten: Vec<KeyId>,
    /// Every key that was drawn for a value.
    pub values: Vec<KeyId>,
    /// The root that a key backup needs; none once it has been destroyed: what it opened is final.
    pub escrow: Option<RootId>,
    /// What the key backup holds.
    pub backed_up: Vec<KeyId>,
    /// Somebody brought back an older folder: what it lacks is lost by that.
    pub rolled_back: bool,
    /// Keys that starts dropped because their log did not name them.
    pub dropped: Vec<KeyId>,
    /// Somebody went on with an older log, knowing what it lacks.
    pub accepted: bool,
    /// Both halves of an older copy at once: it looks like a crash, and only a witness outside can tell.
    pub both_back: bool,
    /// The next key, root and start to be drawn.
    pub drawn: u16,
}

impl State {
    pub fn draw(&mut self) -> u16 {
        self.drawn += 1;
        self.drawn
    }

    fn draw_id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&self.draw().to_be_bytes());
        id
    }

    pub fn process(&self, at: usize) -> Option<&Process> {
        self.processes.get(at).and_then(Option::as_ref)
    }

    /// Whether a folder is anybody's who is not asleep.
    pub fn is_free(&self, data: usize, keys: usize) -> bool {
        self.processes.iter().flatten().all(|process| process.data != data && process.keys != keys)
    }

    /// A process begins: it owns the tree first.
    pub fn begin(&mut self, at: usize, data: usize, keys: usize, escrowed: bool) {
        self.holder.owner += 1;
        self.rolled_back |= data != 0 || keys != 0;
        self.both_back |= data != 0 && keys != 0;
        let start = StartId(self.draw_id());
        self.processes[at] = Some(Process {
            data,
            keys,
            owner: self.holder.owner,
            start,
            recorded: false,
            asleep: false,
            step: Step::Look,
            next: 0,
            batch: Batch::default(),
            ready: false,
            escrowed,
            stays: false,
        });
    }

    /// Lets one process take its next step.
    pub fn step(&mut self, at: usize, rules: Rules) {
        let Some(mut process) = self.processes[at].take() else { return };
        process.step = self.take(&mut process, rules);
        // One that wakes finds its lease over and ends; what it was about to call has happened.
        if !process.asleep && process.step != Step::Ended {
            self.processes[at] = Some(process);
        }
    }

    fn take(&mut self, process: &mut Process, rules: Rules) -> Step {
        let mutant = rules.mutant;
        match process.step.clone() {
            Step::Look => self.look(process, mutant),
            Step::Mark { abandons } => self.mark(process, abandons),
            Step::MarkSync => {
                self.sync(process);
                self.begin_start_batch(process, mutant)
            }
            Step::MakeRoot => {
                let root = RootId(self.draw_id());
                if !rules.lax_holder && process.owner < self.holder.owner {
                    return Step::Ended;
                }
                let maker = if mutant == Some(Mutant::RootsWithoutOwners) { 0 } else { process.owner };
                self.holder.roots.insert((root, maker));
                Step::CommitBatch { root }
            }
            Step::CommitBatch { root } => {
                self.commit_batch(process, root);
                if mutant == Some(Mutant::DestroyBeforeDurable) { Step::Destroy } else { Step::SyncBatch }
            }
            Step::SyncBatch => {
                self.sync_keys(process);
                if mutant == Some(Mutant::DestroyBeforeDurable) { Step::Close } else { Step::Destroy }
            }
            Step::Destroy => self.destroy_one(process, rules),
            Step::Close => self.close(process),
            Step::CloseSync => {
                self.sync(process);
                self.serve(process)
            }
            Step::CommitKey { slot, key, replaces } => {
                self.commit_key(process, slot, key);
                Step::SyncKey { slot, key, replaces }
            }
            Step::SyncKey { slot, key, replaces } => {
                self.sync_keys(process);
                Step::AppendStored { slot, key, replaces }
            }
            Step::AppendStored { slot, key, replaces } => {
                let mut events = vec![Event::Stored { slot, key }];
                events.extend(replaces.map(|slot| Event::Fence { slots: vec![slot] }));
                self.append(process, events, None, slot + 1);
                if mutant == Some(Mutant::AnswerBeforeDurable) {
                    self.acknowledged.push((slot, key));
                }
                if rules.in_flight { Step::Idle } else { Step::SyncLog }
            }
            Step::AppendFence { slot } => {
                self.append(process, vec![Event::Fence { slots: vec![slot] }], None, 0);
                if rules.in_flight { Step::Idle } else { Step::SyncLog }
            }
            Step::SyncLog => {
                self.sync(process);
                Step::Idle
            }
            step @ (Step::Gated(_) | Step::Idle | Step::Ended) => step,
        }
    }

    /// Sees what the disk has, and checks it.
    fn look(&mut self, process: &mut Process, mutant: Option<Mutant>) -> Step {
        let log = &mut self.logs[process.data];
        log.synced = log.frames.len();
        let folder = &mut self.keys[process.keys];
        folder.synced = folder.seen.clone();
        let keys = folder.seen.as_ref();
        let mut noted = self.holder.noted;
        if process.escrowed {
            noted = None; // an explicit command: the backup is known to be older
        }
        let checked = log.view(|mut view| {
            if process.escrowed {
                (view.rests_on, view.newest) = (None, u64::MAX);
            }
            check(keys.map(Keys::view), view, noted)
        });
        match checked {
            Err(reason) => return Step::Gated(GateReasonSeen(reason)),
            Ok(()) if keys.is_some_and(|keys| !self.holder.has(keys.root)) => {
                return Step::Gated(GateReasonSeen(GateReason::RootGone { epoch: 0 }));
            }
            Ok(()) => {}
        }
        self.prepare(process);
        if mutant == Some(Mutant::NoStarted) {
            return self.begin_start_batch(process, mutant);
        }
        Step::Mark { abandons: None }
    }

    /// Makes a tree where there is none, as one step: what a crash leaves of it counts for nobody.
    fn prepare(&mut self, process: &mut Process) {
        if self.keys[process.keys].seen.is_some() {
            return;
        }
        let (root, top) = (RootId(self.draw_id()), self.draw());
        self.holder.roots.insert((root, process.owner));
        let at = CommitPosition { start: process.start, number: 1 };
        let keys = Keys {
            at,
            owner: process.owner,
            starts: vec![(process.start, 1)],
            root,
            top,
            leaves: Default::default(),
            end: 0,
            log: None,
            escrow: vec![],
        };
        process.recorded = true;
        self.written.record(&keys);
        self.keys[process.keys] = KeyFolder { seen: Some(keys.clone()), synced: Some(keys) };
    }

    fn mark(&mut self, process: &mut Process, abandons: Option<FramePosition>) -> Step {
        self.append(process, vec![Event::Started], abandons, 0);
        Step::MarkSync
    }

    /// Without what no frame names, and with every fence that has no closing event.
    fn begin_start_batch(&mut self, process: &mut Process, mutant: Option<Mutant>) -> Step {
        let log = &self.logs[process.data];
        let Some(keys) = &self.keys[process.keys].seen else { return Step::Idle };
        let counted = [(ONLY, log.end())].into();
        let mut doomed: Vec<u64> =
            beyond([(ONLY, keys.end)], &counted).map(|Slot { index, .. }| index).collect();
        self.dropped.extend(doomed.iter().filter_map(|slot| keys.key(*slot)));
        let open: Vec<_> = log.fences().into_iter().filter(|(_, _, closed)| !closed).collect();
        doomed.extend(open.iter().flat_map(|(_, slots, _)| slots));
        if process.escrowed {
            doomed.extend(log.fenced_slots()); // all later fences again
        }
        process.next =
            if mutant == Some(Mutant::SlotsHandedOutAgain) { log.end() } else { keys.end.max(log.end()) };
        let fences: Vec<_> = open.iter().map(|(at, _, _)| *at).collect();
        process.batch = Batch { doomed, fences, ends: true, escrow: keys.escrow.clone() };
        match mutant {
            Some(Mutant::NoBatchAtStart) => {
                process.batch = Batch::default();
                self.serve(process)
            }
            // "Its slots are dead, so it is done."
            Some(Mutant::FenceClosedBecauseDead)
                if !open.is_empty()
                    && open
                        .iter()
                        .all(|(_, slots, _)| slots.iter().all(|slot| keys.key(*slot).is_none())) =>
            {
                Step::Close
            }
            _ => Step::MakeRoot,
        }
    }

    /// Fences that are durable, and that no batch has closed.
    pub fn open_fences(&self, process: &Process) -> Vec<(FramePosition, Vec<u64>)> {
        let log = &self.logs[process.data];
        let durable =
            log.frames.get(..log.synced).and_then(<[Frame]>::last).map_or(0, |frame| frame.at.number);
        let open = log.fences().into_iter().filter(|(at, _, closed)| !closed && at.number <= durable);
        open.map(|(at, slots, _)| (at, slots)).collect()
    }

    pub fn begin_batch(&mut self, at: usize) {
        let Some(mut process) = self.processes[at].take() else { return };
        let open = self.open_fences(&process);
        let escrow = self.keys[process.keys].seen.as_ref().map_or(vec![], |keys| keys.escrow.clone());
        process.batch = Batch {
            doomed: open.iter().flat_map(|(_, slots)| slots).copied().collect(),
            fences: open.iter().map(|(at, _)| *at).collect(),
            ends: false,
            escrow,
        };
        process.step = Step::MakeRoot;
        self.processes[at] = Some(process);
    }

    /// The keys as they are now are put aside, their root in escrow; and at once a batch as at a start.
    pub fn begin_backup(&mut self, at: usize, mutant: Option<Mutant>) {
        let Some(mut process) = self.processes[at].take() else { return };
        if let Some(keys) = self.keys[process.keys].seen.clone() {
            let escrow = vec![keys.root];
            self.escrow = Some(keys.root);
            self.backed_up = keys.leaves.values().flat_map(|(_, slots)| slots.values().copied()).collect();
            process.batch = Batch { escrow: escrow.clone(), ends: true, ..Batch::default() };
            self.keys[2] = KeyFolder { seen: Some(keys.clone()), synced: Some(keys) };
            process.step = Step::MakeRoot;
            if mutant == Some(Mutant::BackupWithoutBatch) {
                let folder = &mut self.keys[process.keys];
                for keys in [&mut folder.seen, &mut folder.synced].into_iter().flatten() {
                    keys.escrow.clone_from(&escrow);
                }
                process.step = Step::Idle;
            }
        }
        self.processes[at] = Some(process);
    }

    /// The window is over: a batch with nothing in escrow.
    pub fn end_escrow(&mut self, at: usize) {
        let Some(mut process) = self.processes[at].take() else { return };
        process.batch = Batch::default();
        process.step = Step::MakeRoot;
        self.processes[at] = Some(process);
    }

    fn commit(&mut self, process: &mut Process, change: impl FnOnce(&mut Self, &mut Keys)) {
        let Some(mut keys) = self.keys[process.keys].seen.clone() else { return };
        let log = &self.logs[process.data];
        keys.at = CommitPosition { start: process.start, number: keys.at.number + 1 };
        keys.owner = process.owner;
        keys.log = log.frames.get(..log.synced).and_then(<[Frame]>::last).map(|frame| frame.at).or(keys.log);
        if !process.recorded {
            keys.starts.push((process.start, keys.at.number));
            process.recorded = true;
        }
        change(self, &mut keys);
        self.written.record(&keys);
        self.keys[process.keys].seen = Some(keys);
    }

    /// Inserting rewrites the last leaf under the key it has.
    fn commit_key(&mut self, process: &mut Process, slot: u64, key: KeyId) {
        self.commit(process, |world, keys| {
            let leaf = slot / FAN_OUT;
            let fresh = world.draw();
            keys.leaves.entry(leaf).or_insert_with(|| (fresh, Default::default())).1.insert(slot, key);
            keys.end = keys.end.max(slot + 1);
        });
    }

    /// Every page on a path to what dies gets a fresh key, without it; and the root is replaced.
    fn commit_batch(&mut self, process: &mut Process, root: RootId) {
        let batch = process.batch.clone();
        let log_end = self.logs[process.data].end();
        self.commit(process, |world, keys| {
            let mut touched: Vec<u64> = batch.doomed.iter().map(|slot| slot / FAN_OUT).collect();
            if batch.ends {
                touched.push(keys.end / FAN_OUT);
                keys.end = keys.end.max(log_end); // keys from a backup lack what the log names
            }
            touched.sort_unstable();
            touched.dedup();
            for at in touched {
                let fresh = world.draw();
                if let Some((key, slots)) = keys.leaves.get_mut(&at) {
                    *key = fresh;
                    slots.retain(|slot, _| !batch.doomed.contains(slot));
                }
            }
            keys.leaves.retain(|_, (_, slots): &mut Leaf| !slots.is_empty());
            keys.top = world.draw();
            keys.root = root;
            keys.escrow.clone_from(&batch.escrow);
        });
    }

    fn sync_keys(&mut self, process: &Process) {
        let folder = &mut self.keys[process.keys];
        folder.synced = folder.seen.clone();
    }

    /// Destroys one root that goes; on with the closing once none is left.
    fn destroy_one(&mut self, process: &mut Process, rules: Rules) -> Step {
        let Some(keys) = &self.keys[process.keys].seen else { return Step::Idle };
        if !rules.lax_holder && process.owner < self.holder.owner {
            return Step::Ended;
        }
        let goes = self
            .holder
            .roots
            .iter()
            .find(|(root, maker)| root_goes(*root, *maker, keys.root, process.owner, &keys.escrow));
        match goes.copied() {
            Some(root) => {
                self.holder.roots.remove(&root);
                self.escrow = self.escrow.filter(|escrowed| *escrowed != root.0);
                Step::Destroy
            }
            None if rules.mutant == Some(Mutant::DestroyBeforeDurable) => Step::SyncBatch,
            None => Step::Close,
        }
    }

    fn close(&mut self, process: &mut Process) -> Step {
        let fences = std::mem::take(&mut process.batch.fences);
        process.batch = Batch::default();
        if fences.is_empty() {
            return self.serve(process);
        }
        self.append(process, vec![Event::Closed { fences }], None, 0);
        Step::CloseSync
    }

    fn serve(&self, process: &mut Process) -> Step {
        (process.ready, process.stays) = (true, false);
        Step::Idle
    }

    fn append(&mut self, process: &Process, events: Vec<Event>, abandons: Option<FramePosition>, end: u64) {
        let Some(keys) = &self.keys[process.keys].seen else { return };
        let rests_on = keys.at;
        let log = &mut self.logs[process.data];
        let number = log.newest().map_or(0, |frame| frame.at.number) + 1;
        let durable =
            log.frames.get(..log.synced).and_then(<[Frame]>::last).map_or(0, |frame| frame.at.number);
        let at = FramePosition { start: process.start, number };
        log.frames.push(Frame { at, rests_on, durable, end, abandons, events });
    }

    /// The log's sync: what it makes durable is acknowledged, or announced as forgotten.
    fn sync(&mut self, process: &Process) {
        let log = &mut self.logs[process.data];
        let fresh: Vec<Frame> = log.frames.get(log.synced..).map_or(vec![], <[Frame]>::to_vec);
        log.synced = log.frames.len();
        if process.asleep {
            return; // its lease is over: it answers nobody
        }
        for event in fresh.into_iter().flat_map(|frame| frame.events) {
            match event {
                Event::Stored { slot, key } => self.acknowledged.push((slot, key)),
                Event::Closed { fences } => self.announce(process, &fences),
                Event::Started | Event::Fence { .. } => {}
            }
        }
    }

    fn announce(&mut self, process: &Process, fences: &[FramePosition]) {
        let log = &self.logs[process.data];
        let slots: Vec<u64> = log
            .fences()
            .into_iter()
            .filter(|(at, ..)| fences.contains(at))
            .flat_map(|(_, slots, _)| slots)
            .collect();
        let keys = log.stored().filter(|(slot, _)| slots.contains(slot)).map(|(_, key)| key);
        self.forgotten.extend(keys);
    }
}
