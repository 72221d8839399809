//! Disks that fail, fill up, and root holders that do not do what they are asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_engine::open::Layers;
use cloakroom_engine::{Engine, ErasureFilter, ErasureState, Opened, Plaintext, TokenizeRequest};
use cloakroom_keytree::RootHolder;
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{FileHolder, Slot, Subtree, TreeOptions};
use cloakroom_store::embedded::{EmbeddedLog, EmbeddedRecords};
use cloakroom_store::faulty::{Failing, Faults, FaultyLog, FaultyRecords};
use cloakroom_store::{Answer, Batch, Log, Records, StoreError, records_through};
use tokio::sync::Notify;

use crate::holder::{Moods, Moody};
use crate::house::{DPO, House, ORDERS, PURCHASE, SEE, erasure_of, item, known, new, person, read, tokenize};
use crate::ledger::Ledger;

const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until `done` gives something.
async fn until<T>(mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = done().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "it never came to that");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A vault with a register, at rest: each test begins with a copy.
async fn at_rest() -> House {
    let house = House::new();
    house.ready().await.close().await;
    house
}

struct Faulty {
    log: Arc<Faults>,
    keys: Arc<Faults>,
    projections: Arc<Faults>,
}

impl Layers for Faulty {
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        Arc::new(FaultyLog::new(log, Arc::clone(&self.log)))
    }

    fn keys(&mut self, keys: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::new(FaultyRecords::new(keys, Arc::clone(&self.keys)))
    }

    fn projections(&mut self, projections: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::new(FaultyRecords::new(projections, Arc::clone(&self.projections)))
    }
}

/// Runs the script with the nth call failing, for every n that the script reaches; then starts on a healthy
/// disk and looks whether all that was answered holds.
async fn every_failure(layers: fn(Arc<Faults>) -> Faulty, faults: fn(u64, Failing) -> Arc<Faults>) {
    every_failure_for(layers, faults, false).await;
}

/// The same; `callers` says that nothing goes there but what a caller waits for, so that no answer may come once
/// something has failed.
async fn every_failure_for(
    layers: fn(Arc<Faults>) -> Faulty,
    faults: fn(u64, Failing) -> Arc<Faults>,
    callers: bool,
) {
    let rest = at_rest().await;
    let mut reached = 0;
    for nth in 1.. {
        let mut failed = false;
        for failing in [Failing::Undone, Failing::Done] {
            let house = rest.fork();
            let fault = faults(nth, failing);
            let mut ledger = Ledger::default();
            if let Ok(engine) = house.open_over(&mut layers(Arc::clone(&fault))).await {
                let ran = ledger.script(&engine).await;
                if fault.failed() {
                    assert!(
                        ran.is_err() || !callers,
                        "the disk failed, and its caller was told that all is well"
                    );
                    if ran.is_err() {
                        tokio::time::timeout(DEADLINE, engine.failed()).await.expect("nobody is told");
                        let refused = ledger.store(&engine, "", &[("email", "late@example.com")]).await;
                        assert!(refused.is_err(), "a vault that has stopped takes nothing in");
                    }
                } else {
                    ran.expect("nothing failed");
                }
                engine.close().await;
            }
            failed |= fault.failed();
            let engine = house.open().await;
            ledger.check(&engine).await;
            engine.close().await;
        }
        if !failed {
            break;
        }
        reached = nth;
    }
    assert!(reached >= 10, "the script reached only {reached} calls");
}

fn on_log(log: Arc<Faults>) -> Faulty {
    Faulty { log, keys: Faults::none(), projections: Faults::none() }
}

fn on_keys(keys: Arc<Faults>) -> Faulty {
    Faulty { log: Faults::none(), keys, projections: Faults::none() }
}

