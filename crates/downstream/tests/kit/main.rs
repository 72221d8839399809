//! The kit against a broker and a vault's endpoints, all real but for what the vault says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // a test may panic

mod vault;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cloakroom_bus::{
    Bootstrap, BusConfig, EmbeddedBroker, Keyring, Outgoing, Publisher, Signer, Subscription, topics, verify,
};
use cloakroom_core::clock::SystemClock;
use cloakroom_core::ids::TreeId;
use cloakroom_crypto::sign::{SigningKey, VerifyingKey};
use cloakroom_downstream::{
    Copies, DownstreamError, Erasure, Kit, KitConfig, NothingElse, Plaintext, Purge, PurgeError, Purged,
    Reader, Rectified, Scope, Token,
};
use cloakroom_proto::bus::v1 as bus;
use cloakroom_runtime::health::Readiness;
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_testkit::wait;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tempfile::TempDir;
use tokio::time::timeout;
use vault::{CONTROLLER, Vault};

/// The embedded broker lets a group's first member wait, and the machine is shared.
const DEADLINE: Duration = Duration::from_secs(90);
const OF: Scope<'static> = Scope { controller: CONTROLLER, purpose: "ticket_delivery" };

struct House {
    folder: TempDir,
    _broker: EmbeddedBroker,
    bus: BusConfig,
    vault: Vault,
    announcer: Publisher,
    readiness: Readiness,
    shutdown: Shutdown,
}

impl Drop for House {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port_file = folder.path().join("kafka.port");
        let broker = EmbeddedBroker::start(&port_file).unwrap();
        let bus = BusConfig::plaintext(Bootstrap::PortFile(port_file));
        topics::ensure(&bus, &[CONTROLLER.into()]).await.unwrap();
        let vault = Vault::start(broker.address()).await;
        let signer = Signer { source: "vault".into(), key: Arc::clone(&vault.announcer) };
        let announcer = Publisher::connect(&bus, signer);
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        Self { folder, _broker: broker, bus, vault, announcer, readiness, shutdown }
    }

    async fn copies(&self) -> Copies {
        copies_in(self.folder.path()).await
    }

    fn config(&self) -> KitConfig {
        KitConfig {
            downstream: "mail".into(),
            admin: self.vault.endpoint(),
            kafka: Some(self.bus.clone()),
            key_file: self.key_file(),
            refresh_ms: 500,
            replay_ms: 3_600_000,
        }
    }

    fn key_file(&self) -> std::path::PathBuf {
        self.folder.path().join("mail.key")
    }

    async fn catch_up(&self, purge: Arc<dyn Purge>) -> Result<Kit, DownstreamError> {
        let condition = self.readiness.condition("erasures");
        let kit = Kit::catch_up(self.config(), purge, Arc::new(SystemClock), &condition, &self.shutdown);
        Ok(timeout(DEADLINE, kit).await.expect("in time")?.expect("not stopped"))
    }

    async fn run(&self, purge: Arc<dyn Purge>) -> tokio::task::JoinHandle<()> {
        let kit = self.catch_up(purge).await.unwrap();
        tokio::spawn(kit.run(self.shutdown.clone()))
    }

    async fn announce(&self, token: &str, purge_id: &str) {
        self.publish(&self.announcer, purge(token, purge_id)).await;
    }

    async fn publish(&self, publisher: &Publisher, record: Outgoing) {
        timeout(DEADLINE, publisher.publish(vec![record])).await.expect("in time").unwrap();
    }

    /// Ends the kit while the broker is still there to be left.
    async fn stop(self, running: tokio::task::JoinHandle<()>) {
        self.shutdown.begin();
        timeout(DEADLINE, running).await.expect("a graceful stop").unwrap();
    }

    fn acks(&self) -> Subscription {
        Subscription::open(&self.bus, "test-acks", [topics::ack(CONTROLLER)])
    }

    /// The next ack, signed by the key in the downstream's file.
    async fn ack(&self, acks: &mut Subscription) -> bus::Ack {
        let ring = Keyring::from_iter([("mail", key_in(&self.key_file()))]);
        let record = timeout(DEADLINE, acks.next()).await.expect("in time").unwrap();
        let verified = verify(record, &ring).expect("signed by the downstream");
        let ack: bus::Ack = verified.decode().unwrap();
        assert_eq!((verified.key.as_str(), ack.downstream.as_str()), (ack.purge_id.as_str(), "mail"));
        ack
    }

    async fn dead_letter(&self) -> bus::DeadLetter {
        let ring = Keyring::from_iter([("mail", key_in(&self.key_file()))]);
        let mut letters = Subscription::open(&self.bus, "test-letters", [topics::DEAD_LETTER.to_owned()]);
        let record = timeout(DEADLINE, letters.next()).await.expect("in time").unwrap();
        letters.close().await;
        verify(record, &ring).unwrap().decode().unwrap()
    }
}

