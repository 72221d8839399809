//! A root holder that grants its tree for a time: renewed while the vault lives, and a vault that could not renew
//! answers nothing any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloakroom_core::ids::TreeId;
use cloakroom_core::refusal::Code;
use cloakroom_engine::open::Layers;
use cloakroom_engine::{EngineError, HolderError, RootHolder};
use cloakroom_keytree::{Fault, OwnerNumber};
use cloakroom_store::Answer;

use crate::house::{ADMIN, House, SEE, item, new, person, read, register, tokenize};

const LEASE: Duration = Duration::from_millis(600);
const DEADLINE: Duration = Duration::from_secs(30);

/// What becomes of the ownership.
#[derive(Default)]
struct Fate {
    /// Starts that are told of another owner before one gets the tree.
    others: AtomicU64,
    silent: AtomicBool,
    replaced: AtomicBool,
    renewals: AtomicU64,
    released: AtomicU64,
}

struct Leased {
    inner: Arc<dyn RootHolder>,
    fate: Arc<Fate>,
}

#[derive(Clone, Default)]
struct Lessor(Arc<Fate>);

impl Layers for Lessor {
    fn holder(&mut self, inner: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        Arc::new(Leased { inner, fate: Arc::clone(&self.0) })
    }
}

impl RootHolder for Leased {
    cloakroom_keytree::root_holder_through!(inner: kind destroy_class create wrap unwrap destroy list note noted);

    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        let others = &self.fate.others;
        match others.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Answer::now(Err(HolderError::Owned(tree))),
            Err(_) => self.inner.own(tree),
        }
    }

    fn lease(&self) -> Option<Duration> {
        Some(LEASE)
    }

    fn renew(&self, tree: TreeId, owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        if self.fate.replaced.load(Ordering::SeqCst) {
            return Answer::now(Err(HolderError::Replaced { tree, owner }));
        }
        if self.fate.silent.load(Ordering::SeqCst) {
            return Answer::later(std::future::pending());
        }
        self.fate.renewals.fetch_add(1, Ordering::SeqCst);
        Answer::now(Ok(()))
    }

    fn release(&self, _tree: TreeId, _owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        self.fate.released.fetch_add(1, Ordering::SeqCst);
        Answer::now(Ok(()))
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let given_up = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < given_up, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ownership_is_renewed_while_the_vault_lives_and_given_back_at_its_end() {
    let (house, mut lessor) = (House::new(), Lessor::default());
    let engine = house.open_over(&mut lessor).await.unwrap();
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    let (_, token, _) = person(&engine, "ada@example.com", "Ada").await;
    let fate = &lessor.0;
    let began = Instant::now();
    until("six renewals", || fate.renewals.load(Ordering::SeqCst) >= 6).await;
    assert!(began.elapsed() > LEASE, "some three in a lease, not more");
    assert_eq!(read(&engine, &token).await.unwrap(), "ada@example.com");
    assert_eq!(fate.released.load(Ordering::SeqCst), 0);
    engine.close().await;
    assert_eq!(fate.released.load(Ordering::SeqCst), 1);
    let renewals = fate.renewals.load(Ordering::SeqCst);
    tokio::time::sleep(LEASE).await; // nothing else is to happen
    assert_eq!(fate.renewals.load(Ordering::SeqCst), renewals);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_cannot_renew_answers_nothing_once_its_lease_has_ended() {
    let (house, mut lessor) = (House::new(), Lessor::default());
    let engine = house.open_over(&mut lessor).await.unwrap();
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    let (_, token, _) = person(&engine, "ada@example.com", "Ada").await;
    let fate = &lessor.0;
    let renewals = fate.renewals.load(Ordering::SeqCst);
    until("a renewal", || fate.renewals.load(Ordering::SeqCst) > renewals).await;
    fate.silent.store(true, Ordering::SeqCst);
    let silent = Instant::now();
    let reason = tokio::time::timeout(DEADLINE, engine.failed()).await.unwrap();
    assert!(reason.contains("ownership"), "{reason}");
    assert!(
        silent.elapsed() < LEASE,
        "it stopped after {:?}, its lease may have ended before",
        silent.elapsed()
    );
    assert_eq!(read(&engine, &token).await, Err(Code::KeyUnavailable), "never as if it were erased");
    let writing =
        tokio::spawn(
            async move { tokenize(&engine, "", vec![item(new("p"), "email", "bob@example.com")]).await },
        );
    let refused = tokio::time::timeout(DEADLINE, writing).await.unwrap();
    assert!(refused.is_err(), "a write is refused too: the call itself, on which the task panics");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_was_replaced_stops_at_once() {
    let (house, mut lessor) = (House::new(), Lessor::default());
    let engine = house.open_over(&mut lessor).await.unwrap();
    lessor.0.replaced.store(true, Ordering::SeqCst);
    let reason = tokio::time::timeout(DEADLINE, engine.failed()).await.unwrap();
    assert!(reason.contains("was replaced"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_former_owners_lease_and_no_longer() {
    let (house, mut lessor) = (House::new(), Lessor::default());
    lessor.0.others.store(3, Ordering::SeqCst);
    house.open_over(&mut lessor).await.unwrap().close().await;
    lessor.0.others.store(u64::MAX, Ordering::SeqCst);
    let began = Instant::now();
    let refused = house.open_over(&mut lessor).await.map(drop);
    assert!(
        matches!(refused, Err(EngineError::Tree(Fault::Holder(HolderError::Owned(_))))),
        "somebody lives there"
    );
    assert!(began.elapsed() >= LEASE);
}
