//! The straight line: values in, tokens out, read, described, rectified, released, forgotten.

use cloakroom_proto::admin::v1::{ErasureState, GetCertificateRequest, GetErasureRequest};
use cloakroom_proto::vault::v1::{
    DescribeRequest, ErrorCode, FactKind, ReadMode, RecordFactRequest, RectifyItem, RectifyRequest,
    ReleaseItem, ReleaseRequest, TokenShape, TokenState, TokenizeItem, TokenizeRequest, describe_result,
    rectify_result, release_result, tokenize_item,
};
use tonic::Code;

use crate::setting::{ALONE, SEE, Setting, erasing, item, made, purchase, reading, said, shown, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_tokenized_read_masked_erased_and_never_seen_again() {
    let house = Setting::new().await;
    let answers = house
        .tokenize(vec![
            item("mail", "buyer", "email", "jane.doe@example.com"),
            item("name", "buyer", "full_name", "Jane Doe"),
        ])
        .await;
    assert_eq!(answers.iter().map(|answer| answer.reference.as_str()).collect::<Vec<_>>(), ["mail", "name"]);
    let ((email, subject), (name, same)) = (made(&answers[0]), made(&answers[1]));
    assert_eq!(subject, same, "one label is one person");
    assert!(email.starts_with("tok_") && email.len() == 30 && subject.starts_with("sub_"));

    let plain = house.read(&[&email, &name]).await;
    assert_eq!(shown(&plain[0]).unwrap(), "jane.doe@example.com");
    assert_eq!(shown(&plain[1]).unwrap(), "Jane Doe");
    let masked = reading("customer_support", ReadMode::Masked, &[&email, &name]);
    let masked = house.vault("support").await.detokenize(masked).await.unwrap().into_inner().items;
    let masked = shown(&masked[0]).unwrap();
    assert!(masked.starts_with('j') && masked.contains('*') && !masked.contains("jane.doe"), "{masked}");
    let plainly = reading("customer_support", ReadMode::Plain, &[&email]);
    let plainly = house.vault("support").await.detokenize(plainly).await.unwrap().into_inner().items;
    assert_eq!(shown(&plainly[0]), Err(ErrorCode::Denied));

    let erased = house.erase(&subject).await;
    let erasure = erased.erasure.unwrap();
    assert_eq!(erased.subject_salt.len(), 64);
    assert_eq!((erasure.tokens, erasure.controller.as_str()), (2, SEE));
    assert!(erasure.keys_destroyed_unix_ms >= erasure.requested_unix_ms && erasure.epoch > 0);
    assert_eq!(erasure.downstreams.len(), 2);
    for answer in house.read(&[&email, &name]).await {
        assert_eq!(shown(&answer), Err(ErrorCode::Erased));
    }
    // Nobody has purged: the certificate has to wait, and the erasure is told of.
    let id = erasure.erasure_id;
    let mut officer = house.admin("auditor").await;
    let early = officer.get_certificate(GetCertificateRequest { erasure_id: id.clone() }).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    until(async || {
        let now = officer.get_erasure(GetErasureRequest { erasure_id: id.clone() }).await.unwrap();
        (now.into_inner().erasure.unwrap().state() == ErasureState::Propagating).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_nobody_has_to_answer_is_certified_at_once() {
    let house = Setting::new().await;
    let request = TokenizeRequest {
        controller: ALONE.into(),
        activity: "sales".into(),
        ..purchase(vec![item("1", "p", "email", "a@example.com")])
    };
    let (_, subject) =
        made(&house.vault("orders").await.tokenize(request).await.unwrap().into_inner().items[0]);
    let mut officer = house.admin("dpo").await;
    let done = officer.request_erasure(erasing(ALONE, &subject)).await.unwrap().into_inner();
    let erasure_id = done.erasure.unwrap().erasure_id;
    let certificate = until(async || {
        let request = GetCertificateRequest { erasure_id: erasure_id.clone() };
        officer.get_certificate(request).await.ok().map(|found| found.into_inner().certificate)
    })
    .await;
    assert_eq!(certificate.split('.').count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_still_there_after_a_restart() {
    let mut house = Setting::new().await;
    let (token, subject) = house.person("kept@example.com").await;
    let (gone, forgotten) = house.person("gone@example.com").await;
    house.erase(&forgotten).await;
    assert_eq!(house.stop().await, cloakroom_vault::Ended::Drained);
    house.start().await;
    let answers = house.read(&[&token, &gone]).await;
    assert_eq!(shown(&answers[0]).unwrap(), "kept@example.com");
    assert_eq!(shown(&answers[1]), Err(ErrorCode::Erased));
    let again = TokenizeItem {
        subject: Some(tokenize_item::Subject::SubjectId(subject.clone())),
        ..item("1", "", "email", "kept@example.com")
    };
    assert_eq!(made(&house.tokenize(vec![again]).await[0]), (token, subject));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_in_the_shape_that_is_asked_for() {
    let house = Setting::new().await;
    let shaped = |shape: TokenShape, field, value: &str| TokenizeItem {
        shape: shape.into(),
        ..item(shape.as_str_name(), "p", field, value)
    };
    let answers = house
        .tokenize(vec![
            shaped(TokenShape::Email, "email", "a@example.com"),
            shaped(TokenShape::Phone, "phone", "+34 600 123 372"),
            shaped(TokenShape::Uuid, "full_name", "Zoë"),
        ])
        .await;
    let tokens: Vec<String> = answers.iter().map(|answer| made(answer).0).collect();
    assert!(tokens[0].ends_with("@tokens.see-tickets.example"), "{}", tokens[0]);
    assert!(tokens[1].starts_with("+999"), "{}", tokens[1]);
    assert!(tokens[2].len() == 36 && tokens[2].as_bytes()[14] == b'4', "{}", tokens[2]);
    let request = DescribeRequest { controller: SEE.into(), tokens };
    let known = house.vault("orders").await.describe(request).await.unwrap().into_inner().items;
    let shapes: Vec<_> = known
        .iter()
        .map(|result| match result.result.as_ref().unwrap() {
            describe_result::Result::Description(known) => known.shape(),
            describe_result::Result::Error(error) => panic!("{}", error.message),
        })
        .collect();
    assert_eq!(shapes, [TokenShape::Email, TokenShape::Phone, TokenShape::Uuid]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_described_rectified_and_released() {
    let house = Setting::new().await;
    let (token, subject) = house.person("old@example.com").await;
    let mut shop = house.vault("orders").await;
    let describe = DescribeRequest { controller: SEE.into(), tokens: vec![token.clone()] };
    let described = |answer: cloakroom_proto::vault::v1::DescribeResponse| {
        assert_eq!(answer.items[0].token, token);
        match answer.items.into_iter().next().unwrap().result.unwrap() {
            describe_result::Result::Description(known) => known,
            describe_result::Result::Error(error) => panic!("{}", error.message),
        }
    };
    let known = described(shop.describe(describe.clone()).await.unwrap().into_inner());
    assert_eq!((known.activity.as_str(), known.field.as_str()), ("ticket_purchase", "email"));
    assert_eq!((known.subject_id.as_str(), known.value_version), (subject.as_str(), 1));
    assert!(known.retention.starts_with("15 years") && known.created_unix_ms > 0);
    assert_eq!(known.state(), TokenState::Active);

    let rectify = |value: &str| RectifyRequest {
        controller: SEE.into(),
        items: vec![
            RectifyItem {
                reference: "a".into(),
                token: token.clone(),
                value: value.as_bytes().to_vec().into(),
            },
            RectifyItem { reference: "b".into(), token: "tok_nobody".into(), value: "x@y.example".into() },
        ],
    };
    let answers = shop.rectify(rectify("new@example.com")).await.unwrap().into_inner().items;
    let version = |result: &Option<rectify_result::Result>| match result.as_ref().unwrap() {
        rectify_result::Result::Rectified(made) => Ok(made.value_version),
        rectify_result::Result::Error(error) => Err(said(error).0),
    };
    assert_eq!(version(&answers[0].result), Ok(2));
    assert_eq!((answers[1].reference.as_str(), version(&answers[1].result)), ("b", Err(ErrorCode::NotFound)));
    assert_eq!(shown(&house.read(&[&token]).await[0]).unwrap(), "new@example.com");
    let answers = shop.rectify(rectify("new@example.com")).await.unwrap().into_inner().items;
    assert_eq!(version(&answers[0].result), Ok(2), "the same value again changes nothing");

    let release = ReleaseRequest {
        controller: SEE.into(),
        items: vec![ReleaseItem { reference: "a".into(), token: token.clone() }],
    };
    let released = shop.release(release).await.unwrap().into_inner().items;
    match released[0].result.as_ref().unwrap() {
        release_result::Result::Released(done) => assert!(done.epoch > 0),
        release_result::Result::Error(error) => panic!("{}", error.message),
    }
    assert_eq!(shown(&house.read(&[&token]).await[0]), Err(ErrorCode::Erased));
    let known = described(shop.describe(describe).await.unwrap().into_inner());
    assert_eq!(known.state(), TokenState::Erased);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_is_recorded_or_refused_with_a_reason() {
    let house = Setting::new().await;
    let (_, subject_id) = house.person("a@example.com").await;
    let fact = RecordFactRequest {
        controller: SEE.into(),
        subject_id,
        activity: "ticket_purchase".into(),
        kind: FactKind::EventDate.into(),
        holds_unix_ms: 1_900_000_000_000,
    };
    let mut shop = house.vault("orders").await;
    shop.record_fact(fact.clone()).await.unwrap();
    let code = async |fact: RecordFactRequest| shop.clone().record_fact(fact).await.unwrap_err().code();
    assert_eq!(code(RecordFactRequest { kind: 0, ..fact.clone() }).await, Code::InvalidArgument);
    assert_eq!(code(RecordFactRequest { kind: 99, ..fact.clone() }).await, Code::InvalidArgument);
    assert_eq!(code(RecordFactRequest { subject_id: "sub_x".into(), ..fact.clone() }).await, Code::NotFound);
    assert_eq!(code(RecordFactRequest { controller: "nobody".into(), ..fact }).await, Code::PermissionDenied);
}
