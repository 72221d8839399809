//! Many at once, on their own people and on the same ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom_core::refusal::Code;
use cloakroom_engine::{Engine, Plaintext};
use tokio::task::JoinSet;

use crate::house::{ADMIN, DPO, House, ORDERS, SEE, erasure_of, item, known, new, person, read, tokenize};

/// SplitMix64, so that a seed gives its test again.
struct Dice(u64);

/// From the variable `CLOAKROOM_SEED`, or drawn; printed.
#[allow(clippy::print_stdout, reason = "whoever reads a failure needs it")]
fn seed() -> u64 {
    let seed = std::env::var("CLOAKROOM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(cloakroom_crypto::random::u64);
    println!("CLOAKROOM_SEED={seed}");
    seed
}

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What one task knows of its own tokens; nobody else touches them.
async fn own_people(engine: Engine, mut dice: Dice, name: u64) -> Vec<(String, Option<String>)> {
    let mut tokens: Vec<(String, String, Option<String>)> = vec![];
    for round in 0..25 {
        match (dice.below(10), tokens.is_empty()) {
            (0..4, _) | (_, true) => {
                let value = format!("{name}-{round}@example.com");
                let (subject, token, _) = person(&engine, &value, "Somebody").await;
                tokens.push((subject, token, Some(value)));
            }
            (4..6, _) => {
                let place = dice.below(tokens.len() as u64) as usize;
                let (_, token, value) = &mut tokens[place];
                let next = format!("{name}-{round}-new@example.com");
                let items = vec![(token.clone(), Plaintext::from_slice(next.as_bytes()))];
                match engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0) {
                    Ok(_) => *value = Some(next),
                    Err(refusal) => assert_eq!((refusal.code, value.is_none()), (Code::Erased, true)),
                }
            }
            (6, _) => {
                let place = dice.below(tokens.len() as u64) as usize;
                let (_, token, value) = &mut tokens[place];
                let released = engine.release(ORDERS, SEE, vec![token.clone()]).await.unwrap().remove(0);
                assert_eq!(released.is_err(), value.take().is_none());
            }
            (7, _) => {
                let place = dice.below(tokens.len() as u64) as usize;
                let (subject, _, value) = &mut tokens[place];
                engine.request_erasure(DPO, erasure_of(subject)).await.unwrap();
                *value = None;
            }
            _ => {}
        }
        for (_, token, value) in &tokens {
            assert_eq!(read(&engine, token).await.ok(), *value, "by its only writer");
        }
    }
    tokens.into_iter().map(|(_, token, value)| (token, value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_reads_what_they_wrote_and_nothing_they_erased() {
    let house = House::new();
    let engine = house.ready().await;
    let seed = seed();
    let mut tasks = JoinSet::new();
    for name in 0..8 {
        tasks.spawn(own_people(engine.clone(), Dice(seed ^ name), name));
    }
    let mut tokens = vec![];
    while let Some(task) = tasks.join_next().await {
        tokens.extend(task.unwrap());
    }
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
    drop(engine);
    let engine = house.open().await;
    for (token, value) in tokens {
        assert_eq!(read(&engine, &token).await.ok(), value);
    }
    assert_eq!(engine.verify_log(ADMIN).await.unwrap().problems, Vec::<String>::new());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn once_an_erasure_is_answered_no_read_answers_with_a_value() {
    let house = House::new();
    let engine = house.ready().await;
    for round in 0..12 {
        let value = format!("shared{round}@example.com");
        let (subject, token, _) = person(&engine, &value, "Shared").await;
        let erased = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for task in 0..4_u64 {
            let (engine, token, erased) = (engine.clone(), token.clone(), Arc::clone(&erased));
            let subject = subject.clone();
            tasks.spawn(async move {
                for n in 0.. {
                    let done = erased.load(Ordering::SeqCst);
                    match read(&engine, &token).await {
                        Ok(_) => assert!(!done, "read after the erasure was answered"),
                        Err(code) => assert_eq!(code, Code::Erased),
                    }
                    if task == 0 {
                        let item = item(known(&subject), "email", &format!("{round}-{n}@example.com"));
                        let stored = tokenize(&engine, "", vec![item]).await.remove(0);
                        assert!(!(done && stored.is_ok()), "stored after the erasure was answered");
                    }
                    if task == 1 {
                        let to = Plaintext::from_slice(format!("r{n}@example.com").as_bytes());
                        let rectified = engine.rectify(ORDERS, SEE, vec![(token.clone(), to)]).await.unwrap();
                        assert!(!(done && rectified[0].is_ok()));
                    }
                    if done {
                        return;
                    }
                }
            });
        }
        tokio::task::yield_now().await;
        let (one, other) = tokio::join!(
            engine.request_erasure(DPO, erasure_of(&subject)),
            engine.request_erasure(DPO, erasure_of(&subject)),
        );
        let (one, other) = (one.unwrap().0, other.unwrap().0);
        erased.store(true, Ordering::SeqCst);
        assert_eq!(one.erasure_id, other.erasure_id, "one person, one erasure");
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_idempotency_key_stores_once_however_many_ask_at_once() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    let house = House::new();
    let engine = house.ready().await;
    for day in 0..4 {
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let engine = engine.clone();
            tasks.spawn(async move {
                let items =
                    vec![item(new("p"), "email", "ada@example.com"), item(new("q"), "full_name", "Ada")];
                tokenize(&engine, &format!("order-{day}"), items).await
            });
        }
        let mut answers = vec![];
        while let Some(task) = tasks.join_next().await {
            answers.push(task.unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>());
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "day {day}");
        house.clock.advance_ms(DAY_MS + 1);
    }
    // The first days' keys are dead by now: nothing that was computed from callers' keys can be matched again.
    let again = tokenize(&engine, "order-0", vec![item(new("p"), "email", "ada@example.com")]).await;
    assert!(again[0].is_ok());
    engine.close().await;
}
