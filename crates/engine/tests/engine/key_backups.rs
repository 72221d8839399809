//! Copies of the keys whose roots stay in escrow for a window: what they bring back, and what they never do.
//!
//! Not opened by `House::open`: the disclosure graph beneath that takes it for a leak that a root in escrow opens
//! what was erased, which is what `final_at` says.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cloakroom_core::clock::Clock;
use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_engine::{
    Engine, EngineError, ErasureView, FileHolder, GateReason, KeyBackupView, Opened, key_backups,
};

use crate::house::{ADMIN, DPO, House, SEE, erasure_of, person, read, register};

const HOUR: i64 = 60 * 60 * 1_000;
const WINDOW: i64 = 28 * 24 * HOUR;
const LONG: Duration = Duration::from_secs(30);

async fn try_open(house: &House) -> Result<Opened, EngineError> {
    let mut options = house.options();
    options.key_backup_window_ms = WINDOW.unsigned_abs();
    Engine::open(options, house.clock.clone()).await
}

fn ready(opened: Result<Opened, EngineError>) -> Engine {
    match opened {
        Ok(Opened::Ready(engine)) => engine,
        Ok(Opened::Gated(reason)) => panic!("the gate is closed: {reason}"),
        Err(error) => panic!("{}", error.chain()),
    }
}

async fn open(house: &House) -> Engine {
    ready(try_open(house).await)
}

async fn gate(house: &House) -> GateReason {
    match try_open(house).await.unwrap() {
        Opened::Ready(_) => panic!("the gate stayed open"),
        Opened::Gated(reason) => reason,
    }
}

async fn restore(house: &House) -> Result<Opened, EngineError> {
    Engine::open_escrowed(house.options(), house.clock.clone(), ADMIN).await
}

async fn first(house: &House) -> Engine {
    let engine = open(house).await;
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    engine
}

/// Makes a key backup and keeps it.
async fn back_up(engine: &Engine, house: &House) -> (KeyBackupView, PathBuf) {
    let (made, mut file) = engine.back_up_keys(ADMIN).await.unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut bytes = vec![];
    file.read_to_end(&mut bytes).unwrap();
    let path = house.folder.join(&made.id);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(key_backups::verify(&path).unwrap().id, made.id);
    (made, path)
}

async fn lose_keys(house: &House, backup: &std::path::Path) {
    std::fs::remove_dir_all(house.folder.join("keys")).unwrap();
    key_backups::restore(backup, &house.folder.join("keys")).await.unwrap();
}

async fn erase(engine: &Engine, subject: &str) -> ErasureView {
    engine.request_erasure(DPO, erasure_of(subject)).await.unwrap().0
}

