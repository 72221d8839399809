//! What is the quorum's own: keyholders that are lost, come back, have missed something, or are replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::{Key, role};
use cloakroom_keytree::holder::QuorumHolder;
use cloakroom_keytree::holder::quorum::Decline;
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};
use cloakroom_testkit::wait;

use crate::proxy::Way;
use crate::trio::{PATIENCE, THRESHOLD, Trio, own, root, tree};

/// Long enough that none runs out by itself while a test on a busy machine looks elsewhere.
const LONG: Duration = Duration::from_secs(6);

/// A tree in use: owned, with one root that has wrapped a key.
struct InUse {
    holder: Arc<QuorumHolder>,
    tree: TreeId,
    owner: OwnerNumber,
    made: RootId,
    key: Key<role::Page>,
    anchor: bytes::Bytes,
}

impl InUse {
    async fn of(trio: &Trio) -> Self {
        let (holder, tree, made, key) = (trio.holder(), tree(), root(), Key::random());
        let owner = own(&holder, tree).await;
        holder.create(tree, owner, made).await.unwrap();
        let anchor = holder.wrap(tree, made, key.borrow()).await.unwrap();
        Self { holder, tree, owner, made, key, anchor }
    }

    async fn opens(&self) -> Result<bool, HolderError> {
        let opened = self.holder.unwrap(self.tree, self.made, &self.anchor).await?;
        let context = PageContext { tree: self.tree, subtree: 0, level: 0, index: 0, version: 1 };
        let sealed = opened.borrow().seal_page(&Page::empty(), &context);
        Ok(self.key.borrow().open_page(&sealed, &context).is_ok())
    }

    async fn renew(&self) -> Result<(), HolderError> {
        self.holder.renew(self.tree, self.owner).await
    }
}

fn commit(number: u64) -> CommitPosition {
    CommitPosition { start: StartId([7; 16]), number }
}

#[tokio::test]
async fn one_of_three_may_be_lost_and_is_given_again_what_it_had() {
    let trio = Trio::settled(LONG).await;
    let in_use = InUse::of(&trio).await;
    let InUse { holder, tree, owner, made, .. } = &in_use;
    holder.note(*tree, *owner, commit(5)).await.unwrap();
    trio.kill9(2);
    assert!(in_use.opens().await.unwrap());
    in_use.renew().await.unwrap();
    let (newer, short) = (root(), root());
    for root in [newer, short] {
        holder.create(*tree, *owner, root).await.unwrap();
    }
    holder.destroy(*tree, *owner, short).await.unwrap();

    trio.start(2);
    wait::until(PATIENCE, "the lost shares given again", async || {
        in_use.renew().await.unwrap();
        let has = [trio.shares(*tree, *made).await[2], trio.shares(*tree, newer).await[2]];
        (has == [true, true]).then_some(())
    })
    .await;
    let standing = trio.survey(*tree).await.remove(2).unwrap();
    assert_eq!((standing.owner, standing.noted, standing.dealings.len()), (owner.0, Some(commit(5)), 2));
    // Now another may be lost: what was given again is as good as what was given first.
    trio.kill9(0);
    assert!(in_use.opens().await.unwrap());
    holder.destroy(*tree, *owner, *made).await.unwrap();
    assert!(matches!(in_use.opens().await, Err(HolderError::NoSuchRoot(_))));
}