fn on_projections(projections: Arc<Faults>) -> Faulty {
    Faulty { log: Faults::none(), keys: Faults::none(), projections }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_fails_stops_the_vault_and_loses_nothing_answered() {
    every_failure_for(on_log, Faults::nth_write, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_sync_that_fails_stops_the_vault_and_loses_nothing_answered() {
    every_failure_for(on_log, Faults::nth_sync, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_commit_that_fails_stops_the_vault_and_loses_nothing_answered() {
    every_failure(on_keys, Faults::nth_write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_fails_stops_the_vault_and_loses_nothing_answered() {
    every_failure(on_projections, Faults::nth_write).await;
}

/// Projections that keep the writer waiting behind the next frame, with its work done.
struct Slow {
    inner: Arc<dyn Records>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    reached: Notify,
    open: Notify,
}

impl Records for Slow {
    records_through!(inner: get scan sync commit);

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        Answer::later(async move {
            self.inner.apply(batch).await?;
            if self.gate.closed.swap(false, Ordering::SeqCst) {
                self.gate.reached.notify_one();
                self.gate.open.notified().await;
            }
            Ok(())
        })
    }
}

struct SlowProjections(Arc<Gate>);

impl Layers for SlowProjections {
    fn projections(&mut self, inner: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::new(Slow { inner, gate: Arc::clone(&self.0) })
    }
}

/// A fence is in the chain a moment before it is in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_put_behind_a_fence_that_memory_does_not_know_yet() {
    let house = at_rest().await;
    let gate = Arc::new(Gate::default());
    let engine = house.open_over(&mut SlowProjections(Arc::clone(&gate))).await.unwrap();
    let (subject, token, _) = person(&engine, "ada@example.com", "Ada").await;
    gate.closed.store(true, Ordering::SeqCst);
    let erasure = {
        let (engine, request) = (engine.clone(), erasure_of(&subject));
        tokio::spawn(async move { engine.request_erasure(DPO, request).await })
    };
    tokio::time::timeout(DEADLINE, gate.reached.notified()).await.unwrap();
    let rectified = {
        let (engine, to) = (engine.clone(), Plaintext::from_slice(b"eve@example.com"));
        let items = vec![(token.clone(), to)];
        tokio::spawn(async move { engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0) })
    };
    let released = {
        let (engine, token) = (engine.clone(), token.clone());
        tokio::spawn(async move { engine.release(ORDERS, SEE, vec![token]).await.unwrap().remove(0) })
    };
    let stored = {
        let engine = engine.clone();
        let items = vec![item(known(&subject), "email", "eve@example.com")];
        tokio::spawn(async move { tokenize(&engine, "", items).await.remove(0) })
    };
    let answers = tokio::time::timeout(DEADLINE, async {
        (
            rectified.await.unwrap().unwrap_err().code,
            released.await.unwrap().unwrap_err().code,
            stored.await.unwrap().unwrap_err().code,
        )
    });
    assert_eq!(answers.await.expect("they wait to be written"), (Code::Erased, Code::Erased, Code::Erased));
    gate.open.notify_one();
    erasure.await.unwrap().unwrap();
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    engine.close().await;
}

/// The value between two rectifications dies too, although the second began before memory knew of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_version_of_a_rectified_value_is_left_behind() {
    let house = at_rest().await;
    let gate = Arc::new(Gate::default());
    let engine = house.open_over(&mut SlowProjections(Arc::clone(&gate))).await.unwrap();
    let (_, token, _) = person(&engine, "ada@example.com", "Ada").await;
    let rectify = |value: &str| {
        let (engine, to) = (engine.clone(), Plaintext::from_slice(value.as_bytes()));
        let items = vec![(token.clone(), to)];
        tokio::spawn(async move { engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0) })
    };
    gate.closed.store(true, Ordering::SeqCst);
    let first = rectify("ada2@example.com");
    tokio::time::timeout(DEADLINE, gate.reached.notified()).await.unwrap();
    let second = rectify("ada3@example.com");
    // Long enough for the second to have looked; whenever it does, the outcome is the same.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    gate.open.notify_one();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(2), Ok(3)));
    assert_eq!(read(&engine, &token).await.unwrap(), "ada3@example.com");
    engine.close().await;
    drop(engine);
    let living = living_slots(&house).await;
    assert_eq!(living[1].1.len(), 2, "the newest address and the name: {living:?}");
}

#[derive(Default)]
struct Holders {
    moods: Arc<Moods>,
}

impl Layers for Holders {
    fn holder(&mut self, inner: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        Arc::new(Moody { inner, moods: Arc::clone(&self.moods), steps: Arc::new(()) })
    }
}

async fn states(engine: &Engine) -> Vec<ErasureState> {
    let (views, _) = engine.erasures(DPO, SEE, ErasureFilter::default(), 0, "").await.unwrap();
    views.into_iter().map(|view| view.state).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fence_closes_while_a_former_root_stays_nor_without_a_batch_of_its_own() {
    let house = at_rest().await;
    let mut layers = Holders::default();
    let engine = house.open_over(&mut layers).await.unwrap();
    let (first, first_token, _) = person(&engine, "ada@example.com", "Ada").await;
    let (second, second_token, _) = person(&engine, "bob@example.com", "Bob").await;
    let (_, third_token, _) = person(&engine, "cy@example.com", "Cy").await;
    let epoch = engine.figures().epoch;
    layers.moods.keeps_roots.store(true, Ordering::SeqCst);
    let ask = |subject: &str| {
        let (engine, request) = (engine.clone(), erasure_of(subject));
        tokio::spawn(async move { engine.request_erasure(DPO, request).await })
    };
    let one = ask(&first);
    until(async || (engine.figures().epoch > epoch).then_some(())).await;
    let two = ask(&second);
    until(async || (states(&engine).await.len() == 2).then_some(())).await;
    assert_eq!(states(&engine).await, [ErasureState::Fenced; 2]);
    assert!(!one.is_finished() && !two.is_finished());
    assert_eq!(read(&engine, &first_token).await, Err(Code::Erased), "fenced all the same");
    assert_eq!(read(&engine, &second_token).await, Err(Code::Erased));
    assert_eq!(read(&engine, &third_token).await.unwrap(), "cy@example.com", "reads go on");
    person(&engine, "dan@example.com", "Dan").await;

    layers.moods.keeps_roots.store(false, Ordering::SeqCst);
    for erasure in [one, two] {
        let (view, _) = tokio::time::timeout(DEADLINE, erasure).await.unwrap().unwrap().unwrap();
        assert!(view.epoch > epoch);
    }
    assert_eq!(read(&engine, &first_token).await, Err(Code::Erased));
    assert_eq!(read(&engine, &second_token).await, Err(Code::Erased), "closed with its slots alive");
    engine.close().await;
    drop(engine);
    let engine = house.open().await;
    assert_eq!(read(&engine, &second_token).await, Err(Code::Erased));
    assert_eq!(read(&engine, &third_token).await.unwrap(), "cy@example.com");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_stays_over_a_stop_keeps_the_fence_open_until_a_start_destroys_it() {
    let house = at_rest().await;
    let mut layers = Holders::default();
    let engine = house.open_over(&mut layers).await.unwrap();
    let (subject, token, _) = person(&engine, "ada@example.com", "Ada").await;
    let epoch = engine.figures().epoch;
    layers.moods.keeps_roots.store(true, Ordering::SeqCst);
    let erasure = {
        let engine = engine.clone();
        let request = erasure_of(&subject);
        tokio::spawn(async move { engine.request_erasure(DPO, request).await })
    };
    until(async || (engine.figures().epoch > epoch).then_some(())).await;
    engine.close().await;
    assert!(erasure.await.unwrap().is_err(), "nothing that is not done is answered as done");
    drop(engine);

    // The next start's own former roots stay too.
    let engine = house.open_over(&mut layers).await.unwrap();
    assert_eq!(states(&engine).await, [ErasureState::Fenced]);
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    layers.moods.keeps_roots.store(false, Ordering::SeqCst);
    until(async || (states(&engine).await != [ErasureState::Fenced]).then_some(())).await;
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    engine.close().await;
    assert_eq!(roots(&house), 1);
}

/// The files of roots that a vault at rest has.
fn roots(house: &House) -> usize {
    let mut count = 0;
    for tree in std::fs::read_dir(house.folder.join("roots")).unwrap() {
        for file in std::fs::read_dir(tree.unwrap().path()).unwrap() {
            count += usize::from(file.unwrap().file_name().to_str().unwrap().starts_with("root-"));
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_makes_no_root_delays_erasures_and_nothing_else() {
    let house = at_rest().await;
    let mut layers = Holders::default();
    let engine = house.open_over(&mut layers).await.unwrap();
    let (subject, token, _) = person(&engine, "ada@example.com", "Ada").await;
    layers.moods.makes_none.store(true, Ordering::SeqCst);
    layers.moods.deaf.store(true, Ordering::SeqCst);
    let erasure = {
        let (engine, request) = (engine.clone(), erasure_of(&subject));
        tokio::spawn(async move { engine.request_erasure(DPO, request).await })
    };
    until(async || (states(&engine).await == [ErasureState::Fenced]).then_some(())).await;
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    let (_, other, _) = person(&engine, "bob@example.com", "Bob").await;
    assert_eq!(read(&engine, &other).await.unwrap(), "bob@example.com");
    assert!(!erasure.is_finished());
    layers.moods.makes_none.store(false, Ordering::SeqCst);
    tokio::time::timeout(DEADLINE, erasure).await.unwrap().unwrap().unwrap();
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    assert_eq!(read(&engine, &other).await.unwrap(), "bob@example.com");
    engine.close().await;
    assert_eq!(roots(&house), 1);
}

/// Slots of a vault at rest that hold a key, by subtree. Nothing is killed by looking.
async fn living_slots(house: &House) -> Vec<(Subtree, Vec<u64>)> {
    let records = Arc::new(EmbeddedRecords::open(&house.folder.join("keys/tree")).unwrap());
    let holder = Arc::new(FileHolder::open(&house.folder.join("roots")).unwrap());
    let found = Found::look(records, holder, TreeOptions::default()).await.unwrap();
    let start = cloakroom_core::ids::StartId(cloakroom_crypto::random::id16());
    let started = found.start(start, None, &[], None).await.unwrap();
    let tree = started.writer.tree();
    let mut living = vec![];
    for subtree in (0..2).map(Subtree) {
        let mut slots = vec![];
        for index in 0..tree.end(subtree).unwrap_or(0) {
            if tree.with_key(Slot { subtree, index }, |_| ()).await.unwrap().is_some() {
                slots.push(index);
            }
        }
        living.push((subtree, slots));
    }
    living
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_erases_all_the_same_and_keeps_no_key_of_what_it_refused() {
    let house = at_rest().await;
    let engine = house.open().await;
    let (subject, token, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, other, _) = person(&engine, "bob@example.com", "Bob").await;
    let mut doomed = vec![];
    for name in ["dan", "eve"] {
        doomed.push(person(&engine, &format!("{name}@example.com"), name).await.0);
    }
    engine.close().await;
    drop(engine);

    let mut options = house.options();
    options.reserve_bytes = u64::MAX / 2;
    let gate = Arc::new(Gate::default());
    let opened =
        Engine::open_over(options, house.clock.clone(), &mut SlowProjections(Arc::clone(&gate))).await;
    let Opened::Ready(engine) = opened.unwrap() else { panic!("the gate is closed") };
    let request = |value: &str| TokenizeRequest {
        controller: SEE.to_owned(),
        activity: PURCHASE.to_owned(),
        idempotency_key: String::new(),
        items: vec![item(new("p"), "email", value)],
    };
    // Beside erasures, in one group, nothing slips into the reserve: nobody knows yet that the disk is full.
    gate.closed.store(true, Ordering::SeqCst);
    let erase = |subject: &str| {
        let (engine, request) = (engine.clone(), erasure_of(subject));
        tokio::spawn(async move { engine.request_erasure(DPO, request).await })
    };
    let first = erase(&doomed[0]);
    tokio::time::timeout(DEADLINE, gate.reached.notified()).await.unwrap();
    let write = {
        let (engine, request) = (engine.clone(), request("cy@example.com"));
        tokio::spawn(async move { engine.tokenize(ORDERS, request).await })
    };
    let second = erase(&doomed[1]);
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    gate.open.notify_one();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert!(matches!(write.await.unwrap(), Err(CallRefusal::Exhausted(_))));
    let refused = engine.tokenize(ORDERS, request("cy@example.com")).await;
    assert!(matches!(refused, Err(CallRefusal::Exhausted(_))), "{refused:?}");
    assert_eq!(read(&engine, &other).await.unwrap(), "bob@example.com");
    let mut erasure = erasure_of(&subject);
    erasure.idempotency_key = "erase-1".to_owned();
    engine.request_erasure(DPO, erasure).await.unwrap();
    assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    engine.close().await;
    drop(engine);

    // Bob's two, and in the system's part the address, the signing and the day's key.
    let living = living_slots(&house).await;
    assert_eq!(living.iter().map(|(_, slots)| slots.len()).collect::<Vec<_>>(), [3, 2], "{living:?}");
}
