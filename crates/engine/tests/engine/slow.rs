//! Reads, and a stop, while the disk or the root holder takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_engine::Engine;
use cloakroom_engine::open::Layers;
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};
use cloakroom_store::embedded::EmbeddedLog;
use cloakroom_store::{Answer, Batch, Log, Records, StoreError, log_through, records_through};
use tokio::sync::watch;

use crate::house::{ADMIN, DPO, House, SEE, erasure_of, item, new, person, read, register, tokenize};

/// So long, and it is not slow but stuck.
const DEADLINE: Duration = Duration::from_secs(60);

/// Lets calls pass, or holds them until it is let go.
#[derive(Clone, Default)]
struct Brake {
    on: watch::Sender<bool>,
    held: Arc<AtomicU64>,
}

impl Brake {
    async fn pass(&self) {
        let mut on = self.on.subscribe();
        self.held.fetch_add(u64::from(*on.borrow()), Ordering::SeqCst);
        on.wait_for(|on| !on).await.unwrap();
    }

    async fn holds_more_than(&self, held: u64, what: &str) {
        let reached = async {
            while self.held.load(Ordering::SeqCst) == held {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        reached.unwrap_or_else(|_| panic!("no write came to the {what}"));
    }

    fn hold<'a, T>(&'a self, work: impl FnOnce() -> Answer<'a, T> + Send + 'a) -> Answer<'a, T>
    where
        T: Send + Unpin + 'a,
    {
        Answer::later(async move {
            self.pass().await;
            work().await
        })
    }
}

struct Slow<T: ?Sized> {
    inner: Arc<T>,
    brake: Brake,
}

impl Log for Slow<EmbeddedLog> {
    log_through!(inner: find_end cut append event frame_of leaves sealed prune);

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        self.brake.hold(|| self.inner.sync())
    }
}

impl Records for Slow<dyn Records> {
    records_through!(inner: get scan);

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.brake.hold(|| self.inner.apply(batch))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        self.brake.hold(|| self.inner.sync())
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.brake.hold(|| self.inner.commit(batch))
    }
}

impl RootHolder for Slow<dyn RootHolder> {
    cloakroom_keytree::root_holder_through!(inner: kind place destroy_class own wrap unwrap list noted);

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.brake.hold(move || self.inner.create(tree, owner, root))
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.brake.hold(move || self.inner.destroy(tree, owner, root))
    }

    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>> {
        self.brake.hold(move || self.inner.note(tree, owner, commit))
    }
}

#[derive(Default)]
struct Brakes {
    log: Brake,
    keys: Brake,
    projections: Brake,
    holder: Brake,
}

impl Layers for &Brakes {
    fn log(&mut self, inner: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        Arc::new(Slow { inner, brake: self.log.clone() })
    }

    fn keys(&mut self, inner: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::new(Slow { inner, brake: self.keys.clone() })
    }

    fn projections(&mut self, inner: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::new(Slow { inner, brake: self.projections.clone() })
    }

    fn holder(&mut self, inner: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        Arc::new(Slow { inner, brake: self.holder.clone() })
    }
}

/// Whatever the writer waits for, nobody who reads waits with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_wait_for_no_write_that_the_disk_or_the_root_holder_holds_up() {
    let (house, brakes) = (House::new(), Brakes::default());
    let engine = house.open_over(&mut &brakes).await.unwrap();
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    let mut known = vec![];
    for number in 0..100 {
        let email = format!("reader-{number}@example.com");
        known.push((person(&engine, &email, "Reader").await.1, email));
    }
    let parts = [("log", &brakes.log), ("keys", &brakes.keys), ("projections", &brakes.projections)];
    for (what, brake) in parts.into_iter().chain([("root-holder", &brakes.holder)]) {
        let (doomed, token, _) = person(&engine, &format!("{what}@example.com"), "Doomed").await;
        brake.on.send_replace(true);
        let held = brake.held.load(Ordering::SeqCst);
        let writing = {
            let engine = engine.clone();
            tokio::spawn(async move {
                engine.request_erasure(DPO, erasure_of(&doomed)).await.unwrap();
                tokenize(&engine, "", vec![item(new("late"), "email", "late@example.com")]).await.remove(0)
            })
        };
        brake.holds_more_than(held, what).await;
        for (token, email) in &known {
            let answer = tokio::time::timeout(DEADLINE, read(&engine, token)).await;
            assert_eq!(answer.unwrap_or_else(|_| panic!("a read waits for the {what}")).as_ref(), Ok(email));
        }
        brake.on.send_replace(false);
        writing.await.unwrap().unwrap();
        assert!(read(&engine, &token).await.is_err(), "erased, late");
    }
    engine.close().await;
}

/// However many there are: each takes a sync of its own, and the next life goes on with the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_erasure_in_hand_not_for_all_that_are_due() {
    const ERASURES: u64 = 8;
    let (house, brakes) = (House::new(), Brakes::default());
    let engine = house.open_over(&mut &brakes).await.unwrap();
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    for number in 0..ERASURES {
        let (subject, ..) = person(&engine, &format!("late-{number}@example.com"), "Late").await;
        engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap(); // nobody is there to purge
    }
    let overdue = |engine: &Engine| engine.figures().overdue_erasures;
    assert_eq!(overdue(&engine), 0);

    let held = brakes.log.held.load(Ordering::SeqCst);
    brakes.log.on.send_replace(true);
    house.clock.advance_ms(1000 * 86_400_000);
    brakes.log.holds_more_than(held, "log").await;
    let mut stopping = tokio::spawn({
        let engine = engine.clone();
        async move { engine.close().await }
    });
    let early = tokio::time::timeout(Duration::from_millis(200), &mut stopping).await;
    assert!(early.is_err(), "the stop waits for what is being written");
    brakes.log.on.send_replace(false);
    stopping.await.unwrap();
    assert_eq!(overdue(&engine), 1);
    drop(engine);

    let engine = house.open().await;
    let all = async {
        while overdue(&engine) < ERASURES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("the next life goes on with the rest");
    engine.close().await;
}
