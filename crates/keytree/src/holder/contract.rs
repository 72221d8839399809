//! What every root holder must do, written against the trait.
//!
//! A holder's tests give [`holder_contract`](crate::holder_contract) an expression that makes a fresh
//! [`Bench`]; every case becomes a test of its own. What a holder cannot have its bench says, with the reason,
//! and the case prints it. A case fails by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // assertions
#![allow(clippy::print_stderr)] // what a case left out must be seen

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::{Key, random, role};
use cloakroom_store::Answer;
use futures_util::future::{Either, join_all, select};

use super::{HolderError, OwnerNumber, RootHolder};

/// As long as something that must come may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can befall a holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It answers late, but within the time that its users grant it.
    Slow,
    /// Nobody answers, or too few.
    Unreachable,
    /// It has no room for another root; what it has stays.
    Full,
    /// It says no to whoever opens it from now on: a wrong PIN, an unknown certificate.
    Refuses,
}

/// One holder, fresh, and what its tests can do to it.
pub trait Bench: Send + Sync {
    /// Another process's way to the same roots.
    fn open(&self) -> Answer<'_, Result<Arc<dyn RootHolder>, HolderError>>;

    /// Ends a process that has the holder open, without a goodbye.
    fn crash(&self, holder: Arc<dyn RootHolder>) {
        drop(holder);
    }

    /// Lets time pass.
    fn pass(&self, time: Duration) -> Answer<'_, ()>;

    /// Brings trouble, until [`Bench::relieve`].
    ///
    /// # Errors
    /// Why this holder cannot have that.
    fn trouble(&self, trouble: Trouble) -> Answer<'_, Result<(), &'static str>>;

    /// Ends it.
    fn relieve(&self, trouble: Trouble) -> Answer<'_, ()>;
}

/// Calls the macro in brackets with what follows them and the names of all cases of this module.
#[macro_export]
macro_rules! holder_cases {
    ([$($callback:tt)+] $($given:tt)*) => {
        $($callback)+! { $($given)*
            what_a_root_wraps_opens_under_it_alone
            a_destroyed_root_is_gone_and_its_neighbours_are_not
            a_former_root_that_is_kept_opens_what_it_wrapped_until_it_is_destroyed
            what_was_made_survives_a_crash
            two_trees_in_one_holder_do_not_meet
            one_owner_at_a_time
            of_many_that_start_at_once_one_owns
            numbers_rise_over_crashes_and_take_overs
            taking_over_does_not_wait
            a_lease_that_runs_out_frees_the_tree
            a_process_that_slept_through_its_replacement_harms_nothing
            the_note_never_goes_back
            a_slow_holder_is_right
            an_unreachable_holder_says_so_and_comes_back
            a_full_holder_keeps_what_it_has
            a_holder_that_refuses_says_so
        }
    };
}

/// All cases of [`contract`](crate::holder::contract) as tests. `$bench` makes a fresh
/// [`Bench`](crate::holder::contract::Bench).
#[macro_export]
macro_rules! holder_contract {
    ($bench:expr) => {
        $crate::holder_cases! { [$crate::holder_tests] $bench; }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! holder_tests {
    ($bench:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::holder::contract::$case(&$bench).await;
            }
        )*
    };
}

type Holder = Arc<dyn RootHolder>;

fn tree() -> TreeId {
    TreeId(random::id16())
}

fn root() -> RootId {
    RootId(random::id16())
}

fn commit(number: u64) -> CommitPosition {
    CommitPosition { start: StartId([7; 16]), number }
}

/// A key has no `==`: two are the same if one opens what the other sealed.
fn same(one: &Key<role::Page>, other: &Key<role::Page>) -> bool {
    let context = PageContext { tree: TreeId([1; 16]), subtree: 0, level: 0, index: 0, version: 1 };
    let sealed = one.borrow().seal_page(&Page::empty(), &context);
    other.borrow().open_page(&sealed, &context).is_ok()
}

