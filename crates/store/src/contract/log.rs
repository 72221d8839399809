//! The contract of [`Log`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, EventNumber, FramePosition, StartId, Subtree};

use super::{Dice, HASHES, Place};
use crate::StoreError;
use crate::log::{Frame, FrameHash, Log, LogEnd};

/// All cases of this module as tests. `$place` makes a fresh [`Place`] of a log opened with [`HASHES`].
#[macro_export]
macro_rules! log_contract {
    ($place:expr) => {
        $crate::contract_cases! { log, $place,
            an_empty_log_ends_at_nothing
            an_event_is_read_as_soon_as_it_was_appended
            a_reopened_log_goes_on_where_it_ended
            a_frame_comes_back_as_it_was_written
            events_of_any_size_come_back
            a_frame_that_does_not_come_next_is_refused
            nothing_is_appended_before_the_end_is_found_and_cut
            a_log_that_ends_before_what_is_durable_is_damaged
            finding_the_end_changes_nothing
            a_kill_takes_nothing_that_was_synced
            every_event_frame_and_leaf_is_found_by_number
            what_was_pruned_is_shorter_and_hashes_as_before
            a_pruned_log_goes_on_and_is_pruned_again
            only_what_is_sealed_is_pruned_and_only_by_what_is_shorter
        }
    };
}

/// Makes frames that come next to each other, and remembers their events.
pub struct Chain {
    start: StartId,
    next_frame: u64,
    previous_hash: FrameHash,
    /// All events of the frames that were appended.
    pub events: Vec<Bytes>,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { start: StartId([7; 16]), next_frame: 1, previous_hash: [0; 32], events: Vec::new() }
    }
}

impl Chain {
    /// The frame that comes next, with these events.
    pub fn next(&self, durable_number: u64, events: impl IntoIterator<Item = impl Into<Bytes>>) -> Frame {
        Frame {
            at: FramePosition { start: self.start, number: self.next_frame },
            previous_hash: self.previous_hash,
            rests_on: CommitPosition { start: StartId([8; 16]), number: 100 + self.next_frame },
            durable_number,
            ends: vec![(Subtree::SYSTEM, self.next_frame), (Subtree(3), u64::MAX)],
            first_event: EventNumber(self.events.len() as u64 + 1),
            events: events.into_iter().map(Into::into).collect(),
        }
    }

    /// Appends the frame that comes next.
    pub async fn append(
        &mut self,
        log: &dyn Log,
        durable_number: u64,
        events: impl IntoIterator<Item = impl Into<Bytes>>,
    ) -> Frame {
        let frame = self.next(durable_number, events);
        let hash = log.append(&frame, false).await.unwrap();
        self.note(&frame, hash);
        frame
    }

    /// Notes that `frame` was appended.
    pub fn note(&mut self, frame: &Frame, hash: FrameHash) {
        self.next_frame += 1;
        self.previous_hash = hash;
        self.events.extend(frame.events.iter().cloned());
    }

    /// Where a log ends that holds exactly this.
    pub fn end(&self) -> LogEnd {
        let number = self.next_frame - 1;
        LogEnd {
            newest: (number > 0).then_some((FramePosition { start: self.start, number }, self.previous_hash)),
            events: self.events.len() as u64,
            rests_on: (number > 0)
                .then_some(CommitPosition { start: StartId([8; 16]), number: 100 + number }),
        }
    }

    /// The same, without what a log that ends at `end` has lost.
    pub fn rewound_to(mut self, end: &LogEnd) -> Chain {
        (self.next_frame, self.previous_hash) =
            end.newest.map_or((1, [0; 32]), |(at, hash)| (at.number + 1, hash));
        self.events.truncate(end.events as usize);
        self
    }

    /// The newest frame's number.
    pub fn newest(&self) -> u64 {
        self.next_frame - 1
    }
}

/// Opens a log, finds its end, cuts.
pub async fn ready<P: Place<dyn Log>>(place: &P, durable_number: u64) -> (Arc<dyn Log>, LogEnd) {
    let log = place.open().await.unwrap();
    let end = log.find_end(durable_number).await.unwrap();
    log.cut().await.unwrap();
    (log, end)
}

/// See the name.
pub async fn an_empty_log_ends_at_nothing<P: Place<dyn Log>>(place: P) {
    let (log, end) = ready(&place, 0).await;
    assert_eq!(end, LogEnd::default());
    for number in [0, 1, 2, u64::MAX] {
        assert_eq!(log.event(EventNumber(number)).await.unwrap(), None);
        assert_eq!(log.frame_of(EventNumber(number)).await.unwrap(), None);
        assert!(log.leaves(EventNumber(number), 10).await.unwrap().is_empty());
    }
    log.sync().await.unwrap();
}

