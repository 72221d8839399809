//! Tokens found by value: in every spelling that is the same, after a start, as often as is allowed, and nothing of
//! what was erased.

use std::path::Path;

use cloakroom_proto::admin::v1::{
    PreviewErasureRequest, RequestErasureRequest, ValueLookup, preview_erasure_request,
    request_erasure_request,
};
use cloakroom_proto::vault::v1::lookup_result::Result as Answer;
use cloakroom_proto::vault::v1::{
    ErrorCode, LookupItem, LookupRequest, LookupResult, ReleaseItem, ReleaseRequest, TokenizeRequest,
};
use tonic::{Code, Status};

use crate::setting::{SEE, Setting, erasing, item, made, said, until};

/// A controller whose every field can be looked up.
const REGISTER: &str = r#"
controller = "finder"
name = "A controller that looks things up"
time_zone = "Europe/London"
token_domain = "tokens.finder.example"
FIELDS
[[role]]
principal = "spiffe://cloakroom.local/person/dpo"
role = "dpo"

[[role]]
principal = "spiffe://cloakroom.local/service/orders"
role = "service"

[[activity]]
id = "sales"
name = "Sales"
purposes = ["selling"]
legal_basis = "6.1.b"
fields = [IDS]
origin = "The buyer"
retention = "1 year"
recipients = []
transfers = "None"
security = "Tokens in place of values"

[[activity.access]]
principal = "spiffe://cloakroom.local/service/orders"
may = ["write", "lookup"]
"#;

/// Of each field type: what is stored, what finds it, and what does not.
const SPELLINGS: [(&str, &str, &str, &str); 11] = [
    ("email", "Jane@Example.com", " jane@EXAMPLE.com ", "jane@example.org"),
    ("phone", "+34 655 12 13 72", "+34655121372", "+34655121373"),
    ("full_name", "Zoë  Große", "zoe\u{308} GROSSE", "Zoe Große"),
    ("postal_address", "1 High  Street, Leeds", "1 HIGH STREET, leeds", "2 High Street, Leeds"),
    ("text", "Row Ⅷ", "row viii", "row ix"),
    ("birth_date", "1990-02-01", " 1990-02-01", "1990-01-02"),
    ("digits", "12 34-56", "123456", "1234567"),
    ("document_number", "ab-12.34", "AB1234", "AB1235"),
    ("iban", "GB82 WEST 1234 5698 7654 32", "gb82west12345698765432", "DE89370400440532013000"),
    ("ip_address", "2001:DB8:0::1", "2001:db8::1", "2001:db8::2"),
    ("code", "Yes-1", " Yes-1", "yes-1"),
];

fn asked(controller: &str, reason: &str, items: &[(&str, &str)]) -> LookupRequest {
    let item = |(field, value): &(&str, &str)| LookupItem {
        reference: String::new(),
        field: (*field).to_owned(),
        value: value.as_bytes().to_vec().into(),
    };
    LookupRequest {
        controller: controller.to_owned(),
        reason: reason.to_owned(),
        items: items.iter().map(item).collect(),
    }
}

async fn look_up(house: &Setting, who: &str, request: LookupRequest) -> Result<Vec<LookupResult>, Status> {
    Ok(house.vault(who).await.lookup(request).await?.into_inner().items)
}

/// Support's look-up of addresses, once values can be found.
async fn addresses(house: &Setting, values: &[&str]) -> Vec<LookupResult> {
    let items: Vec<(&str, &str)> = values.iter().map(|value| ("email", *value)).collect();
    until(async || match look_up(house, "support", asked(SEE, "", &items)).await {
        Ok(answers) => Some(answers),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            None
        }
    })
    .await
}

/// The tokens that were found.
fn tokens(answer: &LookupResult) -> Vec<String> {
    match answer.result.as_ref().unwrap() {
        Answer::Matches(matches) => matches.found.iter().map(|found| found.token.clone()).collect(),
        Answer::Error(error) => panic!("{:?}", said(error)),
    }
}

