use cloakroom_core::ids::StartId;
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::{Key, role};

use super::*;

const LEASE: Duration = Duration::from_secs(30);
const TREE: TreeId = TreeId([7; 16]);
const ROOT: RootId = RootId([8; 16]);

fn second(seconds: u64) -> Duration {
    Duration::from_secs(1_000 + seconds)
}

/// One that started so long ago that it grants.
fn shelf() -> Shelf {
    Shelf::new(Limits { lease: LEASE, shares_max: 3 }, second(0) - LEASE)
}

fn owned(by: u64) -> Shelf {
    let mut shelf = shelf();
    shelf.own(second(0), TREE, by, LEASE, false).unwrap();
    shelf
}

/// The first of two shares of a new root.
fn given(shelf: &Shelf, root: RootId, owner: u64) -> Given {
    let key = Key::<role::Root>::random();
    let dealing = Dealing {
        root,
        owner,
        threshold: 2,
        holders: vec!["a".into(), "b".into()],
        check: key.borrow().check(&RootContext { tree: TREE, root }),
    };
    let share = key.borrow().deal(2, 2).unwrap().remove(0);
    Given { dealing, place: 1, sealed: share.seal_to(&shelf.letterbox(), TREE, root).unwrap() }
}

fn again(given: &Given) -> Given {
    Given { dealing: given.dealing.clone(), place: given.place, sealed: given.sealed.clone() }
}

#[test]
fn a_tree_has_one_owner_at_a_time_each_above_all_before() {
    let mut shelf = owned(1);
    assert_eq!(shelf.own(second(1), TREE, 2, LEASE, false), Err(Refusal::Leased));
    assert_eq!(shelf.own(second(1), TREE, 1, LEASE, false), Err(Refusal::Leased), "not even the same again");
    assert_eq!(shelf.own(second(30), TREE, 1, LEASE, false), Err(Refusal::Replaced), "no number twice");
    shelf.own(second(30), TREE, 2, LEASE, false).unwrap();
    shelf.own(second(30), TreeId([1; 16]), 1, LEASE, false).unwrap();
    assert_eq!(shelf.renew(second(31), TREE, 1, LEASE, None), Err(Refusal::Replaced));
    shelf.renew(second(40), TREE, 2, LEASE, None).unwrap();
    assert_eq!(shelf.look(second(69), TREE).lease_left, Duration::from_secs(1));
    assert_eq!(shelf.own(second(69), TREE, 3, LEASE, false), Err(Refusal::Leased));
    assert_eq!(shelf.own(second(69), TREE, 2, LEASE, true), Err(Refusal::Replaced));
    shelf.own(second(69), TREE, 3, LEASE, true).unwrap();
}

#[test]
fn who_was_replaced_changes_nothing() {
    let mut shelf = owned(1);
    let share = given(&shelf, ROOT, 1);
    shelf.put(TREE, 1, 1, again(&share)).unwrap();
    shelf.own(second(30), TREE, 2, LEASE, false).unwrap();
    let other = given(&shelf, RootId([9; 16]), 1);
    let commit = CommitPosition { start: StartId([1; 16]), number: 9 };
    assert_eq!(shelf.put(TREE, 1, 2, other), Err(Refusal::Replaced));
    assert_eq!(shelf.drop_share(TREE, 1, 2, ROOT), Err(Refusal::Replaced));
    assert_eq!(shelf.note(TREE, 1, commit), Err(Refusal::Replaced));
    assert_eq!(shelf.get(TREE, 1, ROOT, &Letterbox::new().address()), Err(Refusal::Replaced));
    assert_eq!(shelf.release(TREE, 1, false), Err(Refusal::Replaced));
    let standing = shelf.look(second(31), TREE);
    assert_eq!((standing.owner, standing.dealings, standing.noted), (2, vec![share.dealing], None));
    assert!(!standing.lease_left.is_zero());
}

