//! Copies, clones and halves: two lives of one vault must never be taken for one.

use cloakroom_core::refusal::Code;
use cloakroom_engine::{Engine, GateReason};

use crate::house::{DPO, House, copy, erasure_of, person, read};

/// A vault that has lived, at rest; the token of somebody in it.
async fn lived() -> (House, String, String) {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, token, _) = person(&engine, "ada@example.com", "Ada").await;
    person(&engine, "bob@example.com", "Bob").await;
    engine.close().await;
    (house, subject, token)
}

async fn go_on(house: &House, name: &str) -> String {
    let engine = house.open().await;
    let (_, token, _) = person(&engine, &format!("{name}@example.com"), name).await;
    let (subject, _, _) = person(&engine, &format!("{name}2@example.com"), name).await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.close().await;
    token
}

async fn reads(engine: &Engine, token: &str, value: &str) {
    assert_eq!(read(engine, token).await.as_deref(), Ok(value));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_of_two_branches_close_the_gate_and_whole_ones_open_it() {
    let (one, _, ada) = lived().await;
    let other = one.fork();
    let (cy, dan) = (go_on(&one, "cy").await, go_on(&other, "dan").await);
    for roots in [&one, &other] {
        let mixed = one.fork();
        mixed.take("keys", &other);
        mixed.take("roots", roots);
        let reason = mixed.gate().await;
        assert!(matches!(reason, GateReason::LogBehindKeys { .. }), "{reason}");
        mixed.take("keys", &one);
        mixed.take("roots", &one);
        let engine = mixed.open().await;
        reads(&engine, &ada, "ada@example.com").await;
        reads(&engine, &cy, "cy@example.com").await;
        engine.close().await;
    }
    let mixed = other.fork();
    mixed.take("roots", &one);
    let reason = mixed.gate().await;
    assert!(matches!(reason, GateReason::RootGone { .. } | GateReason::KeysBehindHolder { .. }), "{reason}");
    let engine = other.open().await;
    reads(&engine, &dan, "dan@example.com").await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_went_on_does_not_fit_the_keys_from_before_it() {
    let (before, ..) = lived().await;
    let after = before.fork();
    go_on(&after, "cy").await;
    after.take("keys", &before);
    after.take("roots", &before);
    let reason = after.gate().await;
    assert!(matches!(reason, GateReason::KeysBehindLog { .. }), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_shares_the_roots_is_refused_once_the_original_went_on() {
    let (original, _, ada) = lived().await;
    let clone = original.fork();
    go_on(&original, "cy").await;
    std::fs::remove_dir_all(clone.folder.join("roots")).unwrap();
    std::os::unix::fs::symlink(original.folder.join("roots"), clone.folder.join("roots")).unwrap();
    let reason = clone.gate().await;
    assert!(matches!(reason, GateReason::RootGone { .. } | GateReason::KeysBehindHolder { .. }), "{reason}");
    let engine = original.open().await;
    reads(&engine, &ada, "ada@example.com").await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_of_everything_opens_which_only_a_witness_could_tell() {
    let (original, subject, token) = lived().await;
    let clone = original.fork();
    let engine = original.open().await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.close().await;
    let engine = clone.open().await;
    reads(&engine, &token, "ada@example.com").await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_log_of_the_same_epoch_closes_the_gate() {
    let (house, _, ada) = lived().await;
    let engine = house.open().await;
    let (_, cy, _) = person(&engine, "cy@example.com", "Cy").await;
    let aside = House::new();
    copy(&house.folder.join("data/log"), &aside.folder.join("log"));
    let epoch = engine.figures().epoch;
    person(&engine, "dan@example.com", "Dan").await;
    assert_eq!(engine.figures().epoch, epoch);
    engine.close().await;
    drop(engine);
    let newest = house.fork();
    // The log alone, beside projections that are ahead of it.
    std::fs::remove_dir_all(house.folder.join("data/log")).unwrap();
    copy(&aside.folder.join("log"), &house.folder.join("data/log"));
    let reason = house.gate().await;
    assert!(matches!(reason, GateReason::LogBehindKeys { .. }), "{reason}");
    let engine = newest.open().await;
    reads(&engine, &ada, "ada@example.com").await;
    reads(&engine, &cy, "cy@example.com").await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_and_keys_both_older_do_not_open_with_the_roots_of_today() {
    let (house, subject, token) = lived().await;
    let old = house.fork();
    let engine = house.open().await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.close().await;
    drop(engine);
    let newest = house.fork();
    house.take("data", &old);
    house.take("keys", &old);
    let reason = house.gate().await;
    assert!(matches!(reason, GateReason::RootGone { .. } | GateReason::KeysBehindHolder { .. }), "{reason}");
    let engine = newest.open().await;
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_another_vault_closes_the_gate() {
    let ((one, ..), (other, ..)) = (lived().await, lived().await);
    one.take("data", &other);
    let reason = one.gate().await;
    assert_eq!(reason, GateReason::OtherTree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_of_another_branch_are_not_believed() {
    let (one, _, ada) = lived().await;
    let other = one.fork();
    let (cy, _) = (go_on(&one, "cy").await, go_on(&other, "dan").await);
    // Behind this log in number, yet of another life.
    go_on(&one, "eve").await;
    one.take("data/projections", &other);
    let engine = one.open().await;
    reads(&engine, &ada, "ada@example.com").await;
    reads(&engine, &cy, "cy@example.com").await;
    let verdict = engine.verify_log(crate::house::ADMIN).await.unwrap();
    assert_eq!(verdict.problems, Vec::<String>::new());
    person(&engine, "fay@example.com", "Fay").await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_without_values_keeps_its_part_of_the_tree_over_restarts() {
    let house = House::new();
    house.ready().await.close().await;
    let engine = house.open().await;
    for controller in ["hellotickets", "active-tickets"] {
        let applied =
            engine.apply_register(crate::house::ADMIN, &crate::house::register(controller), false).await;
        applied.unwrap();
    }
    engine.close().await;
    drop(engine);
    let engine = house.open().await;
    let (_, token, _) = person(&engine, "ada@example.com", "Ada").await;
    reads(&engine, &token, "ada@example.com").await;
    engine.close().await;
    drop(engine);
    assert_eq!(subtrees(&house).len(), 3, "each controller has a part of its own");
}

/// The parts of the tree that the log gave to controllers.
fn subtrees(house: &House) -> std::collections::BTreeSet<u32> {
    use cloakroom_core::event::Body;
    use cloakroom_core::ids::EventNumber;
    use cloakroom_crypto::hash;
    use cloakroom_store::embedded::{EmbeddedLog, LogOptions};
    use cloakroom_store::{Hashes, Log};
    let hashes = Hashes { frame: hash::frame, leaf: hash::leaf };
    let log = EmbeddedLog::open(&house.folder.join("data/log"), hashes, LogOptions::default()).unwrap();
    let work = async {
        let end = log.find_end(0).await.unwrap();
        let mut found = std::collections::BTreeSet::new();
        for number in (1..=end.events).map(EventNumber) {
            let bytes = log.event(number).await.unwrap().unwrap();
            let event = cloakroom_engine::codec::decode(number, bytes).unwrap();
            if let Body::RegisterApplied(applied) = event.body {
                assert!(found.insert(applied.subtree.0), "two controllers share a part");
            }
        }
        found
    };
    futures_util::FutureExt::now_or_never(work).unwrap()
}
