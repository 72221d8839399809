//! What every root holder must do. A holder joins by a [`Place`]: where it keeps things, opened as often as
//! processes would.

use std::sync::Arc;

use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::{Key, random, role};
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};

pub(crate) trait Place: Default {
    /// Another process's way to the same roots.
    fn open(&self) -> Arc<dyn RootHolder>;
}

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

async fn held(holder: &dyn RootHolder, tree: TreeId) -> Vec<(RootId, OwnerNumber)> {
    let mut held: Vec<_> =
        holder.list(tree).await.unwrap().into_iter().map(|held| (held.root, held.owner)).collect();
    held.sort_unstable();
    held
}

pub(crate) async fn what_a_root_wraps_opens_under_it_alone<P: Place>() {
    let place = P::default();
    let holder = place.open();
    let (tree, one, other) = (tree(), root(), root());
    let owner = holder.own(tree).await.unwrap();
    for root in [one, other] {
        holder.create(tree, owner, root).await.unwrap();
    }
    let key = Key::random();
    let anchor = holder.wrap(tree, one, key.borrow()).await.unwrap();
    assert!(same(&holder.unwrap(tree, one, &anchor).await.unwrap(), &key));
    assert!(same(&place.open().unwrap(tree, one, &anchor).await.unwrap(), &key), "another process reads it");
    assert!(matches!(
        holder.unwrap(tree, other, &anchor).await,
        Err(HolderError::DoesNotOpen(root)) if root == other
    ));
    let absent = root();
    assert!(matches!(
        holder.unwrap(tree, absent, &anchor).await,
        Err(HolderError::NoSuchRoot(root)) if root == absent
    ));
}

pub(crate) async fn a_destroyed_root_is_gone_and_its_neighbours_are_not<P: Place>() {
    let place = P::default();
    let holder = place.open();
    let (tree, one, other) = (tree(), root(), root());
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
    assert!(matches!(holder.unwrap(tree, one, &anchors[0]).await, Err(HolderError::NoSuchRoot(_))));
    assert!(same(&holder.unwrap(tree, other, &anchors[1]).await.unwrap(), &key));
    assert_eq!(held(&*holder, tree).await, [(other, owner)]);
    assert!(holder.create(tree, owner, other).await.is_err(), "a root is never made over another");
    assert!(same(&holder.unwrap(tree, other, &anchors[1]).await.unwrap(), &key));
}

pub(crate) async fn two_trees_in_one_holder_do_not_meet<P: Place>() {
    let place = P::default();
    let holder = place.open();
    let (one, other, root) = (tree(), tree(), root());
    let owner = holder.own(one).await.unwrap();
    holder.create(one, owner, root).await.unwrap();
    let anchor = holder.wrap(one, root, Key::random().borrow()).await.unwrap();
    let second = place.open();
    let second_owner = second.own(other).await.unwrap();
    second.create(other, second_owner, root).await.unwrap();
    assert!(
        matches!(second.unwrap(other, root, &anchor).await, Err(HolderError::DoesNotOpen(_))),
        "the same id in another tree is another root"
    );
    second.destroy(other, second_owner, root).await.unwrap();
    holder.unwrap(one, root, &anchor).await.unwrap();
    second.note(other, second_owner, commit(5)).await.unwrap();
    assert_eq!(holder.noted(one).await.unwrap(), None);
}

pub(crate) async fn one_owner_at_a_time_each_above_all_before<P: Place>() {
    let place = P::default();
    let (first, tree) = (place.open(), tree());
    let one = first.own(tree).await.unwrap();
    let second = place.open();
    assert!(matches!(second.own(tree).await, Err(HolderError::Owned(owned)) if owned == tree));
    assert!(matches!(first.own(tree).await, Err(HolderError::Owned(_))), "not even by the same process");
    let made = root();
    first.create(tree, one, made).await.unwrap();
    drop(first);
    let two = second.own(tree).await.unwrap();
    assert!(two > one);
    assert_eq!(held(&*second, tree).await, [(made, one)], "a root tells who made it");
    // The former owner wakes: it has its number and nothing else.
    let woken = place.open();
    for refused in [
        woken.create(tree, one, root()).await,
        woken.destroy(tree, one, made).await,
        woken.note(tree, one, commit(9)).await,
        second.destroy(tree, one, made).await,
    ] {
        assert!(matches!(refused, Err(HolderError::Replaced { owner, .. }) if owner == one));
    }
    assert_eq!(held(&*second, tree).await, [(made, one)]);
    second.destroy(tree, two, made).await.unwrap();
}

pub(crate) async fn the_note_never_goes_back<P: Place>() {
    let place = P::default();
    let (holder, tree) = (place.open(), tree());
    let owner = holder.own(tree).await.unwrap();
    assert_eq!(holder.noted(tree).await.unwrap(), None);
    for (noted, expected) in [(3, 3), (7, 7), (6, 7), (7, 7), (8, 8)] {
        holder.note(tree, owner, commit(noted)).await.unwrap();
        assert_eq!(holder.noted(tree).await.unwrap(), Some(commit(expected)), "after {noted}");
        assert_eq!(place.open().noted(tree).await.unwrap(), Some(commit(expected)));
    }
    let elsewhere = CommitPosition { start: StartId([8; 16]), number: 8 };
    holder.note(tree, owner, elsewhere).await.unwrap();
    assert_eq!(holder.noted(tree).await.unwrap(), Some(commit(8)));
}
