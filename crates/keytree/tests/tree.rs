//! The tree through its public face, on records in memory that can be copied, which is what an attacker or
//! a restored backup does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, FramePosition, StartId};
use cloakroom_crypto::role::Value;
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, Plaintext, random};
use cloakroom_keytree::LogView;
use cloakroom_keytree::start::{Found, Started};
use cloakroom_keytree::{
    Fault, FileHolder, GateReason, RootHolder, Slot, Subtree, Tree, TreeOptions, TreeWriter,
};
use cloakroom_store::Batch;
use cloakroom_store::memory::MemoryRecords;

fn copy(records: &MemoryRecords) -> Arc<MemoryRecords> {
    let copied = MemoryRecords::default();
    copied.all().clone_from(&records.all());
    Arc::new(copied)
}

const CONTEXT: Context<'static> =
    Context { controller: "c", subject_bits: 1, activity: "a", field: "f", bits: 2, value_version: 1 };

struct House {
    folder: tempfile::TempDir,
    records: Arc<MemoryRecords>,
}

impl House {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), records: Arc::default() }
    }

    fn holder(&self) -> Arc<dyn RootHolder> {
        Arc::new(FileHolder::open(&self.folder.path().join("roots")).unwrap())
    }

    async fn look(&self) -> Result<Found, Fault> {
        Found::look(self.records.clone(), self.holder(), TreeOptions::default()).await
    }

    async fn start(&self) -> Started {
        self.look().await.unwrap().start(StartId(random::id16()), None, &[], None).await.unwrap()
    }
}

/// Fills `count` slots of `subtree`; gives back what each sealed.
async fn fill(writer: &mut TreeWriter, subtree: Subtree, count: usize) -> Vec<(Slot, Bytes)> {
    let keys: Vec<(Slot, Key<Value>)> =
        (0..count).map(|_| (writer.next_slot(subtree), Key::random())).collect();
    let slots: Vec<_> = keys.iter().map(|(slot, key)| (*slot, key.borrow().for_slot())).collect();
    writer.insert(&slots, Batch::default(), None).await.unwrap();
    keys.iter()
        .map(|(slot, key)| {
            let text = Plaintext::from_slice(format!("{slot:?}").as_bytes());
            (*slot, key.borrow().seal(&text, &CONTEXT).unwrap())
        })
        .collect()
}

async fn opens(tree: &Tree, slot: Slot, sealed: &[u8]) -> Option<String> {
    let opened =
        tree.with_key(slot, |key| key.for_job::<Value>().open(sealed, &CONTEXT).unwrap()).await.unwrap()?;
    Some(String::from_utf8(opened.as_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn every_slot_yields_its_key_through_growth_and_a_restart() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let (one, two) = (writer.new_subtree(), writer.new_subtree());
    let mut stored = vec![];
    for count in [1, 62, 1, 1, 64, 3_968, 10, 200] {
        stored.extend(fill(&mut writer, one, count).await);
        stored.extend(fill(&mut writer, two, count / 3 + 1).await);
    }
    let tree = writer.tree();
    for (slot, sealed) in &stored {
        assert_eq!(opens(&tree, *slot, sealed).await, Some(format!("{slot:?}")));
    }
    drop(writer);
    let started = house.start().await;
    let tree = started.writer.tree();
    for (slot, sealed) in &stored {
        assert_eq!(opens(&tree, *slot, sealed).await, Some(format!("{slot:?}")));
    }
}

#[tokio::test]
async fn a_batch_kills_its_slots_and_nothing_else() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let subtree = writer.new_subtree();
    let stored = fill(&mut writer, subtree, 5_000).await;
    let doomed: Vec<Slot> =
        stored.iter().map(|(slot, _)| *slot).filter(|slot| slot.index % 7 == 3 || slot.index < 130).collect();
    let epoch = writer.state().epoch;
    let batched = writer.batch(&doomed, Batch::default(), None).await.unwrap();
    assert_eq!(batched.epoch, epoch + 1);
    let tree = writer.tree();
    for (slot, sealed) in &stored {
        let expected = (!doomed.contains(slot)).then(|| format!("{slot:?}"));
        assert_eq!(opens(&tree, *slot, sealed).await, expected, "{slot:?}");
    }
    let more = fill(&mut writer, subtree, 200).await;
    assert!(more[0].0.index >= 5_000, "a dead slot is not handed out again");
    assert_eq!(opens(&tree, more[0].0, &more[0].1).await, Some(format!("{:?}", more[0].0)));
}

#[tokio::test]
async fn a_copy_of_the_keys_from_before_a_batch_is_noise_after_it() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let subtree = writer.new_subtree();
    let stored = fill(&mut writer, subtree, 10).await;
    let backup = copy(&house.records);
    writer.batch(&[stored[3].0], Batch::default(), None).await.unwrap();
    drop(writer);
    let restored = House { folder: house.folder, records: backup };
    let found = restored.look().await.unwrap();
    let Err(Fault::Gate(reason)) = found.check(LogView::default()).await else {
        panic!("an old copy opened")
    };
    assert!(matches!(reason, GateReason::RootGone { .. }), "{reason}");
}

