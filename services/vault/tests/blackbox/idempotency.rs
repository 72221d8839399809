//! The same key, the same body: the same answer. The same key, another body: a conflict. Never a second copy,
//! never a forgotten value again.

use cloakroom_proto::vault::v1::{ErrorCode, TokenizeItem, TokenizeRequest, tokenize_item};
use tonic::Code;

use crate::setting::{SEE, Setting, erasing, item, made, purchase, refused, said};

fn keyed(key: &str, items: Vec<TokenizeItem>) -> TokenizeRequest {
    TokenizeRequest { idempotency_key: key.into(), ..purchase(items) }
}

fn order() -> Vec<TokenizeItem> {
    vec![
        item("1", "buyer", "email", "a@example.com"),
        item("2", "buyer", "full_name", "Ann"),
        item("3", "buyer", "email", "not an address"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_body_give_the_same_answer_also_after_a_restart() {
    let mut house = Setting::new().await;
    let first = house.vault("orders").await.tokenize(keyed("order-1", order())).await.unwrap().into_inner();
    let again = house.vault("orders").await.tokenize(keyed("order-1", order())).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(refused(&first.items[2]).0, ErrorCode::Invalid);
    let _ = house.stop().await;
    house.start().await;
    let again = house.vault("orders").await.tokenize(keyed("order-1", order())).await.unwrap().into_inner();
    assert_eq!(first, again);
    // Without a key the same label is a new person each time.
    let other = house.tokenize(order()).await;
    assert_ne!(made(&other[0]).1, made(&first.items[0]).1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_body_is_a_conflict_and_stores_nothing() {
    let house = Setting::new().await;
    let mut shop = house.vault("orders").await;
    shop.tokenize(keyed("order-1", order())).await.unwrap();
    let bodies = [
        vec![item("1", "buyer", "email", "b@example.com"), order()[1].clone(), order()[2].clone()],
        vec![order()[1].clone()],
        [order(), order()].concat(),
    ];
    for body in bodies {
        match shop.tokenize(keyed("order-1", body)).await {
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition),
            Ok(answer) => {
                let conflict = |result: &_| match result {
                    Some(cloakroom_proto::vault::v1::tokenize_result::Result::Error(error)) => {
                        said(error).0 == ErrorCode::Conflict
                    }
                    _ => false,
                };
                assert!(answer.into_inner().items.iter().any(|answer| conflict(&answer.result)));
            }
        }
    }
    // Another principal's keys are its own.
    let status = house.vault("support").await.tokenize(keyed("order-1", order())).await;
    assert!(status.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_whose_values_have_died_says_erased_and_stores_nothing() {
    let house = Setting::new().await;
    let mut shop = house.vault("orders").await;
    let first = shop.tokenize(keyed("order-1", order())).await.unwrap().into_inner();
    house.erase(&made(&first.items[0]).1).await;
    let again = shop.tokenize(keyed("order-1", order())).await.unwrap().into_inner();
    assert_eq!(refused(&again.items[0]).0, ErrorCode::Erased);
    assert_eq!(refused(&again.items[1]).0, ErrorCode::Erased);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_value_of_the_same_person_is_one_token_without_any_key() {
    let house = Setting::new().await;
    let (token, subject) = house.person("a@example.com").await;
    let again = |field: &str, value: &str| TokenizeItem {
        subject: Some(tokenize_item::Subject::SubjectId(subject.clone())),
        ..item("1", "", field, value)
    };
    let answers =
        house.tokenize(vec![again("email", "a@example.com"), again("email", "b@example.com")]).await;
    assert_eq!(made(&answers[0]), (token.clone(), subject.clone()));
    assert_ne!(made(&answers[1]).0, token);
    // The same address of somebody else is another token: nothing links two people.
    let (other, _) = house.person("a@example.com").await;
    assert_ne!(other, token);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_repeated_under_its_key_is_the_same_one_and_gives_no_second_salt() {
    let house = Setting::new().await;
    let (_, subject) = house.person("a@example.com").await;
    let mut officer = house.admin("dpo").await;
    let mut request = erasing(SEE, &subject);
    request.idempotency_key = "dsr-1".into();
    let first = officer.request_erasure(request.clone()).await.unwrap().into_inner();
    let again = officer.request_erasure(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.erasure.unwrap().erasure_id, again.erasure.unwrap().erasure_id);
    assert_eq!((first.subject_salt.len(), again.subject_salt.as_str()), (64, ""));
    request.actor = "dsr-2".into();
    assert_eq!(officer.request_erasure(request).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_more_than_128_bytes_is_refused() {
    let house = Setting::new().await;
    let status = house.vault("orders").await.tokenize(keyed(&"k".repeat(129), order())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    house.vault("orders").await.tokenize(keyed(&"k".repeat(128), order())).await.unwrap();
}
