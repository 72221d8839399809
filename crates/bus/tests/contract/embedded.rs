use std::path::PathBuf;
use std::process::Command;

use cloakroom_bus::{Bootstrap, BusConfig, EmbeddedBroker, topics};
use tempfile::TempDir;

use crate::suite::{Vault, ensure, ids, purges};

pub(crate) struct Broker {
    folder: TempDir,
    broker: Option<EmbeddedBroker>,
}

impl Broker {
    /// A place for a broker, without one.
    fn away() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), broker: None }
    }

    pub(crate) fn start() -> Self {
        let mut broker = Self::away();
        broker.restart();
        broker
    }

    fn restart(&mut self) {
        self.broker = None;
        self.broker = Some(EmbeddedBroker::start(&self.port_file()).unwrap());
    }

    fn port_file(&self) -> PathBuf {
        self.folder.path().join("kafka.port")
    }

    pub(crate) fn config(&self) -> BusConfig {
        BusConfig::plaintext(Bootstrap::PortFile(self.port_file()))
    }
}

/// The address of `config`'s broker, for a client that is not ours.
pub(crate) fn servers(config: &BusConfig) -> String {
    match &config.bootstrap {
        Bootstrap::Address(servers) => servers.clone(),
        Bootstrap::PortFile(path) => {
            std::fs::read_to_string(path).unwrap().lines().next().unwrap().to_owned()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_follow_it_to_its_new_port() {
    let mut broker = Broker::start();
    let (vault, controller) = Vault::with_controller(&broker.config()).await;
    vault.publish(purges(&controller, 5)).await;
    let mut subscription = vault.subscribe("mail", &controller);
    let before = vault.receive(&mut subscription, 5).await;
    subscription.commit(&before[0].position).unwrap();

    broker.restart(); // and has forgotten everything
    ensure(&broker.config(), &controller).await;
    vault.publish(purges(&controller, 3)).await;
    let after = vault.receive(&mut subscription, 3).await;
    assert_eq!(ids(&after).len(), 3);
    subscription.commit(&before[4].position).unwrap(); // of the former broker: means nothing here
    subscription.flush().await.unwrap();
    assert_eq!(subscription.lag().await.unwrap().iter().map(|lag| lag.records).sum::<u64>(), 3);
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_for_its_first_start() {
    let mut broker = Broker::away();
    let config = broker.config();
    let vault = Vault::new(&config);
    let mut subscription = vault.subscribe("mail", "first");
    let made = tokio::spawn(async move { topics::ensure(&config, &["first".into()]).await });
    let received = async {
        let sent = vault.publish(purges("first", 1));
        let (received, ()) = tokio::join!(vault.receive(&mut subscription, 1), sent);
        received
    };
    broker.restart();
    made.await.unwrap().unwrap();
    assert_eq!(received.await.len(), 1);
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_reaches_it() {
    let broker = Broker::start();
    ensure(&broker.config(), "outside").await;
    let vault = Vault::new(&broker.config());
    let mut subscription = vault.subscribe("mail", "outside");
    let outside = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::as_another_process", "--ignored"])
        .env("CONTRACT_PORT_FILE", broker.port_file())
        .output()
        .unwrap();
    assert!(outside.status.success(), "{}", String::from_utf8_lossy(&outside.stdout));
    for _ in 0..3 {
        crate::suite::receive(&mut subscription).await;
    }
    subscription.close().await;
}

#[tokio::test]
#[ignore = "another_process_reaches_it runs it"]
async fn as_another_process() {
    let port_file = PathBuf::from(std::env::var_os("CONTRACT_PORT_FILE").unwrap());
    let vault = Vault::new(&BusConfig::plaintext(Bootstrap::PortFile(port_file)));
    vault.publish(purges("outside", 3)).await;
}

#[test]
fn its_port_file_comes_and_goes_with_it() {
    let mut broker = Broker::away();
    std::fs::write(broker.port_file(), "127.0.0.1:1\nstale\n").unwrap();
    broker.restart();
    let address = broker.broker.as_ref().unwrap().address().to_owned();
    assert_eq!(servers(&broker.config()), address);
    let first = std::fs::read_to_string(broker.port_file()).unwrap();
    broker.restart();
    assert_ne!(std::fs::read_to_string(broker.port_file()).unwrap(), first);
    broker.broker = None;
    assert!(!broker.port_file().exists());
}
