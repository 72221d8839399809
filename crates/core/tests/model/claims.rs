//! What must hold in every state.

use std::collections::BTreeSet;

use cloakroom_core::ids::RootId;

use crate::disk::KeyId;
use crate::protocol::{Process, State, Step};

/// A claim's name and whether it holds.
pub type Claim = (&'static str, fn(&State) -> bool);

pub const CLAIMS: &[Claim] = &[
    ("nothing forgotten opens", nothing_forgotten_opens),
    ("nothing acknowledged is lost", nothing_acknowledged_is_lost),
    ("a healthy vault is not shut", a_healthy_vault_is_not_shut),
    ("a start leaves no fence open", a_start_leaves_no_fence_open),
    ("no start harms a tree that lives on", no_start_harms_a_living_tree),
    ("only what counts opens", only_what_counts_opens),
    ("what a serving vault's log names can be read", what_is_named_can_be_read),
    ("one root is left", one_root_is_left),
    ("no slot is named twice", no_slot_is_named_twice),
    ("an escrow opens nothing born after it", an_escrow_opens_nothing_younger),
];

/// Roots that an attacker may have: all that the holder has, but those that a key backup still needs.
fn roots(state: &State) -> impl Iterator<Item = RootId> {
    state.holder.roots.iter().map(|(root, _)| *root).filter(|root| Some(*root) != state.escrow)
}

/// The processes that serve and have nothing under way.
fn at_rest(state: &State) -> impl Iterator<Item = &Process> {
    state
        .processes
        .iter()
        .flatten()
        .filter(|process| process.ready && !process.asleep && process.step == Step::Idle)
}

fn alone(state: &State) -> Option<&Process> {
    let [one] = &state.processes.iter().flatten().collect::<Vec<_>>()[..] else { return None };
    at_rest(state).next().filter(|process| process.start == one.start && !process.stays)
}

fn nothing_forgotten_opens(state: &State) -> bool {
    state.forgotten.is_empty() || {
        let open = state.written.opens(roots(state));
        state.forgotten.iter().all(|key| !open.contains(key))
    }
}

fn nothing_acknowledged_is_lost(state: &State) -> bool {
    let fenced = state.logs[0].fenced_slots();
    let durable = &state.logs[0].frames[..state.logs[0].synced];
    let named = |slot, key| {
        durable.iter().flat_map(|frame| &frame.events).any(
            |event| matches!(event, crate::disk::Event::Stored { slot: s, key: k } if (*s, *k) == (slot, key)),
        )
    };
    let kept = |slot, key| {
        let folder = &state.keys[0];
        [&folder.seen, &folder.synced].iter().all(|keys| {
            keys.as_ref().is_some_and(|keys| keys.key(slot) == Some(key) && state.holder.has(keys.root))
        })
    };
    state.rolled_back
        || state
            .acknowledged
            .iter()
            .filter(|(slot, _)| !fenced.contains(slot))
            .all(|(slot, key)| named(*slot, *key) && kept(*slot, *key))
}

fn a_healthy_vault_is_not_shut(state: &State) -> bool {
    state.rolled_back
        || !state.processes.iter().flatten().any(|process| matches!(process.step, Step::Gated(_)))
}

fn a_start_leaves_no_fence_open(state: &State) -> bool {
    at_rest(state).all(|process| {
        process.stays
            || state.logs[process.data]
                .fences()
                .iter()
                .all(|(at, _, closed)| *closed || at.start == process.start)
    })
}

fn no_start_harms_a_living_tree(state: &State) -> bool {
    at_rest(state)
        .filter(|process| process.owner == state.holder.owner)
        .all(|process| state.keys[process.keys].seen.as_ref().is_some_and(|keys| state.holder.has(keys.root)))
}

fn only_what_counts_opens(state: &State) -> bool {
    alone(state).is_none_or(|process| {
        let counts: BTreeSet<KeyId> = state.logs[process.data].stored().map(|(_, key)| key).collect();
        let open = state.written.opens(roots(state));
        state.values.iter().all(|key| !open.contains(key) || counts.contains(key))
    })
}

/// But for what a start on an older log dropped: whoever brings back the newer log after that is told by the
/// gate, and loses it by accepting.
fn what_is_named_can_be_read(state: &State) -> bool {
    let lost: &[KeyId] = if state.accepted { &state.dropped } else { &[] };
    let fenced: BTreeSet<u64> = state.logs.iter().flat_map(|log| log.fenced_slots()).collect();
    at_rest(state).filter(|process| !process.escrowed).all(|process| {
        let keys = state.keys[process.keys].seen.as_ref();
        state.logs[process.data]
            .stored()
            .filter(|(slot, key)| !fenced.contains(slot) && !lost.contains(key))
            .all(|(slot, key)| keys.and_then(|keys| keys.key(slot)) == Some(key))
    })
}

fn one_root_is_left(state: &State) -> bool {
    alone(state).is_none_or(|process| {
        let Some(keys) = &state.keys[process.keys].seen else { return false };
        // One that a sleeper made too late wraps nothing, and the next batch destroys it.
        let wraps = |root| state.written.anchors.iter().any(|(anchor, _)| *anchor == root);
        state
            .holder
            .roots
            .iter()
            .all(|(root, _)| *root == keys.root || keys.escrow.contains(root) || !wraps(*root))
    })
}

/// A tree and its clone from before count on from the same place: why an erasure is repeated by token there.
fn no_slot_is_named_twice(state: &State) -> bool {
    if state.both_back {
        return true;
    }
    let named: BTreeSet<(u64, KeyId)> = state.logs.iter().flat_map(|log| log.stored()).collect();
    let slots: BTreeSet<u64> = named.iter().map(|(slot, _)| *slot).collect();
    slots.len() == named.len()
}

fn an_escrow_opens_nothing_younger(state: &State) -> bool {
    let Some(root) = state.escrow else { return true };
    // While the batch that follows a backup is on its way, the backup is being made.
    if alone(state).is_none_or(|process| process.escrowed) {
        return true;
    }
    let open = state.written.opens(std::iter::once(root));
    state.values.iter().all(|key| !open.contains(key) || state.backed_up.contains(key))
}
