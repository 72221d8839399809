//! What a request asks the writer to commit: events with blanks that only the writer can fill (numbers, slots,
//! the events before), and what must still be true when it does.

use std::collections::HashMap;

use cloakroom_core::event::{Body, Outcome};
use cloakroom_core::ids::{EventNumber, Slot, SubjectNumber, Subtree};
use cloakroom_crypto::{Key, KeyRef, role};
use tokio::sync::oneshot;

use crate::durable::Durable;
use crate::lookup::Mark;

/// Marks a number as "the draft at this place of the same proposal".
const RELATIVE: u64 = 1 << 63;

/// The number of the event that the draft at `place` will become.
pub(crate) fn drafted(place: usize) -> EventNumber {
    EventNumber(RELATIVE | place as u64)
}

/// The place in its proposal that [`drafted`] made a number of.
pub(crate) fn place_of(number: EventNumber) -> Option<usize> {
    number.0.checked_sub(RELATIVE).and_then(|place| usize::try_from(place).ok())
}

/// Stands in a draft where the writer puts a slot.
pub(crate) const BLANK: Slot = Slot { subtree: Subtree(u32::MAX), index: u64::MAX };

/// A key on its way into a slot.
pub(crate) enum NewKey {
    Value(Key<role::Value>),
    Address(Key<role::Address>),
    Signing(Key<role::Signing>),
    Idempotency(Key<role::Idempotency>),
}

impl NewKey {
    pub(crate) fn for_slot(&self) -> KeyRef<'_, role::Slotted> {
        match self {
            NewKey::Value(key) => key.borrow().for_slot(),
            NewKey::Address(key) => key.borrow().for_slot(),
            NewKey::Signing(key) => key.borrow().for_slot(),
            NewKey::Idempotency(key) => key.borrow().for_slot(),
        }
    }
}

/// An event to be.
pub(crate) struct Draft {
    pub(crate) body: Body,
    /// The key for its slot, and the part of the tree that gives it one.
    pub(crate) key: Option<(Subtree, NewKey)>,
    /// For a value: how it will be found.
    pub(crate) mark: Option<Mark>,
    /// A register of a new controller: the writer gives it a subtree.
    pub(crate) new_subtree: bool,
}

impl Draft {
    pub(crate) fn of(body: Body) -> Self {
        Self { body, key: None, mark: None, new_subtree: false }
    }

    pub(crate) fn with_key(body: Body, subtree: Subtree, key: NewKey) -> Self {
        Self { body, key: Some((subtree, key)), mark: None, new_subtree: false }
    }
}

/// What the proposal was made from. If it has changed meanwhile, the proposal is stale and is made again.
pub(crate) enum Guard {
    /// The newest event of an aggregate.
    Head { aggregate: EventNumber, newest: EventNumber },
    /// No idempotency key of a later day was made than this one's; 0 for none at all.
    NewestDayKey(EventNumber),
    /// Nothing is remembered under this idempotency key.
    Unremembered { day_key: EventNumber, mac: [u8; 32] },
    /// This short token is nobody's.
    FreeToken(String),
    /// The newest version of a controller's register; 0 for none.
    Register { controller: String, version: u32 },
}

/// How a fence was closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    pub(crate) epoch: u64,
}

/// Why the writer does not commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Declined {
    /// Something that it was made from has changed: make it again.
    Stale,
    /// The disk is nearly full.
    Full,
    /// More waits for the writer already than it will get to in good time.
    Busy,
    /// A page of keys cannot be opened: the fence stands and cannot be closed.
    Stuck,
    /// The writer has stopped.
    Stopped,
}

/// What became of a proposal: the numbers of its events, once they are on disk.
pub(crate) type Written = Result<Durable<Vec<EventNumber>>, Declined>;

pub(crate) struct Proposal {
    pub(crate) guards: Vec<Guard>,
    pub(crate) drafts: Vec<Draft>,
    /// Only what forgets or was announced already may use the reserve of a full disk.
    pub(crate) urgent: bool,
    pub(crate) written: oneshot::Sender<Written>,
    /// For fences: told when a batch has closed it.
    pub(crate) closed: Option<oneshot::Sender<Closed>>,
}

/// Fills the blanks of `body`: it becomes one of the events `numbers`, in slot `slot`, behind `heads`.
pub(crate) fn fill(body: &mut Body, numbers: &[EventNumber], slot: Option<Slot>, subtree: Option<Subtree>) {
    let real = |number| place_of(number).and_then(|place| numbers.get(place)).copied().unwrap_or(number);
    match body {
        Body::SystemKeyMade(it) => it.slot = slot.unwrap_or(it.slot),
        Body::RegisterApplied(it) => it.subtree = subtree.unwrap_or(it.subtree),
        Body::ValueStored(it) => {
            it.subject = SubjectNumber(real(EventNumber(it.subject.0)).0);
            it.slot = slot.unwrap_or(it.slot);
        }
        Body::ValueRectified(it) => it.slot = slot.unwrap_or(it.slot),
        Body::RequestRemembered(it) => {
            for item in &mut it.items {
                *item = match *item {
                    Outcome::Value(number) => Outcome::Value(real(number)),
                    Outcome::Erasure(number) => Outcome::Erasure(real(number)),
                    refused @ Outcome::Refused(_) => refused,
                };
            }
        }
        _ => {}
    }
}

/// Puts the event before into a body that is part of a chain, and moves the chain's head to `at`.
pub(crate) fn link(body: &mut Body, at: EventNumber, heads: &mut HashMap<EventNumber, EventNumber>) {
    if let Some((aggregate, _)) = body.chain() {
        let previous = heads.insert(aggregate, at).unwrap_or(aggregate);
        match body {
            Body::ValueStored(it) => it.previous = previous,
            Body::ValueRectified(it) => it.previous = previous,
            Body::ValuesReleased(it) => it.previous = previous,
            Body::FactRecorded(it) => it.previous = previous,
            Body::ErasureRequested(it) => it.previous = previous,
            Body::AcksCollected(it) => it.previous = previous,
            Body::ErasureCompleted(it) => it.previous = previous,
            Body::ErasureOverdue { previous: before, .. }
            | Body::ErasureRedriven { previous: before, .. } => {
                *before = previous;
            }
            _ => {}
        }
    }
    // The first event of an aggregate is its head until another comes.
    if matches!(body, Body::SubjectCreated(_) | Body::ErasureRequested(_) | Body::ValuesReleased(_)) {
        heads.insert(at, at);
    }
}
