//! Each verb, and what it must refuse.

use std::time::{Duration, Instant};

use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_engine::{DetokenizeRequest, Engine, Fact, Plaintext, TokenState, Who};

use crate::house::{
    DPO, House, MAIL, ORDERS, SEE, SUPPORT, Watched, erasure_of, item, known, new, person, read, tokenize,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_in_comes_out_until_it_is_erased() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, name) = person(&engine, "ada@example.com", "Ada L.").await;
    let (_, other, _) = person(&engine, "bob@example.com", "Bob").await;
    assert_eq!(read(&engine, &email).await.unwrap(), "ada@example.com");
    assert_eq!(read(&engine, &name).await.unwrap(), "Ada L.");

    let (erasure, salt) = engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    assert_eq!((erasure.tokens, salt.len()), (2, 64));
    assert_eq!(read(&engine, &email).await, Err(Code::Erased));
    assert_eq!(read(&engine, &name).await, Err(Code::Erased));
    assert_eq!(read(&engine, &other).await.unwrap(), "bob@example.com");

    let stored = tokenize(&engine, "", vec![item(known(&subject), "email", "ada@example.com")]).await;
    assert_eq!(stored[0].as_ref().unwrap_err().code, Code::Erased, "nothing is collected about the erased");
    let (again, salt) = engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    assert_eq!(
        (again.erasure_id, salt),
        (erasure.erasure_id, String::new()),
        "erasing twice changes nothing"
    );
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_value_of_the_same_person_gets_the_same_token() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let twice = tokenize(
        &engine,
        "",
        vec![
            item(known(&subject), "email", "ada@example.com"),
            item(known(&subject), "email", "ada2@example.com"),
            item(known(&subject), "email", "ada2@example.com"),
            item(new("other"), "email", "ada@example.com"),
        ],
    )
    .await;
    let tokens: Vec<_> = twice.into_iter().map(|answer| answer.unwrap().token).collect();
    assert_eq!(tokens[0], email);
    assert_ne!(tokens[1], email);
    assert_eq!(tokens[1], tokens[2]);
    assert_ne!(tokens[3], email, "another person's equal value is another value");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_the_same_answer_and_another_body_a_conflict() {
    let house = House::new();
    let engine = house.ready().await;
    let body = || {
        vec![item(new("a"), "email", "ada@example.com"), item(new("a"), "full_name", "4111 1111 1111 1111")]
    };
    let first = tokenize(&engine, "order-1", body()).await;
    assert_eq!(first[1].as_ref().unwrap_err().code, Code::Invalid, "a card number is no name");
    let repeat = tokenize(&engine, "order-1", body()).await;
    assert_eq!(first[0], repeat[0]);
    assert_eq!(repeat[1].as_ref().unwrap_err().code, Code::Invalid);

    let mut other = body();
    other[0].value = Plaintext::from_slice(b"eve@example.com");
    let conflict = tokenize(&engine, "order-1", other).await;
    assert!(conflict.iter().all(|answer| answer.as_ref().unwrap_err().code == Code::Conflict));

    let subject = first[0].as_ref().unwrap().subject_id.clone();
    rectify(&engine, &first[0].as_ref().unwrap().token, "ada@example.org").await;
    assert_eq!(
        tokenize(&engine, "order-1", body()).await[0],
        first[0],
        "the token stands for the field still"
    );
    // Of a value that had been rectified before, what stood there is known.
    let held = |value: &str| vec![item(known(&subject), "email", value)];
    let second = tokenize(&engine, "order-2", held("ada@example.org")).await;
    assert_eq!(second[0], first[0]);
    let conflict = tokenize(&engine, "order-2", held("eve@example.com")).await;
    assert_eq!(conflict[0].as_ref().unwrap_err().code, Code::Conflict);

    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    let dead = tokenize(&engine, "order-1", body()).await;
    assert_eq!(dead[0].as_ref().unwrap_err().code, Code::Erased, "a repeat never stores again");

    house.clock.advance_ms(25 * 60 * 60 * 1_000);
    let later = tokenize(&engine, "order-1", body()).await;
    assert_ne!(later[0].as_ref().unwrap().subject_id, subject, "after 24 hours the key is new");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_remembered_under_a_dead_day_key_is_taken_away() {
    let house = House::new();
    house.ready().await.close().await;
    let mut watched = Watched::default();
    let engine = house.open_over(&mut watched).await.unwrap();
    let projections = watched.0.unwrap();
    let remembered = async || projections.scan(b"i", None, 10).await.unwrap().len();
    let order =
        async |key: &str| tokenize(&engine, key, vec![item(new("a"), "email", "ada@example.com")]).await;
    let first = order("order-1").await;
    order("order-2").await;
    house.clock.advance_ms(25 * 60 * 60 * 1_000);
    let second = order("order-3").await;
    assert_eq!(remembered().await, 3, "the first day's key may still be asked");
    house.clock.advance_ms(23 * 60 * 60 * 1_000 + 1);
    let begun = Instant::now();
    while remembered().await > 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "what nothing finds any more stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(order("order-3").await, second, "the second day's key lives");
    assert_ne!(order("order-1").await, first);
    engine.close().await;
}

async fn rectify(engine: &Engine, token: &str, value: &str) {
    let items = vec![(token.to_owned(), Plaintext::from_slice(value.as_bytes()))];
    assert_eq!(engine.rectify(ORDERS, SEE, items).await.unwrap(), [Ok(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rectified_token_stands_for_the_new_value() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "old@example.com", "Ada").await;
    let to = |value: &str| vec![(email.clone(), Plaintext::from_slice(value.as_bytes()))];
    assert_eq!(engine.rectify(ORDERS, SEE, to("new@example.com")).await.unwrap(), [Ok(2)]);
    assert_eq!(
        engine.rectify(ORDERS, SEE, to("new@example.com")).await.unwrap(),
        [Ok(2)],
        "nothing to change"
    );
    assert_eq!(engine.rectify(ORDERS, SEE, to("newer@example.com")).await.unwrap(), [Ok(3)]);
    assert_eq!(read(&engine, &email).await.unwrap(), "newer@example.com");
    let described =
        engine.describe(ORDERS, SEE, std::slice::from_ref(&email)).await.unwrap().remove(0).unwrap();
    assert_eq!((described.value_version, described.state), (3, TokenState::Active));
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    assert_eq!(read(&engine, &email).await, Err(Code::Erased));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_token_is_gone_and_its_neighbour_lives() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, name) = person(&engine, "ada@example.com", "Ada").await;
    let released = engine.release(ORDERS, SEE, vec![email.clone()]).await.unwrap();
    assert!(released[0].is_ok());
    assert_eq!(read(&engine, &email).await, Err(Code::Erased));
    assert_eq!(read(&engine, &name).await.unwrap(), "Ada");
    let again = engine.release(ORDERS, SEE, vec![email.clone()]).await.unwrap();
    assert_eq!(again[0].as_ref().unwrap_err().code, Code::Erased);
    let back = tokenize(&engine, "", vec![item(known(&subject), "email", "ada@example.com")]).await;
    assert_ne!(back[0].as_ref().unwrap().token, email, "a released token never comes back");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_need_a_right_and_a_purpose() {
    let house = House::new();
    let engine = house.ready().await;
    let (_, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let ask = |purpose: &str, masked| DetokenizeRequest {
        controller: SEE.to_owned(),
        purpose: purpose.to_owned(),
        reason: "case-7".to_owned(),
        masked,
        tokens: vec![email.clone()],
        trace: [0; 16],
    };
    let plain = engine.detokenize(SUPPORT, ask("customer_support", false)).await.unwrap().remove(0);
    assert_eq!(plain.err().unwrap().code, Code::Denied);
    let masked =
        engine.detokenize(SUPPORT, ask("customer_support", true)).await.unwrap().remove(0).ok().unwrap();
    assert_eq!(masked.as_bytes(), b"a***@example.com");
    assert!(matches!(engine.detokenize(MAIL, ask("", false)).await, Err(CallRefusal::Invalid(_))));
    let other = engine.detokenize(MAIL, ask("profiling", false)).await.unwrap().remove(0);
    assert_eq!(other.err().unwrap().code, Code::Denied);
    assert!(matches!(
        engine.detokenize("spiffe://cloakroom.local/service/stranger", ask("ticket_delivery", false)).await,
        Err(CallRefusal::Forbidden(_))
    ));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasing_during_tokenize_leaves_nothing_living() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, _, _) = person(&engine, "ada@example.com", "Ada").await;
    let writer = {
        let (engine, subject) = (engine.clone(), subject.clone());
        tokio::spawn(async move {
            let mut tokens = vec![];
            for n in 0..200 {
                let value = format!("ada{n}@example.com");
                match tokenize(&engine, "", vec![item(known(&subject), "email", &value)]).await.remove(0) {
                    Ok(tokenized) => tokens.push(tokenized.token),
                    Err(refusal) => {
                        assert_eq!(refusal.code, Code::Erased);
                        break;
                    }
                }
            }
            tokens
        })
    };
    tokio::task::yield_now().await;
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    for token in writer.await.unwrap() {
        assert_eq!(read(&engine, &token).await, Err(Code::Erased));
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_says_what_would_die_and_what_stays() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, email, _) = person(&engine, "ada@example.com", "Ada").await;
    let preview = engine.preview_erasure(DPO, SEE, Who::Token(email), &[], "").await.unwrap();
    assert_eq!((preview.subject_id, preview.tokens.len(), preview.kept.len()), (subject.clone(), 2, 0));
    assert_eq!(preview.downstreams, ["mail", "affiliate"]);
    let narrow = engine
        .preview_erasure(DPO, SEE, Who::SubjectId(subject), &["newsletter".to_owned()], "")
        .await
        .unwrap();
    assert_eq!((narrow.tokens.len(), narrow.kept[0].2), (0, 2));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_are_recorded_for_the_living_alone() {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, _, _) = person(&engine, "ada@example.com", "Ada").await;
    let fact = |kind, holds| Fact {
        controller: SEE.to_owned(),
        subject_id: subject.clone(),
        activity: "ticket_purchase".to_owned(),
        kind,
        holds_unix_ms: holds,
    };
    engine.record_fact(ORDERS, fact(1, 1_800_000_000_000)).await.unwrap();
    assert!(matches!(engine.record_fact(ORDERS, fact(9, 0)).await, Err(CallRefusal::Invalid(_))));
    assert!(matches!(engine.record_fact(ORDERS, fact(1, i64::MAX)).await, Err(CallRefusal::Invalid(_))));
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    assert!(matches!(engine.record_fact(ORDERS, fact(1, 1)).await, Err(CallRefusal::Conflict(_))));
    engine.close().await;
}
