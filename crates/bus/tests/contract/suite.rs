use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cloakroom_bus::topics::{self, Difference};
use cloakroom_bus::{
    BusConfig, BusError, Incoming, Keyring, Kind, Outgoing, Publisher, Refused, Signer, Subscription,
    Verified, verify,
};
use cloakroom_crypto::sign::SigningKey;
use cloakroom_proto::bus::v1::{Checkpoint, Purge};
use cloakroom_testkit::{unique, wait};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::timeout;

/// On a machine without idle processors a broker has been seen to pause for half a minute.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// A vault that sends and whoever believes it.
pub(crate) struct Vault {
    pub(crate) publisher: Publisher,
    pub(crate) keyring: Keyring,
    config: BusConfig,
}

impl Vault {
    pub(crate) fn new(config: &BusConfig) -> Self {
        let key = Arc::new(SigningKey::generate());
        let keyring = Keyring::from_iter([("vault", key.verifying_key().clone())]);
        let publisher = Publisher::connect(config, Signer { source: "vault".into(), key });
        Self { publisher, keyring, config: config.clone() }
    }

    /// A vault and a controller of its own, whose topics are there.
    pub(crate) async fn with_controller(config: &BusConfig) -> (Self, String) {
        let controller = unique("acme");
        ensure(config, &controller).await;
        (Self::new(config), controller)
    }

    pub(crate) async fn publish(&self, records: Vec<Outgoing>) {
        timeout(DEADLINE, self.publisher.publish(records)).await.expect("in time").expect("published");
    }

    /// The downstream `name` of `controller`.
    pub(crate) fn subscribe(&self, name: &str, controller: &str) -> Subscription {
        let group = format!("{name}-{controller}");
        Subscription::open(&self.config, &group, [topics::erasure(controller)])
    }

    pub(crate) async fn receive(&self, subscription: &mut Subscription, count: usize) -> Vec<Verified> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let record = receive(subscription).await;
            all.push(verify(record, &self.keyring).expect("believed"));
        }
        all
    }
}

pub(crate) async fn ensure(config: &BusConfig, controller: &str) {
    timeout(DEADLINE, topics::ensure(config, &[controller.to_owned()]))
        .await
        .expect("in time")
        .expect("topics");
}

pub(crate) async fn receive(subscription: &mut Subscription) -> Incoming {
    timeout(DEADLINE, subscription.next()).await.expect("in time").expect("received")
}

pub(crate) fn purge(controller: &str, token: &str, id: &str) -> Outgoing {
    let message = Purge { version: 1, purge_id: id.into(), token: token.into(), ..Purge::default() };
    Outgoing::new(topics::erasure(controller), token, id, 1_750_000_000_000, &message).expect("a purge")
}

pub(crate) fn purges(controller: &str, count: usize) -> Vec<Outgoing> {
    (0..count).map(|number| purge(controller, &format!("t{number}"), &format!("p{number}"))).collect()
}

pub(crate) fn ids(records: &[Verified]) -> BTreeSet<String> {
    records.iter().map(|record| record.id.clone()).collect()
}

pub(crate) async fn keeps_order_per_key(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    for round in 0..5 {
        let batch =
            (0..100).map(|n| purge(&controller, &format!("t{}", n % 10), &format!("{:04}", round * 100 + n)));
        vault.publish(batch.collect()).await;
    }
    let mut subscription = vault.subscribe("mail", &controller);
    let mut per_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut partitions = BTreeSet::new();
    for record in vault.receive(&mut subscription, 500).await {
        partitions.insert(record.position.partition);
        per_key.entry(record.key).or_default().push(record.id);
    }
    assert_eq!(per_key.len(), 10);
    for (key, seen) in per_key {
        assert_eq!(seen.len(), 50, "{key}");
        assert!(seen.is_sorted(), "{key}: {seen:?}");
    }
    assert!(partitions.len() > 1, "keys are spread");
    subscription.close().await;
}

pub(crate) async fn delivers_again_what_was_not_committed(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    vault.publish((0..10).map(|n| purge(&controller, "t", &format!("p{n}"))).collect()).await;
    let mut first = vault.subscribe("mail", &controller);
    let seen = vault.receive(&mut first, 10).await;
    first.commit(&seen[3].position).unwrap();
    first.flush().await.unwrap();
    first.close().await;

    let mut second = vault.subscribe("mail", &controller);
    let again = vault.receive(&mut second, 6).await;
    let expected: Vec<String> = (4..10).map(|n| format!("p{n}")).collect();
    assert_eq!(again.iter().map(|record| record.id.clone()).collect::<Vec<_>>(), expected);
    second.close().await;
}

