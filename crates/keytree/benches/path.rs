//! The way down to a key, and what handing out and destroying slots costs above the database: records are in
//! memory here.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![allow(missing_docs, reason = "divan's own")]

use std::sync::{Arc, LazyLock};

use cloakroom_core::ids::StartId;
use cloakroom_crypto::role::Value;
use cloakroom_crypto::{Key, random};
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{FileHolder, Slot, Subtree, TreeOptions, TreeWriter};
use cloakroom_store::Batch;
use cloakroom_store::memory::MemoryRecords;
use divan::{Bencher, black_box};
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

fn main() {
    divan::main();
}

/// Three levels of pages.
const SLOTS: u64 = 200_000;
const AT_ONCE: u64 = 4_096;

fn now<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().unwrap());
    RUNTIME.block_on(work)
}

fn insert(writer: &mut TreeWriter, subtree: Subtree, count: u64) {
    let keys: Vec<(Slot, Key<Value>)> =
        (0..count).map(|_| (writer.next_slot(subtree), Key::random())).collect();
    let slots: Vec<_> = keys.iter().map(|(slot, key)| (*slot, key.borrow().for_slot())).collect();
    now(writer.insert(&slots, Batch::default(), None)).unwrap();
}

fn tree() -> (TreeWriter, Subtree, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let holder = Arc::new(FileHolder::open(&folder.path().join("roots")).unwrap());
    let found = now(Found::look(Arc::new(MemoryRecords::default()), holder, TreeOptions::default())).unwrap();
    let mut writer = now(found.start(StartId(random::id16()), None, &[], None)).unwrap().writer;
    let subtree = writer.new_subtree();
    for _ in 0..SLOTS / AT_ONCE {
        insert(&mut writer, subtree, AT_ONCE);
    }
    (writer, subtree, folder)
}

/// Neighbours' keys, from the cache.
#[divan::bench]
fn key_cached(bencher: Bencher<'_, '_>) {
    let (writer, subtree, _folder) = tree();
    let tree = writer.tree();
    bencher.bench_local(|| {
        tree.with_key(black_box(Slot { subtree, index: 7 }), |_| ()).now_or_never().unwrap().unwrap()
    });
}

/// Keys all over the tree, whose pages the cache does not hold.
#[divan::bench]
fn key_anywhere(bencher: Bencher<'_, '_>) {
    let (writer, subtree, _folder) = tree();
    let (tree, mut at) = (writer.tree(), 0_u64);
    bencher.bench_local(|| {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = (at >> 33) % (SLOTS / AT_ONCE * AT_ONCE);
        now(tree.with_key(Slot { subtree, index }, |_| ())).unwrap()
    });
}

/// A group commit's slots.
#[divan::bench(args = [1, 256])]
fn hand_out(bencher: Bencher<'_, '_>, slots: u64) {
    let (mut writer, subtree, _folder) = tree();
    bencher.counter(divan::counter::ItemsCount::new(slots)).bench_local(|| {
        insert(&mut writer, subtree, slots);
    });
}

/// A batch, with its new root: of slots all over the tree.
#[divan::bench(args = [1, 256], sample_count = 20, sample_size = 1)]
fn destroy(bencher: Bencher<'_, '_>, slots: u64) {
    let (mut writer, subtree, _folder) = tree();
    let mut next = 0_u64;
    bencher.counter(divan::counter::ItemsCount::new(slots)).bench_local(|| {
        let dying: Vec<Slot> = (0..slots)
            .map(|_| {
                next = next.wrapping_add(1);
                // Far from one another, and none twice: 997 and the number of slots have no common factor.
                Slot { subtree, index: next.wrapping_mul(997) % (SLOTS / AT_ONCE * AT_ONCE) }
            })
            .collect();
        now(writer.batch(&dying, Batch::default(), None)).unwrap();
    });
}
