//! A person asks to be forgotten and has no token to show: the officer names a value of theirs on the command line.

use std::fs;
use std::process::{Command, Stdio};

use cloakroom_proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode, TokenizeItem, TokenizeRequest, tokenize_item,
};
use cloakroom_testkit::daemons::program;
use cloakroom_testkit::wait;
use serde_json::Value;

use crate::house::{House, SETTLE_MAX};

/// A value that must turn up in nothing that was said.
const PLANTED: &str = "planted-2c41";

/// Whether the command line did it, what it said as JSON, and in words. The value comes on stdin.
fn with_value(house: &House, who: &str, arguments: &[&str], value: &str) -> (bool, Value, String) {
    let path = house.folder().join("value");
    fs::write(&path, format!("{value}\n")).unwrap();
    let mut command = Command::new(program("cloakroom"));
    command.args(["--output", "json", "--as", who, "--vault", &house.at.vault.to_string()]);
    command.args(["--admin", &house.at.admin.to_string(), "--certs"]).arg(house.folder().join("certs"));
    command.args(arguments).args(["--field", "email", "--controller", &house.controller]);
    command.env_remove("CLOAKROOM_OUTPUT").stdin(Stdio::from(fs::File::open(&path).unwrap()));
    let output = command.output().unwrap();
    fs::remove_file(path).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains(PLANTED), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(PLANTED));
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// What `cloakroom erase` makes of a value, the officer's answer being in `more`.
fn erase(house: &House, value: &str, more: &[&str]) -> (bool, Value, String) {
    with_value(house, "dpo", &[&["erase", "--actor", "dsr-1", "--reason", "case-1"], more].concat(), value)
}

/// A new person: subject id, and the tokens of address and name.
async fn person(house: &House, email: &str) -> (String, [String; 2]) {
    let item = |(field, value): (&str, &str)| TokenizeItem {
        subject: Some(tokenize_item::Subject::NewSubject("p".to_owned())),
        field: field.to_owned(),
        value: value.as_bytes().to_vec().into(),
        ..TokenizeItem::default()
    };
    let request = TokenizeRequest {
        controller: house.controller.clone(),
        activity: "ticket_purchase".to_owned(),
        items: [("email", email), ("full_name", "Ada Lovelace")].map(item).to_vec(),
        ..TokenizeRequest::default()
    };
    let answers = house.client("orders").tokenize(request).await.unwrap();
    let made: Vec<_> = answers.into_iter().map(|answer| answer.result.unwrap()).collect();
    (made[0].subject_id.clone(), [made[0].token.clone(), made[1].token.clone()])
}

/// Why a person's values are not read; none where they are.
async fn refused(house: &House, tokens: &[String]) -> Vec<Option<ErrorCode>> {
    let item = |token: &String| DetokenizeItem { reference: String::new(), token: token.clone() };
    let request = DetokenizeRequest {
        controller: house.controller.clone(),
        purpose: "ticket_delivery".to_owned(),
        mode: ReadMode::Plain.into(),
        items: tokens.iter().map(item).collect(),
        ..DetokenizeRequest::default()
    };
    let answers = house.client("mail").detokenize(request).await.unwrap();
    answers.into_iter().map(|answer| answer.result.err().map(|refusal| refusal.code)).collect()
}

#[tokio::test]
async fn the_command_line_previews_and_forgets_exactly_whom_a_value_finds() {
    let house = House::open_vault(None).await;
    let (subject, ada) = person(&house, &format!("ada.{PLANTED}@example.com")).await;
    let (_, bob) = person(&house, "bob@example.com").await;
    let twins = [person(&house, "twin@example.com").await.1, person(&house, "twin@example.com").await.1];
    let others = [&bob[..], &twins.concat()].concat();
    let spelled = format!(" ADA.{}@example.com", PLANTED.to_uppercase());

    // Once the vault has read its values, the look-up and the preview name the same person, and nobody is erased.
    let found = wait::until(SETTLE_MAX, "values to be found by", async || {
        let (done, found, said) = with_value(&house, "support", &["lookup"], &spelled);
        assert!(done || said.contains("still being read"), "{said}");
        done.then_some(found)
    })
    .await;
    assert_eq!(
        (&found["found"][0]["subject_id"], found["found"].as_array().unwrap().len()),
        (&subject.clone().into(), 1)
    );
    let (done, shown, said) = erase(&house, &spelled, &[]);
    assert!(!done && said.contains("nothing was erased"), "{said}");
    assert_eq!(shown["preview"]["subject_id"], subject);
    let mut doomed: Vec<&str> =
        shown["preview"]["tokens"].as_array().unwrap().iter().filter_map(|it| it["token"].as_str()).collect();
    doomed.sort_unstable();
    let mut theirs = ada.each_ref().map(String::as_str);
    theirs.sort_unstable();
    assert_eq!(doomed, theirs);

    // What nobody has, and what several have, forgets nobody.
    let (done, _, nobody) = erase(&house, &format!("never.{PLANTED}@example.com"), &["--yes"]);
    assert!(!done && nobody.contains("no such subject"), "{nobody}");
    let (done, _, several) = erase(&house, "twin@example.com", &["--yes"]);
    assert!(!done && several.contains("2 subjects have this value"), "{several}");
    assert_eq!(refused(&house, &ada).await, [None; 2]);
    assert_eq!(refused(&house, &others).await, [None; 6]);

    let (done, told, said) = erase(&house, &spelled, &["--yes"]);
    assert!(done, "{said}");
    assert_eq!((&told["preview"]["subject_id"], &told["erasure"]["tokens"]), (&subject.into(), &2.into()));
    assert_eq!(refused(&house, &ada).await, [Some(ErrorCode::Erased); 2]);
    assert_eq!(refused(&house, &others).await, [None; 6]);
    let (done, _, again) = erase(&house, &spelled, &["--yes"]);
    assert_eq!((done, again), (false, nobody), "what was erased is what nobody has");
}
