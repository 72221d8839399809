//! The table: for each living value of a look-up field 64 bits of a keyed hash and the event that stored it. In
//! memory alone, under a key drawn at the start, and wiped where it changes.
//!
//! Entries lie in segments by event number, each sorted by hash. So an entry goes by its event alone, without its
//! value, for the price of one segment; and a look-up is a binary search in each.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use cloakroom_core::ids::EventNumber;
use cloakroom_core::mutants::Mutant;
use cloakroom_crypto::{Key, role};
use tokio::sync::Notify;
use zeroize::{Zeroize, Zeroizing};

use crate::state::read;

/// Events of one segment: what is moved for an entry that comes or goes stays within 40 KiB.
const SEGMENT_EVENTS: u64 = 4_096;

/// How a value would be found, made by the task that has the value. One place in memory, wiped on drop.
pub(crate) struct Mark {
    /// Of the look-up fields that it was made under.
    pub(super) generation: u64,
    /// None where the field is not one of them.
    pub(super) hash: Option<Box<Zeroizing<u64>>>,
}

/// The entries of [`SEGMENT_EVENTS`] events, in the order of their hashes, then of their places: 10 bytes each, and up to a quarter of room.
#[derive(Default)]
struct Segment {
    hashes: Vec<u64>,
    /// Of each hash, its event's place in the segment.
    places: Vec<u16>,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.hashes.zeroize();
        self.places.zeroize();
    }
}

impl Segment {
    fn insert(&mut self, hash: u64, place: u16) {
        let (from, places) = self.of(hash);
        if let Err(after) = places.binary_search(&place) {
            let at = from.saturating_add(after);
            make_room(&mut self.hashes);
            make_room(&mut self.places);
            self.hashes.insert(at, hash);
            self.places.insert(at, place);
        }
    }

    fn remove(&mut self, place: u16) {
        if let Some(at) = self.places.iter().position(|known| *known == place) {
            take_out(&mut self.hashes, at);
            take_out(&mut self.places, at);
        }
    }

    fn find(&self, hash: u64) -> impl Iterator<Item = u16> + '_ {
        self.of(hash).1.iter().copied()
    }

    /// Where the entries of this hash begin, and their places, in order.
    fn of(&self, hash: u64) -> (usize, &[u16]) {
        let from = self.hashes.partition_point(|known| *known < hash);
        let until = self.hashes.partition_point(|known| *known <= hash);
        (from, self.places.get(from..until).unwrap_or_default())
    }
}

/// Vec would leave what it grew out of as it is, and take twice as much.
fn make_room<T: Copy + Zeroize>(full: &mut Vec<T>) {
    if full.len() == full.capacity() {
        let mut wider = Vec::with_capacity(full.len().saturating_add(full.len() / 4).max(16));
        wider.extend_from_slice(full);
        std::mem::swap(full, &mut wider);
        wider.zeroize();
    }
}

fn take_out<T: Copy + Zeroize>(entries: &mut Vec<T>, at: usize) {
    entries.copy_within(at.saturating_add(1).., at);
    if let Some(last) = entries.last_mut() {
        last.zeroize();
    }
    entries.pop();
}

#[derive(Default)]
struct Table {
    segments: BTreeMap<u64, Segment>,
    /// Counts changes of which fields are look-up fields.
    generation: u64,
    /// Values that came with a mark of another generation: the builder opens them.
    missed: Vec<EventNumber>,
    whole: bool,
}

impl Table {
    fn insert(&mut self, number: EventNumber, hash: u64) {
        if let Some((segment, place)) = place_of(number) {
            self.segments.entry(segment).or_default().insert(hash, place);
        }
    }
}

fn place_of(number: EventNumber) -> Option<(u64, u16)> {
    let place = u16::try_from(number.0 % SEGMENT_EVENTS).ok()?;
    Some((number.0 / SEGMENT_EVENTS, place))
}