/// See the name.
pub async fn an_event_is_read_as_soon_as_it_was_appended<P: Place<dyn Log>>(place: P) {
    let (log, _) = ready(&place, 0).await;
    let mut chain = Chain::default();
    chain.append(&*log, 0, ["one", "two"]).await;
    chain.append(&*log, 0, ["three"]).await;
    assert_eq!(log.event(EventNumber(2)).await.unwrap().unwrap(), "two");
    assert_eq!(log.event(EventNumber(3)).await.unwrap().unwrap(), "three");
    assert_eq!(log.event(EventNumber(4)).await.unwrap(), None);
    assert_eq!(log.event(EventNumber(0)).await.unwrap(), None);
    assert_eq!(log.leaves(EventNumber(1), 9).await.unwrap().len(), 3);
}

/// See the name.
pub async fn a_reopened_log_goes_on_where_it_ended<P: Place<dyn Log>>(place: P) {
    let mut chain = Chain::default();
    for round in 0..5_u64 {
        let (log, end) = ready(&place, chain.newest()).await;
        assert_eq!(end, chain.end(), "round {round}");
        chain.append(&*log, chain.newest(), [format!("{round} a"), format!("{round} b")]).await;
        log.sync().await.unwrap();
        assert_eq!(log.find_end(chain.newest()).await.unwrap(), chain.end());
    }
    let (log, _) = ready(&place, 5).await;
    for (index, event) in chain.events.iter().enumerate() {
        assert_eq!(log.event(EventNumber(index as u64 + 1)).await.unwrap().as_ref(), Some(event));
    }
}

/// See the name.
pub async fn a_frame_comes_back_as_it_was_written<P: Place<dyn Log>>(place: P) {
    let (log, _) = ready(&place, 0).await;
    let mut chain = Chain::default();
    let first = chain.append(&*log, 0, ["a", "b"]).await;
    let empty = chain.append(&*log, 1, Vec::<Bytes>::new()).await;
    let urgent = chain.next(2, ["c"]);
    let hash = log.append(&urgent, true).await.unwrap();
    chain.note(&urgent, hash);
    log.sync().await.unwrap();
    for number in [1, 2] {
        assert_eq!(
            log.frame_of(EventNumber(number)).await.unwrap(),
            Some((first.clone(), empty.previous_hash))
        );
    }
    assert_eq!(log.frame_of(EventNumber(3)).await.unwrap(), Some((urgent, hash)));
    assert_eq!(log.frame_of(EventNumber(4)).await.unwrap(), None);
    drop(log);
    assert_eq!(ready(&place, 3).await.1, chain.end());
}

/// See the name.
pub async fn events_of_any_size_come_back<P: Place<dyn Log>>(place: P) {
    let mut dice = Dice::new(1);
    let mut chain = Chain::default();
    let (log, _) = ready(&place, 0).await;
    for bytes in [0, 1, 127, 128, 16_383, 16_384, 1 << 20] {
        chain.append(&*log, 0, [dice.bytes(bytes), dice.bytes(bytes / 2)]).await;
    }
    log.sync().await.unwrap();
    drop(log);
    let (log, _) = ready(&place, 7).await;
    for (index, event) in chain.events.iter().enumerate() {
        assert_eq!(log.event(EventNumber(index as u64 + 1)).await.unwrap().as_ref(), Some(event));
    }
}

/// See the name.
pub async fn a_frame_that_does_not_come_next_is_refused<P: Place<dyn Log>>(place: P) {
    let mut chain = Chain::default();
    let (log, _) = ready(&place, 0).await;
    chain.append(&*log, 0, ["a"]).await;
    log.sync().await.unwrap();
    drop(log);
    let next = chain.next(1, ["b"]);
    let other_number = FramePosition { number: 3, ..next.at };
    for wrong in [
        Frame { at: other_number, ..next.clone() },
        Frame { previous_hash: [0; 32], ..next.clone() },
        Frame { first_event: EventNumber(3), ..next.clone() },
        Frame { durable_number: 2, ..next.clone() },
    ] {
        let (log, end) = ready(&place, 1).await;
        assert_eq!(end, chain.end());
        assert!(log.append(&wrong, false).await.is_err(), "{wrong:?}");
    }
    let (log, _) = ready(&place, 1).await;
    log.append(&next, false).await.unwrap();
}

