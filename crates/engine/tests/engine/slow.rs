//! Reads while the disk or the root holder takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
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
        let reached = async {
            while brake.held.load(Ordering::SeqCst) == held {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, reached)
            .await
            .unwrap_or_else(|_| panic!("no write came to the {what}"));
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