#[tokio::test]
async fn exactly_one_root_is_left_after_every_batch_and_start() {
    let house = House::new();
    for _ in 0..3 {
        let mut writer = house.start().await.writer;
        let subtree = writer.new_subtree();
        let stored = fill(&mut writer, subtree, 3).await;
        writer.batch(&[stored[0].0], Batch::default(), None).await.unwrap();
        let roots = house.holder().list(writer.tree().id()).await.unwrap();
        assert_eq!(roots.iter().map(|held| held.root).collect::<Vec<_>>(), [writer.state().root]);
    }
}

#[tokio::test]
async fn a_start_drops_the_slots_that_no_frame_names_and_hands_out_none_twice() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let subtree = writer.new_subtree();
    let stored = fill(&mut writer, subtree, 10).await;
    drop(writer);
    let found = house.look().await.unwrap();
    let ends = HashMap::from([(subtree, 7)]);
    let mut writer =
        found.start(StartId(random::id16()), Some(&ends), &[stored[2].0], None).await.unwrap().writer;
    for (slot, sealed) in &stored {
        let lives = slot.index < 7 && slot.index != 2;
        assert_eq!(opens(&writer.tree(), *slot, sealed).await.is_some(), lives, "{slot:?}");
    }
    assert_eq!(writer.next_slot(subtree).index, 10);
}

#[tokio::test]
async fn the_second_owner_is_refused_while_the_first_lives() {
    let house = House::new();
    let first = house.start().await;
    let Err(Fault::Holder(error)) = house.look().await else { panic!("two owners") };
    assert!(error.to_string().contains("another owner"));
    drop(first);
    house.look().await.unwrap();
}

#[tokio::test]
async fn the_gate_closes_on_either_side_that_went_back() {
    let house = House::new();
    let start = StartId(random::id16());
    let frame = |number| FramePosition { start, number };
    let mut writer =
        house.look().await.unwrap().start(start, None, &[], Some(frame(1))).await.unwrap().writer;
    let newest = writer.checkpoint(Some(frame(5))).await.unwrap();
    drop(writer);
    let found = house.look().await.unwrap();
    let tree = Some(found.tree_id());
    let log = LogView { tree, rests_on: Some(newest), starts: &[(start, 1)], newest: 5, abandoned: &[] };
    found.check(log).await.unwrap();

    let reason = |result: Result<(), Fault>| match result {
        Err(Fault::Gate(reason)) => reason,
        _ => panic!("the gate stayed open"),
    };
    let behind = LogView { newest: 4, ..log };
    assert_eq!(reason(found.check(behind).await), GateReason::LogBehindKeys { lacking: frame(5) });
    let other = [(StartId([9; 16]), 1)];
    assert_eq!(
        reason(found.check(LogView { starts: &other, ..log }).await),
        GateReason::LogBehindKeys { lacking: frame(5) },
        "the same number in another branch is not the same frame"
    );
    let ahead = CommitPosition { number: newest.number + 1, ..newest };
    assert_eq!(
        reason(found.check(LogView { rests_on: Some(ahead), ..log }).await),
        GateReason::KeysBehindLog { lacking: ahead }
    );
    let empty = House { folder: tempfile::tempdir().unwrap(), records: Arc::default() };
    let found = empty.look().await.unwrap();
    assert_eq!(reason(found.check(LogView { tree: None, ..log }).await), GateReason::KeysMissing);
}

#[tokio::test]
async fn keys_older_than_what_the_holder_noted_stay_shut() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let old = copy(&house.records);
    let newest = writer.checkpoint(None).await.unwrap();
    writer.note().await.unwrap();
    drop(writer);
    let restored = House { folder: house.folder, records: old };
    let Err(Fault::Gate(reason)) = restored.look().await.unwrap().check(LogView::default()).await else {
        panic!("an old copy within the epoch opened")
    };
    assert_eq!(reason, GateReason::KeysBehindHolder { lacking: newest });
}

#[tokio::test]
async fn a_slot_never_handed_out_is_no_dead_slot() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let subtree = writer.new_subtree();
    fill(&mut writer, subtree, 1).await;
    let nowhere = Slot { subtree, index: 1 };
    assert!(
        matches!(writer.tree().with_key(nowhere, |_| ()).await, Err(Fault::Slot(slot)) if slot == nowhere)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_their_keys_while_batches_run() {
    let house = House::new();
    let mut writer = house.start().await.writer;
    let subtree = writer.new_subtree();
    let stored = fill(&mut writer, subtree, 600).await;
    let (doomed, living): (Vec<_>, Vec<_>) = stored.into_iter().partition(|(slot, _)| slot.index % 2 == 0);
    let tree = writer.tree();
    let reader = tokio::spawn(async move {
        for round in 0..40 {
            let (slot, sealed) = &living[round * 7 % living.len()];
            for _ in 0..20 {
                assert_eq!(opens(&tree, *slot, sealed).await, Some(format!("{slot:?}")));
            }
        }
    });
    for chunk in doomed.chunks(10) {
        let slots: Vec<Slot> = chunk.iter().map(|(slot, _)| *slot).collect();
        writer.batch(&slots, Batch::default(), None).await.unwrap();
    }
    reader.await.unwrap();
}
