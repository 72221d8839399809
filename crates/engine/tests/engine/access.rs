//! The log names every full file of the access log, so that who read what cannot be changed afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cloakroom_core::clock::Clock;
use cloakroom_core::event::{AccessFileSealed, Body};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::merkle::Tile;
use cloakroom_crypto::hash;
use cloakroom_engine::backup::{self, FolderTarget, Until};
use cloakroom_engine::{Engine, Opened, codec, offline};
use cloakroom_store::embedded::reading::access_files;

use crate::house::{ADMIN, DPO, House, SEE, copy, person, read, register};

const DEADLINE: Duration = Duration::from_secs(30);
/// A test that fills files of the access log needs some ten reads for each.
const FILE_BYTES: u64 = 1_000;
const NEVER_MS: u64 = 60 * 60 * 1_000;

async fn open(house: &House, sync_ms: u64) -> Engine {
    let mut options = house.options();
    (options.access_file_bytes, options.access_sync_ms) = (FILE_BYTES, sync_ms);
    match Engine::open(options, house.clock.clone()).await.unwrap() {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("{reason}"),
    }
}

fn files(house: &House) -> Vec<(u64, PathBuf)> {
    access_files(&house.folder.join("data/access")).unwrap()
}

/// Reads until the access log has so many files.
async fn fill(house: &House, engine: &Engine, count: usize) {
    let (_, token, _) = person(engine, "ada@example.com", "Ada").await;
    while files(house).len() < count {
        assert!(read(engine, &token).await.is_ok());
    }
}

/// The events that name files of the access log, in their order.
async fn named(engine: &Engine) -> Vec<(u64, AccessFileSealed)> {
    let (mut found, events) = (vec![], engine.figures().tree_events);
    for index in 0..events.div_ceil(256) {
        let tile = Tile { level: 0, index, width: (events - index * 256).min(256) };
        let bundle = engine.log_entries(ADMIN, tile).await.unwrap();
        let (mut rest, mut number) = (&bundle[..], index * 256);
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let (event, after) = behind.split_at(u16::from_be_bytes(*length).into());
            (rest, number) = (after, number + 1);
            let read = codec::decode(EventNumber(number), event.to_vec().into()).unwrap();
            if let Body::AccessFileSealed(it) = read.body {
                found.push((number, it));
            }
        }
    }
    found
}

