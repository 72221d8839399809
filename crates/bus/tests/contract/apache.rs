use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloakroom_bus::topics::{self, Difference};
use cloakroom_bus::{Bootstrap, BusConfig, BusError, Security};
use cloakroom_testkit::kafka::{Kafka, Settings, Tls};
use cloakroom_testkit::{unique, wait};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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
    let mut received = ids(&vault.receive(&mut subscription, 500).await);
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

    while received.len() < 3000 {
        received.extend(ids(&vault.receive(&mut subscription, 1).await));
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
    let mut received = ids(&vault.receive(&mut subscription, 300).await);
    kafka.kill9();
    kafka.restart();
    sending.await.unwrap();
    while received.len() < 6000 {
        received.extend(ids(&vault.receive(&mut subscription, 1).await));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speaks_tls_with_certificates_of_one_authority() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| Authority::new(folder.path(), name));
    let (broker_key, broker_certificate) = ours.issue("broker");
    let keystore = folder.path().join("keystore.pem");
    fs::write(
        &keystore,
        fs::read_to_string(&broker_key).unwrap() + &fs::read_to_string(&broker_certificate).unwrap(),
    )
    .unwrap();
    let tls = Some(Tls { keystore, truststore: ours.certificate.clone() });
    let kafka = Kafka::start_with(&Settings { tls, ..Settings::default() });
    let client_of = |authority: &Authority| {
        let (key, cert) = authority.issue("vault");
        let security = Security::Tls { ca: ours.certificate.clone(), cert, key, key_password: None };
        BusConfig { security, ..config(kafka.bootstrap()) }
    };

    let (vault, controller) = Vault::with_controller(&client_of(&ours)).await;
    vault.publish(purges(&controller, 3)).await;
    let mut subscription = vault.subscribe("mail", &controller);
    assert_eq!(ids(&vault.receive(&mut subscription, 3).await).len(), 3);
    subscription.close().await;

    for stranger in [client_of(&theirs), config(kafka.bootstrap())] {
        let refused = topics::ensure(&stranger, std::slice::from_ref(&controller)).await;
        assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    }
}

/// A certificate authority whose files lie in a folder.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = folder.join("ca.pem");
        fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key), certificate }
    }

    /// The files of a new key and its certificate.
    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let files = (self.folder.join(format!("{name}.key")), self.folder.join(format!("{name}.pem")));
        fs::write(&files.0, key.serialize_pem()).unwrap();
        fs::write(&files.1, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        files
    }
}
