//! Older folders in place of today's, second daemons, clones: a closed gate or a refusal, and the living tree
//! unharmed.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use cloakroom_client::{AdminClient, Client, ClientError, Retry};
use cloakroom_proto::admin::v1::{GetStatusRequest, VerifyLogRequest};
use cloakroom_proto::vault::v1::{DescribeRequest, ErrorCode};
use cloakroom_testkit::seed::Sequence;
use tonic::Code;

use crate::house::{Addresses, House, copy_folder, gate};
use crate::load::Hand;

/// A vault without downstreams and without Kafka, and some people in it, one of them forgotten.
async fn lived_in() -> (House, Hand) {
    let house = House::open_vault(None).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    live_on(&mut hand).await;
    (house, hand)
}

async fn live_on(hand: &mut Hand) {
    let first = hand.people.len();
    for _ in 0..3 {
        hand.check_in().await;
    }
    hand.erase(first).await;
}

async fn unharmed(house: &House, hand: &Hand) {
    house.vault_is_ready().await;
    for at in 0..hand.people.len() {
        hand.invariant_reads(at).await;
    }
    let verdict = house.admin("admin").verify_log(VerifyLogRequest {}).await.unwrap();
    assert_eq!(verdict.problems, Vec::<String>::new());
}

/// Calls are answered, and none of them with data, and none with ERASED.
pub(crate) async fn answers_nothing(house: &House, at: &Addresses, hand: &Hand, reason: &str) {
    let impatient = Retry { deadline: Duration::from_secs(5), ..Retry::default() };
    let endpoint = |address, name| house.endpoint(address, name);
    let admin = AdminClient::lazy(&endpoint(at.admin, "admin"), None).unwrap().with_retry(impatient);
    let refused = admin.get_status(GetStatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unavailable));
    assert!(refused.to_string().contains(reason), "{refused} does not say {reason}");

    let orders = Client::lazy(&endpoint(at.vault, "orders"), None).unwrap().with_retry(impatient);
    let tokens = hand.people.iter().flat_map(|person| person.tokens.clone()).collect();
    let request = DescribeRequest { controller: house.controller.clone(), tokens };
    match orders.describe(request).await {
        Ok(answers) => {
            for answer in answers {
                assert_eq!(answer.result.unwrap_err().code, ErrorCode::KeyUnavailable);
            }
        }
        Err(ClientError::Status(status)) => assert_eq!(status.code(), Code::Unavailable),
        Err(error) => panic!("{error}"),
    }
}

/// Puts `folder` away and `other` in its place.
fn swap(folder: &Path, other: &Path) {
    let away = folder.with_extension("away");
    fs::rename(folder, &away).unwrap();
    fs::rename(other, folder).unwrap();
    fs::rename(&away, other).unwrap();
}

/// Keeps what `part` of the vault was, lets the vault live on, and puts the older one in today's place.
async fn an_older_folder_closes_the_gate(part: &str) {
    let (mut house, mut hand) = lived_in().await;
    assert!(house.vault.stop().await.success());
    let (today, older) = (house.folder().join("vault").join(part), house.folder().join("older"));
    copy_folder(&today, &older);
    house.vault.start();
    house.vault_is_ready().await;
    live_on(&mut hand).await;
    assert!(house.vault.stop().await.success());

    swap(&today, &older);
    house.vault.start();
    let reason = gate(house.at.vault_health).await;
    println!("an older {part} folder: {reason}");
    answers_nothing(&house, &house.at, &hand, &reason).await;
    assert!(house.vault.stop().await.success());

    swap(&today, &older);
    house.vault.start();
    unharmed(&house, &hand).await;
}

#[tokio::test]
async fn an_older_key_folder_closes_the_gate_and_todays_still_fits() {
    an_older_folder_closes_the_gate("keys").await;
}

#[tokio::test]
async fn an_older_log_closes_the_gate_and_todays_still_fits() {
    an_older_folder_closes_the_gate("data").await;
}

/// Ends by itself, not as a success, and says in our words why.
fn refused_to_start(ended: ExitStatus, output: &str, why: &str) {
    assert_eq!(ended.code(), Some(1), "{output}");
    let last = output.lines().last().unwrap_or_default();
    println!("refused: {last}");
    assert!(last.starts_with("cloakroomd: ") && last.contains(why), "no clear last word: {output}");
}

#[tokio::test]
async fn a_second_vault_on_the_same_folders_ends_and_harms_nothing() {
    let (house, mut hand) = lived_in().await;
    let (mut second, _) = house.another_vault("vault", None);
    second.start();
    let why = "vault/data is in use by another process";
    refused_to_start(second.wait(Duration::from_secs(60)).await, &second.output(), why);
    live_on(&mut hand).await;
    unharmed(&house, &hand).await;
}

/// With the same roots: while the original lives the clone does not own the tree; once the original has gone on,
/// the clone's top page opens with no root there is.
#[tokio::test]
async fn a_clone_beside_the_original_stays_shut_and_harms_nothing() {
    let (mut house, mut hand) = lived_in().await;
    assert!(house.vault.stop().await.success());
    copy_folder(&house.folder().join("vault"), &house.folder().join("clone"));
    house.vault.start();
    house.vault_is_ready().await;
    let (mut clone, at) = house.another_vault("clone", None);
    clone.start();
    let why = "has another owner";
    refused_to_start(clone.wait(Duration::from_secs(60)).await, &clone.output(), why);
    live_on(&mut hand).await;
    unharmed(&house, &hand).await;

    assert!(house.vault.stop().await.success());
    clone.start();
    let reason = gate(at.vault_health).await;
    println!("a clone, its original gone on: {reason}");
    answers_nothing(&house, &at, &hand, &reason).await;
    clone.kill9();
    house.vault.start();
    unharmed(&house, &hand).await;
}
