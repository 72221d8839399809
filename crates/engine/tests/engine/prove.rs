//! The log's own proofs: its tree, checkpoints and tiles, and what pruning leaves of it.

use cloakroom_core::checkpoint::Checkpoint;
use cloakroom_core::merkle::{self, Growing, Hash, Node, Span, Tile};
use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_crypto::{hash, jws, note};
use cloakroom_engine::backup::{self, FolderTarget, Until};
use cloakroom_engine::{Engine, Opened, Options};

use crate::house::{ADMIN, DPO, House, ORDERS, SEE, copy, erasure_of, item, new, person, read, tokenize};

async fn checkpoint(engine: &Engine) -> Checkpoint {
    let signed = engine.log_checkpoint(DPO).await.unwrap();
    let keys = jws::parse_jwks(&engine.jwks()).unwrap();
    let (text, _) = note::open(&signed, signed.lines().next().unwrap(), &keys).unwrap();
    Checkpoint::parse(text).unwrap()
}

/// The same, once the log has so many events: whoever follows it hears of them just after the caller.
async fn checkpoint_of(engine: &Engine, events: u64) -> Checkpoint {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let found = checkpoint(engine).await;
        if found.size >= events {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{found:?}");
        tokio::task::yield_now().await;
    }
}

async fn tile(engine: &Engine, level: u32, index: u64, width: u64) -> Vec<Hash> {
    let bytes = engine.log_tile(DPO, Tile { level, index, width }).await.unwrap();
    bytes.as_chunks::<32>().0.to_vec()
}

/// The hash of a span, read as whoever checks reads it.
async fn hash_of(engine: &Engine, span: Span) -> Hash {
    let mut hashes = vec![];
    for node in span.nodes() {
        let (from, within) = Tile::of(node);
        let entries = tile(engine, from.level, from.index, from.width).await;
        hashes.push(merkle::perfect(&entries[within as usize..], hash::node).unwrap());
    }
    Span::hash(&hashes, hash::node).unwrap()
}

async fn begins_with(engine: &Engine, older: &Checkpoint, newer: &Checkpoint) -> bool {
    let mut path = vec![];
    for span in merkle::consistency(older.size, newer.size).unwrap() {
        path.push(hash_of(engine, span).await);
    }
    merkle::verify_consistency((older.size, &older.root), (newer.size, &newer.root), &path, hash::node)
}

