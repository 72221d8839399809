//! What cannot be read is never called erased, and what is erased is never called unreadable.

use std::sync::Arc;

use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_engine::{Engine, ErasureRequest, Who};
use cloakroom_keytree::Subtree;
use cloakroom_keytree::layout::PageAddress;
use cloakroom_store::embedded::EmbeddedRecords;
use cloakroom_store::{Batch, Records};

use crate::house::{ADMIN, DPO, House, erasure_of, item, new, person, read, tokenize};

/// A vault at rest with three leaves of values; of each leaf one token, and one in the first leaf that is erased.
async fn three_leaves() -> (House, Vec<String>, String) {
    let house = House::new();
    let engine = house.ready().await;
    let (subject, dead, _) = person(&engine, "ada@example.com", "Ada").await;
    let items = (0..150).map(|n| item(new(&n.to_string()), "email", &format!("{n}@example.com"))).collect();
    let tokens: Vec<String> =
        tokenize(&engine, "", items).await.into_iter().map(|answer| answer.unwrap().token).collect();
    engine.request_erasure(DPO, erasure_of(&subject)).await.unwrap();
    engine.close().await;
    (house, [0, 70, 149].iter().map(|place| tokens[*place].clone()).collect(), dead)
}

async fn change(house: &House, leaf: u64, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let records = Arc::new(EmbeddedRecords::open(&house.folder.join("keys/tree")).unwrap());
    let key = PageAddress { subtree: Subtree(1), level: 0, index: leaf }.record_key();
    let mut batch = Batch::default();
    match change(records.get(&key).await.unwrap().unwrap().to_vec()) {
        Some(changed) => batch.put(key, changed),
        None => batch.remove(key),
    }
    records.commit(batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_makes_its_keys_unavailable_and_no_others() {
    let (house, tokens, _) = three_leaves().await;
    change(&house, 1, |mut page| {
        let middle = page.len() / 2;
        page[middle] ^= 1;
        Some(page)
    })
    .await;
    let engine = house.open().await;
    assert_eq!(read(&engine, &tokens[0]).await.unwrap(), "0@example.com");
    assert_eq!(read(&engine, &tokens[1]).await, Err(Code::KeyUnavailable));
    assert_eq!(read(&engine, &tokens[2]).await.unwrap(), "149@example.com");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_page_makes_its_keys_unavailable_not_erased() {
    let (house, tokens, dead) = three_leaves().await;
    change(&house, 1, |_| None).await;
    let engine = house.open().await;
    assert_eq!(read(&engine, &tokens[1]).await, Err(Code::KeyUnavailable));
    assert_eq!(read(&engine, &dead).await, Err(Code::Erased), "its own page tells");
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_met_an_unreadable_record_is_not_remembered_as_its_answer() {
    use cloakroom_engine::{TokenizeRequest, Tokenized};
    let house = House::new();
    let engine = house.ready().await;
    let items = (0..150).map(|_| item(new("p"), "email", "x@example.com")).collect();
    let first: Vec<Tokenized> =
        tokenize(&engine, "", items).await.into_iter().map(|answer| answer.unwrap()).collect();
    let filler = (0..149).map(|n| item(new(&n.to_string()), "email", &format!("{n}@example.com"))).collect();
    tokenize(&engine, "", filler).await;
    engine.close().await;
    drop(engine);
    let whole = Arc::new(std::sync::Mutex::new(vec![]));
    let kept = Arc::clone(&whole);
    change(&house, 0, |page| {
        *kept.lock().unwrap() = page.clone();
        Some(page.iter().map(|byte| byte ^ 1).collect())
    })
    .await;
    let engine = house.open().await;
    let request = || TokenizeRequest {
        controller: crate::house::SEE.to_owned(),
        activity: crate::house::PURCHASE.to_owned(),
        idempotency_key: "order-7".to_owned(),
        items: vec![item(crate::house::known(&first[0].subject_id), "email", "x@example.com")],
    };
    let refused = engine.tokenize(crate::house::ORDERS, request()).await;
    assert!(matches!(refused, Err(CallRefusal::Unavailable(_))), "{refused:?}");
    engine.close().await;
    drop(engine);
    let whole = std::mem::take(&mut *whole.lock().unwrap());
    change(&house, 0, |_| Some(whole)).await;
    let engine = house.open().await;
    let answer = engine.tokenize(crate::house::ORDERS, request()).await.unwrap().remove(0);
    assert_eq!(answer.unwrap().token, first[0].token, "found again, once it can be read");
    engine.close().await;
}

/// An erasure whose key lies on a page that does not open cannot destroy it: it stays open and says so, over every
/// start, and nothing else suffers. Once the page is whole again, a start closes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_over_a_damaged_page_sticks_until_the_page_is_whole() {
    let (house, tokens, _) = three_leaves().await;
    let whole = Arc::new(std::sync::Mutex::new(vec![]));
    let kept = Arc::clone(&whole);
    change(&house, 1, |page| {
        *kept.lock().unwrap() = page.clone();
        Some(page.iter().map(|byte| byte ^ 1).collect())
    })
    .await;
    let engine = house.open().await;
    let of = |token: &String| ErasureRequest { who: Who::Token(token.clone()), ..erasure_of("") };
    let stuck = async |engine: &Engine| engine.status(ADMIN).await.unwrap().stuck_fences;
    assert_eq!(read(&engine, &tokens[1]).await, Err(Code::KeyUnavailable));
    for _ in 0..2 {
        let refused = engine.request_erasure(DPO, of(&tokens[1])).await.unwrap_err();
        assert!(matches!(refused, CallRefusal::Unavailable(_)), "{refused}");
        assert_eq!((read(&engine, &tokens[1]).await, stuck(&engine).await), (Err(Code::Erased), 1));
    }
    engine.request_erasure(DPO, of(&tokens[2])).await.unwrap();
    assert_eq!(read(&engine, &tokens[0]).await.unwrap(), "0@example.com");
    person(&engine, "new@example.com", "New").await;
    engine.close().await;
    drop(engine);

    let engine = house.open().await;
    assert_eq!((read(&engine, &tokens[1]).await, stuck(&engine).await), (Err(Code::Erased), 1));
    engine.close().await;
    drop(engine);

    let page = whole.lock().unwrap().clone();
    change(&house, 1, |_| Some(page)).await;
    let engine = house.open().await;
    assert_eq!((read(&engine, &tokens[1]).await, stuck(&engine).await), (Err(Code::Erased), 0));
    let (erasure, _) = engine.request_erasure(DPO, of(&tokens[1])).await.unwrap();
    assert!(erasure.epoch > 0, "its keys are destroyed");
    engine.close().await;
}