#[tokio::test]
async fn with_two_of_three_lost_nothing_is_known_and_with_their_memory_everything_is_gone() {
    let trio = Trio::settled(LONG).await;
    let in_use = InUse::of(&trio).await;
    trio.kill9(0);
    trio.kill9(1);
    assert!(matches!(in_use.opens().await, Err(HolderError::Unreachable(_))));
    assert!(matches!(in_use.renew().await, Err(HolderError::Unreachable(_))));
    let refused = in_use.holder.create(in_use.tree, in_use.owner, root()).await;
    assert!(matches!(refused, Err(HolderError::Unreachable(_))), "{refused:?}");
    assert!(matches!(trio.holder().own(in_use.tree).await, Err(HolderError::Unreachable(_))));
    trio.start(0);
    trio.start(1);
    // One share is left of three, and nobody has more: that is no lack of answers any more.
    wait::until(PATIENCE, "the loss told", async || match in_use.opens().await {
        Err(HolderError::NoSuchRoot(_)) => Some(()),
        Err(HolderError::Unreachable(_)) => None,
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test]
async fn a_restarted_keyholder_grants_nothing_for_a_lease() {
    let trio = Trio::settled(Duration::from_secs(3)).await;
    let (former, tree) = (trio.holder(), tree());
    let one = own(&former, tree).await;
    let began = Instant::now();
    trio.restart(0).await;
    trio.restart(1).await;
    let next = trio.holder();
    // A majority has forgotten the first owner, which may live: neither it nor anybody can tell.
    assert!(matches!(next.own(tree).await, Err(HolderError::Owned(_) | HolderError::Unreachable(_))));
    former.renew(tree, one).await.unwrap();
    assert!(matches!(next.own(tree).await, Err(HolderError::Owned(_))), "it has made itself known");
    let two = own(&next, tree).await;
    assert!(began.elapsed() >= trio.lease && two > one);
    assert!(matches!(former.renew(tree, one).await, Err(HolderError::Replaced { .. })));

    // A new tree waits as well: that it is new only its owner knows.
    trio.restart(0).await;
    trio.restart(1).await;
    let began = Instant::now();
    assert!(matches!(next.own(root().into_tree()).await, Err(HolderError::Owned(_))));
    own(&next, root().into_tree()).await;
    assert!(began.elapsed() >= trio.lease / 2);
}

trait IntoTree {
    fn into_tree(self) -> TreeId;
}

impl IntoTree for RootId {
    fn into_tree(self) -> TreeId {
        TreeId(self.0)
    }
}

#[tokio::test]
async fn a_tree_that_too_few_remember_is_owned_only_by_taking_it_over() {
    let trio = Trio::settled(Duration::from_secs(2)).await;
    let (former, tree) = (trio.holder(), tree());
    let one = own(&former, tree).await;
    former.release(tree, one).await.unwrap();
    trio.restart(0).await;
    trio.restart(1).await;
    let next = trio.holder();
    tokio::time::sleep(trio.lease).await; // nothing else is to happen
    let refused = next.own(tree).await;
    assert!(
        matches!(&refused, Err(HolderError::Unreachable(why)) if why.contains("remember")),
        "{refused:?}"
    );
    assert!(next.take_over(tree).await.unwrap() > one);
}

#[tokio::test]
async fn one_that_missed_a_destruction_wipes_its_share_when_it_is_back() {
    let trio = Trio::settled(LONG).await;
    let in_use = InUse::of(&trio).await;
    let InUse { holder, tree, owner, made, .. } = &in_use;
    trio.set(2, Way::Shut);
    // One share of three is nothing: the root is as gone as it will ever be.
    holder.destroy(*tree, *owner, *made).await.unwrap();
    assert!(matches!(in_use.opens().await, Err(HolderError::NoSuchRoot(_))));
    trio.set(2, Way::Open);
    assert_eq!(trio.shares(*tree, *made).await, [false, false, true]);
    assert!(matches!(in_use.opens().await, Err(HolderError::NoSuchRoot(_))), "one share does not open it");
    in_use.renew().await.unwrap();
    assert_eq!(trio.shares(*tree, *made).await, [false; 3]);
    assert!(holder.list(*tree).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_root_stays_while_the_threshold_may_be_left() {
    let trio = Trio::settled(LONG).await;
    let in_use = InUse::of(&trio).await;
    let InUse { holder, tree, owner, made, .. } = &in_use;
    trio.set(1, Way::Shut);
    trio.set(2, Way::Shut);
    let stays = holder.destroy(*tree, *owner, *made).await;
    let named = |why: &str| trio.names()[1..].iter().all(|name| why.contains(name.as_str()));
    assert!(matches!(&stays, Err(HolderError::Unreachable(why)) if named(why)), "{stays:?}");
    trio.set(1, Way::Open);
    wait::until(PATIENCE, "the destruction", async || holder.destroy(*tree, *owner, *made).await.ok()).await;
    assert_eq!(trio.shares(*tree, *made).await[..2], [false, false]);
}

#[tokio::test]
async fn what_was_dealt_to_too_few_is_taken_back() {
    let trio = Trio::settled(LONG).await;
    let in_use = InUse::of(&trio).await;
    let InUse { holder, tree, owner, .. } = &in_use;
    trio.set(1, Way::Shut);
    trio.set(2, Way::Shut);
    let failed = root();
    assert!(matches!(holder.create(*tree, *owner, failed).await, Err(HolderError::Unreachable(_))));
    trio.set(1, Way::Open);
    trio.set(2, Way::Open);
    assert_eq!(trio.shares(*tree, failed).await, [false; 3]);
}

#[tokio::test]
async fn a_replaced_keyholder_takes_part_from_the_next_root_on() {
    let trio = Trio::settled(LONG).await;
    let in_use = InUse::of(&trio).await;
    let InUse { holder, tree, owner, made, key, .. } = &in_use;
    holder.release(*tree, *owner).await.unwrap();
    // Of the former three, the third is exchanged for the same process by another name: it was dealt nothing.
    let mut keyholders = trio.keyholders("vault");
    let (_proxy, another) = trio.another_name(2).await;
    keyholders[2] = another;
    let next = QuorumHolder::new(keyholders, THRESHOLD, trio.lease).unwrap();
    let number = next.own(*tree).await.unwrap();
    next.unwrap(*tree, *made, &in_use.anchor).await.unwrap();
    let newer = root();
    next.create(*tree, number, newer).await.unwrap();
    next.wrap(*tree, newer, key.borrow()).await.unwrap();
    next.destroy(*tree, number, *made).await.unwrap();
    assert!(matches!(next.unwrap(*tree, *made, &in_use.anchor).await, Err(HolderError::NoSuchRoot(_))));
}

#[tokio::test]
async fn nobody_calls_who_is_not_configured() {
    let trio = Trio::settled(Duration::from_secs(2)).await;
    for stranger in trio.keyholders("stranger") {
        let refused = stranger.look(tree()).await;
        assert!(matches!(&refused, Err(Decline::Refused(_))), "{refused:?}");
        let refused = stranger.own(tree(), 1, trio.lease, true).await;
        assert!(matches!(&refused, Err(Decline::Refused(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn no_lease_is_granted_for_longer_than_a_start_waits() {
    let trio = Trio::settled(Duration::from_secs(2)).await;
    let longer = QuorumHolder::new(trio.keyholders("vault"), THRESHOLD, trio.lease * 2).unwrap();
    let refused = longer.own(tree()).await;
    assert!(matches!(&refused, Err(HolderError::Refused(why)) if why.contains("lease")), "{refused:?}");
}