pub(crate) async fn takes_a_large_batch(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    let count = 25_000; // more than librdkafka's queue takes at once
    vault.publish(purges(&controller, count)).await;
    let mut subscription = vault.subscribe("mail", &controller);
    assert_eq!(ids(&vault.receive(&mut subscription, count).await).len(), count);
    subscription.close().await;
}

pub(crate) async fn refuses_a_forged_signature(config: &BusConfig) {
    let forged = resent(config, |record| header(record, "sig").reverse()).await;
    assert_eq!(forged, Refused::BadSignature);
}

pub(crate) async fn refuses_a_foreign_key(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    let stranger = Vault::new(config);
    stranger.publish(purges(&controller, 1)).await;
    let mut subscription = vault.subscribe("mail", &controller);
    let record = receive(&mut subscription).await;
    assert_eq!(verify(record, &vault.keyring).err(), Some(Refused::UnknownKey));
    subscription.close().await;
}

pub(crate) async fn refuses_what_was_tampered_with(config: &BusConfig) {
    let changes: [(&str, Change); 4] = [
        ("topic", |record| record.topic = record.other_topic.clone()),
        ("key", |record| record.key = b"another token".to_vec()),
        ("value", |record| record.value.push(0)),
        ("header", |record| header(record, "ce_id").push(b'x')),
    ];
    for (part, change) in changes {
        assert_eq!(resent(config, change).await, Refused::BadSignature, "{part}");
    }
}

type Change = fn(&mut Raw);

struct Raw {
    topic: String,
    other_topic: String,
    key: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    value: Vec<u8>,
}

fn header<'a>(record: &'a mut Raw, name: &str) -> &'a mut Vec<u8> {
    &mut record.headers.iter_mut().find(|(known, _)| known == name).expect("the header").1
}

/// Sends a good record, sends it again changed, past the publisher, and returns how that one is refused.
async fn resent(config: &BusConfig, change: Change) -> Refused {
    let (vault, controller) = Vault::with_controller(config).await;
    vault.publish(purges(&controller, 1)).await;
    let mut subscription = vault.subscribe("mail", &controller);
    let elsewhere = unique("globex");
    ensure(config, &elsewhere).await;
    subscription.extend([topics::erasure(&elsewhere)]).unwrap();
    let good = receive(&mut subscription).await;
    let mut raw = Raw {
        topic: good.position.topic.clone(),
        other_topic: topics::erasure(&elsewhere),
        key: good.key.clone().unwrap().to_vec(),
        headers: good.headers.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect(),
        value: good.value.to_vec(),
    };
    assert!(verify(good, &vault.keyring).is_ok());

    change(&mut raw);
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", crate::embedded::servers(config)).create().unwrap();
    let headers = raw
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let record = FutureRecord::to(&raw.topic).key(&raw.key).payload(&raw.value).headers(headers);
    producer.send(record, DEADLINE).await.unwrap();

    let refused = verify(receive(&mut subscription).await, &vault.keyring).err().expect("refused");
    subscription.close().await;
    refused
}

pub(crate) async fn sees_a_topic_made_later(config: &BusConfig) {
    let (vault, early) = Vault::with_controller(config).await;
    let (later, latest) = (unique("later"), unique("latest"));
    let mut subscription = vault.subscribe("mail", &early);
    subscription.extend([topics::erasure(&later)]).unwrap();
    vault.publish(purges(&early, 1)).await;
    assert_eq!(vault.receive(&mut subscription, 1).await[0].position.topic, topics::erasure(&early));

    ensure(config, &later).await;
    vault.publish(purges(&later, 1)).await;
    assert_eq!(vault.receive(&mut subscription, 1).await[0].position.topic, topics::erasure(&later));

    ensure(config, &latest).await;
    subscription.extend([topics::erasure(&latest)]).unwrap();
    vault.publish(purges(&latest, 1)).await;
    assert_eq!(vault.receive(&mut subscription, 1).await[0].position.topic, topics::erasure(&latest));
    subscription.close().await;
}

pub(crate) async fn gives_everything_to_each_downstream(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    vault.publish(purges(&controller, 50)).await;
    let (mut mail, mut affiliate) =
        (vault.subscribe("mail", &controller), vault.subscribe("affiliate", &controller));
    let (for_mail, for_affiliate) =
        tokio::join!(vault.receive(&mut mail, 50), vault.receive(&mut affiliate, 50));
    assert_eq!(ids(&for_mail).len(), 50);
    assert_eq!(ids(&for_mail), ids(&for_affiliate));
    mail.close().await;
    affiliate.close().await;
}

