//! A tree that moves from one root holder to another, killed at every step of it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::ids::StartId;
use cloakroom_crypto::role::Value;
use cloakroom_crypto::{Key, Plaintext, random};
use cloakroom_keytree::start::{Found, Started};
use cloakroom_keytree::{
    Batched, Fault, GateReason, HolderError, LogView, RootHolder, Slot, TreeOptions, TreeWriter,
};
use cloakroom_store::Batch;

use crate::disk::{Disk, Holder};
use crate::model::CONTEXT;

/// A new root made, the commit, the former destroyed, the commit that says so.
const STEPS: u64 = 4;

struct House {
    folder: tempfile::TempDir,
    disk: Arc<Disk>,
    stored: Vec<(Slot, Bytes)>,
}

impl House {
    /// A tree with some values and its root in `old`.
    async fn new() -> (Self, TreeWriter) {
        let folder = tempfile::tempdir().unwrap();
        let mut house = Self { folder, disk: Arc::default(), stored: vec![] };
        let mut writer = house.start("old", None).await.writer;
        let subtree = writer.new_subtree();
        for _ in 0..3 {
            let (slot, key) = (writer.next_slot(subtree), Key::<Value>::random());
            let text = Plaintext::from_slice(format!("{slot:?}").as_bytes());
            house.stored.push((slot, key.borrow().seal(&text, &CONTEXT).unwrap()));
            writer.insert(&[(slot, key.borrow().for_slot())], Batch::default(), None).await.unwrap();
        }
        writer.note().await.unwrap();
        (house, writer)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `old` overwrites, any other is better.
    fn holder(&self, name: &str) -> Arc<dyn RootHolder> {
        let class = if name == "old" { "overwritten" } else { "hsm" };
        Holder::of_class(&self.path(name), Arc::clone(&self.disk.power), class)
    }

    async fn look(&self, holder: &str, former: Option<&str>) -> Result<Found, Fault> {
        let former = former.map(|name| self.holder(name));
        let found =
            Found::look_moving(self.disk.clone(), self.holder(holder), former, TreeOptions::default());
        let found = found.await?;
        found.check(LogView::default()).await.map(|()| found)
    }

    async fn start(&self, holder: &str, former: Option<&str>) -> Started {
        let found = self.look(holder, former).await.unwrap();
        found.start(StartId(random::id16()), None, &[], None).await.unwrap()
    }

    /// Whether a start with this configuration would come into being; otherwise it says where the root lies.
    async fn starts_with(&self, holder: &str, other: &str) -> bool {
        match self.look(holder, None).await {
            Ok(_) => true,
            Err(Fault::Gate(GateReason::RootElsewhere { holder, .. })) => {
                assert_eq!(holder, format!("file {}", self.path(other).display()));
                false
            }
            Err(fault) => panic!("{fault:?}"),
        }
    }

    async fn move_to(&self, writer: &mut TreeWriter, holder: &str) -> Result<Batched, Fault> {
        let holder = self.holder(holder);
        let owner = holder.own(writer.state().tree).await.unwrap();
        writer.move_to(holder, owner, None).await
    }

    async fn all_open(&self, writer: &TreeWriter) {
        for (slot, sealed) in &self.stored {
            let open = |key: cloakroom_crypto::KeyRef<'_, _>| key.for_job::<Value>().open(sealed, &CONTEXT);
            let opened = writer.tree().with_key(*slot, open).await.unwrap().unwrap().unwrap();
            assert_eq!(opened.as_bytes(), format!("{slot:?}").as_bytes());
        }
    }

    fn roots(&self, name: &str) -> usize {
        let trees = std::fs::read_dir(self.path(name)).into_iter().flatten();
        let files = trees.flat_map(|tree| std::fs::read_dir(tree.unwrap().path()).unwrap());
        files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("root-")).count()
    }
}

