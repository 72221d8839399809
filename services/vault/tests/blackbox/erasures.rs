//! Erasures asked for in odd ways and at odd moments, listed, watched, redriven, previewed.

use cloakroom_proto::admin::v1::{
    ApplyRegisterRequest, ErasureState, ListDownstreamsRequest, ListErasuresRequest, PreviewErasureRequest,
    RedriveErasureRequest, RegisterDownstreamRequest, ReplayErasuresRequest, RequestErasureRequest,
    WatchErasureRequest, preview_erasure_request, request_erasure_request,
};
use cloakroom_proto::vault::v1::{ErrorCode, TokenizeItem, TokenizeRequest, tokenize_item, tokenize_result};
use tonic::Code;

use crate::setting::{ALONE, SEE, Setting, erasing, item, made, purchase, shipped, shown};

#[tokio::test(flavor = "multi_thread")]
async fn erasing_twice_gives_the_erasure_that_did_it() {
    let house = Setting::new().await;
    let (token, subject) = house.person("a@example.com").await;
    let first = house.erase(&subject).await;
    let again = house.erase(&subject).await;
    assert_eq!(first.erasure.unwrap().erasure_id, again.erasure.unwrap().erasure_id);
    assert!(again.subject_salt.is_empty());
    // By a dead token too.
    let mut request = erasing(SEE, "");
    request.who = Some(request_erasure_request::Who::Token(token));
    let by_token = house.admin("dpo").await.request_erasure(request).await.unwrap().into_inner();
    assert!(by_token.subject_salt.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_someone_unknown_is_not_found_and_nobody_is_invalid() {
    let house = Setting::new().await;
    let mut officer = house.admin("dpo").await;
    for unknown in ["", "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa", "jane@example.com"] {
        let status = officer.request_erasure(erasing(SEE, unknown)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{unknown}");
        assert!(!status.message().contains("jane"));
    }
    let (_, subject) = house.person("a@example.com").await;
    let good = erasing(SEE, &subject);
    let wrong = [
        RequestErasureRequest { who: None, ..good.clone() },
        RequestErasureRequest { legal_basis: 0, ..good.clone() },
        RequestErasureRequest { legal_basis: 99, ..good.clone() },
        RequestErasureRequest { actor: String::new(), ..good.clone() },
        RequestErasureRequest { actor: "Jane Doe".into(), ..good.clone() },
        RequestErasureRequest { reason: "she asked, nicely".into(), ..good.clone() },
        RequestErasureRequest { activities: vec!["wiretapping".into()], ..good.clone() },
        RequestErasureRequest { idempotency_key: "k".repeat(129), ..good },
    ];
    for request in wrong {
        let status = officer.request_erasure(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message());
        assert!(!status.message().contains("Jane") && !status.message().contains("nicely"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_tokenized_while_a_person_is_erased_is_dead_or_refused() {
    let house = Setting::new().await;
    let (_, subject) = house.person("first@example.com").await;
    let shop = house.vault("orders").await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (mut shop, subject) = (shop.clone(), subject.clone());
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                for at in 0..20 {
                    let value = format!("w{writer}-{at}@example.com");
                    let addition = TokenizeItem {
                        subject: Some(tokenize_item::Subject::SubjectId(subject.clone())),
                        ..item("1", "", "email", value)
                    };
                    let answer = shop.tokenize(purchase(vec![addition])).await.unwrap().into_inner();
                    match answer.items[0].result.as_ref().unwrap() {
                        tokenize_result::Result::Tokenized(made) => tokens.push(made.token.clone()),
                        tokenize_result::Result::Error(error) => {
                            assert_eq!(error.code(), ErrorCode::Erased);
                            break;
                        }
                    }
                }
                tokens
            })
        })
        .collect();
    let erased = house.erase(&subject).await.erasure.unwrap();
    let mut stored = 1;
    for writer in writers {
        let tokens = writer.await.unwrap();
        stored += tokens.len();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        for answer in if tokens.is_empty() { vec![] } else { house.read(&tokens).await } {
            assert_eq!(shown(&answer), Err(ErrorCode::Erased));
        }
    }
    assert_eq!(erased.tokens as usize, stored, "every acknowledged value is in the erasure's scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_activity_is_forgotten_and_the_rest_is_kept_as_the_preview_said() {
    let house = Setting::new().await;
    let (ticket, subject) = house.person("a@example.com").await;
    let known = Some(tokenize_item::Subject::SubjectId(subject.clone()));
    let request = TokenizeRequest {
        activity: "newsletter".into(),
        ..purchase(vec![TokenizeItem { subject: known, ..item("1", "", "email", "a@example.com") }])
    };
    let answers = house.vault("orders").await.tokenize(request).await.unwrap().into_inner().items;
    let newsletter = made(&answers[0]).0;
    let mut officer = house.admin("dpo").await;
    let preview = PreviewErasureRequest {
        controller: SEE.into(),
        who: Some(preview_erasure_request::Who::Token(ticket.clone())),
        activities: vec!["newsletter".into()],
        ..PreviewErasureRequest::default()
    };
    let preview = officer.preview_erasure(preview).await.unwrap().into_inner();
    assert_eq!(preview.subject_id, subject);
    assert_eq!(preview.tokens.iter().map(|doomed| &doomed.token).collect::<Vec<_>>(), [&newsletter]);
    assert_eq!(preview.downstreams, ["mail", "affiliate"]);
    assert_eq!((preview.kept[0].activity.as_str(), preview.kept[0].tokens), ("ticket_purchase", 1));

    let mut request = erasing(SEE, &subject);
    request.activities = vec!["newsletter".into()];
    let erasure = officer.request_erasure(request).await.unwrap().into_inner().erasure.unwrap();
    assert_eq!((erasure.tokens, erasure.activities), (1, vec!["newsletter".to_owned()]));
    assert_eq!(shown(&house.read(&[&ticket]).await[0]).unwrap(), "a@example.com");
    let request = crate::setting::reading("newsletter", Default::default(), &[&newsletter]);
    let read = house.vault("mail").await.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]), Err(ErrorCode::Erased));
}

#[tokio::test(flavor = "multi_thread")]
async fn erasures_are_listed_page_by_page_and_filtered() {
    let house = Setting::new().await;
    let mut ids = Vec::new();
    for at in 0..5 {
        let (_, subject) = house.person(&format!("p{at}@example.com")).await;
        ids.push(house.erase(&subject).await.erasure.unwrap().erasure_id);
    }
    let mut officer = house.admin("auditor").await;
    let mut request = ListErasuresRequest { controller: SEE.into(), page_size: 2, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = officer.list_erasures(request.clone()).await.unwrap().into_inner();
        assert!(page.erasures.len() <= 2);
        listed.extend(page.erasures.into_iter().map(|erasure| erasure.erasure_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(listed, ids);
    let mut count = async |state: ErasureState, overdue| {
        let request = ListErasuresRequest {
            controller: SEE.into(),
            state: state.into(),
            overdue,
            ..Default::default()
        };
        officer.list_erasures(request).await.unwrap().into_inner().erasures.len()
    };
    assert_eq!(count(ErasureState::Completed, false).await, 0);
    assert_eq!(count(ErasureState::Unspecified, true).await, 0);
    let wrong = [
        ListErasuresRequest { page_size: 1_001, ..request.clone() },
        ListErasuresRequest { page_token: "1".into(), ..request.clone() },
        ListErasuresRequest { state: 77, ..request },
    ];
    for request in wrong {
        let status = house.admin("auditor").await.list_erasures(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_erasure_shows_each_change_and_ends_when_nothing_can_change() {
    let house = Setting::new().await;
    let request = TokenizeRequest {
        controller: ALONE.into(),
        activity: "sales".into(),
        ..purchase(vec![item("1", "p", "email", "a@example.com")])
    };
    let answers = house.vault("orders").await.tokenize(request).await.unwrap().into_inner().items;
    let mut officer = house.admin("dpo").await;
    let done = officer.request_erasure(erasing(ALONE, &made(&answers[0]).1)).await.unwrap().into_inner();
    let erasure_id = done.erasure.unwrap().erasure_id;
    let watch = WatchErasureRequest { erasure_id: erasure_id.clone() };
    let mut changes = officer.watch_erasure(watch).await.unwrap().into_inner();
    let mut last = None;
    while let Some(change) = changes.message().await.unwrap() {
        let now = change.erasure.unwrap();
        assert_ne!(Some(&now), last.as_ref(), "only changes are told");
        last = Some(now);
    }
    assert_eq!(last.unwrap().state(), ErasureState::Completed);

    let stranger = WatchErasureRequest { erasure_id };
    let status = house.admin("lumen-dpo").await.watch_erasure(stranger).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downstream_registers_and_replays_the_ledger_and_nobody_else_does() {
    let house = Setting::new().await;
    let (token, subject) = house.person("a@example.com").await;
    let erasure_id = house.erase(&subject).await.erasure.unwrap().erasure_id;
    let mut mail = house.admin("mail").await;
    // RFC 8032, test 1.
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let verifying_key: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap()).collect();
    let register = RegisterDownstreamRequest {
        downstream: "mail".into(),
        verifying_key: verifying_key.into(),
        copies_tree_id: String::new(),
        destroy_class: "overwritten".into(),
    };
    let told = mail.register_downstream(register.clone()).await.unwrap().into_inner();
    assert_eq!(told.controllers, ["active-tickets", "see-tickets"]);
    assert_eq!(told.announcer_keys[0].len(), 32);
    assert!(told.kafka_bootstrap.contains(':'));
    let status = house.admin("affiliate").await.register_downstream(register.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let bad = RegisterDownstreamRequest { verifying_key: vec![1; 31].into(), ..register };
    assert_eq!(mail.register_downstream(bad).await.unwrap_err().code(), Code::InvalidArgument);

    let list = ListDownstreamsRequest { controller: SEE.into() };
    let list = house.admin("auditor").await.list_downstreams(list).await.unwrap().into_inner().downstreams;
    let known: Vec<_> =
        list.iter().map(|known| (known.downstream.as_str(), known.registered, known.open_purges)).collect();
    assert_eq!(known, [("mail", true, 1), ("affiliate", false, 1)]);

    let replay = ReplayErasuresRequest { downstream: "mail".into(), since: 0 };
    let mut items = mail.replay_erasures(replay.clone()).await.unwrap().into_inner();
    let (mut purges, mut ended) = (0, false);
    while let Some(item) = items.message().await.unwrap() {
        assert!(!ended, "the empty record is the last one");
        ended = item.record.is_empty();
        purges += usize::from(item.key == token);
        assert!(ended || item.headers.contains_key("sig"));
    }
    assert!(ended && purges == 1);
    let status = house.admin("affiliate").await.replay_erasures(replay).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let redrive = RedriveErasureRequest { erasure_id };
    house.admin("dpo").await.redrive_erasure(redrive).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_that_would_strand_stored_data_is_refused_and_changes_nothing() {
    let house = Setting::new().await;
    let (token, _) = house.person("a@example.com").await;
    made(&house.tokenize(vec![item("1", "p", "ip_address", "192.0.2.7")]).await[0]);
    let mut admin = house.admin("admin").await;
    let apply = |toml: String, dry_run| ApplyRegisterRequest { toml, dry_run };
    let stranding = shipped(SEE).replace(", \"ip_address\"]", "]");
    for dry_run in [true, false] {
        let status = admin.apply_register(apply(stranding.clone(), dry_run)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
    }
    for broken in ["", "controller = ", "planted = 'value'"] {
        let status = admin.apply_register(apply(broken.into(), false)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert_eq!(shown(&house.read(&[&token]).await[0]).unwrap(), "a@example.com");

    let longer = shipped(SEE).replace("deadline_hours = 24", "deadline_hours = 48");
    let shown_first = admin.apply_register(apply(longer.clone(), true)).await.unwrap().into_inner();
    assert!(!shown_first.changes.is_empty());
    let applied = admin.apply_register(apply(longer.clone(), false)).await.unwrap().into_inner();
    assert_eq!((applied.changes, applied.version), (shown_first.changes, 2));
    let unchanged = admin.apply_register(apply(longer, false)).await.unwrap().into_inner();
    assert_eq!((unchanged.changes.len(), unchanged.version), (0, 2));
    let status = house.admin("orders").await.apply_register(apply(shipped(SEE), false)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}
