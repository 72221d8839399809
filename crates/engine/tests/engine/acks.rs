//! What downstreams answer while the disk is full, or cannot be read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloakroom_bus::{
    Bootstrap, BusConfig, EmbeddedBroker, Kind, Outgoing, Publisher, Signer, read_topic, topics,
};
use cloakroom_core::ids::EventNumber;
use cloakroom_crypto::sign::SigningKey;
use cloakroom_engine::open::Layers;
use cloakroom_engine::{BusOptions, Engine, Opened, Options, Registration};
use cloakroom_proto::bus::v1 as bus;
use cloakroom_store::embedded::EmbeddedLog;
use cloakroom_store::{Answer, Frame, FrameHash, Log, StoreError, log_through};
use prost::Message;

use crate::house::{ADMIN, DPO, House, MAIL, SEE, erasure_of, person, register};

/// A group's first member waits for the embedded broker, and again for a topic that it sees later.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is wrong with the disk, and how often it was met.
#[derive(Default)]
struct Disk {
    full: AtomicBool,
    unreadable: AtomicBool,
    refused: AtomicU64,
}

impl Disk {
    fn refuses(&self, why: &AtomicBool) -> bool {
        let refuses = why.load(Ordering::SeqCst);
        self.refused.fetch_add(refuses.into(), Ordering::SeqCst);
        refuses
    }
}

struct Faulty {
    inner: Arc<EmbeddedLog>,
    disk: Arc<Disk>,
}

impl Log for Faulty {
    log_through!(inner: find_end cut sync frame_of leaves sealed prune);

    fn append(&self, frame: &Frame, urgent: bool) -> Answer<'_, Result<FrameHash, StoreError>> {
        if self.disk.refuses(&self.disk.full) {
            return Answer::now(Err(StoreError::Full { free_bytes: 0, reserved_bytes: 1 }));
        }
        self.inner.append(frame, urgent)
    }

    fn event(&self, number: EventNumber) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        if self.disk.refuses(&self.disk.unreadable) {
            let source = io::Error::from(io::ErrorKind::TimedOut);
            return Answer::now(Err(StoreError::Io { what: "reading", source }));
        }
        self.inner.event(number)
    }
}

struct On(Arc<Disk>);

impl Layers for On {
    fn log(&mut self, inner: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        Arc::new(Faulty { inner, disk: Arc::clone(&self.0) })
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let given_up = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < given_up, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The mail service's answers to all purges that were announced.
async fn answers(kafka: &BusConfig) -> Vec<Outgoing> {
    let records = read_topic(kafka, &topics::erasure(SEE)).await.unwrap_or_default();
    let purges = records.iter().map(|record| bus::Purge::decode(record.value.clone()).unwrap());
    let answer = |purge: bus::Purge| {
        let ack = bus::Ack {
            version: 1,
            purge_id: purge.purge_id.clone(),
            token: purge.token,
            downstream: "mail".to_owned(),
            status: bus::AckStatus::Purged.into(),
            purged_count: 1,
            ..Default::default()
        };
        Outgoing {
            topic: topics::ack(SEE),
            key: purge.purge_id.clone(),
            kind: Kind::Ack,
            id: purge.purge_id,
            time_unix_ms: 1_790_000_000_000,
            value: ack.encode_to_vec().into(),
            trace: None,
        }
    };
    purges.map(answer).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_the_log_has_no_room_for_are_taken_in_once_it_has() {
    answers_come_in_after(|disk| &disk.full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_about_what_cannot_be_read_now_are_taken_in_once_it_can() {
    answers_come_in_after(|disk| &disk.unreadable).await;
}

async fn answers_come_in_after(fault: fn(&Disk) -> &AtomicBool) {
    let place = tempfile::tempdir().unwrap();
    let port = place.path().join("kafka.port");
    let _broker = EmbeddedBroker::start(&port).unwrap();
    let kafka = BusConfig::plaintext(Bootstrap::PortFile(port));
    let (house, disk) = (House::new(), Arc::new(Disk::default()));
    let options = Options { bus: BusOptions::Kafka(kafka.clone()), ..house.options() };
    let opened = Engine::open_over(options, house.clock.clone(), &mut On(Arc::clone(&disk))).await;
    let Opened::Ready(engine) = opened.unwrap() else { panic!("the gate is closed") };
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    let key = Arc::new(SigningKey::generate());
    let registration = Registration {
        downstream: "mail".to_owned(),
        verifying_key: key.verifying_key().as_bytes().to_vec(),
        copies_tree_id: String::new(),
        destroy_class: String::new(),
    };
    engine.register_downstream(MAIL, registration).await.unwrap();
    let (subject, ..) = person(&engine, "ada@example.com", "Ada").await;
    let (erasure, _) = engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    until("the purges of both values", async || answers(&kafka).await.len() == 2).await;

    fault(&disk).store(true, Ordering::SeqCst);
    let mail = Publisher::connect(&kafka, Signer { source: "mail".to_owned(), key });
    mail.publish(answers(&kafka).await).await.unwrap();
    let refused = disk.refused.load(Ordering::SeqCst);
    until("they are tried again", async || disk.refused.load(Ordering::SeqCst) >= refused + 2).await;
    fault(&disk).store(false, Ordering::SeqCst);
    until("both are taken in", async || {
        let view = engine.erasure(DPO, &erasure.erasure_id).await.unwrap();
        view.downstreams.iter().any(|one| one.downstream == "mail" && one.tokens_answered == 2)
    })
    .await;
    engine.close().await;
}