async fn copies_in(folder: &Path) -> Copies {
    Copies::open(&folder.join("data"), &folder.join("roots"), Arc::new(NothingElse)).await.unwrap()
}

fn key_in(path: &Path) -> VerifyingKey {
    SigningKey::read_from(&mut std::fs::File::open(path).unwrap()).unwrap().verifying_key().clone()
}

fn purge(token: &str, purge_id: &str) -> Outgoing {
    let message =
        bus::Purge { version: 1, purge_id: purge_id.into(), token: token.into(), ..Default::default() };
    Outgoing::new(topics::erasure(CONTROLLER), token, purge_id, 1_750_000_000_000, &message).unwrap()
}

fn token(name: &str) -> Token {
    Token::parse(name).unwrap()
}

async fn put(copies: &Copies, name: &str) {
    let seen = copies.sequence(&token(name)).await.unwrap();
    copies.put(&token(name), OF, &Plaintext::from_slice(b"value"), seen).await.unwrap();
}

async fn is_purged(copies: &Copies, name: &str) -> bool {
    matches!(copies.hold(&token(name)).await, Err(DownstreamError::Purged))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_on_kafka_ends_in_a_signed_answer_and_a_repeat_in_the_same() {
    let house = House::new().await;
    house.vault.known().refusals = 2;
    let copies = house.copies().await;
    put(&copies, "t1").await;
    let running = house.run(Arc::new(copies.clone())).await;
    assert!(house.readiness.is_ready());
    {
        let known = house.vault.known();
        let registered = known.registered.first().unwrap();
        assert_eq!(registered.copies_tree_id, copies.tree_id().to_string());
        assert_eq!(registered.verifying_key, key_in(&house.key_file()).as_bytes().as_slice());
        assert_eq!(
            (registered.downstream.as_str(), registered.destroy_class.as_str()),
            ("mail", "overwritten")
        );
    }
    let mut acks = house.acks();
    house.announce("t1", "p1").await;
    let first = house.ack(&mut acks).await;
    assert_eq!(
        (first.status(), first.purged_count, first.purge_id.as_str()),
        (bus::AckStatus::Purged, 1, "p1")
    );
    assert!(
        first.evidence.starts_with("epoch ") && first.evidence.ends_with(", overwritten"),
        "{}",
        first.evidence
    );
    assert!(is_purged(&copies, "t1").await);

    house.announce("t1", "p1").await;
    let again = house.ack(&mut acks).await;
    assert_eq!((again.status(), &again.evidence), (bus::AckStatus::Purged, &first.evidence));
    house.announce("never-seen", "p2").await;
    assert_eq!(house.ack(&mut acks).await.status(), bus::AckStatus::NothingHeld);
    acks.close().await;

    house.stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_does_not_verify_purges_nothing_and_is_put_aside() {
    let house = House::new().await;
    let copies = house.copies().await;
    put(&copies, "t1").await;
    let running = house.run(Arc::new(copies.clone())).await;

    // A record of the announcer's, changed on its way.
    let mut peek = Subscription::open(&house.bus, "test-peek", [topics::erasure(CONTROLLER)]);
    house.announce("t0", "p0").await;
    let good = timeout(DEADLINE, peek.next()).await.unwrap().unwrap();
    peek.close().await;
    let forged = bus::Purge { version: 1, purge_id: "p1".into(), token: "t1".into(), ..Default::default() };
    let forged = prost::Message::encode_to_vec(&forged);
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", house._broker.address()).create().unwrap();
    let headers = good.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
        all.insert(Header { key, value: Some(value.as_ref()) })
    });
    let topic = topics::erasure(CONTROLLER);
    producer
        .send(FutureRecord::to(&topic).key("t1").payload(&forged).headers(headers), DEADLINE)
        .await
        .unwrap();

    let letter = house.dead_letter().await;
    assert_eq!((letter.reason.as_str(), letter.topic.as_str()), ("bad-signature", topic.as_str()));
    assert_eq!(letter.downstream, "mail");
    assert!(!is_purged(&copies, "t1").await);

    // And it goes on: what comes after is purged.
    let mut acks = house.acks();
    house.announce("t1", "p2").await;
    while house.ack(&mut acks).await.purge_id != "p2" {}
    assert!(is_purged(&copies, "t1").await);
    acks.close().await;
    house.stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_announcer_key_is_asked_for_before_a_record_is_refused() {
    let house = House::new().await;
    let copies = house.copies().await;
    put(&copies, "t1").await;
    let mut config = house.config();
    config.refresh_ms = 3_600_000;
    let condition = house.readiness.condition("erasures");
    let purge_by: Arc<dyn Purge> = Arc::new(copies.clone());
    let kit = Kit::catch_up(config, purge_by, Arc::new(SystemClock), &condition, &house.shutdown);
    let kit = kit.await.unwrap().unwrap();
    let running = tokio::spawn(kit.run(house.shutdown.clone()));
    let key = Arc::new(SigningKey::generate());
    house.vault.known().announcer_keys.push(Bytes::copy_from_slice(key.verifying_key().as_bytes()));
    let rotated = Publisher::connect(&house.bus, Signer { source: "vault".into(), key });
    // The keys are asked for once a second at most, so the record is sent again until they were.
    let publishing = async {
        loop {
            house.publish(&rotated, purge("t1", "p1")).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut acks = house.acks();
    tokio::select! {
        ack = house.ack(&mut acks) => assert_eq!(ack.status(), bus::AckStatus::Purged),
        () = publishing => {}
    }
    acks.close().await;
    house.stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_replayed_before_it_is_ready_and_answered_on_kafka() {
    let house = House::new().await;
    let copies = house.copies().await;
    put(&copies, "t1").await;
    house.vault.in_ledger(7, "t1", &house.vault.announcer);
    house.vault.in_ledger(9, "t2", &house.vault.announcer);
    let kit = house.catch_up(Arc::new(copies.clone())).await.unwrap();
    assert!(is_purged(&copies, "t1").await && is_purged(&copies, "t2").await);
    assert_eq!(copies.position().await.unwrap(), 109, "where the ledger stands");

    let again = house.catch_up(Arc::new(copies.clone())).await.unwrap();
    drop(again);
    assert_eq!(house.vault.known().replays, [0, 110]);

    let running = tokio::spawn(kit.run(house.shutdown.clone()));
    let mut acks = house.acks();
    let mut answered = [house.ack(&mut acks).await, house.ack(&mut acks).await];
    answered.sort_by(|one, other| one.purge_id.cmp(&other.purge_id));
    assert_eq!(
        answered.map(|ack| (ack.purge_id.clone(), ack.status())),
        [("p7".into(), bus::AckStatus::Purged), ("p9".into(), bus::AckStatus::NothingHeld)]
    );
    acks.close().await;
    house.stop(running).await;
}

/// Data and root of the night before, as a machine's snapshot brings both back: what was purged since is there
/// again, and nobody is told that it is ready before it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_downstream_is_not_ready_before_it_purged_again_what_it_missed() {
    let house = House::new().await;
    let at = |name: &str| house.folder.path().join(name);
    let copies = house.copies().await;
    put(&copies, "t1").await;
    put(&copies, "t2").await;
    copies.close().await;
    drop(copies);
    for part in ["data", "roots"] {
        copy_folder(&at(part), &at(&format!("night-{part}")));
    }
    let copies = house.copies().await;
    house.vault.in_ledger(7, "t1", &house.vault.announcer);
    drop(house.catch_up(Arc::new(copies.clone())).await.unwrap());
    assert!(is_purged(&copies, "t1").await);
    copies.close().await;
    drop(copies);
    for part in ["data", "roots"] {
        std::fs::remove_dir_all(at(part)).unwrap();
        std::fs::rename(at(&format!("night-{part}")), at(part)).unwrap();
    }
    let copies = house.copies().await;
    assert!(!is_purged(&copies, "t1").await, "a copy that no other protection is left for");
    assert_eq!(copies.position().await.unwrap(), 0);
    // As long as it cannot ask, it is not ready.
    let (away, readiness) = (KitConfig { admin: nobody(&house), ..house.config() }, Readiness::new());
    let condition = readiness.condition("erasures");
    let waits =
        Kit::catch_up(away, Arc::new(copies.clone()), Arc::new(SystemClock), &condition, &house.shutdown);
    assert!(timeout(Duration::from_secs(2), waits).await.is_err());
    assert!(!readiness.is_ready());

    drop(house.catch_up(Arc::new(copies.clone())).await.unwrap());
    assert!(is_purged(&copies, "t1").await && !is_purged(&copies, "t2").await);
    copies.close().await;
}

/// Where no vault answers.
fn nobody(house: &House) -> cloakroom_client::Endpoint {
    cloakroom_client::Endpoint { address: "127.0.0.1:1".to_owned(), ..house.vault.endpoint() }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_ledger_keeps_it_from_being_ready() {
    let house = House::new().await;
    let copies = house.copies().await;
    house.vault.in_ledger(7, "t1", &SigningKey::generate());
    let condition = house.readiness.condition("erasures");
    let purge_by: Arc<dyn Purge> = Arc::new(copies.clone());
    let kit = Kit::catch_up(house.config(), purge_by, Arc::new(SystemClock), &condition, &house.shutdown);
    let stopped = async {
        let refused = || house.readiness.reasons().iter().any(|reason| reason.contains("refused"));
        wait::until(DEADLINE, "the reason", async || refused().then_some(())).await;
        house.shutdown.begin();
    };
    let (kit, ()) = tokio::join!(kit, stopped);
    assert!(kit.unwrap().is_none());
    assert!(!is_purged(&copies, "t1").await);
    assert_eq!(copies.position().await.unwrap(), 0, "it is asked for again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rectified_token_s_copy_is_dropped_once() {
    let house = House::new().await;
    let copies = house.copies().await;
    put(&copies, "t1").await;
    let running = house.run(Arc::new(copies.clone())).await;
    let notice = |sequence| {
        let kind = bus::NoticeKind::Rectified.into();
        let message = bus::Notice { version: 1, kind, token: "t1".into(), sequence };
        let id = format!("n{sequence}");
        Outgoing::new(topics::notice(CONTROLLER), "t1", id, 1_750_000_000_000, &message).unwrap()
    };
    house.publish(&house.announcer, notice(5)).await;
    let kept = async || copies.with_copy(&token("t1"), OF, |_| ()).await.unwrap();
    wait::until(DEADLINE, "the copy goes", async || kept().await.is_none().then_some(())).await;
    put(&copies, "t1").await;
    house.publish(&house.announcer, notice(5)).await;
    let mut acks = house.acks();
    house.announce("t2", "p2").await; // behind the notices, or beside them
    house.ack(&mut acks).await;
    acks.close().await;
    assert!(kept().await.is_some(), "an old notice drops nothing");
    house.stop(running).await;
}

/// Says what the test wants.
struct Scripted(Mutex<VecDeque<Result<(), PurgeError>>>);

#[async_trait]
impl Purge for Scripted {
    async fn purge(&self, what: &[Erasure]) -> Result<Vec<Purged>, PurgeError> {
        self.0.lock().unwrap().pop_front().unwrap_or(Ok(()))?;
        let gone =
            |erasure: &Erasure| Purged::Gone { count: 1, evidence: format!("job {}", erasure.purge_id) };
        Ok(what.iter().map(gone).collect())
    }
    async fn rectified(&self, _: &Rectified) -> Result<(), PurgeError> {
        Ok(())
    }
    fn copies_tree(&self) -> Option<TreeId> {
        None
    }
    fn destroy_class(&self) -> String {
        "deleted-rows".into()
    }
    async fn position(&self) -> Result<u64, PurgeError> {
        Ok(0)
    }
    async fn reached(&self, _: u64) -> Result<(), PurgeError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_tried_again_until_it_is_done_and_refused_only_when_it_refuses() {
    let house = House::new().await;
    let script = [
        Err(PurgeError::retry("away")),
        Err(PurgeError::retry("away")),
        Ok(()),
        Err(PurgeError::refuse("held-by-law")),
    ];
    let running = house.run(Arc::new(Scripted(Mutex::new(script.into())))).await;
    assert_eq!(house.vault.known().registered[0].copies_tree_id, "");
    let mut acks = house.acks();
    house.announce("t1", "p1").await;
    let ack = house.ack(&mut acks).await;
    assert_eq!((ack.status(), ack.evidence.as_str()), (bus::AckStatus::Purged, "job p1"));
    house.announce("t2", "p2").await;
    let ack = house.ack(&mut acks).await;
    assert_eq!((ack.status(), ack.reason.as_str()), (bus::AckStatus::Refused, "held-by-law"));
    acks.close().await;
    assert_eq!(house.dead_letter().await.reason, "refused");
    house.stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_read_once_and_then_from_the_copies() {
    let vault = Vault::start("").await;
    let folder = tempfile::tempdir().unwrap();
    let copies = copies_in(folder.path()).await;
    vault.known().values.insert("t1".into(), "zoë@example.com".into());
    let reader = Reader::plain(vault.client(), copies.clone(), "ticket_delivery");
    for _ in 0..3 {
        let held = reader.read(CONTROLLER, &token("t1")).await.unwrap();
        assert_eq!(held.text().unwrap(), "zoë@example.com");
    }
    assert_eq!(vault.known().detokenized, 1);
    let masked = Reader::masked(vault.client(), copies.clone(), "ticket_delivery");
    masked.read(CONTROLLER, &token("t1")).await.unwrap();
    assert_eq!(vault.known().detokenized, 2, "a whole value does not stand in for a masked one");

    let both = reader.read_all(CONTROLLER, &[token("t1"), token("erased")]).await.unwrap();
    assert!(both[0].is_ok() && matches!(both[1], Err(DownstreamError::Purged)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_arrives_after_its_purge_is_neither_kept_nor_used() {
    let vault = Vault::start("").await;
    let folder = tempfile::tempdir().unwrap();
    let copies = copies_in(folder.path()).await;
    vault.known().values.insert("t1".into(), "late".into());
    vault.slow.store(true, Ordering::SeqCst);
    let reader = Reader::plain(vault.client(), copies.clone(), "ticket_delivery");
    let reading = tokio::spawn(async move { reader.read(CONTROLLER, &token("t1")).await });
    vault.asked.notified().await;
    let erasure = Erasure {
        controller: CONTROLLER.into(),
        purge_id: "p1".into(),
        token: token("t1"),
        field: String::new(),
        activity: String::new(),
        deadline_unix_ms: 0,
    };
    let purged = timeout(DEADLINE, copies.purge(&[erasure])).await.expect("it does not wait for the vault");
    assert!(matches!(purged.unwrap()[0], Purged::NothingHeld { .. }));
    vault.let_go.notify_one();
    assert!(matches!(reading.await.unwrap(), Err(DownstreamError::Purged)));
    assert_eq!(copies.counts(CONTROLLER).await.unwrap().copies, 0);
}
