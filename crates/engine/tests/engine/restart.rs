//! What a start must find again, and what it must refuse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cloakroom_core::refusal::Code;
use cloakroom_engine::GateReason;
use cloakroom_store::embedded::EmbeddedRecords;
use cloakroom_store::{Batch, Records};

use crate::house::{ADMIN, DPO, House, Watched, copy, erasure_of, item, new, person, read, tokenize};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, other, _) = person(&engine, "bob@example.com", "Bob").await;
    let first = tokenize(&engine, "order-9", vec![item(new("c"), "email", "cy@example.com")]).await;
    let (erasure, _) = engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    let verdict = engine.verify_log(ADMIN).await.unwrap();
    assert_eq!(verdict.problems, Vec::<String>::new());
    let jwks = engine.jwks();
    engine.close().await;
    drop(engine);

    for _ in 0..2 {
        let engine = house.open().await;
        assert_eq!(read(&engine, &email).await, Err(Code::Erased));
        assert_eq!(read(&engine, &other).await.unwrap(), "bob@example.com");
        let repeat = tokenize(&engine, "order-9", vec![item(new("c"), "email", "cy@example.com")]).await;
        assert_eq!(first, repeat, "a repeat is recognised across a restart");
        assert_eq!(engine.erasure(DPO, &erasure.erasure_id).await.unwrap().epoch, erasure.epoch);
        assert_eq!(engine.jwks(), jwks);
        assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_that_are_gone_are_rebuilt() {
    let house = House::new();
    let engine = house.ready().await;
    let (_, email, _) = person(&engine, "ada@example.com", "Ada").await;
    engine.close().await;
    drop(engine);
    std::fs::remove_dir_all(house.folder.join("data/projections")).unwrap();
    let engine = house.open().await;
    assert_eq!(read(&engine, &email).await.unwrap(), "ada@example.com");
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_of_another_version_are_rebuilt() {
    let house = House::new();
    let engine = house.ready().await;
    let (_, email, _) = person(&engine, "ada@example.com", "Ada").await;
    engine.close().await;
    drop(engine);
    // A version that kept no newest events of hours, and did not say which it was.
    let records = EmbeddedRecords::open(&house.folder.join("data/projections")).unwrap();
    let mut older = Batch::default();
    older.remove(&b"v"[..]);
    for (key, _) in records.scan(b"l", None, usize::MAX).await.unwrap() {
        older.remove(key.to_vec());
    }
    assert!(older.changes.len() > 1);
    records.commit(older).await.unwrap();
    drop(records);
    let engine = house.open().await;
    assert_eq!(read(&engine, &email).await.unwrap(), "ada@example.com");
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_log_closes_the_gate_and_the_right_one_opens_it() {
    let house = House::new();
    let engine = house.ready().await;
    person(&engine, "ada@example.com", "Ada").await;
    engine.close().await;
    drop(engine);
    let aside = tempfile::tempdir().unwrap();
    copy(&house.folder.join("data"), &aside.path().join("old"));
    let engine = house.open().await;
    let (_, email, _) = person(&engine, "bob@example.com", "Bob").await;
    engine.close().await;
    drop(engine);

    std::fs::rename(house.folder.join("data"), aside.path().join("new")).unwrap();
    copy(&aside.path().join("old"), &house.folder.join("data"));
    assert!(matches!(house.gate().await, GateReason::LogBehindKeys { .. }));
    std::fs::remove_dir_all(house.folder.join("data")).unwrap();
    std::fs::rename(aside.path().join("new"), house.folder.join("data")).unwrap();
    let engine = house.open().await;
    assert_eq!(read(&engine, &email).await.unwrap(), "bob@example.com", "a closed gate changed nothing");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_keys_close_the_gate_and_the_right_ones_open_it() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, _, _) = person(&engine, "ada@example.com", "Ada").await;
    engine.close().await;
    drop(engine);
    let aside = tempfile::tempdir().unwrap();
    copy(&house.folder.join("keys"), &aside.path().join("old"));
    let engine = house.open().await;
    let (_, email, _) = person(&engine, "bob@example.com", "Bob").await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.close().await;
    drop(engine);

    std::fs::rename(house.folder.join("keys"), aside.path().join("new")).unwrap();
    copy(&aside.path().join("old"), &house.folder.join("keys"));
    assert!(matches!(house.gate().await, GateReason::KeysBehindLog { .. }));
    std::fs::remove_dir_all(house.folder.join("keys")).unwrap();
    std::fs::rename(aside.path().join("new"), house.folder.join("keys")).unwrap();
    let engine = house.open().await;
    assert_eq!(read(&engine, &email).await.unwrap(), "bob@example.com");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_keys_at_all_close_the_gate() {
    let house = House::new();
    let engine = house.ready().await;
    engine.close().await;
    drop(engine);
    std::fs::rename(house.folder.join("keys"), house.folder.join("lost")).unwrap();
    assert_eq!(house.gate().await, GateReason::KeysMissing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_on_the_same_folder_is_refused() {
    let house = House::new();
    let engine = house.ready().await;
    let error = House::at(&house.folder).try_open().await.err().unwrap();
    assert!(error.chain().contains("data is in use"), "{}", error.chain());
    let (_, email, _) = person(&engine, "ada@example.com", "Ada").await;
    assert_eq!(read(&engine, &email).await.unwrap(), "ada@example.com", "the first is unharmed");
    engine.close().await;
}

fn bytes_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(bytes_below(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

/// Each of the three locks keeps a second daemon out by itself: that of the data, that of the keys where they lie
/// elsewhere, and the root holder's where only the roots are shared. It is refused in our words, which name what is
/// taken, before it has changed anything there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lock_alone_keeps_a_second_daemon_out_and_nothing_is_touched() {
    let house = House::new();
    let engine = house.ready().await;
    let (_, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let tree = engine.status(ADMIN).await.unwrap().tree_id;
    engine.close().await;
    drop(engine);
    let of_tree = format!("roots/{tree}/lock");
    for (taken, untouched, said) in [
        ("data/LOCK", &["data", "keys", "roots"][..], "data is in use".to_owned()),
        ("keys/LOCK", &["data", "keys", "roots"], "keys is in use".to_owned()),
        (&of_tree, &["roots"], format!("tree {tree}")),
    ] {
        let lock = std::fs::File::open(house.folder.join(taken)).unwrap();
        lock.try_lock().unwrap();
        let look =
            || untouched.iter().map(|folder| bytes_below(&house.folder.join(folder))).collect::<Vec<_>>();
        let before = look();
        let error = house.try_open().await.err().expect(taken).chain();
        assert!(error.contains(&said), "{taken}: {error}");
        assert!(look() == before, "something was changed although {taken} was taken");
    }
    let engine = house.open().await;
    assert_eq!(read(&engine, &email).await.unwrap(), "ada@example.com");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_is_changed_missing_or_too_many_is_found() {
    let house = House::new();
    house.ready().await.close().await;
    let mut watched = Watched::default();
    let engine = house.open_over(&mut watched).await.unwrap();
    let projections = watched.0.unwrap();
    let (subject, ..) = person(&engine, "ada@example.com", "Ada").await;
    person(&engine, "grace@example.com", "Grace").await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    let problems = async || engine.verify_log(ADMIN).await.unwrap().problems;
    assert_eq!(problems().await, Vec::<String>::new());

    let changed = async |key: &[u8], value: Option<&[u8]>| {
        let mut batch = Batch::default();
        batch.changes.push((key.to_vec(), value.map(Bytes::copy_from_slice)));
        projections.apply(batch).await.unwrap();
    };
    for kind in [b'h', b'o', b'a', b'c', b'u', b's', b'x', b'p'] {
        let (key, value) = projections.scan(&[kind], None, 1).await.unwrap().remove(0);
        let another = [&value[..], b"?"].concat();
        let one = [format!("1 projections of kind {} differ from the log", char::from(kind))];
        changed(&key, None).await;
        assert_eq!(problems().await, one, "missing");
        changed(&key, Some(&value)).await;
        let more = [&[kind][..], b"more"].concat();
        changed(&more, Some(&value)).await;
        assert_eq!(problems().await, one, "too many");
        changed(&more, None).await;
        changed(&key, Some(&another)).await;
        let differing = problems().await;
        assert!(differing.len() == 1 && differing[0].contains(&format!("of kind {} ", char::from(kind))));
        changed(&key, Some(&value)).await;
    }
    // The newest event of a person, taken for an older one.
    let (key, value) = projections.scan(b"h", None, 1).await.unwrap().remove(0);
    let newest = u64::from_be_bytes(value[..].try_into().unwrap());
    changed(&key, Some(&(newest - 1).to_be_bytes())).await;
    assert_eq!(problems().await, ["1 projections of kind h differ from the log"]);
    changed(&key, Some(&value)).await;
    assert_eq!(problems().await, Vec::<String>::new());
    engine.close().await;
}
