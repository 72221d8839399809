//! The same content, batch after batch on one call.

use cloakroom_proto::vault::v1::{
    DetokenizeStreamRequest, ErrorCode, ReadMode, TokenizeItem, TokenizeRequest, TokenizeStreamRequest,
    tokenize_item,
};
use tokio_stream::iter;
use tonic::Code;

use crate::setting::{Setting, item, made, purchase, reading, refused, shown};

fn batch(items: Vec<TokenizeItem>) -> TokenizeStreamRequest {
    TokenizeStreamRequest { batch: Some(purchase(items)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_answered_one_by_one_in_order() {
    let house = Setting::new().await;
    let batches = (0..20).map(|at| {
        batch(vec![
            item(&at.to_string(), "p", "full_name", format!("Name {at}")),
            item("bad", "p", "email", "no address"),
        ])
    });
    let mut answers = house
        .vault("orders")
        .await
        .tokenize_stream(iter(batches.collect::<Vec<_>>()))
        .await
        .unwrap()
        .into_inner();
    let mut tokens = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let items = answer.batch.unwrap().items;
        assert_eq!(items[0].reference, tokens.len().to_string());
        assert_eq!(refused(&items[1]).0, ErrorCode::Invalid);
        tokens.push(made(&items[0]).0);
    }
    assert_eq!(tokens.len(), 20);
    let reads: Vec<_> = tokens
        .iter()
        .map(|token| DetokenizeStreamRequest {
            batch: Some(reading("ticket_delivery", ReadMode::Plain, &[token])),
        })
        .collect();
    let mut answers = house.vault("mail").await.detokenize_stream(iter(reads)).await.unwrap().into_inner();
    for at in 0..20 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(shown(&answer.batch.unwrap().items[0]).unwrap(), format!("Name {at}"));
    }
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sees_what_the_one_before_made_and_a_refused_one_ends_the_call() {
    let house = Setting::new().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut answers = house
        .vault("orders")
        .await
        .tokenize_stream(tokio_stream::wrappers::ReceiverStream::new(receive))
        .await
        .unwrap()
        .into_inner();
    send.send(batch(vec![item("1", "p", "full_name", "Ann")])).await.unwrap();
    let first = answers.message().await.unwrap().unwrap().batch.unwrap();
    let (token, subject) = made(&first.items[0]);
    let known = Some(tokenize_item::Subject::SubjectId(subject.clone()));
    let again = TokenizeItem { subject: known, ..item("1", "", "full_name", "Ann") };
    send.send(batch(vec![again])).await.unwrap();
    let second = answers.message().await.unwrap().unwrap().batch.unwrap();
    assert_eq!(made(&second.items[0]), (token, subject));
    let foreign =
        TokenizeRequest { controller: "nobody".into(), ..purchase(vec![item("1", "p", "email", "a@b.c")]) };
    send.send(TokenizeStreamRequest { batch: Some(foreign) }).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::PermissionDenied);
    let none =
        house.vault("orders").await.tokenize_stream(iter([TokenizeStreamRequest { batch: None }])).await;
    assert_eq!(none.unwrap().into_inner().message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_does_not_keep_a_vault_from_stopping() {
    let mut house = Setting::new().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut answers = house
        .vault("orders")
        .await
        .tokenize_stream(tokio_stream::wrappers::ReceiverStream::new(receive))
        .await
        .unwrap()
        .into_inner();
    send.send(batch(vec![item("1", "p", "full_name", "Ann")])).await.unwrap();
    made(&answers.message().await.unwrap().unwrap().batch.unwrap().items[0]);
    house.begin_stop();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(house.stop().await, cloakroom_vault::Ended::Drained);
}
