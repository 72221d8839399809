use std::sync::Arc;

use cloakroom_bus::topics::{self, Difference};
use cloakroom_bus::{Bootstrap, BusConfig};
use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::{unique, wait};

use crate::suite::{DEADLINE, Vault, ids, purges};

fn config(bootstrap: String) -> BusConfig {
    BusConfig::plaintext(Bootstrap::Address(bootstrap))
}

/// The broker that the suite shares.
pub(crate) fn shared() -> BusConfig {
    config(Kafka::shared().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_a_broker_that_is_away_and_loses_nothing() {
    let mut kafka = Kafka::start();
    let config = config(kafka.bootstrap());
    let (vault, controller) = Vault::with_controller(&config).await;
    let vault = Arc::new(vault);
    let mut subscription = vault.subscribe("mail", &controller);
    let mut all = purges(&controller, 3000);
    let (after, during) = (all.split_off(2000), all.split_off(1000));

    vault.publish(all).await;
    let mut received = vault.receive(&mut subscription, 500).await;
    kafka.kill9();
    let sender = Arc::clone(&vault);
    let waiting = tokio::spawn(async move { sender.publisher.publish(during).await });
    wait::until(DEADLINE, "records wait in the publisher", async || {
        (vault.publisher.in_flight() == 1000).then_some(())
    })
    .await;
    assert!(!waiting.is_finished());
    kafka.restart();
    waiting.await.unwrap().unwrap();
    vault.publish(after).await;

    while ids(&received).len() < 3000 {
        received.extend(vault.receive(&mut subscription, 1).await);
    }
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_in_the_middle() {
    let mut kafka = Kafka::start();
    let config = config(kafka.bootstrap());
    let (vault, controller) = Vault::with_controller(&config).await;
    let vault = Arc::new(vault);
    let (sender, records) = (Arc::clone(&vault), purges(&controller, 6000));
    let sending = tokio::spawn(async move {
        for batch in records.chunks(50) {
            sender.publish(batch.to_vec()).await;
        }
    });
    let mut subscription = vault.subscribe("mail", &controller);
    let mut received = vault.receive(&mut subscription, 300).await;
    kafka.kill9();
    kafka.restart();
    sending.await.unwrap();
    while ids(&received).len() < 6000 {
        received.extend(vault.receive(&mut subscription, 1).await);
    }
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspect_names_what_differs() {
    let config = shared();
    let controllers = [unique("differs")];
    let erasure = topics::erasure(&controllers[0]);
    topics::ensure(&config, &controllers).await.unwrap();
    let longer = BusConfig { retention_ms: 7, partitions: 2, ..config };
    let found = wait::until(DEADLINE, "the topics are known", async || {
        let mut found = topics::inspect(&longer, &controllers).await.unwrap();
        found.retain(|(topic, _)| *topic == erasure);
        (!found.contains(&(erasure.clone(), Difference::Missing))).then_some(found)
    })
    .await;
    let is = Some((400_u64 * 24 * 3600 * 1000).to_string());
    let expected = [
        Difference::Partitions { is: 4, wanted: 2 },
        Difference::Setting { name: "retention.ms", is, wanted: "7".into() },
    ];
    assert_eq!(found.into_iter().map(|(_, differs)| differs).collect::<Vec<_>>(), expected);
}
