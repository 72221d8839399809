//! A machine rolled back or cloned as a whole: log, keys and root agree there, and only the witness can tell.

use std::time::{Duration, Instant};

use cloakroom_bus::{Bootstrap, BusConfig, EmbeddedBroker, Outgoing, Publisher, Signer, read_topic, topics};
use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_crypto::sign::SigningKey;
use cloakroom_crypto::{Key, role};
use cloakroom_engine::{BusOptions, Engine, GateReason, Opened, Options};
use cloakroom_proto::bus::v1 as bus;
use prost::Message;

use crate::house::{ADMIN, DPO, House, SEE, SUPPORT, erasure_of, person, read, register};

/// A broker outside every vault, and how it is reached.
fn kafka(place: &tempfile::TempDir) -> (EmbeddedBroker, BusConfig) {
    let port = place.path().join("kafka.port");
    let broker = EmbeddedBroker::start(&port).unwrap();
    (broker, BusConfig::plaintext(Bootstrap::PortFile(port)))
}

fn options(house: &House, kafka: &BusConfig) -> Options {
    Options { bus: BusOptions::Kafka(kafka.clone()), ..house.options() }
}

async fn open(house: &House, kafka: &BusConfig) -> Engine {
    match Engine::open(options(house, kafka), house.clock.clone()).await.unwrap() {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("{reason}"),
    }
}

async fn gate(house: &House, kafka: &BusConfig) -> GateReason {
    match Engine::open(options(house, kafka), house.clock.clone()).await.unwrap() {
        Opened::Ready(_) => panic!("the gate stayed open"),
        Opened::Gated(reason) => reason,
    }
}

