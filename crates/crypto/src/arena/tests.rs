use std::fs;
use std::thread;

use super::*;

fn arena() -> &'static Arena {
    Box::leak(Box::new(Arena::new(lock_in_memory)))
}

fn unlockable() -> &'static Arena {
    Box::leak(Box::new(Arena::new(|_, _| Err(io::ErrorKind::PermissionDenied.into()))))
}

#[test]
fn a_dropped_slot_is_zeros_in_memory() {
    let arena = arena();
    let mut slot = Slot::<KEY_BYTES>::zeroed_in(arena);
    slot.fill(0xa5);
    let address = slot.place.0.as_ptr();
    // SAFETY: the place stays mapped for ever, and nobody else takes from this test's own arena.
    let seen = || unsafe { address.cast::<[u8; KEY_BYTES]>().read_volatile() };
    assert_eq!(seen(), [0xa5; KEY_BYTES]);
    drop(slot);
    assert_eq!(seen(), [0; KEY_BYTES]);
}

#[test]
fn places_are_used_again_and_counted() {
    let arena = arena();
    let slot = Slot::<PAGE_BYTES>::zeroed_in(arena);
    let first = slot.place.0;
    assert_eq!(arena.status().used_bytes, PAGE_BYTES);
    drop(slot);
    assert_eq!(arena.status().used_bytes, 0);
    assert_eq!(Slot::<PAGE_BYTES>::zeroed_in(arena).place.0, first);
}

/// As a value's key is: made by the thread that has the call, dropped by the one that writes.
#[test]
fn keys_that_one_thread_makes_and_another_drops_are_used_again() {
    let arena = arena();
    let (send, receive) = std::sync::mpsc::sync_channel::<Vec<Slot<KEY_BYTES>>>(0);
    thread::scope(|scope| {
        scope.spawn(move || receive.into_iter().for_each(drop));
        for _ in 0..200 {
            send.send((0..1_000).map(|_| Slot::zeroed_in(arena)).collect()).unwrap();
        }
        drop(send);
    });
    let free: usize = arena.shards.iter().map(|shard| lock(shard).keys.len()).sum();
    assert!(free < 8_000, "{free} places for 3,000 keys at a time");
}

#[test]
fn mapped_memory_is_locked_undumpable_and_empty_after_a_fork() {
    let slot = Slot::<KEY_BYTES>::zeroed_in(arena());
    let address = slot.place.0.as_ptr() as usize;
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut within = false;
    let flags = maps.lines().find_map(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((from, to)) = range
            && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
        {
            within = (from..to).contains(&address);
        }
        line.strip_prefix("VmFlags:").filter(|_| within)
    });
    let flags: Vec<_> = flags.unwrap().split_whitespace().collect();
    assert!(["lo", "dd", "wf"].iter().all(|flag| flags.contains(flag)), "{flags:?}");
}

#[test]
fn reserved_is_the_bound() {
    let arena = arena();
    let locked = arena.reserve(1, false).unwrap();
    assert_eq!(locked, Locked { bytes: CHUNK_BYTES, locked_bytes: CHUNK_BYTES });
    let mut held = Vec::new();
    while held.len() < 2 * CHUNK_BYTES / PAGE_BYTES
        && let Some(place) = arena.take(Size::Page)
    {
        held.push(place);
    }
    assert_eq!(held.len(), CHUNK_BYTES / PAGE_BYTES);
    let keys = (0..CHUNK_BYTES).take_while(|_| arena.take(Size::Key).is_some()).count();
    assert_eq!(keys, CHUNK_BYTES % PAGE_BYTES / KEY_BYTES, "what no page fits into is keys'");
    // A page that comes back serves keys too, 65 of them.
    arena.put_back(held.pop().unwrap(), Size::Page);
    assert!((0..65).all(|_| arena.take(Size::Key).is_some()));
    assert!(arena.take(Size::Key).is_none());
    let status = arena.status();
    assert!(status.locked && status.reserved);
    assert_eq!(status.used_bytes, CHUNK_BYTES / KEY_BYTES * KEY_BYTES);
}

#[test]
fn a_rush_of_keys_leaves_room_for_pages_when_it_is_over() {
    let arena = arena();
    arena.reserve(2 * CHUNK_BYTES, false).unwrap();
    let mut keys = Vec::new();
    while let Some(place) = arena.take(Size::Key) {
        keys.push(place);
    }
    assert_eq!(keys.len(), 2 * CHUNK_BYTES / KEY_BYTES);
    assert!(arena.take(Size::Page).is_none());
    // From several threads' lists, in no order; one in a hundred keys is still in use.
    let (held, free): (Vec<_>, Vec<_>) = keys.into_iter().enumerate().partition(|(at, _)| at % 100 == 0);
    let parts: Vec<Vec<_>> = free.chunks(free.len() / 3 + 1).map(<[_]>::to_vec).collect();
    thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| part.into_iter().rev().for_each(|(_, place)| arena.put_back(place, Size::Key)));
        }
    });
    let mut pages = Vec::new();
    while let Some(place) = arena.take(Size::Page) {
        pages.push(place);
    }
    assert!(pages.len() > 2 * CHUNK_BYTES / KEY_BYTES / 200, "{} pages", pages.len());
    let used = |place: &Place, bytes: usize| (place.address(), place.address() + bytes);
    let mut all: Vec<_> = held.iter().map(|(_, place)| used(place, KEY_BYTES)).collect();
    all.extend(pages.iter().map(|place| used(place, PAGE_BYTES)));
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no two share a byte");
    // What is left over is keys' still.
    assert!(arena.take(Size::Key).is_some());
    let bytes = pages.len() * PAGE_BYTES + (held.len() + 1) * KEY_BYTES;
    assert_eq!(arena.status().used_bytes, bytes);
}

#[test]
fn a_kernel_that_will_not_lock_stops_the_start() {
    let arena = unlockable();
    let Err(error) = arena.reserve(CHUNK_BYTES, false) else { panic!("reserved") };
    assert!(matches!(error, ArenaError::Limit { wanted_bytes: CHUNK_BYTES, .. }), "{error}");
    assert_eq!(arena.status().bytes, 0);
}

#[test]
fn where_allowed_it_is_taken_unlocked_and_said() {
    let arena = unlockable();
    assert_eq!(arena.reserve(1, true).unwrap(), Locked { bytes: CHUNK_BYTES, locked_bytes: 0 });
    assert!(!arena.status().locked);
    assert!(matches!(arena.reserve(1, false), Err(ArenaError::AlreadyUnlocked { bytes: CHUNK_BYTES })));
}

#[test]
fn threads_never_share_a_place() {
    let arena = arena();
    let held = |seed: u8| {
        let mut slots: Vec<Slot<KEY_BYTES>> = Vec::new();
        for round in 0..2_000_usize {
            let mut slot = Slot::zeroed_in(arena);
            assert_eq!(*slot, [0; KEY_BYTES], "handed out wiped");
            slot.fill(seed);
            slots.push(slot);
            if round % 3 == 0 {
                slots.swap_remove(round % slots.len());
            }
        }
        assert!(slots.iter().all(|slot| **slot == [seed; KEY_BYTES]), "written by its holder alone");
        slots
    };
    let slots: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=8).map(|seed| scope.spawn(move || held(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count: usize = slots.iter().map(Vec::len).sum();
    assert_eq!(arena.status().used_bytes, count * KEY_BYTES);
    drop(slots); // on another thread than they were taken
    assert_eq!(arena.status().used_bytes, 0);
}