/// Whether it was granted elsewhere or made up: only an owner that renews is taken at its word.
#[test]
fn a_number_that_was_not_granted_here_changes_nothing_until_it_is_renewed() {
    let mut shelf = owned(1);
    let commit = CommitPosition { start: StartId([1; 16]), number: 9 };
    let share = given(&shelf, ROOT, 2);
    for tree in [TREE, TreeId([1; 16])] {
        assert_eq!(shelf.put(tree, 2, 1, again(&share)), Err(Refusal::Unknown));
        assert_eq!(shelf.drop_share(tree, 2, 1, ROOT), Err(Refusal::Unknown));
        assert_eq!(shelf.note(tree, 2, commit), Err(Refusal::Unknown));
    }
    assert_eq!((shelf.trees(), shelf.look(second(0), TREE).owner), (1, 1));
    shelf.renew(second(1), TREE, 2, LEASE, None).unwrap();
    shelf.put(TREE, 2, 1, share).unwrap();
}

#[test]
fn after_a_start_nothing_is_granted_for_a_lease_but_owners_that_live_are_known_again() {
    let mut shelf = Shelf::new(Limits { lease: LEASE, shares_max: 3 }, second(0));
    assert_eq!(shelf.own(second(29), TREE, 9, LEASE, false), Err(Refusal::TooSoon));
    assert!(!shelf.look(second(29), TREE).known, "a refusal leaves nothing");
    let commit = CommitPosition { start: StartId([1; 16]), number: 4 };
    let standing = shelf.renew(second(29), TREE, 3, LEASE, Some(commit)).unwrap();
    assert_eq!((standing.known, standing.owner, standing.noted), (true, 3, Some(commit)));
    assert_eq!(shelf.own(second(31), TREE, 4, LEASE, false), Err(Refusal::Leased));
    assert_eq!(shelf.renew(second(31), TREE, 2, LEASE, None), Err(Refusal::Replaced));

    let mut shelf = Shelf::new(Limits { lease: LEASE, shares_max: 3 }, second(0));
    shelf.own(second(1), TREE, 1, LEASE, true).unwrap();
    shelf.own(second(30), TreeId([1; 16]), 1, LEASE, false).unwrap();
    let longer = LEASE + Duration::from_millis(1);
    assert_eq!(shelf.own(second(60), TREE, 2, longer, true), Err(Refusal::LeaseTooLong));
    assert_eq!(shelf.renew(second(60), TREE, 1, longer, None), Err(Refusal::LeaseTooLong));
}

#[test]
fn what_is_given_back_is_free_at_once_and_an_unused_number_too() {
    let mut shelf = owned(4);
    shelf.release(TREE, 4, false).unwrap();
    assert_eq!(shelf.own(second(1), TREE, 4, LEASE, false), Err(Refusal::Replaced));
    shelf.own(second(1), TREE, 5, LEASE, false).unwrap();
    shelf.release(TREE, 9, true).unwrap();
    assert_eq!(shelf.look(second(1), TREE).owner, 5, "nobody's number");
    shelf.release(TREE, 5, true).unwrap();
    assert_eq!(shelf.look(second(1), TREE).owner, 4);
    shelf.own(second(1), TREE, 5, LEASE, false).unwrap();
    shelf.renew(second(2), TREE, 5, LEASE, None).unwrap();
    shelf.release(TREE, 5, true).unwrap();
    assert_eq!(shelf.look(second(2), TREE).owner, 5, "it was used");
    let other = TreeId([1; 16]);
    shelf.own(second(1), other, 1, LEASE, false).unwrap();
    shelf.release(other, 1, true).unwrap();
    assert!(!shelf.look(second(1), other).known, "as if it had never been asked");
}

