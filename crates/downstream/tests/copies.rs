//! Copies through their public face, on a real disk: what is put can be used until it is purged, and then by
//! nobody, whatever comes late, restarts or is restored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // a test may panic

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_downstream::{
    Copies, Counts, DownstreamError, Erasure, Forget, NothingElse, Plaintext, Purge, Purged, Rectified,
    RowEdit, Scope, Token,
};
use cloakroom_keytree::{Fault, FileHolder, GateReason, HolderError, OwnerNumber, RootHolder};
use cloakroom_store::Answer;
use cloakroom_store::embedded::EmbeddedRecords;
use cloakroom_testkit::wait;
use futures_util::FutureExt;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const OF: Scope<'static> = Scope { controller: "see", purpose: "ticket_delivery" };

struct House(TempDir);

impl House {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn try_open(&self) -> Result<Copies, DownstreamError> {
        let folder = self.0.path();
        Copies::open(&folder.join("data"), &folder.join("roots"), Arc::new(NothingElse)).await
    }

    async fn open(&self) -> Copies {
        self.try_open().await.unwrap()
    }

    /// The files of all roots.
    fn roots(&self) -> usize {
        let trees = fs::read_dir(self.0.path().join("roots")).unwrap();
        let files = trees.flat_map(|tree| fs::read_dir(tree.unwrap().path()).unwrap());
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("root-")).count()
    }
}

fn token(name: &str) -> Token {
    Token::parse(name).unwrap()
}

fn erasure(name: &str, purge_id: &str) -> Erasure {
    Erasure {
        controller: "see".into(),
        purge_id: purge_id.into(),
        token: token(name),
        field: "email".into(),
        activity: "ticketing".into(),
        deadline_unix_ms: 0,
    }
}

async fn put(copies: &Copies, name: &str, text: &str) -> Result<(), DownstreamError> {
    let seen = copies.sequence(&token(name)).await?;
    copies.put(&token(name), OF, &Plaintext::from_slice(text.as_bytes()), seen).await
}

async fn read(copies: &Copies, name: &str) -> Result<Option<String>, DownstreamError> {
    let text = |text: &Plaintext| String::from_utf8(text.as_bytes().to_vec()).unwrap();
    copies.with_copy(&token(name), OF, text).await
}

async fn purge(copies: &Copies, name: &str, purge_id: &str) -> Purged {
    copies.purge(&[erasure(name, purge_id)]).await.unwrap().remove(0)
}

/// Closes the store; its files are free when the last clone is gone.
async fn stop(copies: Copies) {
    copies.close().await;
}

fn is_purged<T>(outcome: &Result<T, DownstreamError>) -> bool {
    matches!(outcome, Err(DownstreamError::Purged))
}

#[tokio::test]
async fn a_copy_is_there_until_its_purge_and_after_a_restart() {
    let house = House::new();
    let copies = house.open().await;
    for n in 0..70 {
        put(&copies, &format!("t{n}"), &format!("value {n}")).await.unwrap();
    }
    assert_eq!(read(&copies, "t7").await.unwrap().as_deref(), Some("value 7"));
    assert_eq!(read(&copies, "other").await.unwrap(), None);
    let elsewhere = Scope { purpose: "newsletter", ..OF };
    assert!(copies.with_copy(&token("t7"), elsewhere, |_| ()).await.unwrap().is_none());
    let purged = purge(&copies, "t7", "p7").await;
    assert!(
        matches!(&purged, Purged::Gone { count: 1, evidence } if evidence.starts_with("epoch ")),
        "{purged:?}"
    );
    copies.close().await;
    assert!(matches!(put(&copies, "t9", "late").await, Err(DownstreamError::Closed)));
    drop(copies);

    let copies = house.open().await;
    assert!(is_purged(&read(&copies, "t7").await));
    for n in (0..70).filter(|n| *n != 7) {
        assert_eq!(read(&copies, &format!("t{n}")).await.unwrap(), Some(format!("value {n}")));
    }
    assert_eq!(copies.counts("see").await.unwrap(), Counts { copies: 69, purged: 1 });
    stop(copies).await;
}

#[tokio::test]
async fn a_value_that_arrives_after_its_purge_is_not_kept() {
    let house = House::new();
    let copies = house.open().await;
    // Asked for before the purge, arrived after it.
    let seen = copies.sequence(&token("t1")).await.unwrap();
    assert!(matches!(purge(&copies, "t1", "p1").await, Purged::NothingHeld { .. }));
    let late = copies.put(&token("t1"), OF, &Plaintext::from_slice(b"late"), seen).await;
    assert!(is_purged(&late));
    assert!(is_purged(&read(&copies, "t1").await));
    stop(copies).await;
    let copies = house.open().await;
    assert!(is_purged(&put(&copies, "t1", "later").await));
    stop(copies).await;
}

