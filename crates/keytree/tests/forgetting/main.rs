//! What the tree forgets stays forgotten, whatever was ever written and wherever the power goes out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod disk;
mod escrow;
mod model;
mod moving;

use proptest::prelude::*;

use cloakroom_keytree::disclosure::Trying;
use model::Vault;

#[derive(Clone, Debug)]
enum Act {
    Insert {
        subtree: usize,
        count: usize,
    },
    /// The keys are durable, the frame is lost with the process.
    InsertUnnamed {
        subtree: usize,
        count: usize,
    },
    NewSubtree,
    /// Every nth living slot, from some place on.
    Forget {
        every: u64,
        from: u64,
    },
    ForgetAll {
        subtree: usize,
    },
    Restart,
    /// The power goes out so many steps from now.
    Cut {
        step: u64,
        done: bool,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let count = || prop_oneof![4 => 1_usize..20, 2 => 50_usize..70, 1 => 120_usize..200];
    let act = prop_oneof![
        6 => (0_usize..4, count()).prop_map(|(subtree, count)| Act::Insert { subtree, count }),
        2 => (0_usize..4, count()).prop_map(|(subtree, count)| Act::InsertUnnamed { subtree, count }),
        1 => Just(Act::NewSubtree),
        4 => (1_u64..40, 0_u64..40).prop_map(|(every, from)| Act::Forget { every, from }),
        1 => (0_usize..4).prop_map(|subtree| Act::ForgetAll { subtree }),
        2 => Just(Act::Restart),
        3 => (1_u64..12, any::<bool>()).prop_map(|(step, done)| Act::Cut { step, done }),
    ];
    prop::collection::vec(act, 1..25)
}

async fn run(acts: Vec<Act>) {
    let mut vault = Vault::new().await;
    for act in acts {
        let alive = match act {
            Act::Insert { subtree, count } => {
                let subtree = vault.subtree(subtree);
                vault.insert(subtree, count, true).await
            }
            Act::InsertUnnamed { subtree, count } => {
                let subtree = vault.subtree(subtree);
                vault.insert(subtree, count, false).await && vault.start().await
            }
            Act::NewSubtree => {
                vault.new_subtree();
                true
            }
            Act::Forget { every, from } => vault.forget(|slot| slot.index % every == from % every).await,
            Act::ForgetAll { subtree } => {
                let subtree = vault.subtree(subtree);
                vault.forget(|slot| slot.subtree == subtree).await
            }
            Act::Restart => vault.start().await,
            Act::Cut { step, done } => {
                vault.disk.power.cut_at(step, done);
                true
            }
        };
        if !alive {
            vault.restart().await;
            vault.invariant_one_root().await;
        }
        vault.invariant_living_open_dead_do_not().await;
    }
    vault.restart().await;
    vault.invariant_one_root().await;
    vault.invariant_living_open_dead_do_not().await;
    vault.invariant_the_dead_are_dead(Trying::ItsPlace).await;
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_keeps_its_account_whatever_happens(acts in acts()) {
        block_on(run(acts));
    }
}

/// A script with every kind of step, some 40 of which the power can go out at.
async fn script(vault: &mut Vault) -> bool {
    let one = vault.subtree(0);
    if !vault.insert(one, 70, true).await {
        return false;
    }
    vault.new_subtree();
    let two = vault.subtree(1);
    vault.insert(two, 3, true).await
        && vault.forget(|slot| slot.subtree == one && slot.index % 9 == 4).await
        && vault.insert(two, 64, true).await
        && vault.forget(|slot| slot.subtree == two).await
        && vault.insert(two, 5, true).await
        && vault.insert(one, 4_030, true).await
        && vault.insert(one, 3, false).await
        && vault.start().await
        && vault.forget(|slot| slot.index == 66 || slot.index == 4_099).await
        && vault.start().await
}

#[tokio::test]
async fn a_cut_at_any_step_leaves_the_living_and_only_them() {
    let mut step = 1;
    let mut cuts = 0;
    loop {
        let mut ended = false;
        for done in [false, true] {
            let mut vault = Vault::new().await;
            vault.disk.power.cut_at(step, done);
            ended = script(&mut vault).await;
            // Twice: a start may be cut short too.
            vault.disk.power.restore();
            vault.disk.power.cut_at(1 + step % 4, done);
            if !vault.start().await {
                cuts += 1;
            }
            vault.restart().await;
            vault.invariant_one_root().await;
            vault.invariant_living_open_dead_do_not().await;
            vault.invariant_the_dead_are_dead(Trying::ItsPlace).await;
        }
        if ended {
            break;
        }
        step += 1;
    }
    assert!(step > 20 && cuts > 20, "{step} steps, {cuts} starts cut");
}

#[tokio::test]
async fn no_key_that_the_current_root_reaches_opens_anything_of_the_dead() {
    let mut vault = Vault::new().await;
    let one = vault.subtree(0);
    assert!(vault.insert(one, 150, true).await);
    vault.new_subtree();
    let two = vault.subtree(1);
    assert!(vault.insert(two, 20, true).await);
    let aside = tempfile::tempdir().unwrap();
    vault.save_roots(aside.path()).await;
    assert!(vault.forget(|slot| slot.index % 13 == 1).await);
    assert!(vault.insert(one, 30, false).await);
    assert!(vault.start().await);
    vault.invariant_the_dead_are_dead(Trying::Everything).await;

    // The roots that were destroyed, saved by a thief: with them the dead are read, so the search would tell.
    let found = vault.recoverable(aside.path(), Trying::Everything).await;
    assert_eq!(found.dead_read.len(), 12 + 2, "all that were forgotten, none that no root ever reached");
    let found = vault.recoverable(&vault.roots(), Trying::Everything).await;
    assert!(found.pages > 5, "{} pages", found.pages);
}
