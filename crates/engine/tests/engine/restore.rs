//! Older data in place of today's: accepted by name, and what it had forgotten stays forgotten.

use std::sync::{Arc, Mutex};

use cloakroom_core::ids::FramePosition;
use cloakroom_core::refusal::Code;
use cloakroom_crypto::hash;
use cloakroom_engine::open::Layers;
use cloakroom_engine::{Engine, EngineError, GateReason, Opened, RootHolder};
use cloakroom_store::embedded::reading::{FrameReader, log_files};

use crate::holder::{Moody, Steps};
use crate::house::{ADMIN, DPO, House, copy, erasure_of, person, read};

/// The frame that the keys have recorded and the log lacks.
fn lacking(reason: &GateReason) -> FramePosition {
    match reason {
        GateReason::LogBehindKeys { lacking } => *lacking,
        other => panic!("{other}"),
    }
}

async fn try_older(house: &House, lacking: FramePosition) -> Result<Opened, EngineError> {
    Engine::open_older(house.options(), house.clock.clone(), lacking).await
}

/// Accepts the log that lies there.
async fn accept(house: &House) -> Engine {
    let lacking = lacking(&house.gate().await);
    match try_older(house, lacking).await.unwrap_or_else(|error| panic!("{}", error.chain())) {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("the gate is closed: {reason}"),
    }
}

/// Opens a vault whose log was accepted. Not by [`House::open`]: the disclosure graph beneath that takes a slot
/// without a fence for a living one, and an older log lacks the fences of what died since.
async fn open(house: &House) -> Engine {
    match Engine::open(house.options(), house.clock.clone()).await {
        Ok(Opened::Ready(engine)) => engine,
        Ok(Opened::Gated(reason)) => panic!("the gate is closed: {reason}"),
        Err(error) => panic!("{}", error.chain()),
    }
}

/// The log of `other` without anything that could be rebuilt, as a backup has it.
fn take_log(house: &House, other: &House) {
    std::fs::remove_dir_all(house.folder.join("data")).unwrap();
    copy(&other.folder.join("data/log"), &house.folder.join("data/log"));
}

async fn all_is_well(engine: &Engine) {
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
}

struct Yesterday {
    house: House,
    /// As the vault lay there yesterday.
    then: House,
    ada: String,
    bob: String,
    /// Came after yesterday.
    cy: String,
}