/// So many people with one value each: two events a person.
async fn people(engine: &Engine, count: usize) -> Vec<String> {
    let mut tokens = vec![];
    for some in (0..count).collect::<Vec<_>>().chunks(500) {
        let items =
            some.iter().map(|one| item(new(&one.to_string()), "email", &format!("p{one}@example.com")));
        let answers = tokenize(engine, "", items.collect()).await;
        tokens.extend(answers.into_iter().map(|answer| answer.unwrap().token));
    }
    tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_is_that_of_all_events_grows_and_survives_a_restart() {
    let house = House::new();
    let engine = house.ready().await;
    let first = checkpoint(&engine).await;
    people(&engine, 700).await;
    let second = checkpoint_of(&engine, first.size + 1_400).await;
    assert!(second.size > 5 * 256 && second.origin == first.origin, "{second:?}");
    assert!(begins_with(&engine, &first, &second).await);

    // All of it from its lowest tiles, and the tile above from those.
    let mut whole = Growing::default();
    let mut above = vec![];
    for index in 0..second.size.div_ceil(256) {
        let width = (second.size - index * 256).min(256);
        for leaf in tile(&engine, 0, index, width).await {
            whole.push(leaf, hash::node, |node, hash| {
                if node == (Node { level: 8, index }) {
                    above.push(hash);
                }
            });
        }
    }
    assert_eq!(whole.root(hash::node), Some(second.root));
    assert_eq!(tile(&engine, 1, 0, above.len() as u64).await, above);
    let verdict = engine.verify_log(DPO).await.unwrap();
    assert_eq!((verdict.events, verdict.problems), (second.size, vec![]));

    for (level, index, width) in [(0, second.size / 256, 256), (1, 0, 256), (2, 0, 1), (0, u64::MAX, 1)] {
        let refused = engine.log_tile(DPO, Tile { level, index, width }).await;
        assert!(matches!(refused, Err(CallRefusal::NotFound(_))), "{level} {index} {width}");
    }
    let first_tile = Tile { level: 0, index: 0, width: 2 };
    let bundle = engine.log_entries(ADMIN, first_tile).await.unwrap();
    let length = usize::from(u16::from_be_bytes([bundle[0], bundle[1]]));
    assert_eq!(hash::leaf(&bundle[2..2 + length]), tile(&engine, 0, 0, 1).await[0]);
    assert!(matches!(engine.log_entries(DPO, first_tile).await, Err(CallRefusal::Forbidden(_))));
    assert!(matches!(engine.log_tile(ORDERS, first_tile).await, Err(CallRefusal::Forbidden(_))));
    assert!(matches!(engine.log_checkpoint(ORDERS).await, Err(CallRefusal::Forbidden(_))));
    engine.close().await;
    drop(engine);

    let house = house.fork();
    let engine = house.open().await;
    let third = checkpoint(&engine).await;
    assert!(third.size > second.size);
    assert!(begins_with(&engine, &first, &third).await && begins_with(&engine, &second, &third).await);
    let forged = Checkpoint { root: [7; 32], ..second };
    assert!(!begins_with(&engine, &forged, &third).await);
    engine.close().await;
    drop(engine);
    // What is kept of the tree is made again from the log.
    let house = house.fork();
    std::fs::remove_dir_all(house.folder.join("data/projections")).unwrap();
    let engine = house.open().await;
    assert!(begins_with(&engine, &third, &checkpoint(&engine).await).await);
    assert_eq!(engine.verify_log(DPO).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
    drop(engine);
}

/// Segments small enough that a test fills several.
fn small(house: &House) -> Options {
    let mut options = house.options();
    options.segment_bytes = 16 << 10;
    options
}

async fn open_small(house: &House) -> Engine {
    match Engine::open(small(house), house.clock.clone()).await.unwrap() {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("{reason}"),
    }
}

async fn answers(engine: &Engine, tokens: &[String]) -> Vec<(Result<String, Code>, String)> {
    let mut answers = vec![];
    let described = engine.describe(ORDERS, SEE, tokens).await.unwrap();
    for (token, described) in tokens.iter().zip(described) {
        answers.push((read(engine, token).await, format!("{described:?}")));
    }
    answers
}

fn log_bytes(house: &House) -> u64 {
    let files = std::fs::read_dir(house.folder.join("data/log")).unwrap().map(|file| file.unwrap());
    files
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "log"))
        .map(|file| file.metadata().unwrap().len())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pruned_log_answers_and_proves_as_before() {
    let house = House::new();
    let engine = open_small(&house).await;
    engine.apply_register(ADMIN, &crate::house::register(SEE), false).await.unwrap();
    let mut tokens = people(&engine, 60).await;
    let mut subjects = vec![];
    for number in 0..20 {
        let (subject, email, name) = person(&engine, &format!("q{number}@example.com"), "Q").await;
        subjects.push(subject);
        tokens.extend([email, name]);
    }
    let rectified = tokens[0].clone();
    let new_value = vec![(rectified.clone(), cloakroom_engine::Plaintext::from_slice(b"new@example.com"))];
    engine.rectify(ORDERS, SEE, new_value).await.unwrap()[0].as_ref().unwrap();
    for subject in &subjects[..10] {
        engine.request_erasure(DPO, erasure_of(subject)).await.unwrap();
    }
    people(&engine, 60).await; // what was erased lies in sealed segments now
    let (before, older) = (answers(&engine, &tokens).await, checkpoint(&engine).await);
    assert_eq!(before.iter().filter(|(read, _)| *read == Err(Code::Erased)).count(), 20);
    assert_eq!(before[0].0.as_deref(), Ok("new@example.com"));
    let verdict = engine.verify_log(DPO).await.unwrap();
    assert_eq!((verdict.pruned, verdict.problems.len()), (0, 0));

    assert!(matches!(engine.prune_log(DPO).await, Err(CallRefusal::Forbidden(_))));
    let (bytes_before, backups) = (log_bytes(&house), tempfile::tempdir().unwrap());
    let target = FolderTarget::new(backups.path().join("backups"));
    let data = house.folder.join("data");
    backup::create(&data, &target, 1, None).unwrap();
    let pruned = engine.prune_log(ADMIN).await.unwrap();
    assert!(pruned.segments > 0 && pruned.values >= 20, "{pruned:?}");
    assert_eq!(log_bytes(&house), bytes_before - pruned.bytes_freed);
    assert_eq!(engine.prune_log(ADMIN).await.unwrap().values, 0, "nothing is left to prune");
    assert_eq!(answers(&engine, &tokens).await, before);
    let after = engine.verify_log(DPO).await.unwrap();
    assert_eq!((after.pruned, after.problems), (pruned.values, vec![]));
    assert_eq!((after.root, after.digest), (verdict.root, verdict.digest), "every hash is as it was");
    let bundle = engine.log_entries(ADMIN, Tile { level: 0, index: 0, width: 256 }).await;
    assert!(matches!(bundle, Err(CallRefusal::NotFound(_))), "a bundle with holes is none");
    people(&engine, 5).await;
    let newer = checkpoint_of(&engine, older.size + 10).await;
    assert!(begins_with(&engine, &older, &newer).await);
    engine.close().await;
    drop(engine);

    // Projections, and all that a start reads, from a pruned log; and from a backup of one.
    std::fs::remove_dir_all(house.folder.join("data/projections")).unwrap();
    let engine = open_small(&house).await;
    assert_eq!(answers(&engine, &tokens).await, before);
    let again = engine.verify_log(DPO).await.unwrap();
    assert_eq!((again.pruned, again.problems), (pruned.values, vec![]));
    assert!(begins_with(&engine, &older, &checkpoint(&engine).await).await);
    engine.close().await;
    drop(engine);
    let manifest = backup::create(&data, &target, 2, None).unwrap().manifest;
    assert_eq!(backup::verify(&target, &manifest).unwrap().problems, Vec::<String>::new());
    let fresh = FolderTarget::new(backups.path().join("fresh"));
    let manifest = backup::create(&data, &fresh, 3, None).unwrap().manifest;
    assert_eq!(backup::verify(&fresh, &manifest).unwrap().problems, Vec::<String>::new());
    let beside = House::new();
    for part in ["keys", "roots"] {
        copy(&house.folder.join(part), &beside.folder.join(part));
    }
    backup::restore(&fresh, &manifest, Until::End, &beside.folder.join("data")).unwrap();
    let engine = open_small(&beside).await;
    assert_eq!(answers(&engine, &tokens).await, before);
    engine.close().await;
    drop(engine);
}
