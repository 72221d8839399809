//! Backups of the data: consistent while the vault lives, incremental, whole or not there, without any key.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cloakroom_core::clock::Clock;
use cloakroom_core::refusal::Code;
use cloakroom_engine::backup::{self, BackupTarget, FolderTarget, Manifest, Until};
use cloakroom_engine::offline::Verified;
use cloakroom_engine::{Engine, EngineError, Opened};

use crate::house::{ADMIN, DPO, House, copy, erasure_of, person, read};

fn target(place: &tempfile::TempDir) -> FolderTarget {
    FolderTarget::new(place.path().join("backups"))
}

fn back_up(house: &House, target: &dyn BackupTarget) -> backup::Created {
    let made = backup::create(&house.folder.join("data"), target, house.clock.now_unix_ms(), None);
    made.unwrap_or_else(|error| panic!("{}", error.chain()))
}

fn sound(target: &dyn BackupTarget, manifest: &Manifest) -> Verified {
    let verified = backup::verify(target, manifest).unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    assert_eq!((verified.events, verified.frames), (manifest.events, manifest.frames));
    verified
}

/// A vault with today's keys and roots, copied, and the data of a backup.
fn restored(house: &House, target: &dyn BackupTarget, manifest: &Manifest, until: Until) -> House {
    let beside = House::new();
    for part in ["keys", "roots"] {
        copy(&house.folder.join(part), &beside.folder.join(part));
    }
    backup::restore(target, manifest, until, &beside.folder.join("data")).unwrap();
    beside
}

async fn open_older(house: &House) -> Engine {
    let standing = Engine::standing(&house.options()).await.unwrap();
    let lacking = standing.acceptable().unwrap_or_else(|| panic!("{standing:?}"));
    match Engine::open_older(house.options(), house.clock.clone(), lacking).await.unwrap() {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("{reason}"),
    }
}

