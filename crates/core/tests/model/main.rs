//! The protocol of erasure.md over all interleavings, within bounds that each test states.
//!
//! Each test gives the world a budget of things that may happen and lets stateright look at every order of
//! them. Then the protocol is broken in one place, and the claim that is named must fail: a model that no
//! mutant breaks proves nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod claims;
mod disk;
mod protocol;

use cloakroom_core::start::GateReason;
use protocol::{Budget, GateReasonSeen, Mutant, Rules, State, Step};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// Everything that may happen next.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    Start { process: usize, data: usize, keys: usize },
    StartFromEscrow { process: usize },
    Step { process: usize },
    Store { process: usize },
    Rectify { process: usize, slot: u64 },
    Erase { process: usize, slot: u64 },
    Batch { process: usize },
    SyncLog { process: usize },
    Note { process: usize },
    Refuse { process: usize },
    Retry { process: usize },
    Sleep { process: usize },
    Kill { process: usize },
    PowerCut { frames: usize, keys: bool },
    CopyData,
    CopyKeys,
    AcceptOlderLog { process: usize },
    BackUpKeys { process: usize },
    EndEscrow { process: usize },
}

/// A world within bounds.
#[derive(Clone, Debug, Default)]
struct World {
    budget: Budget,
    processes: usize,
    rules: Rules,
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { left: self.budget, ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for process in 0..self.processes {
            self.actions_of(state, process, actions);
        }
        if state.left.power_cuts > 0 {
            let log = &state.logs[0];
            for frames in log.synced..=log.frames.len() {
                actions.push(Action::PowerCut { frames, keys: false });
                if state.keys[0].seen != state.keys[0].synced {
                    actions.push(Action::PowerCut { frames, keys: true });
                }
            }
        }
        if state.left.data_copies > 0 && !state.logs[0].frames.is_empty() {
            actions.push(Action::CopyData);
        }
        if state.left.key_copies > 0 && state.keys[0].seen.is_some() {
            actions.push(Action::CopyKeys);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.happen(&mut state, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        claims::CLAIMS.iter().map(|(name, _)| Property::always(name, holds(name))).collect()
    }
}

/// Properties are plain functions: each finds its claim by name.
fn holds(name: &'static str) -> fn(&World, &State) -> bool {
    macro_rules! nth {
        ($($n:literal)*) => { [$(|_, state| (claims::CLAIMS[$n].1)(state)),*] };
    }
    let all: [fn(&World, &State) -> bool; 10] = nth!(0 1 2 3 4 5 6 7 8 9);
    assert_eq!(all.len(), claims::CLAIMS.len());
    all[claims::CLAIMS.iter().position(|(known, _)| *known == name).unwrap()]
}

impl World {
    fn actions_of(&self, state: &State, process: usize, actions: &mut Vec<Action>) {
        let left = &state.left;
        let Some(it) = state.process(process) else {
            self.starts(state, process, actions);
            return;
        };
        if left.kills > 0 {
            actions.push(Action::Kill { process });
        }
        if it.asleep {
            actions.push(Action::Step { process }); // it wakes
            return;
        }
        if left.sleeps > 0 {
            actions.push(Action::Sleep { process });
        }
        match &it.step {
            Step::Gated(GateReasonSeen(GateReason::LogBehindKeys { .. })) if left.accepts > 0 => {
                actions.push(Action::AcceptOlderLog { process });
            }
            Step::Gated(_) => {}
            Step::Idle => self.idle(state, process, actions),
            Step::Destroy if left.refusals > 0 => {
                actions.extend([Action::Step { process }, Action::Refuse { process }]);
            }
            _ => actions.push(Action::Step { process }),
        }
    }

    fn starts(&self, state: &State, process: usize, actions: &mut Vec<Action>) {
        // Whoever lives owns the tree; one that sleeps lost it with its lease.
        let owned = state.processes.iter().flatten().any(|other| !other.asleep);
        if state.left.starts == 0 || owned {
            return;
        }
        for (data, keys) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let there = (data == 0 || !state.logs[1].frames.is_empty())
                && (keys == 0 || state.keys[1].seen.is_some());
            if there && state.is_free(data, keys) {
                actions.push(Action::Start { process, data, keys });
            }
        }
        if state.keys[2].seen.is_some() && state.is_free(0, 2) {
            actions.push(Action::StartFromEscrow { process });
        }
    }

    fn idle(&self, state: &State, process: usize, actions: &mut Vec<Action>) {
        let (left, Some(it)) = (&state.left, state.process(process)) else { return };
        if left.stores > 0 {
            actions.push(Action::Store { process });
        }
        let log = &state.logs[it.data];
        let fenced = log.fenced_slots();
        for (slot, _) in log.stored().filter(|(slot, _)| !fenced.contains(slot)) {
            if left.erases > 0 {
                actions.push(Action::Erase { process, slot });
            }
            if left.rectifies > 0 {
                actions.push(Action::Rectify { process, slot });
            }
        }
        if log.synced < log.frames.len() {
            actions.push(Action::SyncLog { process });
        }
        let keys = state.keys[it.keys].seen.as_ref();
        if it.stays {
            actions.push(Action::Retry { process });
        } else if !state.open_fences(it).is_empty() {
            actions.push(Action::Batch { process });
        } else if left.backups > 0 && keys.is_some_and(|keys| keys.escrow.is_empty()) {
            actions.push(Action::BackUpKeys { process });
        } else if keys.is_some_and(|keys| !keys.escrow.is_empty()) {
            actions.push(Action::EndEscrow { process });
        }
        if left.notes > 0 && it.owner == state.holder.owner {
            actions.push(Action::Note { process });
        }
    }

    fn happen(&self, state: &mut State, action: Action) {
        match action {
            Action::Start { process, data, keys } => {
                state.left.starts -= 1;
                state.begin(process, data, keys, false);
            }
            Action::StartFromEscrow { process } => {
                state.left.starts -= 1;
                state.begin(process, 0, 2, true);
            }
            Action::Step { process } => state.step(process, self.rules),
            Action::Store { process } => {
                state.left.stores -= 1;
                self.put(state, process, None);
            }
            Action::Rectify { process, slot } => {
                state.left.rectifies -= 1;
                self.put(state, process, Some(slot));
            }
            Action::Erase { process, slot } => {
                state.left.erases -= 1;
                state.processes[process].as_mut().unwrap().step = Step::AppendFence { slot };
            }
            Action::Batch { process } => state.begin_batch(process),
            Action::SyncLog { process } => {
                state.processes[process].as_mut().unwrap().step = Step::SyncLog;
                state.step(process, self.rules);
            }
            Action::Note { process } => {
                state.left.notes -= 1;
                let keys = state.process(process).map(|it| it.keys).unwrap();
                state.holder.noted = state.keys[keys].seen.as_ref().map(|keys| keys.at);
            }
            Action::Refuse { process } => {
                state.left.refusals -= 1;
                let it = state.processes[process].as_mut().unwrap();
                (it.step, it.stays, it.ready) = (Step::Idle, true, true);
            }
            Action::Retry { process } => state.processes[process].as_mut().unwrap().step = Step::Destroy,
            Action::Sleep { process } => {
                state.left.sleeps -= 1;
                state.processes[process].as_mut().unwrap().asleep = true;
            }
            Action::Kill { process } => {
                state.left.kills -= 1;
                state.processes[process] = None;
            }
            Action::PowerCut { frames, keys } => {
                state.left.power_cuts -= 1;
                state.processes = [None, None];
                let log = &mut state.logs[0];
                log.frames.truncate(frames);
                log.synced = frames;
                let folder = &mut state.keys[0];
                if keys {
                    folder.synced = folder.seen.clone();
                } else {
                    folder.seen = folder.synced.clone();
                }
            }
            Action::CopyData => {
                state.left.data_copies -= 1;
                state.logs[1] = state.logs[0].clone();
            }
            Action::CopyKeys => {
                state.left.key_copies -= 1;
                state.keys[1] = state.keys[0].clone();
            }
            Action::AcceptOlderLog { process } => {
                state.left.accepts -= 1;
                let it = state.processes[process].as_mut().unwrap();
                if let Step::Gated(GateReasonSeen(GateReason::LogBehindKeys { lacking })) = &it.step {
                    it.step = Step::Mark { abandons: Some(*lacking) };
                }
                (state.rolled_back, state.accepted) = (true, true);
            }
            Action::BackUpKeys { process } => {
                state.left.backups -= 1;
                state.begin_backup(process, self.rules.mutant);
            }
            Action::EndEscrow { process } => state.end_escrow(process),
        }
    }

    fn put(&self, state: &mut State, process: usize, replaces: Option<u64>) {
        let key = state.draw();
        state.values.push(key);
        let it = state.processes[process].as_mut().unwrap();
        let slot = it.next;
        it.next += 1;
        it.step = Step::CommitKey { slot, key, replaces };
    }

    /// Looks at every state within the bounds, and says how many there were.
    fn check(self, name: &str) {
        let began = std::time::Instant::now();
        let checker = self.checker().threads(2).spawn_bfs().join();
        println!("{name}: {} different states in {:?}", checker.unique_state_count(), began.elapsed());
        checker.assert_properties();
        assert!(checker.is_done());
    }

    /// Breaks the protocol; `claim` must fail, and a way there is shown.
    fn catch(self, mutant: Mutant, claim: &'static str) {
        let checker = World { rules: Rules { mutant: Some(mutant), ..self.rules }, ..self }
            .checker()
            .threads(2)
            .finish_when(HasDiscoveries::AllOf([claim].into()))
            .spawn_bfs()
            .join();
        let found = checker.discoveries();
        let caught: Vec<_> = found.keys().collect();
        println!("{mutant:?} is caught by {caught:?}");
        if let Some(path) = found.get(claim) {
            let actions = path.clone().into_actions();
            println!("  {claim:?} fails after {} steps: {actions:?}", actions.len());
        }
        assert!(found.contains_key(claim), "{mutant:?} should break {claim:?}, broke {caught:?}");
    }
}

/// One vault that is killed, and whose machine loses power, anywhere.
fn crashing() -> World {
    let budget = Budget {
        starts: 3,
        stores: 2,
        rectifies: 1,
        erases: 1,
        kills: 1,
        power_cuts: 1,
        ..Budget::default()
    };
    World { budget, processes: 1, ..World::default() }
}

/// Groups one behind the other: keys of the second are made durable while the first frame is not.
fn in_flight() -> World {
    let budget = Budget { starts: 2, stores: 3, erases: 1, kills: 1, power_cuts: 1, ..Budget::default() };
    World { budget, processes: 1, rules: Rules { in_flight: true, ..Rules::default() } }
}

/// One vault whose data folder is brought back from a copy.
fn older_data() -> World {
    let budget =
        Budget { starts: 3, stores: 2, erases: 1, kills: 2, data_copies: 1, accepts: 1, ..Budget::default() };
    World { budget, processes: 1, ..World::default() }
}

/// One vault of which copies of either half are brought back.
fn older_halves() -> World {
    let budget = Budget {
        starts: 2,
        stores: 2,
        erases: 1,
        kills: 1,
        data_copies: 1,
        key_copies: 1,
        notes: 1,
        ..Budget::default()
    };
    World { budget, processes: 1, ..World::default() }
}

/// Two processes: one sleeps through its replacement, and wakes.
fn sleeping(lax_holder: bool) -> World {
    let budget = Budget {
        starts: 2,
        stores: 1,
        erases: 1,
        sleeps: 1,
        data_copies: 1,
        key_copies: 1,
        ..Budget::default()
    };
    World { budget, processes: 2, rules: Rules { lax_holder, ..Rules::default() } }
}

/// A holder that will not destroy a root when asked.
fn refusing() -> World {
    let budget = Budget { starts: 2, stores: 2, erases: 2, kills: 1, refusals: 2, ..Budget::default() };
    World { budget, processes: 1, ..World::default() }
}

/// Key backups, their escrow, and a restore from one.
fn escrowing() -> World {
    let budget = Budget { starts: 2, stores: 3, erases: 1, kills: 1, backups: 1, ..Budget::default() };
    World { budget, processes: 1, ..World::default() }
}

#[test]
fn crashes_and_power_cuts() {
    crashing().check("crashes and power cuts");
}

#[test]
fn groups_in_flight_one_behind_the_other() {
    in_flight().check("groups in flight");
}

#[test]
fn an_older_log_accepted_and_its_siblings() {
    older_data().check("an older log");
}

#[test]
fn copies_of_either_half() {
    older_halves().check("copies of either half");
}

#[test]
fn an_owner_that_sleeps_through_its_replacement() {
    sleeping(false).check("a sleeping owner");
    sleeping(true).check("a sleeping owner, a holder that cannot refuse it");
}

#[test]
fn a_holder_that_refuses() {
    refusing().check("a refusing holder");
}

#[test]
fn key_backups() {
    escrowing().check("key backups");
}

#[test]
fn every_mutant_breaks_its_claim() {
    crashing().catch(Mutant::DestroyBeforeDurable, "nothing acknowledged is lost");
    crashing().catch(Mutant::NoBatchAtStart, "only what counts opens");
    crashing().catch(Mutant::AnswerBeforeDurable, "nothing acknowledged is lost");
    older_data().catch(Mutant::NoStarted, "what a serving vault's log names can be read");
    older_data().catch(Mutant::SlotsHandedOutAgain, "no slot is named twice");
    refusing().catch(Mutant::FenceClosedBecauseDead, "nothing forgotten opens");
    sleeping(true).catch(Mutant::RootsWithoutOwners, "no start harms a tree that lives on");
    escrowing().catch(Mutant::BackupWithoutBatch, "an escrow opens nothing born after it");
}
