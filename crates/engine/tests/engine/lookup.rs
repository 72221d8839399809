//! Tokens are found by value, and what was erased leaves nothing to find.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_engine::open::Layers;
use cloakroom_engine::{Engine, ErasureRequest, LookupItem, LookupRequest, Match, Matches, Plaintext, Who};
use cloakroom_store::embedded::EmbeddedLog;
use cloakroom_store::faulty::{PacedLog, Reading};
use cloakroom_store::{Answer, Log};
use tokio::sync::Semaphore;

use crate::house::{
    ADMIN, DPO, House, MAIL, ORDERS, SEE, SUPPORT, erasure_of, item, new, person, register, tokenize,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn asked(field: &str, values: &[&str]) -> LookupRequest {
    let item =
        |value: &&str| LookupItem { field: field.to_owned(), value: Plaintext::from_slice(value.as_bytes()) };
    LookupRequest {
        controller: SEE.to_owned(),
        reason: String::new(),
        items: values.iter().map(item).collect(),
        trace: [0; 16],
    }
}

async fn answer(engine: &Engine, value: &str) -> Result<Result<Matches, Refusal>, CallRefusal> {
    Ok(engine.lookup(SUPPORT, asked("email", &[value])).await?.remove(0))
}

async fn whole(engine: &Engine) {
    let began = Instant::now();
    while !engine.lookup_figures().0 {
        assert!(began.elapsed() < DEADLINE, "the table is never whole");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What is found once the table is whole.
async fn found(engine: &Engine, value: &str) -> Vec<Match> {
    whole(engine).await;
    let matches = answer(engine, value).await.unwrap().unwrap();
    assert!(!matches.more);
    matches.found
}

async fn tokens(engine: &Engine, value: &str) -> Vec<String> {
    found(engine, value).await.into_iter().map(|found| found.token).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_found_in_any_spelling_also_after_a_start() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let (other, twin, _) = person(&engine, "Ada@Example.COM", "Another Ada").await;
    person(&engine, "bob@example.com", "Bob").await;
    let matched = |token: &str, subject_id: &str| Match {
        token: token.to_owned(),
        subject_id: subject_id.to_owned(),
        activity: "ticket_purchase".to_owned(),
    };
    let both = [matched(&email, &subject), matched(&twin, &other)];
    assert_eq!(found(&engine, " ADA@example.com").await, both);
    assert_eq!(engine.lookup_figures().1, 3, "names are no look-up field");
    engine.close().await;
    drop(engine);
    let engine = house.open().await;
    assert_eq!(found(&engine, "ada@example.com").await, both);
    assert!(found(&engine, "eve@example.com").await.is_empty());
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rectified_value_is_found_by_what_it_is_now() {
    let house = House::new();
    let engine = house.ready().await;
    let (_, email, _) = person(&engine, "old@example.com", "Ada").await;
    for value in ["new@example.com", "newer@example.com"] {
        let items = vec![(email.clone(), Plaintext::from_slice(value.as_bytes()))];
        engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0).unwrap();
    }
    whole(&engine).await;
    assert_eq!(engine.lookup_figures().1, 1, "what a former version was found by stays");
    let looks = async |engine: &Engine| {
        for gone in ["old@example.com", "new@example.com"] {
            assert!(found(engine, gone).await.is_empty(), "{gone}");
        }
        assert_eq!(tokens(engine, "newer@example.com").await, [email.as_str()]);
        engine.close().await;
    };
    looks(&engine).await;
    drop(engine);
    looks(&house.open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_or_released_is_what_never_was() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let (_, released, _) = person(&engine, "bob@example.com", "Bob").await;
    let (_, kept, _) = person(&engine, "cy@example.com", "Cy").await;
    let items = vec![(email.clone(), Plaintext::from_slice(b"ada@example.org"))];
    engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0).unwrap();
    whole(&engine).await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.release(ORDERS, SEE, vec![released]).await.unwrap().remove(0).unwrap();
    assert_eq!(engine.lookup_figures(), (true, 1), "an entry of what was forgotten stays in memory");
    let never = answer(&engine, "never@example.com").await;
    for gone in ["ada@example.com", "ada@example.org", "bob@example.com"] {
        assert_eq!(answer(&engine, gone).await, never);
    }
    assert_eq!(tokens(&engine, "cy@example.com").await, [kept.as_str()]);
    engine.close().await;
    drop(engine);
    let engine = house.open().await;
    assert!(found(&engine, "ada@example.org").await.is_empty());
    assert_eq!(engine.lookup_figures().1, 1);
    engine.close().await;
}

/// What a start reads of the log goes fast; `pace` is drained when the vault is open.
struct Slow(Arc<Semaphore>);

impl Layers for Slow {
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        let pace = Arc::clone(&self.0);
        Arc::new(PacedLog::new(log, move |reading| match reading {
            Reading::Event(_) => Answer::now(()),
            Reading::Frame(_) => {
                let pace = Arc::clone(&pace);
                Answer::later(async move { pace.acquire_owned().await.unwrap().forget() })
            }
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_while_the_table_is_built_is_not_entered() {
    let house = House::new();
    let engine = house.ready().await;
    let mut people = vec![];
    for n in 0..12 {
        people.push(person(&engine, &format!("p{n}@example.com"), "P").await);
    }
    engine.close().await;
    for erased in [0, 6, 11] {
        let house = house.fork();
        let pace = Arc::new(Semaphore::new(0));
        let mut slow = Slow(Arc::clone(&pace));
        let engine = {
            let mut open = std::pin::pin!(house.open_over(&mut slow));
            loop {
                tokio::select! {
                    engine = &mut open => break engine.unwrap(),
                    // A frame at a time: no more than the start itself reads.
                    () = tokio::time::sleep(Duration::from_millis(1)), if pace.available_permits() == 0 => {
                        pace.add_permits(1);
                    }
                }
            }
        };
        assert!(!engine.lookup_figures().0);
        let refused = answer(&engine, "p1@example.com").await;
        assert!(matches!(refused, Err(CallRefusal::Unavailable(_))), "{refused:?}");
        let value = Plaintext::from_slice(b"p1@example.com");
        let who = Who::Lookup(Arc::new(LookupItem { field: "email".to_owned(), value }));
        let refused = engine.request_erasure(DPO, ErasureRequest { who, ..erasure_of("") }).await;
        assert!(matches!(refused, Err(CallRefusal::Unavailable(_))), "nobody is found by half a table");
        // Half of them.
        let began = Instant::now();
        while engine.lookup_figures().1 < 6 {
            assert!(began.elapsed() < DEADLINE, "the builder does not get on");
            pace.add_permits(1);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        engine.request_erasure(DPO, erasure_of(&people[erased].0)).await.unwrap();
        let (_, late, _) = person(&engine, "late@example.com", "Late").await;
        assert!(!engine.lookup_figures().0, "the table was whole before the erasure");
        pace.add_permits(10_000);
        assert_eq!(tokens(&engine, "late@example.com").await, [late.as_str()]);
        assert_eq!(engine.lookup_figures().1, 12, "eleven of before and the late one");
        for (n, (_, email, _)) in people.iter().enumerate() {
            let living: &[&str] = if n == erased { &[] } else { &[email.as_str()] };
            assert_eq!(tokens(&engine, &format!("p{n}@example.com")).await, living, "{n}, erased {erased}");
        }
        engine.close().await;
    }
}

/// Counts what is read of the log.
struct Counted(Arc<AtomicUsize>);

impl Layers for Counted {
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        let count = Arc::clone(&self.0);
        Arc::new(PacedLog::new(log, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Answer::now(())
        }))
    }
}

/// Not a clock but the work itself: what was erased takes no more reading than what never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_for_the_erased_reads_as_little_as_one_for_nobody() {
    let house = House::new();
    let reads = Arc::new(AtomicUsize::new(0));
    let engine = house.open_over(&mut Counted(Arc::clone(&reads))).await.unwrap();
    engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
    let (subject, ..) = person(&engine, "ada@example.com", "Ada").await;
    let (_, released, _) = person(&engine, "bob@example.com", "Bob").await;
    let (_, changed, _) = person(&engine, "cy@example.com", "Cy").await;
    whole(&engine).await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.release(ORDERS, SEE, vec![released]).await.unwrap().remove(0).unwrap();
    let items = vec![(changed, Plaintext::from_slice(b"cy@example.org"))];
    engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0).unwrap();
    let cost = async |value: &str| {
        let before = reads.load(Ordering::SeqCst);
        answer(&engine, value).await.unwrap().unwrap();
        reads.load(Ordering::SeqCst) - before
    };
    for nobody in ["never@example.com", "ada@example.com", "bob@example.com", "cy@example.com"] {
        assert_eq!(cost(nobody).await, 0, "{nobody}");
    }
    assert!(cost("cy@example.org").await > 0, "a hit is opened and compared");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_become_look_up_fields_are_read_again() {
    let house = House::new();
    let engine = house.ready().await;
    let (_, _, name) = person(&engine, "ada@example.com", "Ada  Lovelace").await;
    let by_name = async || engine.lookup(SUPPORT, asked("full_name", &["ADA lovelace"])).await;
    whole(&engine).await;
    let refused = by_name().await.unwrap().remove(0);
    assert_eq!(refused.unwrap_err().code, Code::Invalid);
    let marked = register(SEE).replace("type = \"full_name\"\n", "type = \"full_name\"\nlookup = true\n");
    engine.apply_register(ADMIN, &marked, false).await.unwrap();
    whole(&engine).await;
    let found = by_name().await.unwrap().remove(0).unwrap().found;
    assert_eq!(found.into_iter().map(|found| found.token).collect::<Vec<_>>(), [name]);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_looks_up_without_a_grant_or_a_case() {
    let house = House::new();
    let engine = house.ready().await;
    person(&engine, "ada@example.com", "Ada").await;
    // Stored where support may not look.
    let mut request = cloakroom_engine::TokenizeRequest {
        controller: SEE.to_owned(),
        activity: "newsletter".to_owned(),
        idempotency_key: String::new(),
        items: vec![item(new("n"), "email", "news@example.com")],
    };
    request.items[0].reference = "n".to_owned();
    engine.tokenize(ORDERS, request).await.unwrap().remove(0).unwrap();
    whole(&engine).await;
    assert_eq!(answer(&engine, "news@example.com").await, answer(&engine, "never@example.com").await);
    for principal in [ORDERS, MAIL] {
        for value in ["ada@example.com", "never@example.com"] {
            let denied = engine.lookup(principal, asked("email", &[value])).await.unwrap().remove(0);
            assert_eq!(denied.unwrap_err().code, Code::Denied);
        }
    }
    let stranger = engine.lookup("spiffe://cloakroom.local/x", asked("email", &["a@b"])).await;
    assert!(matches!(stranger, Err(CallRefusal::Forbidden(_))));
    let person = engine.lookup(DPO, asked("email", &["ada@example.com"])).await;
    assert!(matches!(person, Err(CallRefusal::Invalid(_))), "a person without a case");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_are_rationed_by_principal() {
    let house = House::new();
    let engine = house.ready().await;
    whole(&engine).await;
    let hundred = vec!["a@example.com"; 100];
    engine.lookup(SUPPORT, asked("email", &hundred)).await.unwrap();
    let refused = answer(&engine, "a@example.com").await;
    assert!(matches!(refused, Err(CallRefusal::Exhausted(_))), "{refused:?}");
    engine.lookup(MAIL, asked("email", &hundred)).await.unwrap();
    house.clock.advance_ms(100);
    answer(&engine, "a@example.com").await.unwrap().unwrap();
    assert!(matches!(answer(&engine, "a@example.com").await, Err(CallRefusal::Exhausted(_))));
    engine.close().await;
}

/// Every file below `folder` that holds `needle`.
fn holders(folder: &Path, needle: &[u8], holding: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            holders(&entry.path(), needle, holding);
        } else if std::fs::read(entry.path()).unwrap().windows(needle.len()).any(|part| part == needle) {
            holding.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_is_on_record_and_its_value_nowhere() {
    let house = House::new();
    let engine = house.ready().await;
    person(&engine, "ada.planted@example.com", "Ada").await;
    whole(&engine).await;
    let mut request = asked("email", &["Ada.Planted@example.com", "eve.planted@example.com"]);
    request.reason = "case-4711".to_owned();
    let answers = engine.lookup(SUPPORT, request).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap().found.len(), 1);
    let unknown = engine.lookup(SUPPORT, asked("mallory.planted@example.com", &["x"])).await.unwrap();
    assert_eq!(unknown[0].as_ref().unwrap_err().code, Code::Denied);
    let stored = tokenize(&engine, "", vec![item(new("q"), "email", "q.planted@example.com")]).await;
    assert!(stored[0].is_ok());
    engine.close().await;
    let of = |needle: &[u8]| {
        let mut holding = vec![];
        holders(&house.folder, needle, &mut holding);
        holding
    };
    for needle in ["planted@example", "Planted@example"] {
        assert_eq!(of(needle.as_bytes()), Vec::<String>::new(), "{needle}");
    }
    assert_eq!(of(b"case-4711").len(), 1, "a look-up is not on record");
    assert_eq!(
        of(b"lookup").iter().filter(|name| !name.is_empty()).count(),
        2,
        "the register and the record"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_forgotten_by_a_value_that_nobody_else_has() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "ada.planted@example.com", "Ada").await;
    person(&engine, "twin.planted@example.com", "One").await;
    person(&engine, "twin.planted@example.com", "Another").await;
    whole(&engine).await;
    let sought = |field: &str, value: &str| {
        let value = Plaintext::from_slice(value.as_bytes());
        Who::Lookup(Arc::new(LookupItem { field: field.to_owned(), value }))
    };
    let by = |value: &str| ErasureRequest {
        who: sought("email", value),
        reason: "case-4711".to_owned(),
        ..erasure_of("")
    };
    let preview = async |who, reason| engine.preview_erasure(DPO, SEE, who, &[], reason).await;
    let shown = preview(sought("email", " ADA.planted@example.com"), "case-4711").await.unwrap();
    assert_eq!(shown.subject_id, subject);
    assert!(shown.tokens.iter().any(|(token, ..)| *token == email));
    let refused = preview(sought("email", "ada.planted@example.com"), "").await;
    assert!(matches!(refused, Err(CallRefusal::Invalid(_))), "a person without a case");
    let refused = preview(sought("full_name", "Ada"), "case-4711").await;
    assert!(matches!(refused, Err(CallRefusal::Invalid(_))), "no look-up field");

    let several = engine.request_erasure(DPO, by("twin.planted@example.com")).await.unwrap_err();
    assert!(matches!(&several, CallRefusal::Conflict(why) if why.starts_with("2 subjects")), "{several:?}");
    assert_eq!(tokens(&engine, "twin.planted@example.com").await.len(), 2, "one of the two was erased");
    let stranger = engine.request_erasure(SUPPORT, by("ada.planted@example.com")).await;
    assert!(matches!(stranger, Err(CallRefusal::Forbidden(_))), "who may look up may not erase");

    let key = |value| ErasureRequest { idempotency_key: "k".to_owned(), ..by(value) };
    let (done, _) = engine.request_erasure(DPO, key("Ada.Planted@example.com")).await.unwrap();
    assert!(found(&engine, "ada.planted@example.com").await.is_empty());
    let nobody = |refused: Result<_, CallRefusal>| match refused {
        Err(CallRefusal::NotFound(why)) => why,
        other => panic!("{:?}", other.map(|_: (cloakroom_engine::ErasureView, String)| ())),
    };
    let erased = nobody(engine.request_erasure(DPO, by("ada.planted@example.com")).await);
    assert_eq!(erased, nobody(engine.request_erasure(DPO, by("never.planted@example.com")).await));
    let repeat = engine.request_erasure(DPO, key("ada.planted@example.com")).await.unwrap_err();
    assert!(
        matches!(&repeat, CallRefusal::Conflict(why) if why.contains(&done.erasure_id)),
        "a repeat is told which erasure its key made: {repeat:?}"
    );
    engine.close().await;
    for needle in ["planted@example", "Planted@example"] {
        let mut holding = vec![];
        holders(&house.folder, needle.as_bytes(), &mut holding);
        assert_eq!(holding, Vec::<String>::new(), "{needle}");
    }
    let mut holding = vec![];
    holders(&house.folder.join("data/access"), b"case-4711", &mut holding);
    assert_eq!(holding.len(), 1, "the look-up of an erasure is not on record");
}
