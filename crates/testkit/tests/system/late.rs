//! What comes too late, and what nobody may say.

use std::collections::BTreeSet;

use cloakroom_bus::{Bootstrap, BusConfig, Outgoing, Publisher, Signed, Signer, Subscription, topics};
use cloakroom_crypto::jws;
use cloakroom_crypto::sign::SigningKey;
use cloakroom_proto::admin::v1::GetSigningKeysRequest;
use cloakroom_proto::bus::v1::{DeadLetter, Purge};
use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::{unique, wait};
use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tonic::Code;

use crate::house::{House, SETTLE_MAX, metric};
use crate::load::{Hand, Person, invariant_mail, refused_ticket};

const REFUSED: &str = "cloakroom_downstream_records_refused_total";
const DEAD_LETTERS: &str = "cloakroom_downstream_dead_letters_total";

/// A purge of a living token, signed by somebody else, and one whose signature was broken on its way.
#[tokio::test]
async fn a_forged_erasure_is_refused_counted_and_dead_lettered() {
    let kafka = Kafka::shared();
    let house = House::open(Some(kafka)).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    hand.check_in().await;
    hand.send_ticket(0).await;
    let person = &hand.people[0];
    let people = [person];
    invariant_mail(&house, &people).await;

    let config = BusConfig::plaintext(Bootstrap::Address(kafka.to_owned()));
    let forger =
        Signer { source: "spiffe://cloakroom.local/vault".to_owned(), key: SigningKey::generate().into() };
    let broken = purge(&house, person, &unique("broken")).signed(&forger).unwrap();
    let forged = purge(&house, person, &unique("forged"));
    Publisher::connect(&config, forger).publish(vec![forged]).await.unwrap();
    publish_as(&vault_kid(&house).await, broken, kafka).await;

    for health in [house.at.mail_health, house.at.affiliate_health] {
        wait::until(SETTLE_MAX, "both are counted", async || {
            let counted = metric(health, REFUSED).await >= 2.0 && metric(health, DEAD_LETTERS).await >= 2.0;
            counted.then_some(())
        })
        .await;
    }
    let letters = dead_letters(&config, &topics::erasure(&house.controller)).await;
    let expected = ["affiliate", "mail"].map(|who| ["bad-signature", "unknown-key"].map(|why| (who, why)));
    let expected = expected.concat().into_iter().map(|(who, why)| (who.to_owned(), why.to_owned()));
    assert_eq!(letters, expected.collect());

    // Nothing was purged: the copy is there, and is used.
    invariant_mail(&house, &people).await;
    hand.send_ticket(0).await;
    hand.invariant_reads(0).await;
}

fn purge(house: &House, person: &Person, id: &str) -> Outgoing {
    let token = person.tokens[0].clone();
    let purge = Purge {
        version: 1,
        purge_id: id.to_owned(),
        token: token.clone(),
        field: "email".to_owned(),
        activity: "ticket_purchase".to_owned(),
        deadline_unix_ms: 4_000_000_000_000,
    };
    Outgoing::new(topics::erasure(&house.controller), token, id, 1_800_000_000_000, &purge).unwrap()
}

/// The name of the key that the vault signs with.
async fn vault_kid(house: &House) -> String {
    let jwks = house.admin("admin").get_signing_keys(GetSigningKeysRequest {}).await.unwrap().jwks;
    jws::parse_jwks(&jwks).unwrap()[0].kid()
}

/// Sends what somebody else has signed in the name of the vault's key.
async fn publish_as(kid: &str, signed: Signed, kafka: &str) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", kafka).create().unwrap();
    let mut headers = OwnedHeaders::new();
    for (name, value) in &signed.headers {
        let value = if name == "kid" { kid.as_bytes() } else { value.as_ref() };
        headers = headers.insert(Header { key: name, value: Some(value) });
    }
    let record =
        FutureRecord::to(&signed.topic).key(&signed.key).payload(signed.value.as_ref()).headers(headers);
    producer.send(record, SETTLE_MAX).await.unwrap();
}

/// Who wrote what about records of `topic`, once there are four letters.
async fn dead_letters(config: &BusConfig, topic: &str) -> BTreeSet<(String, String)> {
    let mut letters = Subscription::open(config, &unique("test"), [topics::DEAD_LETTER.to_owned()]);
    let mut found = BTreeSet::new();
    let all = async {
        while found.len() < 4 {
            let letter = DeadLetter::decode(letters.next().await.unwrap().value).unwrap();
            if letter.topic == topic {
                found.insert((letter.downstream, letter.reason));
            }
        }
    };
    let ended = tokio::time::timeout(SETTLE_MAX, all).await;
    assert!(ended.is_ok(), "only {found:?}");
    letters.close().await;
    found
}

/// Mail knows nothing of a person until after the erasure; then it reads, and must have nothing and keep nothing.
#[tokio::test]
async fn what_arrives_at_a_downstream_after_its_purge_is_not_kept() {
    let house = House::open(Some(Kafka::shared())).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    for at in 0..2 {
        hand.check_in().await;
        hand.send_ticket(at).await;
    }
    hand.check_in().await;
    for at in 1..3 {
        hand.erase(at).await;
        house.completed(&hand.people[at].erasure.as_ref().unwrap().erasure_id).await;
    }
    for at in 1..3 {
        let refused = refused_ticket(&house, &hand.people[at]).await;
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    let people: Vec<&Person> = hand.people.iter().collect();
    invariant_mail(&house, &people).await;
    // Not by a start either, which plays the ledger again.
    let mut house = house;
    house.mail.kill9();
    house.mail.start();
    house.downstreams_are_ready().await;
    invariant_mail(&house, &people).await;
    refused_ticket(&house, &hand.people[1]).await;
}
