//! Key backups: a root in escrow outlives batches and starts, opens nothing that came after it, and goes when its time
//! is over; killed at every step of it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::ids::{FramePosition, StartId};
use cloakroom_crypto::role::Value;
use cloakroom_crypto::{Key, Plaintext, random};
use cloakroom_keytree::disclosure::{Trying, plunder};
use cloakroom_keytree::start::{Found, Started};
use cloakroom_keytree::{
    Fault, FileHolder, HolderError, LogView, RootHolder, Slot, Subtree, TreeOptions, TreeWriter,
};
use cloakroom_store::{Batch, Records};

use crate::disk::{Disk, Holder};
use crate::model::CONTEXT;

struct House {
    folder: tempfile::TempDir,
    disk: Arc<Disk>,
    stored: Vec<(Slot, Bytes)>,
    subtree: Subtree,
}

impl House {
    async fn new() -> (Self, TreeWriter) {
        let folder = tempfile::tempdir().unwrap();
        let mut house = Self { folder, disk: Arc::default(), stored: vec![], subtree: Subtree(0) };
        let mut writer = house.start(vec![]).await.writer;
        house.subtree = writer.new_subtree();
        house.store(&mut writer, 70).await;
        (house, writer)
    }

    fn roots(&self) -> PathBuf {
        self.folder.path().join("roots")
    }

    async fn look(&self, disk: &Arc<Disk>) -> Found {
        let holder = Holder::open(&self.roots(), Arc::clone(&self.disk.power));
        Found::look(disk.clone(), holder, TreeOptions::default()).await.unwrap()
    }

    async fn start(&self, ended: Vec<cloakroom_core::ids::RootId>) -> Started {
        let mut found = self.look(&self.disk).await;
        found.check(LogView::default()).await.unwrap();
        found.end_escrows(ended);
        found.start(StartId(random::id16()), None, &[], None).await.unwrap()
    }

    async fn store(&mut self, writer: &mut TreeWriter, count: usize) {
        for _ in 0..count {
            let (slot, key) = (writer.next_slot(self.subtree), Key::<Value>::random());
            let text = Plaintext::from_slice(format!("{slot:?}").as_bytes());
            self.stored.push((slot, key.borrow().seal(&text, &CONTEXT).unwrap()));
            writer.insert(&[(slot, key.borrow().for_slot())], Batch::default(), None).await.unwrap();
        }
    }

    /// What the roots that are held open of all that was ever stored, with every byte ever written.
    async fn opens(&self, writer: &TreeWriter) -> Vec<u64> {
        let holder = FileHolder::open(&self.roots()).unwrap();
        let loot = plunder(&self.disk.ever(), &holder, writer.state().tree, Trying::Everything).await;
        let read = self.stored.iter().filter(|(slot, sealed)| loot.reads(*slot, sealed, &CONTEXT));
        read.map(|(slot, _)| slot.index).collect()
    }

    async fn held(&self, writer: &TreeWriter) -> usize {
        writer.holder().list(writer.state().tree).await.unwrap().len()
    }
}

/// Makes a key backup.
async fn back_up(writer: &mut TreeWriter) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Fault> {
    let mut copy = BTreeMap::new();
    let mut take = |key: &[u8], value: &[u8]| {
        copy.insert(key.to_vec(), value.to_vec());
        Ok(())
    };
    writer.back_up((1_000, 2_000), &mut take, None).await?;
    Ok(copy)
}

/// A key database of what a backup holds.
async fn restored(copy: BTreeMap<Vec<u8>, Vec<u8>>) -> Arc<Disk> {
    let (disk, mut batch) = (Arc::new(Disk::default()), Batch::default());
    copy.into_iter().for_each(|(key, value)| batch.put(key, value));
    disk.commit(batch).await.unwrap();
    disk
}

fn slot(house: &House, index: u64) -> Slot {
    Slot { subtree: house.subtree, index }
}

#[tokio::test]
async fn a_root_in_escrow_outlives_batches_and_starts_and_opens_nothing_younger() {
    let (mut house, mut writer) = House::new().await;
    back_up(&mut writer).await.unwrap();
    let escrow = writer.state().escrows.clone();
    assert_eq!((escrow.len(), escrow[0].until, house.held(&writer).await), (1, 2_000, 2));
    house.store(&mut writer, 3).await;
    writer.batch(&[slot(&house, 5), slot(&house, 71)], Batch::default(), None).await.unwrap();
    assert_eq!(house.held(&writer).await, 2);
    drop(writer);
    let mut writer = house.start(vec![]).await.writer;
    assert_eq!((house.held(&writer).await, writer.state().escrows.clone()), (2, escrow));
    let opens = house.opens(&writer).await;
    assert!(opens.contains(&5), "what died since is in the backup");
    assert!(!opens.contains(&71) && opens.contains(&72), "what came and died since is not");
    // Its end is a batch like any other.
    let root = writer.state().escrows[0].root;
    writer.end_escrows(vec![root]);
    writer.batch(&[], Batch::default(), None).await.unwrap();
    assert_eq!((house.held(&writer).await, writer.state().escrows.len()), (1, 0));
    let opens = house.opens(&writer).await;
    assert!(!opens.contains(&5) && !opens.contains(&71) && opens.contains(&6), "final");
}