/// Two people; yesterday ends; one of them is forgotten and a third one comes.
async fn yesterday() -> Yesterday {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, bob, _) = person(&engine, "bob@example.com", "Bob").await;
    engine.close().await;
    drop(engine);
    let then = house.fork();
    let engine = house.open().await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    let (_, cy, _) = person(&engine, "cy@example.com", "Cy").await;
    engine.close().await;
    Yesterday { house, then, ada, bob, cy }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_log_with_todays_keys_keeps_the_erased_erased_and_gives_up_what_came_later() {
    let Yesterday { house, then, ada, bob, cy } = yesterday().await;
    take_log(&house, &then);
    let standing = Engine::standing(&house.options()).await.unwrap();
    let lacking = lacking(&standing.closed.clone().unwrap());
    assert_eq!(standing.acceptable(), Some(lacking));
    assert!(standing.unnamed_slots >= 2, "{standing:?}: an address and a name are given up");
    assert!(standing.frame.is_some_and(|frame| frame.number < lacking.number));
    // Another frame than the one recorded is nobody's decision about this log.
    let wrong = FramePosition { number: lacking.number + 1, ..lacking };
    assert!(matches!(try_older(&house, wrong).await.unwrap(), Opened::Gated(_)));

    let engine = accept(&house).await;
    assert_eq!(read(&engine, &ada).await, Err(Code::Erased), "the log knows of no erasure, the tree does");
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
    assert_eq!(read(&engine, &cy).await, Err(Code::NotFound));
    let (dan, token, _) = person(&engine, "dan@example.com", "Dan").await;
    all_is_well(&engine).await;
    engine.close().await;
    drop(engine);

    // Accepted once and for all: no further start asks, and slots are still handed out in order.
    let engine = open(&house).await;
    assert_eq!(read(&engine, &token).await.as_deref(), Ok("dan@example.com"));
    assert_eq!(read(&engine, &ada).await, Err(Code::Erased));
    engine.request_erasure(DPO, erasure_of(&dan)).await.unwrap();
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    all_is_well(&engine).await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_accepted_log_gave_up_is_noise_when_its_bytes_come_back() {
    let Yesterday { house, then, cy, .. } = yesterday().await;
    let newest = house.fork();
    take_log(&house, &then);
    let engine = accept(&house).await;
    person(&engine, "dan@example.com", "Dan").await;
    engine.close().await;
    drop(engine);
    // The log that was given up, against keys that went on without it.
    take_log(&house, &newest);
    let engine = accept(&house).await;
    assert_eq!(read(&engine, &cy).await, Err(Code::Erased), "its key died when its log was given up");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sibling_of_an_accepted_log_closes_the_gate() {
    let Yesterday { house, then, bob, .. } = yesterday().await;
    take_log(&house, &then);
    accept(&house).await.close().await;
    take_log(&house, &then);
    let reason = house.gate().await;
    let engine = accept(&house).await;
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"), "{reason}");
    engine.close().await;
}

/// A start that ends right after its mark in the log: the keys still record the frame that was given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_log_passes_again_after_a_crash_before_the_batch_and_its_sibling_does_not() {
    let Yesterday { house, then, bob, .. } = yesterday().await;
    take_log(&house, &then);
    let today = house.fork();
    accept(&house).await.close().await;
    // As if the power went when the mark was durable and the batch was not: today's keys, the marked log.
    for part in ["keys", "roots"] {
        house.take(part, &today);
    }
    let marked = house.fork();
    cut_to_the_mark(&marked, &then).await;
    let sibling = marked.fork();
    take_log(&sibling, &then);
    assert!(matches!(sibling.gate().await, GateReason::LogBehindKeys { .. }), "this one abandons nothing");
    let engine = open(&marked).await;
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
    all_is_well(&engine).await;
    engine.close().await;
}

/// Leaves of `house`'s log what `then` has and the mark of one more start.
async fn cut_to_the_mark(house: &House, then: &House) {
    let before = Engine::standing(&then.fork().options()).await.unwrap().events;
    let (_, path) = log_files(&house.folder.join("data/log")).unwrap().pop().unwrap();
    let mut reader = FrameReader::open(std::fs::File::open(&path).unwrap(), hash::frame).unwrap().unwrap();
    while reader.next_event().0 <= before + 1 {
        reader.next_frame().unwrap().unwrap();
    }
    assert_eq!(reader.next_event().0, before + 2);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(reader.bytes()).unwrap();
    std::fs::remove_dir_all(house.folder.join("data/projections")).unwrap();
}

/// Copies the whole vault at every step of its root holder, and lets the step happen.
struct Copier {
    from: std::path::PathBuf,
    copies: Mutex<Vec<House>>,
}

impl Steps for Copier {
    fn step(&self) -> (bool, bool) {
        let made = House::new();
        copy(&self.from, &made.folder);
        self.copies.lock().unwrap().push(made);
        (true, true)
    }
}

struct Copied(Arc<Copier>);

impl Layers for Copied {
    fn holder(&mut self, inner: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        Arc::new(Moody { inner, moods: Arc::default(), steps: self.0.clone() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_vault_in_the_middle_of_a_batch_know_the_erasure_or_stay_shut() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, bob, _) = person(&engine, "bob@example.com", "Bob").await;
    engine.close().await;
    drop(engine);
    let copier = Arc::new(Copier { from: house.folder.clone(), copies: Mutex::default() });
    let engine = house.open_over(&mut Copied(Arc::clone(&copier))).await.unwrap();
    copier.copies.lock().unwrap().clear(); // those of the start
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.close().await;
    drop(engine);
    let copies = std::mem::take(&mut *copier.copies.lock().unwrap());
    assert!(copies.len() >= 2, "a root is made and one destroyed");
    for half in copies {
        // With the root holder of today, which went on without it.
        let shared = half.fork();
        std::fs::remove_dir_all(shared.folder.join("roots")).unwrap();
        std::os::unix::fs::symlink(house.folder.join("roots"), shared.folder.join("roots")).unwrap();
        let reason = shared.gate().await;
        assert!(
            matches!(reason, GateReason::RootGone { .. } | GateReason::KeysBehindHolder { .. }),
            "{reason}"
        );
        // With all that was copied: the fence is in its log, and its start ends it.
        let engine = half.open().await;
        assert_eq!(read(&engine, &ada).await, Err(Code::Erased));
        assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
        all_is_well(&engine).await;
        engine.close().await;
    }
    let engine = house.open().await;
    assert_eq!(read(&engine, &ada).await, Err(Code::Erased));
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"), "the living tree is unharmed");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_trees_in_one_holder_do_not_touch_each_other() {
    let (one, other) = (House::new(), House::new());
    std::fs::create_dir_all(one.folder.join("roots")).unwrap();
    std::os::unix::fs::symlink(one.folder.join("roots"), other.folder.join("roots")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(one.folder.join("roots"), private).unwrap();
    let (first, second) = (one.ready().await, other.ready().await);
    let (subject, ada, _) = person(&first, "ada@example.com", "Ada").await;
    let (_, bob, _) = person(&second, "bob@example.com", "Bob").await;
    first.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    assert_eq!(read(&first, &ada).await, Err(Code::Erased));
    assert_eq!(read(&second, &bob).await.as_deref(), Ok("bob@example.com"));
    first.close().await;
    second.close().await;
    drop((first, second));
    one.take("data", &other);
    assert_eq!(one.gate().await, GateReason::OtherTree);
    let engine = other.open().await;
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
    engine.close().await;
}
