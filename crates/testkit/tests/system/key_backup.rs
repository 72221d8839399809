//! The keys' disk dies, and an operator goes on from a key backup with the command line alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use cloakroom_crypto::jws;
use cloakroom_proto::admin::v1::{
    GetCertificateRequest, GetErasureRequest, GetSigningKeysRequest, VerifyLogRequest,
};
use cloakroom_proto::vault::v1::{DescribeRequest, DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode};
use cloakroom_testkit::daemons::program;
use cloakroom_testkit::seed::Sequence;
use serde_json::Value;

use crate::house::{House, gate, metric};
use crate::load::Hand;

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// Whether the command line did it, what it said as JSON, and in words.
fn cloakroom(house: &House, arguments: &[&str]) -> (bool, Value, String) {
    let mut command = Command::new(program("cloakroom"));
    command.args(["--output", "json", "--admin", &house.at.admin.to_string(), "--as", "admin", "--certs"]);
    command.arg(house.folder().join("certs")).args(arguments).env_remove("CLOAKROOM_OUTPUT");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

fn done(house: &House, arguments: &[&str]) -> Value {
    let (done, told, said) = cloakroom(house, arguments);
    assert!(done, "{arguments:?}: {said}");
    told
}

/// What mail gets for a person's first value, or why not.
async fn first_value(house: &House, hand: &Hand, at: usize) -> Result<String, ErrorCode> {
    let token = hand.people[at].tokens[0].clone();
    let request = DetokenizeRequest {
        controller: house.controller.clone(),
        purpose: "ticket_delivery".to_owned(),
        mode: ReadMode::Plain.into(),
        items: vec![DetokenizeItem { reference: String::new(), token }],
        ..DetokenizeRequest::default()
    };
    let answer = house.client("mail").detokenize(request).await.unwrap().remove(0);
    answer.result.map(|value| value.as_str().unwrap().to_owned()).map_err(|refusal| refusal.code)
}

async fn lived_in() -> (House, Hand) {
    let mut house = House::prepare(None);
    let mut config = OpenOptions::new().append(true).open(house.folder().join("cloakroomd.toml")).unwrap();
    writeln!(config, "key_backups = {{ window_ms = {HOUR_MS} }}").unwrap();
    house.vault.start();
    house.vault_is_ready().await;
    house.apply_register().await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    for _ in 0..2 {
        hand.check_in().await;
    }
    (house, hand)
}

#[tokio::test]
async fn a_vault_whose_keys_are_lost_goes_on_from_a_key_backup_and_the_forgotten_stay_forgotten() {
    let (mut house, mut hand) = lived_in().await;
    let (safe, keys) = (house.folder().join("safe"), house.folder().join("vault/keys"));
    let (target, folder) = (safe.to_str().unwrap().to_owned(), keys.to_str().unwrap().to_owned());
    let listed = |house: &House| done(house, &["keys", "backup", "list", "--target", &target]);
    let made = done(&house, &["keys", "backup", "create", "--target", &target]);
    let id = made["id"].as_str().unwrap();
    let until = made["until_unix_ms"].as_i64().unwrap();
    assert_eq!(listed(&house)[0]["backup"]["id"], id);
    assert_eq!(listed(&house)[0]["opens"], true);

    // Known to the backup, and not; each is forgotten. Another is stored that the backup lacks.
    for _ in 0..2 {
        hand.check_in().await;
    }
    let final_at = async |hand: &Hand, at: usize| {
        let erasure_id = hand.people[at].erasure.as_ref().unwrap().erasure_id.clone();
        house.admin("dpo").get_erasure(GetErasureRequest { erasure_id }).await.unwrap().erasure.unwrap()
    };
    hand.erase(0).await;
    let known = final_at(&hand, 0).await;
    assert_eq!((known.final_at_unix_ms, known.final_unix_ms), (until, 0), "the backup could open it");
    hand.erase(2).await;
    let unknown = final_at(&hand, 2).await;
    assert!(unknown.final_unix_ms != 0 && unknown.final_at_unix_ms < until, "the backup never knew it");
    let status = done(&house, &["keys", "status"]);
    assert_eq!((&status["keys"]["roots_held"], &status["keys"]["not_final"]), (&2.into(), &1.into()));

    assert!(house.vault.stop().await.success());
    fs::remove_dir_all(&keys).unwrap();
    done(&house, &["keys", "backup", "restore", "--target", &target, "--keys", &folder]);
    let (again, _, said) =
        cloakroom(&house, &["keys", "backup", "restore", "--target", &target, "--keys", &folder]);
    assert!(!again, "over keys that are there: {said}");
    house.vault.start();
    let reason = gate(house.at.vault_health).await;
    assert!(reason.contains("restore-escrowed"), "{reason}");
    let describe =
        DescribeRequest { controller: house.controller.clone(), tokens: hand.people[1].tokens.clone() };
    for answer in house.client("orders").describe(describe).await.into_iter().flatten() {
        assert_eq!(answer.result.unwrap_err().code, ErrorCode::KeyUnavailable);
    }
    let would = done(&house, &["keys", "restore-escrowed"]);
    assert_eq!(would["restored"], false);
    assert!(would["slots_lost"].as_u64() >= Some(hand.people[3].tokens.len() as u64), "{would}");
    assert_eq!(gate(house.at.vault_health).await, reason, "said, not done");
    assert_eq!(done(&house, &["keys", "restore-escrowed", "--yes"])["restored"], true);

    house.vault_is_ready().await;
    let goes_on = async |house: &House, hand: &Hand| {
        for at in [0, 1, 2] {
            hand.invariant_reads(at).await;
        }
        assert_eq!(first_value(house, hand, 3).await, Err(ErrorCode::KeyUnavailable));
        let verdict = house.admin("admin").verify_log(VerifyLogRequest {}).await.unwrap();
        assert_eq!(verdict.problems, Vec::<String>::new());
    };
    goes_on(&house, &hand).await;
    assert_eq!(listed(&house)[0]["opens"], false, "used up: its root is destroyed");
    assert_eq!(done(&house, &["keys", "status"])["keys"]["roots_held"], 1);
    assert_eq!(metric(house.at.vault_health, "cloakroom_gate_closed").await, 0.0);
    hand.check_in().await;
    assert!(house.vault.stop().await.success());
    house.vault.start();
    house.vault_is_ready().await;
    goes_on(&house, &hand).await;
    hand.invariant_reads(4).await;
}

/// What the signed certificate of a person's erasure says, once there is one.
async fn certified(house: &House, hand: &Hand, at: usize) -> Value {
    let erasure_id = hand.people[at].erasure.as_ref().unwrap().erasure_id.clone();
    house.completed(&erasure_id).await;
    let dpo = house.admin("dpo");
    let keys = dpo.get_signing_keys(GetSigningKeysRequest {}).await.unwrap().jwks;
    let certificate = dpo.get_certificate(GetCertificateRequest { erasure_id }).await.unwrap().certificate;
    let (_, claims) = jws::verify(&certificate, &jws::parse_jwks(&keys).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

#[tokio::test]
async fn a_certificate_says_until_when_a_key_backup_could_open_what_died() {
    let (mut house, mut hand) = lived_in().await;
    let target = house.folder().join("safe").to_str().unwrap().to_owned();
    let back_up = |house: &House| {
        let made = done(house, &["keys", "backup", "create", "--target", &target]);
        made["until_unix_ms"].as_i64().unwrap()
    };
    // The first backup has ended when the downstreams answer.
    let ended = back_up(&house);
    hand.erase(0).await;
    done(&house, &["keys", "backup", "end", "--all"]);
    let until = back_up(&house);
    hand.check_in().await;
    hand.erase(1).await;
    hand.erase(2).await;
    house.mail.start();
    house.affiliate.start();
    house.downstreams_are_ready().await;
    let mut said = vec![];
    for at in 0..3 {
        let claims = certified(&house, &hand, at).await;
        said.push(["destroyed_unix_ms", "final_at_unix_ms"].map(|moment| claims[moment].as_i64().unwrap()));
    }
    let [destroyed, final_at] = said[0];
    assert!(destroyed < final_at && final_at < ended, "when it ended, not when it would have: {said:?}");
    let [destroyed, final_at] = said[1];
    assert!(destroyed < until && final_at == until, "the backup could open it: {said:?}");
    let [destroyed, final_at] = said[2];
    assert_eq!(destroyed, final_at, "the backup never knew it");
}
