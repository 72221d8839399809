//! Tokens that are not what they seem, and two controllers that see nothing of each other.

use cloakroom_proto::admin::v1::{GetErasureRequest, ListErasuresRequest};
use cloakroom_proto::vault::v1::{
    DescribeRequest, DetokenizeRequest, ErrorCode, ReadMode, RectifyItem, RectifyRequest, ReleaseItem,
    ReleaseRequest, TokenizeItem, TokenizeRequest, describe_result, rectify_result, release_result,
    tokenize_item,
};
use tonic::Code;

use crate::setting::{LUMEN, SEE, Setting, erasing, item, made, purchase, reading, refused, said, shown};

/// A visitor of the other controller.
async fn visitor(house: &Setting) -> (String, String) {
    let request = TokenizeRequest {
        controller: LUMEN.into(),
        activity: "visitor_accounts".into(),
        ..purchase(vec![item("1", "p", "email", "visitor@example.com")])
    };
    let answers = house.vault("box-office").await.tokenize(request).await.unwrap().into_inner().items;
    made(&answers[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_nobody_truncated_or_of_a_wrong_version_is_not_found() {
    let house = Setting::new().await;
    let (token, _) = house.person("a@example.com").await;
    let body = token.strip_prefix("tok_").unwrap();
    let bad = [
        String::new(),
        "tok_".into(),
        token[..token.len() - 1].to_owned(),
        format!("{token}a"),
        format!("{token}======"),
        token.to_uppercase(),
        format!(" {token}"),
        format!("sub_{body}"),
        body.to_owned(),
        // One spelling only: the spare bits of the last character are zero.
        format!("{}b", &token[..token.len() - 1]),
        // Blocks that decrypt to whatever they decrypt to: other versions, other numbers.
        "tok_aaaaaaaaaaaaaaaaaaaaaaaaaa".into(),
        "tok_mfrggzdfmztwq2lknnwg23tpoa".into(),
        "tok_7777777777777777777777777a".into(),
        "nobody@tokens.see-tickets.example".into(),
        "+999123456789012".into(),
        "x".repeat(5_000),
        "tok_\0".into(),
        "'; DROP TABLE tokens; --".into(),
    ];
    let mut tokens: Vec<&str> = bad.iter().map(String::as_str).collect();
    tokens.push(&token);
    let read = house.read(&tokens).await;
    for (bad, answer) in bad.iter().zip(&read) {
        assert_eq!(shown(answer), Err(ErrorCode::NotFound), "{bad}");
    }
    assert_eq!(shown(&read[bad.len()]).unwrap(), "a@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controllers_token_looks_like_nobodys_to_every_verb() {
    let house = Setting::new().await;
    let (foreign, foreign_subject) = visitor(&house).await;
    let (own, _) = house.person("own@example.com").await;

    let read = house.read(&[&foreign, &own]).await;
    assert_eq!(shown(&read[0]), Err(ErrorCode::NotFound));
    assert_eq!(shown(&read[1]).unwrap(), "own@example.com");
    let mut shop = house.vault("orders").await;
    let request = DescribeRequest { controller: SEE.into(), tokens: vec![foreign.clone()] };
    let answer = shop.describe(request).await.unwrap().into_inner().items.remove(0).result.unwrap();
    assert!(matches!(answer, describe_result::Result::Error(error) if error.code() == ErrorCode::NotFound));
    let items =
        vec![RectifyItem { reference: String::new(), token: foreign.clone(), value: "x@y.example".into() }];
    let request = RectifyRequest { controller: SEE.into(), items };
    let answer = shop.rectify(request).await.unwrap().into_inner().items.remove(0).result.unwrap();
    assert!(matches!(answer, rectify_result::Result::Error(error) if error.code() == ErrorCode::NotFound));
    let items = vec![ReleaseItem { reference: String::new(), token: foreign.clone() }];
    let request = ReleaseRequest { controller: SEE.into(), items };
    let answer = shop.release(request).await.unwrap().into_inner().items.remove(0).result.unwrap();
    assert!(matches!(answer, release_result::Result::Error(error) if said(&error).0 == ErrorCode::NotFound));
    // Nor can its subject be added to.
    let addition = TokenizeItem {
        subject: Some(tokenize_item::Subject::SubjectId(foreign_subject.clone())),
        ..item("1", "", "full_name", "Ann")
    };
    assert_eq!(refused(&house.tokenize(vec![addition]).await[0]).0, ErrorCode::NotFound);
    // The officer of one cannot erase the other's visitor under either name.
    let mut officer = house.admin("dpo").await;
    let status = officer.request_erasure(erasing(SEE, &foreign_subject)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = officer.request_erasure(erasing(LUMEN, &foreign_subject)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let request = DetokenizeRequest {
        controller: LUMEN.into(),
        ..reading("ticket_delivery", ReadMode::Plain, &[&foreign])
    };
    let read = house.vault("mail").await.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]).unwrap(), "visitor@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_one_controller_is_a_stranger_to_the_other() {
    let house = Setting::new().await;
    let own = || purchase(vec![item("1", "p", "email", "a@example.com")]);
    for who in ["box-office", "stranger"] {
        let status = house.vault(who).await.tokenize(own()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{who}");
    }
    // Of two controllers known to nobody, one is there and one is not: both look the same.
    let mut stranger = house.vault("stranger").await;
    let there = stranger.tokenize(own()).await.unwrap_err();
    let nowhere = TokenizeRequest { controller: "nowhere".into(), ..own() };
    let nowhere = stranger.tokenize(nowhere).await.unwrap_err();
    assert_eq!((there.code(), there.message()), (nowhere.code(), nowhere.message()));

    let (_, subject) = house.person("b@example.com").await;
    let id = house.erase(&subject).await.erasure.unwrap().erasure_id;
    let mut officer = house.admin("lumen-dpo").await;
    let status = officer.get_erasure(GetErasureRequest { erasure_id: id }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let list = |controller: &str| ListErasuresRequest { controller: controller.into(), ..Default::default() };
    assert_eq!(officer.list_erasures(list(SEE)).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(officer.list_erasures(list(LUMEN)).await.unwrap().into_inner().erasures.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_may_not_write_and_the_other_way() {
    let house = Setting::new().await;
    let (token, subject) = house.person("a@example.com").await;
    let request = reading("ticket_delivery", ReadMode::Plain, &[&token]);
    let read = house.vault("orders").await.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]), Err(ErrorCode::Denied));
    let request = purchase(vec![item("1", "p", "email", "b@example.com")]);
    let answers = house.vault("mail").await.tokenize(request).await.unwrap().into_inner().items;
    assert_eq!(refused(&answers[0]).0, ErrorCode::Denied);
    for who in ["orders", "mail", "auditor", "support"] {
        let status = house.admin(who).await.request_erasure(erasing(SEE, &subject)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{who}");
    }
    assert_eq!(shown(&house.read(&[&token]).await[0]).unwrap(), "a@example.com");
}