/// See the name.
pub async fn nothing_is_appended_before_the_end_is_found_and_cut<P: Place<dyn Log>>(place: P) {
    let chain = Chain::default();
    let log = place.open().await.unwrap();
    assert!(log.append(&chain.next(0, ["a"]), true).await.is_err());
    assert!(log.cut().await.is_err());
    drop(log);
    let log = place.open().await.unwrap();
    log.find_end(0).await.unwrap();
    assert!(log.append(&chain.next(0, ["a"]), true).await.is_err());
}

/// See the name.
pub async fn a_log_that_ends_before_what_is_durable_is_damaged<P: Place<dyn Log>>(place: P) {
    let log = place.open().await.unwrap();
    assert!(matches!(log.find_end(1).await, Err(StoreError::Damaged { .. })));
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    chain.append(&*log, 0, ["a"]).await;
    log.sync().await.unwrap();
    drop(log);
    let log = place.open().await.unwrap();
    assert!(matches!(log.find_end(2).await, Err(StoreError::Damaged { .. })));
    assert_eq!(log.find_end(1).await.unwrap(), chain.end());
}

/// See the name.
pub async fn finding_the_end_changes_nothing<P: Place<dyn Log>>(place: P) {
    let (log, _) = ready(&place, 0).await;
    let mut chain = Chain::default();
    chain.append(&*log, 0, ["a"]).await;
    chain.append(&*log, 0, ["b"]).await;
    log.sync().await.unwrap();
    drop(log);
    let log = place.open().await.unwrap();
    for durable_number in [0, 1, 2, 0] {
        assert_eq!(log.find_end(durable_number).await.unwrap(), chain.end());
        assert_eq!(log.event(EventNumber(2)).await.unwrap().unwrap(), "b");
    }
    drop(log);
    assert_eq!(ready(&place, 2).await.1, chain.end());
}

/// See the name.
pub async fn a_kill_takes_nothing_that_was_synced<P: Place<dyn Log>>(place: P) {
    let (log, _) = ready(&place, 0).await;
    let mut chain = Chain::default();
    chain.append(&*log, 0, ["a"]).await;
    chain.append(&*log, 0, ["b"]).await;
    log.sync().await.unwrap();
    let synced = chain.end();
    chain.append(&*log, 2, ["c"]).await;
    let (_, end) = ready(&place.after_kill(), 2).await;
    assert!(end == synced || end == chain.end(), "{end:?}");
}

/// See the name.
pub async fn every_event_frame_and_leaf_is_found_by_number<P: Place<dyn Log>>(place: P) {
    let mut dice = Dice::new(3);
    let mut chain = Chain::default();
    let mut frames = Vec::new();
    let (mut log, _) = ready(&place, 0).await;
    for round in 0..200_u64 {
        let events: Vec<_> = (0..dice.below(8)).map(|_| dice.bytes(20)).collect();
        let frame = chain.append(&*log, 0, events).await;
        frames.extend(frame.events.iter().map(|_| frame.clone()));
        if round % 50 == 49 {
            log.sync().await.unwrap();
            drop(log);
            (log, _) = ready(&place, chain.newest()).await;
        }
    }
    let leaves: Vec<_> = chain.events.iter().map(|event| (HASHES.leaf)(event)).collect();
    assert_eq!(log.leaves(EventNumber(1), usize::MAX).await.unwrap(), leaves);
    for _ in 0..200 {
        let at = dice.below(chain.events.len() as u64) as usize;
        let number = EventNumber(at as u64 + 1);
        assert_eq!(log.event(number).await.unwrap().as_ref(), Some(&chain.events[at]));
        let (frame, _) = log.frame_of(number).await.unwrap().unwrap();
        assert_eq!(frame, frames[at]);
        let limit = dice.below(100) as usize;
        let expected = &leaves[at..(at + limit).min(leaves.len())];
        assert_eq!(log.leaves(number, limit).await.unwrap(), expected);
    }
}

/// Prunes every sealed part to the first byte of events for which `dead` holds; what is expected of each event.
async fn prune(log: &dyn Log, chain: &Chain, dead: impl Fn(u64) -> bool) -> (Vec<Bytes>, u64) {
    let (mut expected, mut freed) = (chain.events.clone(), 0);
    for part in log.sealed().await.unwrap() {
        let mut shorter = BTreeMap::new();
        for number in part.clone().filter(|number| dead(*number)) {
            let event = &mut expected[number as usize - 1];
            *event = event.slice(..event.len().min(1));
            shorter.insert(number, event.clone());
        }
        freed += log.prune(EventNumber(part.start), shorter).await.unwrap();
    }
    (expected, freed)
}