#[test]
fn a_share_is_lent_until_it_is_dropped_and_does_not_come_back() {
    let mut shelf = owned(1);
    let share = given(&shelf, ROOT, 1);
    shelf.put(TREE, 1, 5, again(&share)).unwrap();
    shelf.put(TREE, 1, 6, again(&share)).unwrap();
    let other = given(&shelf, ROOT, 1);
    assert_eq!(shelf.put(TREE, 1, 6, other), Err(Refusal::Exists), "never over another");
    let letterbox = Letterbox::new();
    let lent = shelf.get(TREE, 1, ROOT, &letterbox.address()).unwrap();
    assert_eq!((&lent.dealing, lent.place), (&share.dealing, 1));
    letterbox.open(&lent.sealed, &ShareContext { tree: TREE, root: ROOT, place: 1 }).unwrap();
    assert_eq!(shelf.get(TREE, 0, ROOT, &letterbox.address()).unwrap().place, 1);
    assert_eq!(shelf.get(TreeId([1; 16]), 0, ROOT, &letterbox.address()), Err(Refusal::Absent));

    assert_eq!(shelf.drop_share(TREE, 1, 7, ROOT), Ok(Some(share.dealing.clone())));
    assert_eq!(shelf.drop_share(TREE, 1, 8, ROOT), Ok(None));
    assert_eq!(shelf.get(TREE, 1, ROOT, &letterbox.address()), Err(Refusal::Absent));
    assert_eq!(shelf.put(TREE, 1, 7, again(&share)), Err(Refusal::TooLate), "it was under way for long");
    assert_eq!((shelf.shares(), shelf.trees()), (0, 1));

    // One that never had the share takes it no more, either.
    let mut shelf = owned(1);
    let share = given(&shelf, ROOT, 1);
    assert_eq!(shelf.drop_share(TREE, 1, 7, ROOT), Ok(None));
    assert_eq!(shelf.put(TREE, 1, 5, share), Err(Refusal::TooLate));
}

#[test]
fn only_what_is_sealed_to_this_process_and_place_is_taken() {
    let mut shelf = owned(1);
    let former = Shelf::new(Limits { lease: LEASE, shares_max: 3 }, second(0));
    assert_eq!(shelf.put(TREE, 1, 1, given(&former, ROOT, 1)), Err(Refusal::OtherLetterbox));
    let elsewhere = Given { place: 2, ..given(&shelf, ROOT, 1) };
    assert_eq!(shelf.put(TREE, 1, 1, elsewhere), Err(Refusal::OtherLetterbox));
    assert_eq!(shelf.shares(), 0);
}

#[test]
fn there_is_a_bound_to_what_is_kept() {
    let mut shelf = owned(1);
    for id in 0..3 {
        let share = given(&shelf, RootId([id; 16]), 1);
        shelf.put(TREE, 1, 1, share).unwrap();
    }
    let over = given(&shelf, ROOT, 1);
    assert_eq!(shelf.put(TREE, 1, 1, again(&over)), Err(Refusal::Full));
    shelf.drop_share(TREE, 1, 1, RootId([0; 16])).unwrap();
    shelf.put(TREE, 1, 1, over).unwrap();
    for id in 0..TREES_MAX as u64 - 1 {
        let id = TreeId(std::array::from_fn(|at| (id >> (at % 8 * 8)) as u8 ^ 0x55));
        shelf.own(second(0), id, 1, LEASE, false).unwrap();
    }
    assert_eq!(shelf.own(second(0), TreeId([0xee; 16]), 1, LEASE, false), Err(Refusal::Full));
}

#[test]
fn the_note_never_goes_back() {
    let mut shelf = owned(1);
    let commit = |start, number| CommitPosition { start: StartId([start; 16]), number };
    for (told, kept) in
        [((1, 3), (1, 3)), ((1, 7), (1, 7)), ((1, 6), (1, 7)), ((2, 7), (1, 7)), ((2, 8), (2, 8))]
    {
        shelf.note(TREE, 1, commit(told.0, told.1)).unwrap();
        assert_eq!(shelf.look(second(0), TREE).noted, Some(commit(kept.0, kept.1)));
    }
    assert_eq!(shelf.renew(second(0), TREE, 1, LEASE, Some(commit(3, 1))).unwrap().noted, Some(commit(2, 8)));
}