async fn held(holder: &Holder, tree: TreeId) -> Vec<(RootId, OwnerNumber)> {
    let mut held: Vec<_> =
        holder.list(tree).await.unwrap().into_iter().map(|held| (held.root, held.owner)).collect();
    held.sort_unstable();
    held
}

async fn open(bench: &impl Bench) -> Holder {
    bench.open().await.unwrap()
}

/// Owns the tree as a start does: where a former owner's lease may still run, it tries until that has ended.
async fn own(bench: &impl Bench, holder: &Holder, tree: TreeId) -> OwnerNumber {
    let began = Instant::now();
    loop {
        match holder.own(tree).await {
            Ok(owner) => return owner,
            Err(HolderError::Owned(_)) if holder.lease().is_some() && began.elapsed() < PATIENCE => {
                bench.pass(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("owning failed: {error:?}"),
        }
    }
}

/// Runs `work` while the owner does what a living owner does: it renews in time.
async fn while_renewed<T>(
    bench: &impl Bench,
    holder: &Holder,
    (tree, owner): (TreeId, OwnerNumber),
    work: impl Future<Output = T>,
) -> T {
    let Some(lease) = holder.lease() else { return work.await };
    let renewing = async {
        loop {
            holder.renew(tree, owner).await.unwrap();
            bench.pass(lease / 5).await;
        }
    };
    match select(pin!(work), pin!(renewing)).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => never,
    }
}

/// A tree whose first owner was replaced without knowing: its handle still lives where an ownership can end
/// while the process does, and is another process's where it cannot.
struct Replaced {
    tree: TreeId,
    former: (Holder, OwnerNumber),
    now: (Holder, OwnerNumber),
    made: RootId,
}

async fn replaced(bench: &impl Bench) -> Replaced {
    let (first, second, tree, made) = (open(bench).await, open(bench).await, tree(), root());
    let former = first.own(tree).await.unwrap();
    first.create(tree, former, made).await.unwrap();
    let woken = match first.lease() {
        Some(lease) => {
            bench.pass(lease + lease / 4).await;
            first
        }
        None => {
            bench.crash(first);
            open(bench).await
        }
    };
    let now = own(bench, &second, tree).await;
    assert!(now > former);
    Replaced { tree, former: (woken, former), now: (second, now), made }
}

/// Brings trouble; `false`, and a word on why, where this holder cannot have it.
async fn troubled(bench: &impl Bench, trouble: Trouble) -> bool {
    match bench.trouble(trouble).await {
        Ok(()) => true,
        Err(why) => {
            eprintln!("left out, {trouble:?}: {why}");
            false
        }
    }
}

/// See the name.
pub async fn what_a_root_wraps_opens_under_it_alone(bench: &impl Bench) {
    let (holder, tree, one, other) = (open(bench).await, tree(), root(), root());
    let owner = holder.own(tree).await.unwrap();
    for root in [one, other] {
        holder.create(tree, owner, root).await.unwrap();
    }
    let key = Key::random();
    let anchor = holder.wrap(tree, one, key.borrow()).await.unwrap();
    assert!(same(&holder.unwrap(tree, one, &anchor).await.unwrap(), &key));
    assert!(same(&open(bench).await.unwrap(tree, one, &anchor).await.unwrap(), &key), "another process does");
    let again = holder.wrap(tree, one, key.borrow()).await.unwrap();
    assert_ne!(again, anchor, "what is wrapped twice does not look the same");
    assert!(matches!(
        holder.unwrap(tree, other, &anchor).await,
        Err(HolderError::DoesNotOpen(root)) if root == other
    ));
    for broken in [&anchor[..anchor.len() - 1], &anchor[..1], b"", &[&anchor[..], b"x"].concat()] {
        assert!(matches!(holder.unwrap(tree, one, broken).await, Err(HolderError::DoesNotOpen(_))));
    }
    for at in 0..anchor.len() {
        let mut changed = anchor.to_vec();
        changed[at] ^= 1;
        assert!(matches!(holder.unwrap(tree, one, &changed).await, Err(HolderError::DoesNotOpen(_))), "{at}");
    }
    let absent = root();
    assert!(matches!(
        holder.unwrap(tree, absent, &anchor).await,
        Err(HolderError::NoSuchRoot(root)) if root == absent
    ));
    assert!(matches!(
        holder.wrap(tree, absent, key.borrow()).await,
        Err(HolderError::NoSuchRoot(root)) if root == absent
    ));
    assert!(!holder.kind().is_empty() && !holder.destroy_class().is_empty());
}

/// See the name.
pub async fn a_destroyed_root_is_gone_and_its_neighbours_are_not(bench: &impl Bench) {
    let (holder, tree, one, other) = (open(bench).await, tree(), root(), root());
    let owner = holder.own(tree).await.unwrap();
    for root in [one, other] {
        holder.create(tree, owner, root).await.unwrap();
    }
    let key = Key::random();
    let anchors = [
        holder.wrap(tree, one, key.borrow()).await.unwrap(),
        holder.wrap(tree, other, key.borrow()).await.unwrap(),
    ];
    holder.destroy(tree, owner, one).await.unwrap();
    holder.destroy(tree, owner, one).await.unwrap(); // none such is a success
    holder.destroy(tree, owner, root()).await.unwrap();
    for holder in [&holder, &open(bench).await] {
        assert!(matches!(holder.unwrap(tree, one, &anchors[0]).await, Err(HolderError::NoSuchRoot(_))));
        assert!(same(&holder.unwrap(tree, other, &anchors[1]).await.unwrap(), &key));
        assert_eq!(held(holder, tree).await, [(other, owner)]);
    }
    assert!(holder.create(tree, owner, other).await.is_err(), "a root is never made over another");
    assert!(same(&holder.unwrap(tree, other, &anchors[1]).await.unwrap(), &key));
    // The same id again is another root.
    holder.create(tree, owner, one).await.unwrap();
    assert!(matches!(holder.unwrap(tree, one, &anchors[0]).await, Err(HolderError::DoesNotOpen(_))));
}

/// See the name. A key backup's root lives so: through another root's coming, another owner, and the going of the
/// roots beside it.
pub async fn a_former_root_that_is_kept_opens_what_it_wrapped_until_it_is_destroyed(bench: &impl Bench) {
    let (first, tree, kept, between) = (open(bench).await, tree(), root(), root());
    let former = first.own(tree).await.unwrap();
    let (old, new) = (Key::random(), Key::random());
    first.create(tree, former, kept).await.unwrap();
    let anchor = first.wrap(tree, kept, old.borrow()).await.unwrap();
    first.create(tree, former, between).await.unwrap();
    first.destroy(tree, former, between).await.unwrap();
    bench.crash(first);

    let holder = open(bench).await;
    let owner = own(bench, &holder, tree).await;
    let current = root();
    holder.create(tree, owner, current).await.unwrap();
    let current_anchor = holder.wrap(tree, current, new.borrow()).await.unwrap();
    let mut both = [(kept, former), (current, owner)];
    both.sort_unstable();
    assert_eq!(held(&holder, tree).await, both);
    assert!(same(&holder.unwrap(tree, kept, &anchor).await.unwrap(), &old));
    assert!(
        matches!(holder.unwrap(tree, current, &anchor).await, Err(HolderError::DoesNotOpen(_))),
        "the current root is not the former one"
    );

    holder.destroy(tree, owner, kept).await.unwrap();
    assert!(matches!(holder.unwrap(tree, kept, &anchor).await, Err(HolderError::NoSuchRoot(_))));
    assert!(matches!(holder.wrap(tree, kept, old.borrow()).await, Err(HolderError::NoSuchRoot(_))));
    bench.crash(holder);
    let next = open(bench).await;
    assert_eq!(held(&next, tree).await, [(current, owner)], "nor does it come back");
    assert!(same(&next.unwrap(tree, current, &current_anchor).await.unwrap(), &new));
}

/// See the name.
pub async fn what_was_made_survives_a_crash(bench: &impl Bench) {
    let (first, tree, one, other) = (open(bench).await, tree(), root(), root());
    let owner = first.own(tree).await.unwrap();
    for root in [one, other] {
        first.create(tree, owner, root).await.unwrap();
    }
    let key = Key::random();
    let anchor = first.wrap(tree, one, key.borrow()).await.unwrap();
    first.note(tree, owner, commit(4)).await.unwrap();
    first.destroy(tree, owner, other).await.unwrap();
    bench.crash(first);
    let second = open(bench).await;
    assert_eq!(held(&second, tree).await, [(one, owner)]);
    assert_eq!(second.noted(tree).await.unwrap(), Some(commit(4)));
    let next = own(bench, &second, tree).await;
    assert!(same(&second.unwrap(tree, one, &anchor).await.unwrap(), &key));
    assert_eq!(held(&second, tree).await, [(one, owner)], "a root tells who made it");
    let newer = root();
    second.create(tree, next, newer).await.unwrap();
    let mut expected = [(one, owner), (newer, next)];
    expected.sort_unstable();
    assert_eq!(held(&second, tree).await, expected);
    second.destroy(tree, next, one).await.unwrap();
    assert_eq!(held(&second, tree).await, [(newer, next)], "an owner destroys its forerunners' roots");
}

/// See the name.
pub async fn two_trees_in_one_holder_do_not_meet(bench: &impl Bench) {
    let (holder, one, other, root) = (open(bench).await, tree(), tree(), root());
    let owner = holder.own(one).await.unwrap();
    holder.create(one, owner, root).await.unwrap();
    let anchor = holder.wrap(one, root, Key::random().borrow()).await.unwrap();
    let second = open(bench).await;
    let second_owner = second.own(other).await.unwrap();
    assert!(held(&second, other).await.is_empty());
    assert!(matches!(second.unwrap(other, root, &anchor).await, Err(HolderError::NoSuchRoot(_))));
    second.create(other, second_owner, root).await.unwrap();
    assert!(
        matches!(second.unwrap(other, root, &anchor).await, Err(HolderError::DoesNotOpen(_))),
        "the same id in another tree is another root"
    );
    second.destroy(other, second_owner, root).await.unwrap();
    holder.unwrap(one, root, &anchor).await.unwrap();
    assert_eq!(held(&holder, one).await, [(root, owner)]);
    second.note(other, second_owner, commit(5)).await.unwrap();
    assert_eq!(holder.noted(one).await.unwrap(), None);
    assert_eq!(holder.noted(other).await.unwrap(), Some(commit(5)));
}

/// See the name.
pub async fn one_owner_at_a_time(bench: &impl Bench) {
    let (first, second, tree) = (open(bench).await, open(bench).await, tree());
    let one = first.own(tree).await.unwrap();
    while_renewed(bench, &first, (tree, one), async {
        assert!(matches!(second.own(tree).await, Err(HolderError::Owned(owned)) if owned == tree));
        assert!(matches!(first.own(tree).await, Err(HolderError::Owned(_))), "not even by the same process");
        // Who was refused the tree has left the owner what it needs.
        let made = root();
        first.create(tree, one, made).await.unwrap();
        first.note(tree, one, commit(1)).await.unwrap();
        for stranger in [OwnerNumber(one.0 + 1), OwnerNumber(0)] {
            let refused = second.destroy(tree, stranger, made).await;
            assert!(matches!(refused, Err(HolderError::Replaced { owner, .. }) if owner == stranger));
        }
        assert_eq!(held(&second, tree).await, [(made, one)]);
    })
    .await;
    first.renew(tree, one).await.unwrap();
}

/// See the name.
pub async fn of_many_that_start_at_once_one_owns(bench: &impl Bench) {
    let tree = tree();
    let holders = join_all((0..4).map(|_| open(bench))).await;
    // A device that many write to at once may fail a call (SoftHSM does). Then nobody may own the tree, and
    // whoever failed starts again.
    for _ in 0..10 {
        let answers = join_all(holders.iter().map(|holder| holder.own(tree))).await;
        let owners = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!(owners <= 1, "{answers:?}");
        for answer in &answers {
            use HolderError::{Io, Owned, Unreachable};
            assert!(matches!(answer, Ok(_) | Err(Owned(_) | Unreachable(_) | Io { .. })), "{answer:?}");
        }
        if owners == 1 {
            return;
        }
    }
    panic!("ten times nobody could own the tree");
}

/// See the name.
pub async fn numbers_rise_over_crashes_and_take_overs(bench: &impl Bench) {
    let (tree, mut newest) = (tree(), OwnerNumber(0));
    for take_over in [false, true, false, true, true] {
        let holder = open(bench).await;
        let owner =
            if take_over { holder.take_over(tree).await.unwrap() } else { own(bench, &holder, tree).await };
        assert!(owner > newest, "{owner:?} after {newest:?}");
        newest = owner;
        holder.create(tree, owner, root()).await.unwrap();
        bench.crash(holder);
    }
    assert_eq!(held(&open(bench).await, tree).await.len(), 5);
}

/// See the name.
pub async fn taking_over_does_not_wait(bench: &impl Bench) {
    let (first, second, tree, made) = (open(bench).await, open(bench).await, tree(), root());
    let one = first.own(tree).await.unwrap();
    first.create(tree, one, made).await.unwrap();
    let Some(lease) = first.lease() else {
        assert!(matches!(second.take_over(tree).await, Err(HolderError::Owned(_))), "its process lives");
        bench.crash(first);
        assert!(second.take_over(tree).await.unwrap() > one);
        return;
    };
    let began = Instant::now();
    first.renew(tree, one).await.unwrap();
    let two = second.take_over(tree).await.unwrap();
    assert!(began.elapsed() < lease, "took {:?} of a lease of {lease:?}", began.elapsed());
    assert!(two > one);
    assert!(matches!(first.renew(tree, one).await, Err(HolderError::Replaced { .. })));
    assert!(matches!(first.destroy(tree, one, made).await, Err(HolderError::Replaced { .. })));
    second.destroy(tree, two, made).await.unwrap();
}

/// See the name.
pub async fn a_lease_that_runs_out_frees_the_tree(bench: &impl Bench) {
    let (first, second, tree) = (open(bench).await, open(bench).await, tree());
    let one = first.own(tree).await.unwrap();
    let Some(lease) = first.lease() else {
        eprintln!("left out: here an ownership ends with its process, not with a lease");
        return;
    };
    // Renewed for longer than a lease it holds all the same.
    while_renewed(bench, &first, (tree, one), bench.pass(lease + lease / 2)).await;
    first.create(tree, one, root()).await.unwrap();
    bench.pass(lease + lease / 4).await;
    let two = own(bench, &second, tree).await;
    assert!(two > one);
    assert!(matches!(first.renew(tree, one).await, Err(HolderError::Replaced { .. })));
    second.renew(tree, two).await.unwrap();
}

/// See the name.
pub async fn a_process_that_slept_through_its_replacement_harms_nothing(bench: &impl Bench) {
    let Replaced { tree, former: (woken, former), now: (second, now), made } = replaced(bench).await;
    let (key, newer) = (Key::random(), root());
    second.create(tree, now, newer).await.unwrap();
    let anchor = second.wrap(tree, newer, key.borrow()).await.unwrap();
    second.note(tree, now, commit(2)).await.unwrap();
    for refused in [
        woken.create(tree, former, root()).await,
        woken.destroy(tree, former, made).await,
        woken.destroy(tree, former, newer).await,
        woken.note(tree, former, commit(9)).await,
        second.destroy(tree, former, made).await,
    ] {
        assert!(
            matches!(refused, Err(HolderError::Replaced { owner, .. }) if owner == former),
            "{refused:?}"
        );
    }
    if woken.lease().is_some() {
        assert!(matches!(woken.renew(tree, former).await, Err(HolderError::Replaced { .. })));
    }
    let mut expected = [(made, former), (newer, now)];
    expected.sort_unstable();
    assert_eq!(held(&second, tree).await, expected);
    assert_eq!(second.noted(tree).await.unwrap(), Some(commit(2)));
    assert!(same(&second.unwrap(tree, newer, &anchor).await.unwrap(), &key));
    second.renew(tree, now).await.unwrap();
    second.destroy(tree, now, made).await.unwrap();
}

/// See the name.
pub async fn the_note_never_goes_back(bench: &impl Bench) {
    let (holder, tree) = (open(bench).await, tree());
    let owner = holder.own(tree).await.unwrap();
    assert_eq!(holder.noted(tree).await.unwrap(), None);
    for (noted, expected) in [(3, 3), (7, 7), (6, 7), (7, 7), (8, 8)] {
        holder.note(tree, owner, commit(noted)).await.unwrap();
        assert_eq!(holder.noted(tree).await.unwrap(), Some(commit(expected)), "after {noted}");
        assert_eq!(open(bench).await.noted(tree).await.unwrap(), Some(commit(expected)));
    }
    let elsewhere = CommitPosition { start: StartId([8; 16]), number: 8 };
    holder.note(tree, owner, elsewhere).await.unwrap();
    assert_eq!(holder.noted(tree).await.unwrap(), Some(commit(8)));
    bench.crash(holder);
    let second = open(bench).await;
    let next = own(bench, &second, tree).await;
    second.note(tree, next, commit(2)).await.unwrap();
    assert_eq!(second.noted(tree).await.unwrap(), Some(commit(8)), "not by another owner either");
}

/// See the name.
pub async fn a_slow_holder_is_right(bench: &impl Bench) {
    let (holder, tree, one, other) = (open(bench).await, tree(), root(), root());
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, one).await.unwrap();
    let key = Key::random();
    let anchor = holder.wrap(tree, one, key.borrow()).await.unwrap();
    if !troubled(bench, Trouble::Slow).await {
        return;
    }
    assert!(same(&holder.unwrap(tree, one, &anchor).await.unwrap(), &key));
    assert_eq!(held(&holder, tree).await, [(one, owner)]);
    bench.relieve(Trouble::Slow).await;
    // A lease may have run out meanwhile; then the owner hears so, and its forerunner's root is there.
    let (holder, owner) = match holder.renew(tree, owner).await {
        Ok(()) => (holder, owner),
        Err(HolderError::Replaced { .. }) => {
            let second = open(bench).await;
            let next = own(bench, &second, tree).await;
            (second, next)
        }
        Err(error) => panic!("{error:?}"),
    };
    holder.create(tree, owner, other).await.unwrap();
    holder.destroy(tree, owner, one).await.unwrap();
    assert_eq!(held(&holder, tree).await, [(other, owner)]);
}

