//! Readers beside a writer, held up exactly where it could go wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::StartId;
use cloakroom_crypto::role::Value;
use cloakroom_crypto::{Key, random};
use cloakroom_keytree::layout::PageAddress;
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{FileHolder, Slot, Subtree, Tree, TreeOptions, TreeWriter};
use cloakroom_store::memory::MemoryRecords;
use cloakroom_store::{Answer, Batch, Records, StoreError, records_through};
use tokio::sync::Notify;

const DEADLINE: Duration = Duration::from_secs(10);

/// Records in memory whose calls wait where they are told to, with their work done.
#[derive(Default)]
struct Gated {
    records: MemoryRecords,
    /// A get of this key waits with what it found.
    held_key: Mutex<Option<Vec<u8>>>,
    hold_commits: Mutex<bool>,
    reached: Notify,
    release: Notify,
}

impl Gated {
    fn wait<'a, T: Send + Unpin + 'a>(&'a self, done: T) -> Answer<'a, T> {
        self.reached.notify_one();
        Answer::later(async move {
            self.release.notified().await;
            done
        })
    }
}

impl Records for Gated {
    records_through!(records: scan sync);

    fn get(&self, key: &[u8]) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        let found = Ok(self.records.all().get(key).cloned());
        let held = self.held_key.lock().unwrap().take_if(|held| held == key).is_some();
        if held { self.wait(found) } else { Answer::now(found) }
    }

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        let done = self.records.apply(batch);
        let held = std::mem::take(&mut *self.hold_commits.lock().unwrap());
        if held { self.wait(Ok(())) } else { done }
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.apply(batch)
    }
}

const ONE: Subtree = Subtree(1);

fn slot(index: u64) -> Slot {
    Slot { subtree: ONE, index }
}

/// A tree with two leaves, the first of which is in no cache.
async fn two_leaves(records: &Arc<Gated>, roots: &std::path::Path) -> TreeWriter {
    for fill in [true, false] {
        let holder = Arc::new(FileHolder::open(roots).unwrap());
        let found = Found::look(records.clone(), holder, TreeOptions::default()).await.unwrap();
        let mut writer = found.start(StartId(random::id16()), None, &[], None).await.unwrap().writer;
        if !fill {
            return writer;
        }
        assert_eq!(writer.new_subtree(), ONE);
        insert(&mut writer, 100).await;
    }
    unreachable!("the second start returns")
}

async fn insert(writer: &mut TreeWriter, count: usize) {
    let keys: Vec<(Slot, Key<Value>)> = (0..count).map(|_| (writer.next_slot(ONE), Key::random())).collect();
    let slots: Vec<_> = keys.iter().map(|(slot, key)| (*slot, key.borrow().for_slot())).collect();
    writer.insert(&slots, Batch::default(), None).await.unwrap();
}

fn lives(tree: &Tree, slot: Slot) -> tokio::task::JoinHandle<bool> {
    let tree = tree.clone();
    tokio::spawn(async move { tree.with_key(slot, |_| ()).await.unwrap().is_some() })
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it waits for ever")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_read_before_a_batch_and_used_after_it_yields_nothing_dead() {
    let (records, roots) = (Arc::new(Gated::default()), tempfile::tempdir().unwrap());
    let mut writer = two_leaves(&records, &roots.path().join("roots")).await;
    let tree = writer.tree();
    *records.held_key.lock().unwrap() = Some(PageAddress::of(slot(5)).0.record_key());
    let reader = lives(&tree, slot(5));
    soon(records.reached.notified()).await;
    soon(writer.batch(&[slot(5)], Batch::default(), None)).await.unwrap();
    records.release.notify_one();
    assert!(!soon(reader).await.unwrap(), "the reader had the page that was");
    assert!(!lives(&tree, slot(5)).await.unwrap(), "and did not leave it in the cache");
    assert!(lives(&tree, slot(6)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_wait_for_no_commit_but_where_it_hides_what_they_look_for() {
    let (records, roots) = (Arc::new(Gated::default()), tempfile::tempdir().unwrap());
    let mut writer = two_leaves(&records, &roots.path().join("roots")).await;
    let tree = writer.tree();
    writer.batch(&[slot(99)], Batch::default(), None).await.unwrap();
    *records.hold_commits.lock().unwrap() = true;
    let batch = tokio::spawn(async move {
        writer.batch(&[slot(3)], Batch::default(), None).await.unwrap();
    });
    soon(records.reached.notified()).await;
    assert!(!soon(lives(&tree, slot(99))).await.unwrap(), "dead is dead, with or without the commit");
    assert!(soon(lives(&tree, slot(70))).await.unwrap(), "cached, and no business of the commit");
    // Its leaf was in no cache: what is in the database now does not open under the key in memory.
    let reader = lives(&tree, slot(4));
    tokio::task::yield_now().await;
    assert!(!reader.is_finished());
    records.release.notify_one();
    soon(batch).await.unwrap();
    assert!(soon(reader).await.unwrap(), "neither damaged nor dead");
    assert!(!soon(lives(&tree, slot(3))).await.unwrap());
}
