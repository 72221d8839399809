//! Values that are not what they should be, or only look so. Each item's fault is its own; nothing else in the
//! batch suffers, and no message repeats a value.

use cloakroom_proto::vault::v1::{ErrorCode, TokenizeItem};

use crate::setting::{ALONE, Setting, item, made, purchase, refused, shown};

const KIB_64: usize = 64 * 1024;

/// Stores `good` beside what is wrong, and reads it back.
async fn beside_a_good_one(house: &Setting, bad: Vec<TokenizeItem>) -> Vec<(ErrorCode, String)> {
    let count = bad.len();
    let mut items = vec![item("good", "good", "email", "good@example.com")];
    items.extend(bad);
    items.push(item("last", "good", "full_name", "Last In Line"));
    let answers = house.tokenize(items).await;
    let (first, last) = (made(&answers[0]).0, made(&answers[count + 1]).0);
    let read = house.read(&[&first, &last]).await;
    assert_eq!(shown(&read[0]).unwrap(), "good@example.com");
    assert_eq!(shown(&read[1]).unwrap(), "Last In Line");
    answers[1..=count].iter().map(refused).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_value_and_one_of_64_kib_are_values_and_one_byte_more_is_invalid() {
    let house = Setting::new().await;
    let longest = "x".repeat(KIB_64);
    let answers = house
        .tokenize(vec![
            item("empty", "p", "full_name", ""),
            item("longest", "p", "full_name", &longest),
            item("longer", "p", "full_name", format!("{longest}x")),
        ])
        .await;
    let (code, message) = refused(&answers[2]);
    assert_eq!(code, ErrorCode::Invalid);
    assert!(message.len() < 200 && !message.contains("xxx"));
    let read = house.read(&[&made(&answers[0]).0, &made(&answers[1]).0]).await;
    assert_eq!(shown(&read[0]).unwrap(), "");
    assert_eq!(shown(&read[1]).unwrap(), longest);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf8_in_a_value_is_that_items_fault_alone() {
    let house = Setting::new().await;
    let refusals = beside_a_good_one(
        &house,
        vec![
            item("half", "p", "full_name", b"ab\xff"),
            item("surrogate", "p", "email", b"\xed\xa0\x80@x.example"),
        ],
    )
    .await;
    for (code, _) in refusals {
        assert_eq!(code, ErrorCode::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_are_kept_exactly_or_refused_by_the_fields_type() {
    let house = Setting::new().await;
    let refusals = beside_a_good_one(
        &house,
        vec![
            item("nul", "p", "full_name", "Ann\0a"),
            item("escape", "p", "email", "a\u{1b}@example.com"),
            item("delete", "p", "phone", "+34\u{7f}600123372"),
            item("nul in an address", "p", "postal_address", "1 High St\0"),
        ],
    )
    .await;
    for (code, message) in refusals {
        assert_eq!((code, message.contains("Ann")), (ErrorCode::Invalid, false));
    }
    let lines = "1 High St\r\n\tLondon";
    let answers = house.tokenize(vec![item("1", "p", "postal_address", lines)]).await;
    made(&answers[0]);
    // Free text keeps everything.
    let note = "a\0b\u{1b}[2J\u{7f}\u{85}";
    let mut shop = house.vault("orders").await;
    let request = cloakroom_proto::vault::v1::TokenizeRequest {
        controller: ALONE.into(),
        activity: "sales".into(),
        ..purchase(vec![item("1", "p", "note", note)])
    };
    let token = made(&shop.tokenize(request).await.unwrap().into_inner().items[0]).0;
    let request = cloakroom_proto::vault::v1::DetokenizeRequest {
        controller: ALONE.into(),
        ..crate::setting::reading("selling", cloakroom_proto::vault::v1::ReadMode::Plain, &[&token])
    };
    let read = shop.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]).unwrap(), note);
}

#[tokio::test(flavor = "multi_thread")]
async fn card_numbers_are_refused_in_every_field() {
    let house = Setting::new().await;
    let fields = ["email", "full_name", "phone", "birth_date", "postal_address", "ip_address"];
    let numbers = ["4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005", "5555555555554444"];
    let cards: Vec<_> = fields
        .iter()
        .flat_map(|field| numbers.map(|number| item(&format!("{field} {number}"), "p", field, number)))
        .collect();
    for (code, message) in beside_a_good_one(&house, cards).await {
        assert_eq!(code, ErrorCode::Invalid);
        assert!(!message.contains("4111") && !message.contains("3782") && !message.contains("5555"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_break_systems_come_back_byte_for_byte() {
    let house = Setting::new().await;
    let long = "n".repeat(200);
    let names = [
        "O'Brien-Šťastný",
        "e\u{301}lodie",
        "מרים כהן",
        "李",
        "J",
        "🎉👩‍👩‍👧",
        "  Ann  ",
        "Robert'); DROP TABLE subjects;--",
        "{{7*7}}",
        "null",
        &long,
    ];
    let items = names.iter().enumerate().map(|(at, name)| {
        let at = at.to_string();
        item(&at, &at, "full_name", name)
    });
    let answers = house.tokenize(items.collect()).await;
    let tokens: Vec<String> = answers.iter().map(|answer| made(answer).0).collect();
    let read = house.read(&tokens.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (name, answer) in names.iter().zip(&read) {
        assert_eq!(&shown(answer).unwrap(), name);
    }
}