/// See the name.
pub async fn an_unreachable_holder_says_so_and_comes_back(bench: &impl Bench) {
    let (holder, tree, made) = (open(bench).await, tree(), root());
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, made).await.unwrap();
    holder.note(tree, owner, commit(3)).await.unwrap();
    let key = Key::random();
    let anchor = holder.wrap(tree, made, key.borrow()).await.unwrap();
    if !troubled(bench, Trouble::Unreachable).await {
        return;
    }
    // Never "no such root", never "none": an owner would believe it.
    let answers = [
        holder.unwrap(tree, made, &anchor).await.map(drop),
        holder.wrap(tree, made, key.borrow()).await.map(drop),
        holder.list(tree).await.map(drop),
        holder.create(tree, owner, root()).await,
        holder.destroy(tree, owner, made).await,
    ];
    for answer in answers {
        assert!(matches!(answer, Err(HolderError::Unreachable(_))), "{answer:?}");
    }
    bench.relieve(Trouble::Unreachable).await;
    let began = Instant::now();
    let opened = loop {
        match holder.unwrap(tree, made, &anchor).await {
            Err(HolderError::Unreachable(_)) if began.elapsed() < PATIENCE => {
                bench.pass(Duration::from_millis(50)).await;
            }
            answer => break answer,
        }
    };
    assert!(same(&opened.unwrap(), &key), "what it had it has");
    assert!(held(&holder, tree).await.contains(&(made, owner)));
    assert_eq!(holder.noted(tree).await.unwrap(), Some(commit(3)));
    let (holder, owner) = match holder.renew(tree, owner).await {
        Ok(()) => (holder, owner),
        Err(HolderError::Replaced { .. }) => {
            let second = open(bench).await;
            let next = own(bench, &second, tree).await;
            (second, next)
        }
        Err(error) => panic!("{error:?}"),
    };
    let newer = root();
    holder.create(tree, owner, newer).await.unwrap();
    // Whatever the call that nobody answered did, an owner can clear it away.
    for (root, _) in held(&holder, tree).await {
        if root != newer {
            holder.destroy(tree, owner, root).await.unwrap();
        }
    }
    assert_eq!(held(&holder, tree).await, [(newer, owner)]);
}