#[tokio::test]
async fn a_tree_does_not_leave_its_holder_while_a_root_is_in_escrow_there() {
    let (house, mut writer) = House::new().await;
    back_up(&mut writer).await.unwrap();
    let other: Arc<dyn RootHolder> = Arc::new(FileHolder::open(&house.folder.path().join("other")).unwrap());
    let owner = other.own(writer.state().tree).await.unwrap();
    let refused = writer.move_to(other, owner, None).await;
    assert!(matches!(refused, Err(Fault::Holder(HolderError::Refused(_)))), "{refused:?}");
}

#[tokio::test]
async fn a_backup_that_cannot_be_written_changes_nothing() {
    let (house, mut writer) = House::new().await;
    let before = writer.state().clone();
    let mut full = |_: &[u8], _: &[u8]| Err(std::io::Error::other("full"));
    let failed = writer.back_up((1_000, 2_000), &mut full, None).await;
    assert!(matches!(failed, Err(Fault::Backup(_))), "{failed:?}");
    assert_eq!((writer.state(), house.held(&writer).await), (&before, 1));
    // Nor does a holder that makes no root; and what was meant for that batch is not done by the next.
    house.disk.power.cut_at(1, false);
    assert!(matches!(back_up(&mut writer).await, Err(Fault::Holder(_))));
    house.disk.power.restore();
    writer.batch(&[], Batch::default(), None).await.unwrap();
    assert_eq!((writer.state().escrows.len(), house.held(&writer).await), (0, 1));
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_backup_leaves_an_escrow_that_is_named_or_none() {
    let mut escrowed = [0, 0];
    for (step, done) in (1..=2).flat_map(|step| [(step, false), (step, true)]) {
        let (house, mut writer) = House::new().await;
        house.disk.power.cut_at(step, done);
        assert!(back_up(&mut writer).await.is_err(), "step {step}");
        drop(writer);
        house.disk.power.restore();
        let found = house.look(&house.disk).await;
        let named: Vec<_> = found.escrows().iter().map(|escrow| escrow.root).collect();
        drop(found);
        escrowed[named.len()] += 1;
        let writer = house.start(vec![]).await.writer;
        assert_eq!(house.held(&writer).await, 1 + named.len(), "step {step} {done}");
        drop(writer);
        // The caller's log has no event about it: it counts as little as any commit without a frame.
        let writer = house.start(named).await.writer;
        assert_eq!((house.held(&writer).await, writer.state().escrows.len()), (1, 0));
        assert_eq!(house.opens(&writer).await.len(), 70);
    }
    assert_eq!(escrowed, [3, 1]);
}

#[tokio::test]
async fn a_restored_backup_goes_on_above_what_was_lost_wherever_the_power_goes_out() {
    for (step, done) in (1..=6).flat_map(|step| [(step, false), (step, true)]) {
        let (mut house, mut writer) = House::new().await;
        back_up(&mut writer).await.unwrap(); // one before: its escrow ends too
        let copy = back_up(&mut writer).await.unwrap();
        house.store(&mut writer, 90).await;
        writer.batch(&[slot(&house, 5), slot(&house, 100)], Batch::default(), None).await.unwrap();
        writer.note().await.unwrap();
        let (lost_at, lost_epoch, owner_start) = (writer.at(), writer.state().epoch, writer.start_id());
        drop(writer);
        house.disk = restored(copy).await;
        let log_ends = HashMap::from([(Subtree(0), 1), (house.subtree, 160)]);
        let starts = [(owner_start, 1)];
        let log = LogView { starts: &starts, newest: 9, rests_on: Some(lost_at), ..LogView::default() };
        assert!(house.look(&house.disk).await.check(log).await.is_err(), "not without being told so");

        house.disk.power.cut_at(step, done);
        let mut again = 0;
        let writer = loop {
            let mut found = house.look(&house.disk).await;
            if found.restoring().is_none() && found.at().unwrap().number < lost_at.number {
                found.check_backup(log).await.unwrap();
                if found.adopt(StartId(random::id16()), &log_ends, Some(lost_at)).await.is_err() {
                    house.disk.power.restore();
                    continue;
                }
            } else {
                // A start that was not told of any backup: what was begun is finished.
                found.check(log).await.unwrap();
            }
            if found.restoring().is_some() {
                found.forget_again(vec![slot(&house, 5), slot(&house, 100)]);
            }
            let started =
                found.start(StartId(random::id16()), Some(&log_ends), &[], None::<FramePosition>).await;
            match started {
                Ok(Started { writer, root_stays: None, .. }) => break writer,
                _ => house.disk.power.restore(),
            }
            again += 1;
            assert!(again < 4);
        };
        house.disk.power.restore(); // one that never came
        let mut writer = writer;
        assert!(writer.at().number > lost_at.number && writer.state().epoch > lost_epoch);
        assert_eq!((house.held(&writer).await, writer.state().restoring), (1, None), "step {step} {done}");
        let tree = writer.tree();
        for (index, lives) in [(4, true), (5, false), (69, true), (70, false), (100, false), (159, false)] {
            let slot = slot(&house, index);
            assert_eq!(tree.with_key(slot, |_| ()).await.unwrap().is_some(), lives, "slot {index}");
            assert_eq!(tree.is_lost(slot), index >= 70);
        }
        assert_eq!(tree.lost_slots(), 90);
        assert_eq!(writer.next_slot(house.subtree).index, 160, "no slot is handed out twice");
        writer.note().await.unwrap();
        drop(writer);
        assert!(house.start(vec![]).await.root_stays.is_none());
    }
}