/// Waits until an erasure is final.
async fn is_final(engine: &Engine, erasure: &ErasureView) -> ErasureView {
    let by = Instant::now() + LONG;
    loop {
        let view = engine.erasure(DPO, &erasure.erasure_id).await.unwrap();
        if view.final_unix_ms != 0 {
            return view;
        }
        assert!(Instant::now() < by, "{view:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn all_is_well(engine: &Engine) {
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
}

fn roots(house: &House) -> usize {
    let trees = std::fs::read_dir(house.folder.join("roots")).unwrap();
    let files = trees.flat_map(|tree| std::fs::read_dir(tree.unwrap().path()).unwrap());
    files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("root-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_without_a_window_makes_no_key_backup() {
    let house = House::new();
    let engine = house.ready().await;
    let refused = engine.back_up_keys(ADMIN).await.unwrap_err();
    assert!(
        matches!(&refused, CallRefusal::Conflict(text) if text.contains("key_backups.window_ms")),
        "{refused}"
    );
    assert!(matches!(engine.back_up_keys(DPO).await, Err(CallRefusal::Forbidden(_))));
    assert!(engine.figures().checks["keys-replica"].starts_with("none"));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_is_gone_on_from_and_what_was_forgotten_since_stays_forgotten() {
    let house = House::new();
    let engine = first(&house).await;
    let (early, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, bob, _) = person(&engine, "bob@example.com", "Bob").await;
    let (made, backup) = back_up(&engine, &house).await;
    assert_eq!(made.until_unix_ms, house.clock.now_unix_ms() + WINDOW);
    assert_eq!((engine.figures().key_backups, roots(&house)), (1, 2));
    assert_eq!(engine.figures().checks["keys-replica"], "ok");
    let before = erase(&engine, &early).await;
    assert_eq!(
        (before.final_at_unix_ms, before.final_unix_ms),
        (made.until_unix_ms, 0),
        "the backup knows it"
    );
    let (late, dan, _) = person(&engine, "dan@example.com", "Dan").await;
    let after = erase(&engine, &late).await;
    assert_eq!(after.final_unix_ms, after.keys_destroyed_unix_ms, "the backup is older");
    let (cy_subject, cy, _) = person(&engine, "cy@example.com", "Cy").await;
    let moved = FileHolder::open(&house.folder.join("others")).unwrap();
    let refused = engine.move_keys(ADMIN, std::sync::Arc::new(moved)).await.unwrap_err();
    assert!(refused.to_string().contains("escrow"), "{refused}");
    let last_epoch = engine.figures().epoch;
    engine.close().await;
    drop(engine);

    lose_keys(&house, &backup).await;
    let reason = gate(&house).await;
    assert!(
        matches!(reason, GateReason::KeysBehindLog { .. } | GateReason::KeysBehindHolder { .. }),
        "{reason}"
    );
    let standing = Engine::standing(&house.options()).await.unwrap();
    assert!(standing.key_backup_lacks >= Some(4), "{standing:?}");
    let engine = ready(restore(&house).await);
    let told = async |engine: &Engine| {
        assert_eq!(read(engine, &ada).await, Err(Code::Erased), "forgotten after the backup was made");
        assert_eq!(read(engine, &dan).await, Err(Code::Erased), "came and went after it");
        assert_eq!(read(engine, &bob).await.as_deref(), Ok("bob@example.com"));
        assert_eq!(read(engine, &cy).await, Err(Code::KeyUnavailable), "its key is lost, nobody forgot it");
        all_is_well(engine).await;
    };
    told(&engine).await;
    assert_eq!((engine.figures().key_backups, roots(&house)), (0, 1), "the backup is used up");
    assert!(engine.figures().epoch > last_epoch, "no epoch comes twice");
    assert!(engine.figures().slots_lost >= 4);
    let settled = engine.erasure(DPO, &before.erasure_id).await.unwrap();
    assert_ne!(settled.final_unix_ms, 0, "no root is left that reaches it");
    let (_, eve, _) = person(&engine, "eve@example.com", "Eve").await;
    engine.close().await;
    drop(engine);

    let engine = open(&house).await;
    told(&engine).await;
    assert_eq!(read(&engine, &eve).await.as_deref(), Ok("eve@example.com"));
    erase(&engine, &cy_subject).await;
    assert_eq!(read(&engine, &cy).await, Err(Code::Erased), "what is lost can be forgotten too");
    engine.close().await;
    drop(engine);

    lose_keys(&house, &backup).await;
    assert!(
        matches!(restore(&house).await.unwrap(), Opened::Gated(GateReason::RootGone { .. })),
        "noise by now"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_escrow_ends_on_time_and_what_it_reached_is_final() {
    let house = House::new();
    let engine = first(&house).await;
    let (subject, ada, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, first_backup) = back_up(&engine, &house).await;
    house.clock.advance_ms(HOUR);
    let (second, _) = back_up(&engine, &house).await;
    let erasure = erase(&engine, &subject).await;
    assert_eq!(erasure.final_at_unix_ms, second.until_unix_ms, "the last escrow that reaches it");
    house.clock.advance_ms(WINDOW - HOUR);
    let by = Instant::now() + LONG;
    while engine.figures().key_backups > 1 {
        assert!(Instant::now() < by);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.erasure(DPO, &erasure.erasure_id).await.unwrap().final_unix_ms, 0, "one is left");
    assert_eq!(engine.figures().fences_not_final, 1);
    house.clock.advance_ms(HOUR);
    let settled = is_final(&engine, &erasure).await;
    assert_eq!(settled.final_at_unix_ms, settled.final_unix_ms);
    assert!(settled.final_unix_ms >= second.until_unix_ms);
    while engine.figures().fences_not_final > 0 {
        assert!(Instant::now() < by);
        tokio::time::sleep(Duration::from_millis(20)).await; // told after the event
    }
    assert_eq!((engine.figures().key_backups, engine.figures().fences_not_final, roots(&house)), (0, 0, 1));
    assert_eq!(read(&engine, &ada).await, Err(Code::Erased));
    all_is_well(&engine).await;
    engine.close().await;
    drop(engine);
    lose_keys(&house, &first_backup).await;
    let reason = gate(&house).await;
    assert!(matches!(restore(&house).await.unwrap(), Opened::Gated(GateReason::RootGone { .. })), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_escrow_that_ran_out_while_the_vault_was_off_ends_at_the_start() {
    let house = House::new();
    let engine = first(&house).await;
    let (subject, ..) = person(&engine, "ada@example.com", "Ada").await;
    back_up(&engine, &house).await;
    let erasure = erase(&engine, &subject).await;
    engine.close().await;
    drop(engine);
    let engine = open(&house).await;
    assert_eq!((engine.figures().key_backups, roots(&house)), (1, 2), "a start leaves what is in escrow");
    engine.close().await;
    drop(engine);
    house.clock.advance_ms(WINDOW + HOUR);
    let engine = open(&house).await;
    assert_eq!((engine.figures().key_backups, roots(&house)), (0, 1));
    assert_ne!(engine.erasure(DPO, &erasure.erasure_id).await.unwrap().final_unix_ms, 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_ends_an_escrow_before_its_time() {
    let house = House::new();
    let engine = first(&house).await;
    let (subject, ..) = person(&engine, "ada@example.com", "Ada").await;
    let (made, _) = back_up(&engine, &house).await;
    let erasure = erase(&engine, &subject).await;
    let wrong = engine.end_key_backup(ADMIN, &"0".repeat(32)).await;
    assert!(matches!(wrong, Err(CallRefusal::Conflict(_))), "{wrong:?}");
    assert!(matches!(engine.end_key_backup(ADMIN, "x").await, Err(CallRefusal::Invalid(_))));
    let keys = engine.end_key_backup(ADMIN, &made.id).await.unwrap();
    assert_eq!((keys.backups.len(), keys.roots_held, keys.not_final), (0, 1, 0));
    assert_ne!(engine.erasure(DPO, &erasure.erasure_id).await.unwrap().final_unix_ms, 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_the_keys_is_no_key_backup() {
    let house = House::new();
    let engine = first(&house).await;
    person(&engine, "ada@example.com", "Ada").await;
    back_up(&engine, &house).await;
    engine.close().await;
    drop(engine);
    let then = house.fork();
    let engine = open(&house).await;
    person(&engine, "bob@example.com", "Bob").await;
    engine.close().await;
    drop(engine);
    let today = house.fork();
    house.take("keys", &then);
    assert!(matches!(restore(&house).await.unwrap(), Opened::Gated(GateReason::RootGone { .. })));
    house.take("keys", &today);

    // Nor is one whose root is there still.
    let engine = open(&house).await;
    let now = house.fork();
    person(&engine, "cy@example.com", "Cy").await;
    engine.close().await;
    drop(engine);
    house.take("keys", &now);
    let refused = restore(&house).await.err().unwrap();
    assert!(matches!(refused, EngineError::BackupRefused(_)), "{}", refused.chain());
}