/// See the name.
pub async fn a_full_holder_keeps_what_it_has(bench: &impl Bench) {
    let (holder, tree, made) = (open(bench).await, tree(), root());
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, made).await.unwrap();
    let key = Key::random();
    let anchor = holder.wrap(tree, made, key.borrow()).await.unwrap();
    if !troubled(bench, Trouble::Full).await {
        return;
    }
    while_renewed(bench, &holder, (tree, owner), async {
        let refused = holder.create(tree, owner, root()).await;
        assert!(matches!(refused, Err(HolderError::Full)), "{refused:?}");
        assert_eq!(held(&holder, tree).await, [(made, owner)], "nothing half made");
        assert!(same(&holder.unwrap(tree, made, &anchor).await.unwrap(), &key));
        bench.relieve(Trouble::Full).await;
        holder.create(tree, owner, root()).await.unwrap();
        holder.destroy(tree, owner, made).await.unwrap();
    })
    .await;
}

/// See the name.
pub async fn a_holder_that_refuses_says_so(bench: &impl Bench) {
    let (first, tree, made) = (open(bench).await, tree(), root());
    let owner = first.own(tree).await.unwrap();
    first.create(tree, owner, made).await.unwrap();
    let key = Key::random();
    let anchor = first.wrap(tree, made, key.borrow()).await.unwrap();
    bench.crash(first);
    if !troubled(bench, Trouble::Refuses).await {
        return;
    }
    if let Err(error) = refused_calls(bench, tree, made, &anchor).await {
        assert!(matches!(error, HolderError::Refused(_)), "{error:?}");
    }
    bench.relieve(Trouble::Refuses).await;
    let second = open(bench).await;
    assert!(same(&second.unwrap(tree, made, &anchor).await.unwrap(), &key));
    assert!(own(bench, &second, tree).await > owner);
}

async fn refused_calls(
    bench: &impl Bench,
    tree: TreeId,
    made: RootId,
    anchor: &[u8],
) -> Result<(), HolderError> {
    let holder = bench.open().await?;
    for refused in [holder.own(tree).await.map(drop), holder.unwrap(tree, made, anchor).await.map(drop)] {
        let Err(error @ HolderError::Refused(_)) = refused else { panic!("{refused:?}") };
        drop(error);
    }
    holder.list(tree).await.map(drop)
}