/// A log of several sealed parts in a place whose files are small; its frames and their hashes.
async fn several<P: Place<dyn Log>>(place: &P) -> (Arc<dyn Log>, Chain, Vec<(Frame, FrameHash)>) {
    let (log, _) = ready(place, 0).await;
    let (mut dice, mut chain, mut frames) = (Dice::new(5), Chain::default(), vec![]);
    for _ in 0..60 {
        let events = (0..4).map(|place| dice.bytes(2 + 150 * place as usize));
        let events: Vec<_> = events.collect();
        let frame = chain.append(&*log, 0, events).await;
        frames.push((frame, chain.previous_hash));
    }
    log.sync().await.unwrap();
    (log, chain, frames)
}

/// Events as expected, and all hashes as they were before.
async fn holds(log: &dyn Log, chain: &Chain, frames: &[(Frame, FrameHash)], expected: &[Bytes]) {
    let leaves: Vec<_> = chain.events.iter().map(|event| (HASHES.leaf)(event)).collect();
    assert_eq!(log.leaves(EventNumber(1), usize::MAX).await.unwrap(), leaves);
    for (frame, hash) in frames {
        let first = frame.first_event.0 as usize - 1;
        let events = expected[first..first + frame.events.len()].to_vec();
        let frame = Frame { events, ..frame.clone() };
        for (place, event) in frame.events.iter().enumerate() {
            let number = EventNumber(frame.first_event.0 + place as u64);
            assert_eq!(log.event(number).await.unwrap().as_ref(), Some(event));
            assert_eq!(log.frame_of(number).await.unwrap(), Some((frame.clone(), *hash)));
        }
    }
}

/// See the name.
pub async fn what_was_pruned_is_shorter_and_hashes_as_before<P: Place<dyn Log>>(place: P) {
    let (log, chain, frames) = several(&place).await;
    let (expected, freed) = prune(&*log, &chain, |number| number % 3 == 0).await;
    assert_eq!(freed > 0, !log.sealed().await.unwrap().is_empty());
    holds(&*log, &chain, &frames, &expected).await;
    let killed = place.after_kill();
    let (left, end) = ready(&killed, chain.newest()).await;
    assert_eq!(end, chain.end());
    holds(&*left, &chain, &frames, &expected).await;
    drop(log);
    // Also where nothing vouches for the sealed parts: every frame is read then.
    let (log, end) = ready(&place, 0).await;
    assert_eq!(end, chain.end());
    holds(&*log, &chain, &frames, &expected).await;
}

/// See the name.
pub async fn a_pruned_log_goes_on_and_is_pruned_again<P: Place<dyn Log>>(place: P) {
    let (log, mut chain, mut frames) = several(&place).await;
    prune(&*log, &chain, |number| number % 3 == 0).await;
    drop(log);
    let (log, _) = ready(&place, chain.newest()).await;
    for round in 0..20_u64 {
        let frame = chain
            .append(&*log, 0, [format!("event {round} behind what was pruned {}", "x".repeat(200))])
            .await;
        frames.push((frame, chain.previous_hash));
    }
    log.sync().await.unwrap();
    let (expected, freed) = prune(&*log, &chain, |number| number % 3 != 1).await;
    assert_eq!(freed > 0, !log.sealed().await.unwrap().is_empty());
    holds(&*log, &chain, &frames, &expected).await;
    // The same again finds nothing to do.
    assert_eq!(prune(&*log, &chain, |number| number % 3 != 1).await, (expected.clone(), 0));
    drop(log);
    let (log, end) = ready(&place, 0).await;
    assert_eq!(end, chain.end());
    holds(&*log, &chain, &frames, &expected).await;
}

/// See the name.
pub async fn only_what_is_sealed_is_pruned_and_only_by_what_is_shorter<P: Place<dyn Log>>(place: P) {
    let (log, chain, frames) = several(&place).await;
    let sealed = log.sealed().await.unwrap();
    let behind = sealed.last().map_or(1, |part| part.end);
    for wrong in [0, 2, behind, behind + 1, u64::MAX] {
        let shorter = BTreeMap::from([(wrong, Bytes::new())]);
        assert!(log.prune(EventNumber(wrong), shorter).await.is_err(), "{wrong}");
    }
    let Some(first) = sealed.first().map(|part| part.start) else { return };
    let longer = BTreeMap::from([(first, Bytes::from(vec![7; 1_000])), (behind, Bytes::new())]);
    assert_eq!(log.prune(EventNumber(first), longer).await.unwrap(), 0);
    holds(&*log, &chain, &frames, &chain.events).await;
    drop(log);
    let opened = place.open().await.unwrap();
    opened.find_end(0).await.unwrap();
    assert!(opened.prune(EventNumber(first), BTreeMap::new()).await.is_err(), "before it was cut");
}
