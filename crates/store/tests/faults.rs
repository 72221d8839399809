//! Layers that fail on purpose do what they say, and the embedded engines meet other damage in words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // assertions

mod disk;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use crate::disk::files;
use bytes::Bytes;
use cloakroom_store::contract::HASHES;
use cloakroom_store::contract::log::Chain;
use cloakroom_store::embedded::{
    AccessLogOptions, EmbeddedAccessLog, EmbeddedLog, EmbeddedRecords, LogOptions,
};
use cloakroom_store::faulty::{Failing, Faults, FaultyLog, FaultyRecords, VolatileRecords};
use cloakroom_store::{AccessLog, Batch, Log, Records, StoreError};

fn put(key: &str, value: &'static str) -> Batch {
    let mut batch = Batch::default();
    batch.put(key, value);
    batch
}

#[tokio::test]
async fn a_faulty_log_fails_at_its_call_and_ever_after_and_still_reads() {
    for (failing, expected) in [(Failing::Undone, 1), (Failing::Done, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::new(EmbeddedLog::open(folder.path(), HASHES, LogOptions::default()).unwrap());
        inner.find_end(0).await.unwrap();
        inner.cut().await.unwrap();
        let faults = Faults::nth_write(2, failing);
        let log = FaultyLog::new(inner.clone(), faults.clone());
        let mut chain = Chain::default();
        chain.append(&log, 0, ["a"]).await;
        log.sync().await.unwrap();
        assert!(!faults.failed());
        assert!(log.append(&chain.next(0, ["b"]), true).await.is_err());
        assert!(faults.failed());
        assert!(log.append(&chain.next(0, ["b"]), true).await.is_err());
        assert!(log.sync().await.is_err());
        assert_eq!(log.event(cloakroom_core::ids::EventNumber(1)).await.unwrap().unwrap(), "a");
        assert_eq!(inner.find_end(0).await.unwrap().events, expected);
    }
}

#[tokio::test]
async fn faulty_records_count_a_commit_as_a_write_and_a_sync() {
    for (failing, expected) in [(Failing::Undone, None), (Failing::Done, Some(Bytes::from("2")))] {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::new(EmbeddedRecords::open(folder.path()).unwrap());
        let records = FaultyRecords::new(inner.clone(), Faults::nth_sync(2, failing));
        records.commit(put("a", "1")).await.unwrap();
        records.apply(put("b", "1")).await.unwrap();
        assert!(records.commit(put("c", "2")).await.is_err());
        assert!(records.apply(put("d", "2")).await.is_err());
        assert_eq!(inner.get(b"c").await.unwrap(), expected);
        assert_eq!(records.get(b"d").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_power_cut_takes_unsynced_records_and_as_many_as_the_test_says() {
    for kept in 0..=2 {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::new(EmbeddedRecords::open(folder.path()).unwrap());
        let records = VolatileRecords::new(inner.clone());
        records.commit(put("a", "1")).await.unwrap();
        records.apply(put("a", "2")).await.unwrap();
        records.apply(put("b", "2")).await.unwrap();
        assert_eq!(records.unsynced(), 2);
        assert_eq!(records.get(b"a").await.unwrap().unwrap(), "2");
        records.cut_power(kept).await.unwrap();
        assert!(records.apply(put("c", "3")).await.is_err());
        assert!(records.sync().await.is_err());
        assert_eq!(inner.get(b"a").await.unwrap().unwrap(), if kept == 0 { "1" } else { "2" });
        assert_eq!(inner.get(b"b").await.unwrap().is_some(), kept == 2);
    }
}

#[tokio::test]
async fn a_database_that_is_in_use_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let _first = EmbeddedRecords::open(folder.path()).unwrap();
    assert!(matches!(EmbeddedRecords::open(folder.path()), Err(StoreError::Locked { .. })));
}

#[tokio::test]
async fn a_database_of_another_layout_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    EmbeddedRecords::open(folder.path()).unwrap().commit(put("a", "1")).await.unwrap();
    let settings = folder.path().join("conf");
    let text = b"segment_size: 1048576\nuse_compression: false\nversion: 0.34\n";
    fs::write(&settings, [&text[..], &[0; 4]].concat()).unwrap();
    // sled's threads may hold the lock for a moment yet; the opening waits for them.
    assert!(matches!(EmbeddedRecords::open(folder.path()), Err(StoreError::Database { .. })));
}

fn access(folder: &Path) -> EmbeddedAccessLog {
    let options = AccessLogOptions { file_bytes: 100, ..AccessLogOptions::default() };
    EmbeddedAccessLog::open(folder, HASHES.leaf, options).unwrap()
}

#[tokio::test]
async fn a_torn_access_entry_is_cut_off_at_any_byte() {
    let folder = tempfile::tempdir().unwrap();
    let options = AccessLogOptions::default();
    let log = EmbeddedAccessLog::open(folder.path(), HASHES.leaf, options).unwrap();
    log.append(b"first").await.unwrap();
    log.append(b"second").await.unwrap();
    log.sync().await.unwrap();
    drop(log);
    let path = files(folder.path(), "access").pop().unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let log = EmbeddedAccessLog::open(folder.path(), HASHES.leaf, options).unwrap();
        let kept = [24 + 13, 24 + 13 + 14].iter().filter(|end| **end <= cut).count();
        assert_eq!(log.read(0, 9).await.unwrap(), [&b"first"[..], b"second"][..kept], "cut at {cut}");
        log.append(b"third").await.unwrap();
        assert_eq!(log.read(kept as u64, 9).await.unwrap(), [b"third"]);
    }
}

#[tokio::test]
async fn an_access_file_that_never_got_its_header_leaves_the_one_before_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = access(folder.path());
    for number in 0..4_u8 {
        log.append(&[number; 30]).await.unwrap();
    }
    drop(log);
    let last = files(folder.path(), "access").pop().unwrap();
    for bytes in [0, 1, 23, 24] {
        fs::write(&last, vec![0; bytes]).unwrap();
        let larger = AccessLogOptions { file_bytes: 1_000, ..AccessLogOptions::default() };
        let log = EmbeddedAccessLog::open(folder.path(), HASHES.leaf, larger).unwrap();
        assert!(!last.exists());
        let held = log.read(0, 9).await.unwrap().len();
        log.append(b"goes on").await.unwrap();
        assert_eq!(log.read(held as u64, 9).await.unwrap(), [b"goes on"], "{bytes} bytes");
        log.sync().await.unwrap();
    }
}