#[tokio::test]
async fn a_repeated_purge_gives_the_same_answer_and_another_finds_nothing() {
    let house = House::new();
    let copies = house.open().await;
    put(&copies, "t1", "v").await.unwrap();
    let first = purge(&copies, "t1", "p1").await;
    assert_eq!(purge(&copies, "t1", "p1").await, first);
    assert!(matches!(purge(&copies, "t1", "p2").await, Purged::NothingHeld { .. }));
    assert_eq!(copies.counts("see").await.unwrap().purged, 1);
    stop(copies).await;
}

#[tokio::test]
async fn a_purge_waits_for_the_use_under_way_and_lets_none_in() {
    let house = House::new();
    let copies = house.open().await;
    put(&copies, "t1", "v").await.unwrap();
    put(&copies, "t2", "v").await.unwrap();
    let guard = copies.hold(&token("t1")).await.unwrap();
    let mut purging = tokio::spawn({
        let copies = copies.clone();
        async move { purge(&copies, "t1", "p1").await }
    });
    wait::until(DEADLINE, "the token closes", async || {
        is_purged(&copies.hold(&token("t1")).await).then_some(())
    })
    .await;
    assert!(is_purged(&put(&copies, "t1", "new").await), "nor is anything kept");
    assert!(matches!(purge(&copies, "t2", "p2").await, Purged::Gone { .. }), "another token's purge goes on");
    assert!((&mut purging).now_or_never().is_none());
    let text = guard.text(OF).await.unwrap().unwrap();
    assert_eq!(text.as_bytes(), b"v", "whoever holds it may finish");
    drop(guard);
    assert!(matches!(tokio::time::timeout(DEADLINE, purging).await.unwrap().unwrap(), Purged::Gone { .. }));
    stop(copies).await;
}

#[tokio::test]
async fn a_rectified_token_s_copy_goes_but_may_come_again() {
    let house = House::new();
    let copies = house.open().await;
    put(&copies, "t1", "former").await.unwrap();
    let before = copies.sequence(&token("t1")).await.unwrap();
    let notice = |sequence| Rectified { controller: "see".into(), token: token("t1"), sequence };
    copies.rectified(&notice(5)).await.unwrap();
    assert_eq!(read(&copies, "t1").await.unwrap(), None);
    let late = copies.put(&token("t1"), OF, &Plaintext::from_slice(b"former"), before).await;
    assert!(matches!(late, Err(DownstreamError::Stale)), "a former value on its way is not kept");
    put(&copies, "t1", "new").await.unwrap();
    copies.rectified(&notice(5)).await.unwrap();
    copies.rectified(&notice(4)).await.unwrap();
    assert_eq!(read(&copies, "t1").await.unwrap().as_deref(), Some("new"), "an old notice played again");
    assert_eq!(copies.counts("see").await.unwrap(), Counts { copies: 1, purged: 0 });
    assert!(matches!(purge(&copies, "t1", "p1").await, Purged::Gone { count: 1, .. }));
    stop(copies).await;
}

#[tokio::test]
async fn an_old_copy_of_the_database_with_todays_root_is_noise() {
    let house = House::new();
    let data = house.0.path().join("data");
    let backup = house.0.path().join("backup");
    let copies = house.open().await;
    put(&copies, "t1", "v").await.unwrap();
    copy_folder(&data, &backup); // last night's
    purge(&copies, "t1", "p1").await;
    stop(copies).await;
    assert_eq!(house.roots(), 1);
    // What the holder noted would close the gate as well; the purge must not depend on it.
    for tree in fs::read_dir(house.0.path().join("roots")).unwrap() {
        fs::remove_file(tree.unwrap().path().join("note")).unwrap();
    }

    fs::remove_dir_all(&data).unwrap();
    fs::rename(&backup, &data).unwrap();
    match house.try_open().await {
        Err(DownstreamError::Tree(Fault::Gate(GateReason::RootGone { .. }))) => {}
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("an old copy opened"),
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_owner_is_refused_while_the_first_lives() {
    let house = House::new();
    let copies = house.open().await;
    assert!(matches!(house.try_open().await, Err(DownstreamError::Store(_))));
    stop(copies).await;
    stop(house.open().await).await;
}

/// A file holder whose destructions fail for as long as it is told.
struct Stubborn {
    inner: FileHolder,
    refuses: Arc<AtomicBool>,
    refused: Arc<AtomicU32>,
}

impl RootHolder for Stubborn {
    cloakroom_keytree::root_holder_through!(inner: kind destroy_class own create wrap unwrap list note noted);

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        if !self.refuses.load(Ordering::SeqCst) {
            return self.inner.destroy(tree, owner, root);
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        let source = std::io::Error::other("refused by the test");
        Answer::now(Err(HolderError::Io { what: "destroying", source }))
    }
}

#[test]
fn a_purge_is_answered_only_when_the_former_root_is_gone_and_a_crash_before_that_is_settled_by_the_next_start()
 {
    let house = House::new();
    let refuses = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicU32::new(0));
    let open = async || {
        let inner = FileHolder::open(&house.0.path().join("roots")).unwrap();
        let holder = Stubborn { inner, refuses: Arc::clone(&refuses), refused: Arc::clone(&refused) };
        let records = EmbeddedRecords::open(&house.0.path().join("data/copies")).unwrap();
        Copies::over(Arc::new(records), Arc::new(holder), Arc::new(NothingElse)).await.unwrap()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let copies = open().await;
        put(&copies, "t1", "v").await.unwrap();
        put(&copies, "t2", "v").await.unwrap();
        refuses.store(true, Ordering::SeqCst);
        let mut purging = Box::pin(purge(&copies, "t1", "p1"));
        wait::until(DEADLINE, "two tries", async || {
            assert!((&mut purging).now_or_never().is_none(), "answered while the former root lives");
            (refused.load(Ordering::SeqCst) >= 2).then_some(())
        })
        .await;
        refuses.store(false, Ordering::SeqCst);
        assert!(matches!(tokio::time::timeout(DEADLINE, purging).await.unwrap(), Purged::Gone { .. }));
        assert_eq!(house.roots(), 1);

        refuses.store(true, Ordering::SeqCst);
        let before = refused.load(Ordering::SeqCst);
        tokio::spawn(async move { purge(&copies, "t2", "p2").await });
        wait::until(DEADLINE, "a try", async || (refused.load(Ordering::SeqCst) > before).then_some(()))
            .await;
        assert_eq!(house.roots(), 2);
    });
    drop(runtime); // a crash: the batch is committed, the former root is not gone

    refuses.store(false, Ordering::SeqCst);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let copies = open().await;
        assert_eq!(house.roots(), 1);
        assert!(is_purged(&read(&copies, "t2").await));
        assert!(
            matches!(purge(&copies, "t2", "p2").await, Purged::Gone { count: 1, .. }),
            "the answer is not lost"
        );
        stop(copies).await;
    });
}