/// The same once there are so many.
async fn all_named(engine: &Engine, count: usize) -> Vec<(u64, AccessFileSealed)> {
    let began = Instant::now();
    loop {
        let found = named(engine).await;
        if found.len() >= count {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "{found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until events name the files that begin with these entries.
async fn all_named_of(engine: &Engine, first_entries: &BTreeSet<u64>) {
    let began = Instant::now();
    loop {
        let found: BTreeSet<u64> = named(engine).await.iter().map(|(_, it)| it.first_entry).collect();
        if first_entries.is_subset(&found) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{found:?} of {first_entries:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the events must say of all full files: those before the newest.
fn expected(house: &House) -> Vec<AccessFileSealed> {
    let sealed = |pair: &[(u64, PathBuf)]| AccessFileSealed {
        first_entry: pair[0].0,
        entries: pair[1].0 - pair[0].0,
        sha256: hash::sha256(&fs::read(&pair[0].1).unwrap()),
    };
    files(house).windows(2).map(sealed).collect()
}

fn bodies(named: &[(u64, AccessFileSealed)]) -> Vec<AccessFileSealed> {
    let mut bodies: Vec<_> = named.iter().map(|(_, body)| *body).collect();
    bodies.sort_by_key(|body| body.first_entry);
    bodies
}

async fn problems(engine: &Engine) -> Vec<String> {
    engine.verify_log(DPO).await.unwrap().problems
}

/// A vault whose access log has four full files, each named; stopped.
async fn lived_in() -> (House, Vec<(u64, AccessFileSealed)>) {
    let house = House::new();
    let engine = open(&house, 5).await;
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    fill(&house, &engine, 5).await;
    let named = all_named(&engine, 4).await;
    assert_eq!(bodies(&named), expected(&house));
    assert_eq!(problems(&engine).await, Vec::<String>::new());
    engine.close().await;
    (house, named)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_of_the_access_log_is_named_once_over_starts() {
    let (house, before) = lived_in().await;
    for files in [6, 7] {
        let engine = open(&house, 5).await;
        fill(&house, &engine, files).await;
        let named = all_named(&engine, files - 1).await;
        assert_eq!((bodies(&named), &named[..4]), (expected(&house), &before[..]));
        assert_eq!(problems(&engine).await, Vec::<String>::new());
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_unnamed_the_next_start_names_once() {
    let house = House::new();
    let engine = open(&house, NEVER_MS).await;
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    fill(&house, &engine, 5).await;
    // The sync of a stop seals a file and has no time to name it: as a crash between the two leaves it, and one
    // before the first of them the others.
    engine.close().await;
    drop(engine);
    let full = files(&house).into_iter().filter(|(_, path)| path.with_extension("hash").exists());
    let sealed: BTreeSet<u64> = full.map(|(first_entry, _)| first_entry).collect();
    assert!(!sealed.is_empty() && sealed.len() < expected(&house).len(), "{sealed:?}");
    let engine = open(&house, NEVER_MS).await;
    all_named_of(&engine, &sealed).await;
    engine.close().await;
    drop(engine);
    for _ in ["the rest", "and nothing twice"] {
        let engine = open(&house, 5).await;
        let full = expected(&house).len();
        assert_eq!(bodies(&all_named(&engine, full).await), expected(&house));
        fill(&house, &engine, files(&house).len() + 1).await;
        assert_eq!(bodies(&all_named(&engine, full + 1).await), expected(&house));
        assert_eq!(problems(&engine).await, Vec::<String>::new());
        engine.close().await;
    }
}

/// Cuts off the last entry, so that what is left is sound by itself.
fn without_the_last_entry(path: &PathBuf) {
    let bytes = fs::read(path).unwrap();
    let (mut end, mut before) = (24, 24);
    while end < bytes.len() {
        before = end;
        end += 8 + u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    }
    fs::write(path, &bytes[..before]).unwrap();
    fs::remove_file(path.with_extension("hash")).unwrap();
}

type Change = fn(&PathBuf);

fn with_another_last_byte(path: &PathBuf) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_access_log_that_was_changed_or_removed_is_a_problem() {
    let (house, named) = lived_in().await;
    let (event, second) = named.iter().find(|(_, it)| it.first_entry == files(&house)[1].0).unwrap();
    let (first, last) = (second.first_entry, second.first_entry + second.entries - 1);
    let told = |what: &str| {
        format!("the access log's file of entries {first} to {last} {what} (event {event} names it)")
    };
    let changes: [(Change, &str); 3] = [
        (with_another_last_byte, "is not as it was sealed"),
        (without_the_last_entry, "is not as it was sealed"),
        (|path| fs::remove_file(path).unwrap(), "is missing"),
    ];
    for (change, what) in changes {
        let house = house.fork();
        change(&files(&house)[1].1);
        let engine = open(&house, 5).await;
        assert_eq!(problems(&engine).await, [told(what)]);
        // Nor does a start make it good by hashing it again, or time.
        fill(&house, &engine, files(&house).len() + 1).await;
        all_named_of(&engine, &expected(&house).iter().map(|it| it.first_entry).collect()).await;
        assert_eq!(problems(&engine).await, [told(what)]);
        engine.close().await;
        drop(engine);
        let found = offline::verify_folder(&house.folder.join("data"), None, &[]).unwrap();
        assert!(found.problems.contains(&told(what)), "{:?}", found.problems);
    }
    let found = offline::verify_folder(&house.folder.join("data"), None, &[]).unwrap();
    assert_eq!(found.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_has_what_its_log_names_and_an_older_access_log_is_told_and_served() {
    let house = House::new();
    let engine = open(&house, 5).await;
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    fill(&house, &engine, 2).await;
    all_named(&engine, 1).await;
    let older = tempfile::tempdir().unwrap();
    copy(&house.folder.join("data/access"), older.path());
    fill(&house, &engine, 4).await;
    all_named(&engine, 3).await;
    let target = FolderTarget::new(older.path().join("backups"));
    let made = backup::create(&house.folder.join("data"), &target, house.clock.now_unix_ms(), None).unwrap();
    assert_eq!(backup::verify(&target, &made.manifest).unwrap().problems, Vec::<String>::new());
    engine.close().await;
    drop(engine);

    let beside = House::new();
    for part in ["keys", "roots"] {
        copy(&house.folder.join(part), &beside.folder.join(part));
    }
    copy(&house.folder.join("data/log"), &beside.folder.join("data/log"));
    backup::restore(&target, &made.manifest, Until::End, &beside.folder.join("restored")).unwrap();
    fs::rename(beside.folder.join("restored/access"), beside.folder.join("data/access")).unwrap();
    let engine = open(&beside, 5).await;
    fill(&beside, &engine, 5).await;
    assert_eq!(bodies(&all_named(&engine, 4).await), expected(&beside));
    assert_eq!(problems(&engine).await, Vec::<String>::new());
    engine.close().await;
    drop(engine);

    fs::remove_dir_all(house.folder.join("data/access")).unwrap();
    copy(older.path(), &house.folder.join("data/access"));
    let engine = open(&house, 5).await;
    let (_, token, _) = person(&engine, "bob@example.com", "Bob").await;
    assert_eq!(read(&engine, &token).await.as_deref(), Ok("bob@example.com"));
    let told = problems(&engine).await;
    assert!(
        told.len() == 2 && told.iter().all(|it| it.contains("is not as") || it.contains("is missing")),
        "{told:?}"
    );
    engine.close().await;
    let made = backup::create(&house.folder.join("data"), &target, house.clock.now_unix_ms(), None).unwrap();
    assert_eq!(backup::verify(&target, &made.manifest).unwrap().problems, told);
}