/// Waits until the witness has seen so many events.
async fn witnessed(kafka: &BusConfig, events: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = read_topic(kafka, topics::CHECKPOINT).await.unwrap_or_default();
        let newest = seen.last().map(|record| bus::Checkpoint::decode(record.value.clone()).unwrap());
        if newest.is_some_and(|checkpoint| checkpoint.events >= events) {
            return;
        }
        assert!(Instant::now() < deadline, "the witness has not seen {events} events");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct RolledBack {
    _place: tempfile::TempDir,
    _broker: EmbeddedBroker,
    kafka: BusConfig,
    /// The whole machine as it was before the erasure.
    then: House,
    ada: String,
    bob: String,
    /// The ledger of the life that went on.
    ledger: Vec<String>,
}

async fn rolled_back() -> RolledBack {
    let place = tempfile::tempdir().unwrap();
    let (broker, kafka) = kafka(&place);
    let house = House::new();
    let engine = open(&house, &kafka).await;
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    let (subject, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, bob, other) = person(&engine, "bob@example.com", "Bob").await;
    engine.close().await;
    drop(engine);
    let then = house.fork();
    let engine = open(&house, &kafka).await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.release(crate::house::ORDERS, SEE, vec![other]).await.unwrap().remove(0).unwrap();
    let mut export = engine.export_ledger(ADMIN, 0).unwrap();
    let mut ledger = vec![];
    while let Some(line) = export.next().await {
        ledger.push(line.unwrap());
    }
    witnessed(&kafka, engine.figures().events).await;
    engine.close().await;
    RolledBack { _place: place, _broker: broker, kafka, then, ada, bob, ledger }
}

async fn accept(back: &RolledBack) -> Engine {
    let reason = gate(&back.then, &back.kafka).await;
    let GateReason::Witnessed { seen } = reason else { panic!("{reason}") };
    let standing = Engine::standing(&options(&back.then, &back.kafka)).await.unwrap();
    assert_eq!((standing.acceptable(), standing.needs_replay()), (Some(seen), true));
    let opened = Engine::open_older(options(&back.then, &back.kafka), back.then.clock.clone(), seen).await;
    match opened.unwrap() {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("{reason}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_rolled_back_as_a_whole_is_told_by_the_witness_and_replays_the_ledger() {
    let back = rolled_back().await;
    assert_eq!(back.ledger.len(), 2, "an erasure and a release");
    let engine = accept(&back).await;
    assert_eq!(
        read(&engine, &back.ada).await.as_deref(),
        Ok("ada@example.com"),
        "root and keys came back too"
    );
    let forged = back.ledger[0].replace('.', "x.");
    let refused = engine.replay_ledger(ADMIN, &[back.ledger[1].clone(), forged], false).await;
    assert!(matches!(refused, Err(CallRefusal::Invalid(why)) if why.starts_with("line 2")));
    let refused = engine.replay_ledger(SUPPORT, &back.ledger, false).await;
    assert!(matches!(refused, Err(CallRefusal::Forbidden(_))));
    let dry = engine.replay_ledger(ADMIN, &back.ledger, true).await.unwrap();
    assert_eq!((dry.entries, dry.destroyed, dry.dead, dry.unknown), (2, 3, 0, 0));
    assert_eq!(
        read(&engine, &back.ada).await.as_deref(),
        Ok("ada@example.com"),
        "a dry run destroys nothing"
    );
    assert_eq!(engine.replay_ledger(ADMIN, &back.ledger, false).await.unwrap(), dry);
    assert_eq!(read(&engine, &back.ada).await, Err(Code::Erased));
    assert_eq!(read(&engine, &back.bob).await.as_deref(), Ok("bob@example.com"));
    let again = engine.replay_ledger(ADMIN, &back.ledger, false).await.unwrap();
    assert_eq!((again.destroyed, again.dead), (0, 3), "a second replay has nothing to do");
    let (erasures, _) =
        engine.erasures(DPO, SEE, cloakroom_engine::ErasureFilter::default(), 10, "").await.unwrap();
    assert_eq!(erasures.len(), 1, "an erasure with its own events");
    assert_eq!((erasures[0].actor.as_str(), erasures[0].reason.as_str()), ("dsr-2026-1", "case-1"));
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
    drop(engine);
    // What was accepted stays so.
    let engine = open(&back.then, &back.kafka).await;
    assert_eq!(read(&engine, &back.ada).await, Err(Code::Erased));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kafka_says_was_erased_is_destroyed_again() {
    let back = rolled_back().await;
    let engine = accept(&back).await;
    let replayed = engine.replay_kafka(ADMIN, false).await.unwrap();
    assert_eq!((replayed.destroyed, replayed.dead, replayed.unknown), (3, 0, 0));
    assert_eq!(read(&engine, &back.ada).await, Err(Code::Erased));
    assert_eq!(read(&engine, &back.bob).await.as_deref(), Ok("bob@example.com"));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_answers_late_closes_the_gate_of_a_running_vault() {
    let back = rolled_back().await;
    let place = tempfile::tempdir().unwrap();
    let port = place.path().join("kafka.port");
    let late = BusConfig::plaintext(Bootstrap::PortFile(port.clone()));
    let engine = open(&back.then, &late).await; // nobody could be asked
    let before = read_topic(&back.kafka, topics::CHECKPOINT).await.unwrap().len();
    std::fs::copy(back._place.path().join("kafka.port"), &port).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(60), engine.gated()).await.unwrap();
    assert!(matches!(told, GateReason::Witnessed { .. }), "{told}");
    engine.close().await;
    let after = read_topic(&back.kafka, topics::CHECKPOINT).await.unwrap().len();
    assert_eq!(before, after, "it published nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_vault_did_not_sign_is_no_witness() {
    let place = tempfile::tempdir().unwrap();
    let (_broker, kafka) = kafka(&place);
    let house = House::new();
    let engine = open(&house, &kafka).await;
    let (events, tree) = (engine.figures().events, engine.figures().tree_id);
    witnessed(&kafka, events).await;
    engine.close().await;
    drop(engine);
    let seed = Key::<role::Signing>::random();
    let signer = Signer {
        source: "spiffe://cloakroom.local/mallory".to_owned(),
        key: std::sync::Arc::new(SigningKey::from_seed(seed.borrow())),
    };
    let forged = bus::Checkpoint {
        version: 1,
        tree_id: tree.clone(),
        start_id: vec![9; 16].into(),
        frames: 1_000,
        events: 1_000,
        ..Default::default()
    };
    let record = Outgoing::new(topics::CHECKPOINT.to_owned(), tree, "forged".to_owned(), 1, &forged).unwrap();
    Publisher::connect(&kafka, signer).publish(vec![record]).await.unwrap();
    witnessed(&kafka, 1_000).await;
    open(&house, &kafka).await.close().await;
}