/// What tokens are found by.
pub(crate) struct Lookups {
    key: Key<role::Lookup>,
    table: RwLock<Table>,
    /// Wakes the builder.
    pub(super) work: Notify,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        Self { key: Key::random(), table: RwLock::default(), work: Notify::new() }
    }

    /// The hash of a value in its normal spelling. The activity is part of it, so that what is stored where the
    /// asker may not look is not even come across.
    pub(super) fn hash(&self, controller: &str, activity: &str, field: &str, normal: &str) -> Zeroizing<u64> {
        let parts = [controller, activity, field, normal].map(str::as_bytes);
        Zeroizing::new(self.key.borrow().mark(&parts))
    }

    /// Counts changes of which fields are look-up fields. Asked for before the register that a mark is made under.
    pub(crate) fn generation(&self) -> u64 {
        read(&self.table).generation
    }

    pub(super) fn is_whole(&self) -> bool {
        read(&self.table).whole
    }

    /// Whether every living value can be found, and how many are in the table.
    pub(crate) fn figures(&self) -> (bool, u64) {
        let table = read(&self.table);
        (table.whole, table.segments.values().map(|segment| segment.hashes.len() as u64).sum())
    }

    /// Other fields are look-up fields now: all entries go, and the builder begins again.
    pub(crate) fn begin_again(&self) {
        let mut table = self.write();
        let generation = table.generation.saturating_add(1);
        *table = Table { generation, ..Table::default() };
        drop(table);
        self.work.notify_one();
    }

    /// Takes in what has been committed: by the writer alone, in the order of the log.
    pub(crate) fn enter(&self, marks: Vec<(EventNumber, Mark)>) {
        if marks.is_empty() {
            return;
        }
        let mut table = self.write();
        for (number, mark) in marks {
            if mark.generation != table.generation {
                table.missed.push(number);
                table.whole = false;
                self.work.notify_one();
            } else if let Some(hash) = mark.hash {
                table.insert(number, **hash);
            }
        }
    }

    /// Takes out what a fence has ended: by the writer alone, once the fence is raised.
    pub(crate) fn forget(&self, ended: &[EventNumber]) {
        if ended.is_empty() || Mutant::LookupEntryLeft.lives() {
            return;
        }
        let mut table = self.write();
        for (segment, place) in ended.iter().copied().filter_map(place_of) {
            if let Some(segment) = table.segments.get_mut(&segment) {
                segment.remove(place);
            }
        }
    }

    /// Enters a value that the builder has opened, unless the fields have changed or it does not live any more:
    /// `lives` looks at the fences under the table's lock, which the writer needs to take out what a later fence ends.
    pub(super) fn enter_opened(
        &self,
        generation: u64,
        number: EventNumber,
        hash: u64,
        lives: impl FnOnce() -> bool,
    ) -> bool {
        let mut table = self.write();
        let enters = lives();
        if enters && table.generation == generation {
            table.insert(number, hash);
        }
        enters
    }

    /// What the builder has to do: everything in a generation that it has not gone through, and what was missed.
    pub(super) fn to_do(&self) -> (u64, Vec<EventNumber>) {
        let table = read(&self.table);
        (table.generation, table.missed.clone())
    }

    /// The builder has done what [`Lookups::to_do`] said. Whether nothing has come meanwhile: then the table is whole.
    pub(super) fn done(&self, generation: u64, missed: usize) -> bool {
        let mut table = self.write();
        if table.generation == generation && table.missed.len() == missed {
            table.missed.clear();
            table.whole = true;
        }
        table.whole
    }

    /// Up to `limit` events whose values may be the one looked for, oldest first.
    pub(super) fn find(&self, hash: u64, limit: usize) -> Vec<EventNumber> {
        let table = read(&self.table);
        let found = table.segments.iter().flat_map(|(number, segment)| {
            let first = number.saturating_mul(SEGMENT_EVENTS);
            segment.find(hash).map(move |place| EventNumber(first.saturating_add(place.into())))
        });
        found.take(limit).collect()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(generation: u64, hash: u64) -> Mark {
        Mark { generation, hash: Some(Box::new(Zeroizing::new(hash))) }
    }

    fn numbers(found: &[EventNumber]) -> Vec<u64> {
        found.iter().map(|number| number.0).collect()
    }

    #[test]
    fn entries_are_found_by_hash_and_go_by_event() {
        let lookups = Lookups::new();
        let all = (1..20_000_u64).map(|number| (EventNumber(number), mark(0, number % 7)));
        lookups.enter(all.collect());
        assert_eq!(lookups.figures(), (false, 19_999));
        let threes = (1..20_000).filter(|number| number % 7 == 3).collect::<Vec<u64>>();
        assert_eq!(numbers(&lookups.find(3, usize::MAX)), threes.clone());
        assert_eq!(numbers(&lookups.find(3, 2)), threes[..2]);
        assert!(lookups.find(8, 1).is_empty());
        let gone: Vec<EventNumber> = threes.iter().copied().filter(|n| n % 2 == 0).map(EventNumber).collect();
        lookups.forget(&gone);
        lookups.forget(&gone);
        let left: Vec<u64> = threes.into_iter().filter(|number| number % 2 == 1).collect();
        assert_eq!(numbers(&lookups.find(3, usize::MAX)), left);
        assert_eq!(lookups.figures().1, 19_999 - gone.len() as u64);
    }

    #[test]
    fn an_entry_that_goes_leaves_its_neighbours() {
        let mut segment = Segment::default();
        for place in 0..40 {
            segment.insert(u64::from(place % 4), place);
            segment.insert(u64::from(place % 4), place);
        }
        for place in (0..40).step_by(2) {
            segment.remove(place);
        }
        assert_eq!((segment.find(0).count(), segment.find(2).count()), (0, 0));
        assert_eq!(segment.find(1).collect::<Vec<_>>(), (0..40).filter(|n| n % 4 == 1).collect::<Vec<_>>());
        assert_eq!((segment.hashes.len(), segment.places.len()), (20, 20));
    }

    #[test]
    fn a_table_is_whole_once_nothing_is_missing() {
        let lookups = Lookups::new();
        assert_eq!(lookups.to_do(), (0, vec![]));
        lookups.begin_again();
        assert!(!lookups.done(0, 0), "the fields have changed meanwhile");
        assert!(lookups.done(1, 0));
        lookups.enter(vec![(EventNumber(4), mark(0, 1)), (EventNumber(5), mark(1, 1))]);
        assert!(!lookups.is_whole(), "a value was marked as the fields were before");
        assert_eq!(lookups.to_do(), (1, vec![EventNumber(4)]));
        assert!(!lookups.enter_opened(1, EventNumber(4), 1, || false), "it died meanwhile");
        assert!(lookups.enter_opened(1, EventNumber(4), 1, || true));
        assert!(lookups.done(1, 1));
        assert_eq!(numbers(&lookups.find(1, 9)), [4, 5]);
        assert!(lookups.enter_opened(0, EventNumber(6), 1, || true));
        assert_eq!(lookups.find(1, 9).len(), 2, "what was opened for other fields is not entered");
    }
}
