//! Kafka is down before, during and after an erasure.

use std::time::{Duration, Instant};

use cloakroom_proto::admin::v1::{ErasureState, GetStatusRequest};
use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;

use crate::house::{House, SETTLE_MAX, metric};
use crate::load::{Hand, Person, invariant_mail, invariants, state_of};

/// An erasure waits for its batch and two syncs, whoever else is away.
const ERASE_MAX: Duration = Duration::from_secs(10);

async fn erase_in_time(hand: &mut Hand, at: usize) {
    let begun = Instant::now();
    hand.erase(at).await;
    assert!(begun.elapsed() < ERASE_MAX, "an erasure waited for Kafka: {:?}", begun.elapsed());
}

async fn state(house: &House, person: &Person) -> ErasureState {
    state_of(house, &person.erasure.as_ref().unwrap().erasure_id).await
}

/// Erasing returns while nobody can be told; the telling follows, also where the vault was killed in between, and
/// has its effect once.
#[tokio::test]
async fn erasures_return_while_kafka_is_away_and_are_announced_after() {
    let mut kafka = Kafka::start();
    let mut house = House::open(Some(&kafka.bootstrap())).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    for at in 0..8 {
        hand.check_in().await;
        hand.send_ticket(at).await;
        hand.convert(at).await;
    }
    // During: it dies right behind the first.
    hand.erase(0).await;
    kafka.kill9();
    for at in 1..4 {
        erase_in_time(&mut hand, at).await;
    }
    for at in 1..4 {
        let state = state(&house, &hand.people[at]).await;
        assert!(state < ErasureState::Completed, "{state:?} without anybody to tell");
    }
    // The downstreams have the copies still, and so has nobody who asks the vault.
    assert_eq!(house.mail_statistics().await.copies, 16 - 2 * gone(&house).await);
    let admin = house.admin("admin");
    let waiting = admin.get_status(GetStatusRequest {}).await.unwrap();
    assert!(waiting.announce_lag > 0 && waiting.open_erasures >= 3, "{waiting:?}");

    // Who is killed meanwhile remembers what is to be told.
    house.vault.kill9();
    house.vault.start();
    house.vault_is_ready().await;
    erase_in_time(&mut hand, 4).await;

    kafka.restart();
    for at in 0..5 {
        house.completed(&hand.people[at].erasure.as_ref().unwrap().erasure_id).await;
    }
    // After: as if nothing had been.
    erase_in_time(&mut hand, 5).await;
    invariants(&house, std::slice::from_ref(&hand)).await;
    wait::until(SETTLE_MAX, "everything is announced", async || {
        let status = admin.get_status(GetStatusRequest {}).await.unwrap();
        (status.announce_lag == 0).then_some(())
    })
    .await;

    // Told three times, on purpose, while one downstream keeps the erasure open: nothing happens twice.
    house.affiliate.kill9();
    hand.erase(6).await;
    let people: Vec<&Person> = hand.people.iter().collect();
    invariant_mail(&house, &people).await;
    let before = house.mail_statistics().await;
    let told = async || metric(house.at.mail_health, "cloakroom_downstream_purges_total").await;
    let first = told().await;
    hand.redrive(6).await;
    hand.redrive(6).await;
    wait::until(SETTLE_MAX, "mail is told again", async || (told().await >= first + 10.0).then_some(()))
        .await;
    assert_eq!(house.mail_statistics().await, before);
    house.affiliate.start();
    house.downstreams_are_ready().await;
    invariants(&house, &[hand]).await;
}

/// How many people mail has purged already: the first erasure may have reached it before Kafka died.
async fn gone(house: &House) -> u64 {
    let purged = house.mail_statistics().await.purged;
    assert_eq!(purged % 5, 0, "a person is purged whole");
    purged / 5
}