#[tokio::test]
async fn a_running_tree_moves_and_nothing_stays_behind() {
    let (house, mut writer) = House::new().await;
    let epoch = writer.state().epoch;
    let moved = house.move_to(&mut writer, "new").await.unwrap();
    assert_eq!(moved.epoch, epoch + 1);
    assert_eq!((house.roots("old"), house.roots("new")), (0, 1));
    assert!(writer.state().left.is_empty());
    assert_eq!(writer.state().destroyed_as(), "overwritten+hsm");
    house.all_open(&writer).await;
    writer.batch(&[], Batch::default(), None).await.unwrap();
    writer.note().await.unwrap();
    let again = writer.move_to(house.holder("new"), writer.owner(), None).await;
    assert!(matches!(again, Err(Fault::Holder(HolderError::Refused(_)))));
    drop(writer);
    assert!(house.starts_with("new", "old").await);
    assert!(!house.starts_with("old", "new").await);
    // And back: what the old holder noted before is behind, and no reason to refuse.
    let mut writer = house.start("new", None).await.writer;
    house.move_to(&mut writer, "old").await.unwrap();
    assert_eq!((house.roots("old"), house.roots("new")), (1, 0));
    assert_eq!(writer.state().destroyed_as(), "hsm+overwritten");
    drop(writer);
    house.all_open(&house.start("old", None).await.writer).await;
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_one_working_tree_and_the_next_start_finishes() {
    for (step, done) in (1..=STEPS).flat_map(|step| [(step, false), (step, true)]) {
        let (house, mut writer) = House::new().await;
        house.disk.power.cut_at(step, done);
        assert!(house.move_to(&mut writer, "new").await.is_err(), "step {step}");
        assert!(house.disk.power.is_out(), "the move has {STEPS} steps");
        drop(writer);
        house.disk.power.restore();

        let committed = step > 2 || (step == 2 && done);
        assert_eq!(house.starts_with("old", "new").await, !committed, "step {step} {done}");
        assert_eq!(house.starts_with("new", "old").await, committed, "step {step} {done}");

        if committed && (step, done) != (STEPS, true) {
            // The new holder alone serves, and says what is left and where; no fence may close.
            let started = house.start("new", None).await;
            house.all_open(&started.writer).await;
            let Some(Fault::RootStays(Some(HolderError::Unreachable(said)))) = started.root_stays else {
                panic!("{:?}", started.root_stays)
            };
            assert!(said.contains(&house.path("old").display().to_string()), "{said}");
            drop(started.writer);
            // A holder that is not the one proves nothing.
            let started = house.start("new", Some("other")).await;
            assert!(matches!(started.root_stays, Some(Fault::RootStays(Some(_)))));
        }
        let started = house.start("new", Some("old")).await;
        assert!(started.root_stays.is_none(), "step {step} {done}: {:?}", started.root_stays);
        house.all_open(&started.writer).await;
        assert_eq!((house.roots("old"), house.roots("new")), (0, 1), "step {step} {done}");
        drop(started.writer);
        assert!(house.start("new", None).await.root_stays.is_none());
    }
}

#[tokio::test]
async fn a_holder_that_makes_no_root_changes_nothing() {
    let (house, mut writer) = House::new().await;
    house.disk.power.cut_at(1, false);
    let refused = house.move_to(&mut writer, "new").await;
    assert!(matches!(refused, Err(Fault::Holder(_))), "{refused:?}");
    house.disk.power.restore();
    writer.batch(&[], Batch::default(), None).await.unwrap();
    assert_eq!((house.roots("old"), house.roots("new")), (1, 0));
    house.all_open(&writer).await;
    assert_eq!(writer.state().destroyed_as(), "overwritten");
    house.move_to(&mut writer, "new").await.unwrap();
    assert_eq!((house.roots("old"), house.roots("new")), (0, 1));
}

#[tokio::test]
async fn a_former_root_that_will_not_go_is_tried_again_and_nothing_moves_meanwhile() {
    let (house, mut writer) = House::new().await;
    house.disk.power.cut_at(3, false);
    let stays = house.move_to(&mut writer, "new").await;
    assert!(matches!(stays, Err(Fault::RootStays(Some(_)))), "{stays:?}");
    assert_eq!((house.roots("old"), house.roots("new")), (1, 1));
    assert!(matches!(writer.destroy_former().await, Err(Fault::RootStays(_))));
    assert!(matches!(house.move_to(&mut writer, "third").await, Err(Fault::RootStays(_))));
    house.disk.power.restore();
    writer.destroy_former().await.unwrap();
    assert_eq!((house.roots("old"), house.roots("new"), house.roots("third")), (0, 1, 0));
    house.all_open(&writer).await;
}

#[tokio::test]
async fn a_start_does_not_move_a_tree_whose_owner_lives() {
    let (house, writer) = House::new().await;
    let refused = house.look("new", Some("old")).await.map(drop);
    assert!(matches!(refused, Err(Fault::Holder(HolderError::Owned(_)))), "{refused:?}");
    drop(writer);
    assert_eq!(house.start("new", Some("old")).await.writer.state().left, []);
}