fn refused(error: EngineError, word: &str) {
    assert!(error.chain().contains(word), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yesterdays_backup_restored_with_todays_keys_has_the_others_and_not_the_erased() {
    let (house, place) = (House::new(), tempfile::tempdir().unwrap());
    let target = target(&place);
    let engine = house.ready().await;
    let (subject, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, bob, _) = person(&engine, "bob@example.com", "Bob").await;
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
    let first = back_up(&house, &target);
    assert!(first.copied_bytes > 0 && first.reused_bytes == 0);
    assert_eq!(sound(&target, &first.manifest).entries, 1, "the access log is in it");

    house.clock.advance_ms(1_000);
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    person(&engine, "cy@example.com", "Cy").await;
    let second = back_up(&house, &target);
    sound(&target, &second.manifest);
    let again = back_up(&house, &target);
    assert_eq!((again.copied_bytes, again.reused_bytes), (0, second.manifest.bytes()));
    engine.close().await;
    drop(engine);
    let listed = backup::list(&target).unwrap();
    assert_eq!(listed.backups.first(), Some(&first.manifest));
    assert!(listed.damaged.is_empty());

    let beside = restored(&house, &target, &first.manifest, Until::End);
    let engine = open_older(&beside).await;
    assert_eq!(read(&engine, &ada).await, Err(Code::Erased));
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
    // The living tree is unharmed by its restored copy.
    let engine = house.open().await;
    assert_eq!(read(&engine, &bob).await.as_deref(), Ok("bob@example.com"));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_of_a_vault_that_writes_all_the_while_are_prefixes_of_its_log() {
    let (house, place) = (House::new(), tempfile::tempdir().unwrap());
    let target = target(&place);
    let engine = house.ready().await;
    let writer = engine.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut last = String::new();
        while stopped.try_recv().is_err() {
            last = person(&writer, "ada@example.com", "Ada").await.1;
        }
        last
    });
    let mut made: Vec<Manifest> = vec![];
    while made.len() < 12 {
        house.clock.advance_ms(1);
        let data = house.folder.join("data");
        let (to, now) = (target.clone(), house.clock.now_unix_ms());
        let done = tokio::task::spawn_blocking(move || backup::create(&data, &to, now, None));
        made.push(done.await.unwrap().unwrap().manifest);
    }
    stop.send(()).unwrap();
    let last = writing.await.unwrap();
    engine.close().await;
    drop(engine);
    assert!(made.windows(2).all(|pair| pair[0].events <= pair[1].events));
    assert!(made[0].events < made[11].events, "nothing was written meanwhile");
    for manifest in &made {
        sound(&target, manifest);
    }
    let newest = back_up(&house, &target).manifest;
    let beside = restored(&house, &target, &newest, Until::End);
    let engine = beside.open().await; // nothing is lacking: no gate to pass
    assert_eq!(read(&engine, &last).await.as_deref(), Ok("ada@example.com"));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_restored_to_an_event_or_a_moment() {
    let (house, place) = (House::new(), tempfile::tempdir().unwrap());
    let target = target(&place);
    let engine = house.ready().await;
    let (_, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (then, at) = (engine.figures().events, house.clock.now_unix_ms());
    house.clock.advance_ms(60_000);
    let (_, bob, _) = person(&engine, "bob@example.com", "Bob").await;
    let manifest = back_up(&house, &target).manifest;
    engine.close().await;
    drop(engine);
    for until in [Until::Event(then), Until::Time(at), Until::Time(at + 59_999)] {
        let planned = backup::plan(&target, &manifest, until).unwrap();
        assert_eq!((planned.events, planned.newest_unix_ms), (then, at), "{until:?}");
        let beside = restored(&house, &target, &manifest, until);
        let engine = open_older(&beside).await;
        assert_eq!(read(&engine, &ada).await.as_deref(), Ok("ada@example.com"));
        assert_eq!(read(&engine, &bob).await, Err(Code::NotFound));
        engine.close().await;
    }
    // Inside a frame there is nothing to end at: a commit counts whole or not at all.
    assert!(backup::plan(&target, &manifest, Until::Event(then + 1)).unwrap().events <= then + 1);
    refused(backup::plan(&target, &manifest, Until::Event(0)).unwrap_err(), "before that");
    refused(backup::plan(&target, &manifest, Until::Time(at - 1)).unwrap_err(), "before that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_segment_is_copied_once() {
    use cloakroom_core::ids::{CommitPosition, EventNumber, FramePosition, StartId, TreeId};
    use cloakroom_store::embedded::{EmbeddedLog, LogOptions};
    use cloakroom_store::{Frame, Hashes, Log};
    let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = target(&place);
    let hashes = Hashes { frame: cloakroom_crypto::hash::frame, leaf: cloakroom_crypto::hash::leaf };
    let options = LogOptions { segment_bytes: 2_000, reserve_bytes: 0 };
    let log = EmbeddedLog::open(&data.path().join("log"), hashes, options).unwrap();
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut previous_hash = [0; 32];
    let mut parts = 0;
    for number in 1..=40_u64 {
        let started = cloakroom_core::event::Started {
            start: StartId([1; 16]),
            tree: TreeId([2; 16]),
            software: "x".repeat(100),
            owner: 1,
            abandons: None,
        };
        let event = cloakroom_core::event::Event {
            at: number as i64,
            body: cloakroom_core::event::Body::Started(started),
        };
        let frame = Frame {
            at: FramePosition { start: StartId([1; 16]), number },
            previous_hash,
            rests_on: CommitPosition { start: StartId([1; 16]), number },
            durable_number: number - 1,
            ends: vec![],
            first_event: EventNumber(number),
            events: vec![cloakroom_engine::codec::encode(&event)],
        };
        previous_hash = log.append(&frame, true).await.unwrap();
        log.sync().await.unwrap();
        if number % 10 == 0 {
            let made = backup::create(data.path(), &target, number as i64, None).unwrap();
            sound(&target, &made.manifest);
            let sealed: u64 = made.manifest.log.iter().take(parts).map(|part| part.bytes).sum();
            assert!(made.reused_bytes >= sealed, "{parts} sealed parts are copied once");
            parts = made.manifest.log.len() - 1;
        }
    }
    assert!(parts > 3, "{parts}");
}

/// A target that fails after so many bytes.
struct Full(FolderTarget, u64);

impl BackupTarget for Full {
    fn put(&self, name: &str, bytes: &mut dyn Read) -> io::Result<()> {
        let mut bytes = bytes.take(self.1).chain(Refuses);
        self.0.put(name, &mut bytes)
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.0.open(name)
    }
    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        self.0.size(name)
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }
}

struct Refuses;

impl Read for Refuses {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_full_says_so_and_what_is_half_written_is_never_listed() {
    let (house, place) = (House::new(), tempfile::tempdir().unwrap());
    let engine = house.ready().await;
    person(&engine, "ada@example.com", "Ada").await;
    let folder = target(&place);
    let data = house.folder.join("data");
    for room in [0, 100, 500] {
        let error = backup::create(&data, &Full(folder.clone(), room), 1, None).unwrap_err();
        refused(error, "no storage space");
        assert_eq!(backup::list(&folder).unwrap(), backup::Listed::default());
    }
    let drafts = files(&place.path().join("backups"));
    assert!(drafts.iter().all(|path| path.extension().is_none()), "{drafts:?}");
    let whole = back_up(&house, &folder).manifest;
    engine.close().await;

    // A part that changes, or goes, is found when it is read back, and nothing is restored of it.
    let part = place.path().join("backups/parts").join(&whole.log[0].sha256);
    let file = std::fs::OpenOptions::new().write(true).open(&part).unwrap();
    file.write_all_at(b"?", 200).unwrap();
    assert_eq!(backup::verify(&folder, &whole).unwrap().problems.len(), 2, "part and end");
    let to = place.path().join("data");
    refused(backup::restore(&folder, &whole, Until::End, &to).unwrap_err(), "checksum");
    assert!(!to.exists());
    std::fs::remove_file(&part).unwrap();
    assert!(backup::verify(&folder, &whole).unwrap().problems[0].contains("missing"));
    // A manifest that changes is none.
    let manifest = files(&place.path().join("backups/backups")).remove(0);
    let file = std::fs::OpenOptions::new().write(true).open(&manifest).unwrap();
    file.write_all_at(b"?", 20).unwrap();
    let listed = backup::list(&folder).unwrap();
    assert_eq!((listed.backups.len(), listed.damaged.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_holds_the_two_logs_and_nothing_of_keys_or_roots() {
    let (house, place) = (House::new(), tempfile::tempdir().unwrap());
    let folder = target(&place);
    let engine = house.ready().await;
    let (_, ada, _) = person(&engine, "ada@example.com", "Ada Canary").await;
    assert_eq!(read(&engine, &ada).await.as_deref(), Ok("ada@example.com"));
    let manifest = back_up(&house, &folder).manifest;
    engine.close().await;
    let mut expected: Vec<String> = manifest
        .log
        .iter()
        .map(|part| part.sha256.clone())
        .chain(manifest.access.iter().map(|part| part.sha256.clone()))
        .collect();
    expected.sort_unstable();
    assert_eq!(folder.list("parts").unwrap(), expected);
    assert_eq!(folder.list("backups").unwrap().len(), 1);
    let all: Vec<u8> =
        files(&place.path().join("backups")).iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    let holds = |needle: &[u8]| all.windows(needle.len()).any(|window| window == needle);
    assert!(!holds(b"ada@example.com") && !holds(b"Ada Canary"));
    // Every secret that lies beside the data, looked for in pieces of a key's length.
    let mut looked = 0;
    for part in ["keys", "roots"] {
        for path in files(&house.folder.join(part)) {
            let bytes = std::fs::read(&path).unwrap();
            for piece in bytes.chunks_exact(32).filter(|piece| varied(piece)).take(2_000) {
                assert!(!holds(piece), "{} bytes of {}", piece.len(), path.display());
                looked += 1;
            }
        }
    }
    assert!(looked > 10, "{looked}");
}

/// Whether this may be a key, or a sealed page, and no padding.
fn varied(piece: &[u8]) -> bool {
    piece.iter().collect::<std::collections::BTreeSet<_>>().len() > 20
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let ((house, other), place) = ((House::new(), House::new()), tempfile::tempdir().unwrap());
    let folder = target(&place);
    house.ready().await.close().await;
    other.ready().await.close().await;
    let data = |house: &House| house.folder.join("data");
    let manifest = back_up(&house, &folder).manifest;
    refused(backup::create(&data(&other), &folder, 2, None).unwrap_err(), "another vault");
    refused(backup::create(&house.folder.join("keys"), &folder, 2, None).unwrap_err(), "no log");
    let taken = data(&house);
    refused(backup::restore(&folder, &manifest, Until::End, &taken).unwrap_err(), "not empty");
    std::fs::create_dir(place.path().join("new.restoring")).unwrap();
    let left = backup::restore(&folder, &manifest, Until::End, &place.path().join("new"));
    refused(left.unwrap_err(), "did not end");
    refused(backup::find(&folder, Some("nosuch")).unwrap_err(), "no such backup");
    assert_eq!(backup::find(&folder, None).unwrap(), manifest);
    house.open().await.close().await;
}

/// Checksums say that nothing was damaged; the vault's own word says that nobody put another log there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_held_against_the_checkpoint_that_the_vault_signed() {
    let (house, place) = (House::new(), tempfile::tempdir().unwrap());
    let target = target(&place);
    let engine = house.ready().await;
    person(&engine, "ada@example.com", "Ada").await;
    let checkpoint = engine.log_checkpoint(ADMIN).await.unwrap();
    person(&engine, "bob@example.com", "Bob").await;
    let create = |target: &dyn BackupTarget, checkpoint: &str| {
        let data = house.folder.join("data");
        backup::create(&data, target, house.clock.now_unix_ms(), Some(checkpoint.to_owned()))
            .unwrap()
            .manifest
    };
    let made = create(&target, &checkpoint);
    assert!(made.checkpoint.is_some());
    sound(&target, &made);

    let other = House::new();
    let stranger = other.ready().await;
    let anothers = stranger.log_checkpoint(ADMIN).await.unwrap();
    stranger.close().await;
    let lines: Vec<&str> = checkpoint.lines().collect();
    let larger = checkpoint.replacen(lines[1], "1", 1);
    for (wrong, word) in [
        (anothers.as_str(), "not signed by the vault"),
        (&larger, "not signed by the vault"),
        ("a note of nobody", "does not read"),
    ] {
        let manifest = Manifest { checkpoint: Some(wrong.to_owned()), ..made.clone() };
        let problems = backup::verify(&target, &manifest).unwrap().problems;
        assert!(problems.len() == 1 && problems[0].contains(word), "{problems:?}");
    }
    // The vault's own word, of a log that this one is not: here, one that ends before it.
    let later = engine.log_checkpoint(ADMIN).await.unwrap();
    person(&engine, "cy@example.com", "Cy").await;
    engine.close().await;
    let manifest = Manifest { checkpoint: Some(later), ..made };
    assert_eq!(
        backup::verify(&target, &manifest).unwrap().problems,
        Vec::<String>::new(),
        "it covers all of it"
    );
    let front = House::new();
    backup::restore(&target, &manifest, Until::Event(3), &front.folder.join("data")).unwrap();
    let shorter = backup::create(
        &front.folder.join("data"),
        &FolderTarget::new(place.path().join("other")),
        1,
        manifest.checkpoint.clone(),
    );
    let shorter = shorter.unwrap().manifest;
    let problems = backup::verify(&FolderTarget::new(place.path().join("other")), &shorter).unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("checkpoint")), "{problems:?}");
}