fn code(answer: &LookupResult) -> Option<ErrorCode> {
    match answer.result.as_ref().unwrap() {
        Answer::Matches(_) => None,
        Answer::Error(error) => Some(error.code()),
    }
}

/// Whether some file below the folder holds these bytes.
fn holds(folder: &Path, needle: &str) -> bool {
    std::fs::read_dir(folder).unwrap().map(Result::unwrap).any(|entry| {
        if entry.file_type().unwrap().is_dir() {
            holds(&entry.path(), needle)
        } else {
            let bytes = std::fs::read(entry.path()).unwrap();
            bytes.windows(needle.len()).any(|part| part == needle.as_bytes())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_found_in_every_spelling_that_its_field_type_takes_for_the_same() {
    let house = Setting::bare().await;
    let field = |(kind, ..): &(&str, &str, &str, &str)| {
        format!("[[field]]\nid = \"{kind}\"\ntype = \"{kind}\"\ncategory = \"contact\"\nlookup = true\n")
    };
    let ids: Vec<String> = SPELLINGS.iter().map(|(kind, ..)| format!("\"{kind}\"")).collect();
    let fields: Vec<String> = SPELLINGS.iter().map(field).collect();
    house.apply(&REGISTER.replace("FIELDS", &fields.join("\n")).replace("IDS", &ids.join(", "))).await;
    let items = SPELLINGS.iter().map(|(kind, stored, ..)| item(kind, "p", kind, stored)).collect();
    let request = TokenizeRequest {
        controller: "finder".into(),
        activity: "sales".into(),
        idempotency_key: String::new(),
        items,
    };
    let stored = house.vault("orders").await.tokenize(request).await.unwrap().into_inner().items;
    let spelled: Vec<(&str, &str)> = SPELLINGS.iter().map(|(kind, _, same, _)| (*kind, *same)).collect();
    let others: Vec<(&str, &str)> = SPELLINGS.iter().map(|(kind, .., other)| (*kind, *other)).collect();
    let found = until(async || look_up(&house, "orders", asked("finder", "", &spelled)).await.ok()).await;
    for ((kind, same), (stored, found)) in spelled.iter().zip(stored.iter().zip(&found)) {
        assert_eq!(tokens(found), [made(stored).0], "{kind}: {same}");
    }
    for (other, found) in
        others.iter().zip(look_up(&house, "orders", asked("finder", "", &others)).await.unwrap())
    {
        assert_eq!(tokens(&found), Vec::<String>::new(), "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_values_are_found_once_they_have_been_read_again() {
    let mut house = Setting::new().await;
    let (token, _) = house.person("ada@example.com").await;
    assert_eq!(tokens(&addresses(&house, &["ADA@example.com"]).await[0]), std::slice::from_ref(&token));
    let _drained = house.stop().await;
    house.start().await;
    assert_eq!(tokens(&addresses(&house, &["ada@example.com"]).await[0]), [token]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_answers_as_what_nobody_has() {
    let mut house = Setting::new().await;
    let (_, subject) = house.person("ada@example.com").await;
    let (released, _) = house.person("bob@example.com").await;
    let (kept, _) = house.person("cy@example.com").await;
    house.erase(&subject).await;
    let items = vec![ReleaseItem { reference: String::new(), token: released }];
    let release = ReleaseRequest { controller: SEE.into(), items };
    house.vault("orders").await.release(release).await.unwrap();
    for _ in ["as it ran", "after a start"] {
        let answers =
            addresses(&house, &["never@example.com", "ada@example.com", "bob@example.com", "cy@example.com"])
                .await;
        assert_eq!((&answers[1], &answers[2]), (&answers[0], &answers[0]));
        assert_eq!(tokens(&answers[3]), std::slice::from_ref(&kept));
        let _drained = house.stop().await;
        house.start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_without_the_mark_is_invalid_and_a_caller_without_the_grant_is_denied() {
    let house = Setting::new().await;
    house.person("ada@example.com").await;
    let of = |who: &'static str, field: &'static str| {
        let house = &house;
        async move {
            until(async || look_up(house, who, asked(SEE, "", &[(field, "Ada")])).await.ok()).await.remove(0)
        }
    };
    assert_eq!(code(&of("support", "full_name").await), Some(ErrorCode::Invalid));
    assert_eq!(code(&of("orders", "email").await), Some(ErrorCode::Denied));
    let foreign = look_up(&house, "box-office", asked(SEE, "", &[("email", "ada@example.com")])).await;
    assert_eq!(foreign.unwrap_err().code(), Code::PermissionDenied);
    let person = look_up(&house, "dpo", asked(SEE, "", &[("email", "ada@example.com")])).await.unwrap_err();
    assert!(person.code() == Code::InvalidArgument && person.message().contains("reason"), "{person}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_up_too_often_is_refused_and_that_is_on_record_too() {
    let mut house = Setting::bare().await;
    let _drained = house.stop().await;
    let mut config = house.config();
    (config.lookup.per_second, config.lookup.burst) = (1, 60);
    house.start_with(config).await.unwrap();
    house.apply(&crate::setting::shipped(SEE)).await;
    addresses(&house, &["never@example.com"]).await;
    let sixty = vec![("email", "planted.ada@example.com"); 59];
    look_up(&house, "support", asked(SEE, "case-allowed", &sixty)).await.unwrap();
    let refused = look_up(&house, "support", asked(SEE, "case-too-often", &sixty)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(!refused.message().contains("planted"), "{refused}");
    // Somebody else's are theirs.
    look_up(&house, "mail", asked(SEE, "", &sixty)).await.unwrap();
    let _drained = house.stop().await;
    let access = house.config().data.join("access");
    for reason in ["case-allowed", "case-too-often"] {
        assert!(holds(&access, reason), "{reason} is not on record");
    }
    assert!(!holds(house.folder.path(), "planted.ada"), "a value that was looked up was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_forgotten_by_an_address_that_nobody_else_has() {
    let house = Setting::new().await;
    let (token, subject) = house.person("ada.planted@example.com").await;
    house.person("twin.planted@example.com").await;
    house.person("twin.planted@example.com").await;
    addresses(&house, &["never@example.com"]).await;
    let sought =
        |value: &str| ValueLookup { field: "email".to_owned(), value: value.as_bytes().to_vec().into() };
    let mut officer = house.admin("dpo").await;
    let preview = PreviewErasureRequest {
        controller: SEE.to_owned(),
        who: Some(preview_erasure_request::Who::Lookup(sought(" Ada.Planted@EXAMPLE.com"))),
        reason: "case-1".to_owned(),
        ..PreviewErasureRequest::default()
    };
    let unexplained = PreviewErasureRequest { reason: String::new(), ..preview.clone() };
    let shown = officer.preview_erasure(preview).await.unwrap().into_inner();
    assert!(shown.subject_id == subject && shown.tokens.iter().any(|doomed| doomed.token == token));
    let refused = officer.preview_erasure(unexplained).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("reason"), "{refused}");

    let mut by = async |value: &str| {
        let who = Some(request_erasure_request::Who::Lookup(sought(value)));
        officer.request_erasure(RequestErasureRequest { who, ..erasing(SEE, "") }).await
    };
    let several = by("twin.planted@example.com").await.unwrap_err();
    assert!(several.code() == Code::FailedPrecondition && several.message().starts_with("2 "), "{several}");
    by("ada.planted@example.com").await.unwrap();
    let erased = by("ada.planted@example.com").await.unwrap_err();
    let never = by("never.planted@example.com").await.unwrap_err();
    assert_eq!((erased.code(), erased.message()), (Code::NotFound, never.message()));
    let answers = addresses(&house, &["ada.planted@example.com", "twin.planted@example.com"]).await;
    assert_eq!((tokens(&answers[0]).len(), tokens(&answers[1]).len()), (0, 2));
    for written in ["planted@example", "Planted@EXAMPLE"] {
        assert!(!holds(house.folder.path(), written), "a value that was looked up was written");
    }
}