pub(crate) async fn shares_a_group_without_doubling(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    let mut members = [vault.subscribe("mail", &controller), vault.subscribe("mail", &controller)];
    let mut total = 0;
    let mut by_member = [0, 0];
    let mut seen = BTreeSet::new();
    // Go on until both have had some: how soon the second joins is the broker's to say.
    wait::until(DEADLINE, "both members get a share", async || {
        let batch =
            (0..20).map(|n| purge(&controller, &format!("t{n}"), &format!("p{}", total + n))).collect();
        vault.publish(batch).await;
        total += 20;
        while seen.len() < total {
            let [one, two] = &mut members;
            let (member, record) = tokio::select! {
                record = one.next() => (0, record),
                record = two.next() => (1, record),
            };
            let record = verify(record.expect("received"), &vault.keyring).expect("believed");
            members[member].commit(&record.position).expect("committed");
            by_member[member] += 1;
            seen.insert(record.id);
        }
        by_member.iter().all(|count| *count > 0).then_some(())
    })
    .await;
    // What was on its way while partitions changed hands may come twice, not everything.
    let received: usize = by_member.iter().sum();
    assert!(received < 2 * total, "{received} received of {total}");
    for member in members {
        member.close().await;
    }
}

pub(crate) async fn keeps_checkpoints(config: &BusConfig) {
    let (vault, _) = Vault::with_controller(config).await;
    let tree_id = unique("tree");
    for frames in 1..=3 {
        let message = Checkpoint { version: 1, tree_id: tree_id.clone(), frames, ..Checkpoint::default() };
        let id = format!("{tree_id}-{frames}");
        let record =
            Outgoing::new(topics::CHECKPOINT.into(), &tree_id, id, 1_750_000_000_000, &message).unwrap();
        vault.publish(vec![record]).await;
    }
    let mut subscription = Subscription::open(config, &unique("witness"), [topics::CHECKPOINT.to_owned()]);
    let mut newest = 0;
    while newest < 3 {
        // others keep theirs in the same topic
        let Ok(record) = verify(receive(&mut subscription).await, &vault.keyring) else { continue };
        assert_eq!((record.kind, &record.key), (Kind::Checkpoint, &tree_id));
        let frames = record.decode::<Checkpoint>().unwrap().frames;
        assert!(frames > newest, "in order");
        newest = frames;
    }
    subscription.close().await;
}

pub(crate) async fn makes_topics_once(config: &BusConfig) {
    let controllers = [unique("acme"), unique("globex")];
    let before = topics::inspect(config, &controllers).await.unwrap();
    assert!(before.contains(&(topics::erasure(&controllers[0]), Difference::Missing)), "{before:?}");

    let made = topics::ensure(config, &controllers).await.unwrap();
    for controller in &controllers {
        for name in [topics::erasure(controller), topics::notice(controller), topics::ack(controller)] {
            assert!(made.contains(&name), "{name} not in {made:?}");
        }
    }
    wait::until(DEADLINE, "the topics are there", async || {
        topics::inspect(config, &controllers).await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(topics::ensure(config, &controllers).await.unwrap(), Vec::<String>::new());
}

pub(crate) async fn counts_the_lag(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    vault.publish((0..10).map(|n| purge(&controller, "t", &format!("p{n}"))).collect()).await;
    let mut subscription = vault.subscribe("mail", &controller);
    let seen = vault.receive(&mut subscription, 10).await;
    for (committed, behind) in [(None, 10), (Some(3), 6), (Some(9), 0)] {
        if let Some(at) = committed {
            subscription.commit(&seen[at].position).unwrap();
            subscription.flush().await.unwrap();
        }
        let lags = subscription.lag().await.unwrap();
        assert_eq!(lags.iter().map(|lag| lag.records).sum::<u64>(), behind, "{lags:?}");
    }
    subscription.close().await;
}

pub(crate) async fn refuses_what_is_too_large(config: &BusConfig) {
    let (vault, controller) = Vault::with_controller(config).await;
    let mut large = purge(&controller, "t", "p");
    large.value = vec![0; 2 << 20].into();
    match vault.publisher.publish(vec![large]).await {
        Err(BusError::Refused { topic, code }) => {
            assert_eq!((topic, code.as_str()), (topics::erasure(&controller), "MessageSizeTooLarge"));
        }
        other => panic!("{other:?}"),
    }
    vault.publish(purges(&controller, 1)).await;
}

pub(crate) async fn refuses_a_topic_that_does_not_exist(config: &BusConfig) {
    let (vault, controller) = (Vault::new(config), unique("nobody"));
    match timeout(DEADLINE, vault.publisher.publish(purges(&controller, 1))).await.expect("in time") {
        Err(BusError::Refused { topic, code }) => {
            assert_eq!(topic, topics::erasure(&controller));
            assert!(code.starts_with("UnknownTopic"), "{code}");
        }
        other => panic!("{other:?}"),
    }
    ensure(config, &controller).await;
    vault.publish(purges(&controller, 1)).await;
}