#[tokio::test]
async fn reads_leave_the_reserve_of_erasures_alone() {
    let folder = tempfile::tempdir().unwrap();
    let open = |reserve_bytes| {
        let options = AccessLogOptions { reserve_bytes, ..AccessLogOptions::default() };
        EmbeddedAccessLog::open(folder.path(), HASHES.leaf, options).unwrap()
    };
    let log = open(u64::MAX);
    for _ in 0..2 {
        let refused = log.append(b"no room").await;
        assert!(matches!(refused, Err(StoreError::Full { reserved_bytes: u64::MAX, .. })), "{refused:?}");
    }
    // Refused before anything was written, and nothing is broken.
    log.sync().await.unwrap();
    drop(log);
    let log = open(0);
    log.append(b"room").await.unwrap();
    assert_eq!(log.read(0, 9).await.unwrap(), [b"room"]);
}

#[tokio::test]
async fn full_access_files_are_hashed_by_syncs_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = access(folder.path());
    for number in 0..20_u8 {
        log.append(&[number; 30]).await.unwrap();
    }
    let files = files(folder.path(), "access");
    assert!(log.sealed(0).await.unwrap().is_empty());
    log.sync().await.unwrap();
    assert_eq!(log.sealed(0).await.unwrap().len(), 1);
    drop(log);
    let log = access(folder.path());
    for _ in 0..files.len() {
        log.sync().await.unwrap();
    }
    let expected: Vec<_> =
        files[..files.len() - 1].iter().map(|path| (HASHES.leaf)(&fs::read(path).unwrap())).collect();
    let told = log.sealed(0).await.unwrap();
    assert_eq!(log.sealed(1).await.unwrap(), told[1..]);
    let mut sealed = told;
    sealed.sort_by_key(|file| file.first_entry);
    assert_eq!(sealed.iter().map(|file| file.hash).collect::<Vec<_>>(), expected);
    assert!(sealed.iter().zip(0..).all(|(file, place)| (file.first_entry, file.entries) == (2 * place, 2)));
    assert_eq!(access(folder.path()).sealed(0).await.unwrap(), sealed);

    assert_eq!(log.hash_now(2).await.unwrap(), Some(expected[1]));
    assert_eq!(log.hash_now(3).await.unwrap(), None, "the number of no file's first entry");
    fs::write(&files[1], b"other").unwrap();
    assert_eq!(log.hash_now(2).await.unwrap(), Some((HASHES.leaf)(b"other")));
    fs::remove_file(&files[1]).unwrap();
    assert_eq!(log.hash_now(2).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_access_file_that_is_damaged_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let log = access(folder.path());
    for number in 0..6_u8 {
        log.append(&[number; 30]).await.unwrap();
    }
    drop(log);
    let path = &files(folder.path(), "access")[1];
    let length = fs::metadata(path).unwrap().len();
    OpenOptions::new().write(true).open(path).unwrap().set_len(length - 1).unwrap();
    let log = access(folder.path());
    assert_eq!(log.read(0, 2).await.unwrap().len(), 2);
    assert!(matches!(log.read(0, 9).await, Err(StoreError::Damaged { .. })));
}