/// Keeps for each token a row, and a sum that stays.
struct Orders;

#[async_trait]
impl Forget for Orders {
    async fn forget(&self, rows: &mut RowEdit, what: &Erasure) -> Result<u32, DownstreamError> {
        let mine = rows.scan(what.token.as_str().as_bytes()).await?;
        for (key, _) in &mine {
            rows.remove(key);
        }
        let anonymous = rows.get(b"anonymous").await?.map_or(0, |row| row[0]);
        rows.put(b"anonymous", vec![anonymous + mine.len() as u8]);
        Ok(mine.len() as u32)
    }
}

#[tokio::test]
async fn an_application_s_rows_change_one_edit_at_a_time_and_forget_with_the_copies() {
    let house = House::new();
    let folder = house.0.path();
    let copies = Copies::open(&folder.join("data"), &folder.join("roots"), Arc::new(Orders)).await.unwrap();
    let edits = (0..50).map(|_| {
        copies.edit_rows(|rows| {
            async move {
                let sum = rows.get(b"sum").await?.map_or(0, |row| row[0]);
                rows.put(b"sum", vec![sum + 1]);
                Ok(())
            }
            .boxed()
        })
    });
    futures_util::future::try_join_all(edits).await.unwrap();
    assert_eq!(copies.rows().get(b"sum").await.unwrap().unwrap(), [50].as_slice());

    let refused = copies
        .edit_rows(|rows| {
            async move {
                rows.put(b"sum", vec![0]);
                Err::<(), _>(DownstreamError::Application("no"))
            }
            .boxed()
        })
        .await;
    assert!(matches!(refused, Err(DownstreamError::Application("no"))));
    assert_eq!(
        copies.rows().get(b"sum").await.unwrap().unwrap(),
        [50].as_slice(),
        "a refused edit writes nothing"
    );

    copies
        .edit_rows(|rows| {
            async move {
                rows.put(b"t1/a", vec![]);
                rows.put(b"t1/b", vec![]);
                Ok(())
            }
            .boxed()
        })
        .await
        .unwrap();
    let both = [erasure("t1", "p1"), erasure("t2", "p2")];
    let purged = copies.purge(&both).await.unwrap();
    assert!(matches!(purged[0], Purged::Gone { count: 2, .. }), "{purged:?}");
    assert!(matches!(purged[1], Purged::NothingHeld { .. }));
    assert_eq!(copies.rows().scan(b"t1", None, 10).await.unwrap(), []);
    assert_eq!(copies.rows().get(b"anonymous").await.unwrap().unwrap(), [2].as_slice());
    stop(copies).await;
}

#[tokio::test]
async fn the_position_lies_with_the_copies() {
    let house = House::new();
    let copies = house.open().await;
    assert_eq!(copies.position().await.unwrap(), 0);
    copies.reached(41).await.unwrap();
    stop(copies).await;
    let copies = house.open().await;
    assert_eq!(copies.position().await.unwrap(), 41);
    stop(copies).await;
}
