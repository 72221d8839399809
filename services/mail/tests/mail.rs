//! The whole service: gRPC over mutual TLS in front, SMTP behind, a vault and a broker beside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // a test may panic

#[allow(dead_code)] // the kit's own tests use all of it
#[path = "../../../crates/downstream/tests/kit/vault.rs"]
mod vault;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakroom_bus::{Bootstrap, BusConfig, EmbeddedBroker, Outgoing, Publisher, Signer, topics};
use cloakroom_client::{Endpoint, channel};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_downstream::daemon::Config;
use cloakroom_mail::{MailConfig, MailError};
use cloakroom_proto::bus::v1::Purge;
use cloakroom_proto::mail::v1::mail_service_client::MailServiceClient;
use cloakroom_proto::mail::v1::*;
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_runtime::identity::TlsFiles;
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_testkit::{ports, wait};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vault::{CONTROLLER, Vault};

const DEADLINE: Duration = Duration::from_secs(90);

struct House {
    folder: TempDir,
    vault: Vault,
    _broker: EmbeddedBroker,
    announcer: Publisher,
    health: SocketAddr,
    mail: MailServiceClient<Channel>,
    stranger: MailServiceClient<Channel>,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), MailError>>,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port_file = folder.path().join("kafka.port");
        let broker = EmbeddedBroker::start(&port_file).unwrap();
        let bus = BusConfig::plaintext(Bootstrap::PortFile(port_file.clone()));
        topics::ensure(&bus, &[CONTROLLER.into()]).await.unwrap();
        let vault = Vault::start(broker.address()).await;
        for (token, value) in [
            ("tok_mail", " zoë.example@example.com ".replace('ë', "e")),
            ("tok_name", "Zoë van 't Hoff".to_owned()),
        ] {
            vault.known().values.insert(token.into(), value.into());
        }
        let signer = Signer { source: "vault".into(), key: vault.announcer.clone() };
        let announcer = Publisher::connect(&bus, signer);
        let certs = vault.folder.path();
        let authority = Authority::open_or_create(certs, SystemClock.now_unix_ms()).unwrap();
        for name in ["shop", "stranger"] {
            authority.issue(&Holder::local(name), SystemClock.now_unix_ms(), 1).unwrap();
        }
        let [listen, health, sink] = ports::several().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut config = Config::<MailConfig>::default();
        (config.listen, config.health.listen, config.own.sink) = (listen, health, Some(sink));
        (config.data, config.roots) = (folder.path().join("data"), folder.path().join("roots"));
        config.tls = TlsFiles::named(certs, "mail");
        config.callers = vec!["spiffe://cloakroom.local/shop".into()];
        (config.vault.address, config.vault.admin) = (vault.endpoint().address, vault.endpoint().address);
        config.kafka.port_file = port_file;
        config.own.sender = "Tickets <tickets@mail.example>".into();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(cloakroom_mail::run(config, Default::default(), shutdown.clone()));
        let client = async |name| {
            let endpoint = Endpoint::in_folder(listen.to_string(), certs, name);
            let connected = wait::until(DEADLINE, "the port", async || channel(&endpoint).await.ok()).await;
            MailServiceClient::new(connected)
        };
        let (mail, stranger) = (client("shop").await, client("stranger").await);
        let house =
            Self { vault, _broker: broker, announcer, health, mail, stranger, shutdown, running, folder };
        wait::until(DEADLINE, "ready", async || {
            house.get("/readyz").await.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
        house
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.health).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Envelope recipients and messages that the sink shows.
    async fn messages(&self) -> Vec<(String, String)> {
        let answer = self.get("/messages").await;
        let shown: serde_json::Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        shown
            .as_array()
            .unwrap()
            .iter()
            .map(|message| (text(&message["to"][0]), text(&message["message"])))
            .collect()
    }

    async fn send(&self, key: &str, email_token: &str) -> Result<String, Status> {
        let request = SendTicketRequest {
            controller: CONTROLLER.into(),
            email_token: email_token.into(),
            name_token: "tok_name".into(),
            order_reference: "ST-1".into(),
            event_name: "Fête du Demi-Jour".into(),
            event_date: "2027-06-21".into(),
            idempotency_key: key.into(),
        };
        Ok(self.mail.clone().send_ticket(request).await?.into_inner().message_id)
    }

    async fn statistics(&self) -> GetStatisticsResponse {
        let request = GetStatisticsRequest { controller: CONTROLLER.into() };
        self.mail.clone().get_statistics(request).await.unwrap().into_inner()
    }

    async fn erase(&self, token: &str) {
        self.vault.known().values.remove(token);
        let message =
            Purge { version: 1, purge_id: format!("p-{token}"), token: token.into(), ..Default::default() };
        let record = Outgoing::new(
            topics::erasure(CONTROLLER),
            token,
            format!("p-{token}"),
            1_750_000_000_000,
            &message,
        );
        self.announcer.publish(vec![record.unwrap()]).await.unwrap();
        let purged = self.statistics().await.purged;
        wait::until(DEADLINE, "the purge", async || (self.statistics().await.purged > purged).then_some(()))
            .await;
    }

    async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(DEADLINE, self.running).await.expect("in time").unwrap().unwrap();
        drop(self.folder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_goes_out_by_token_once_and_not_after_an_erasure() {
    let house = House::new().await;
    let id = house.send("order-1", "tok_mail").await.unwrap();
    assert_eq!(house.send("order-1", "tok_mail").await.unwrap(), id, "a repeat gives the same message");
    let messages = house.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].0, "zoe.example@example.com");
    assert!(messages[0].1.contains(&format!("Message-ID: <{id}>")) && messages[0].1.contains("ST-1"));
    assert_eq!(house.send("order-1", "tok_other").await.unwrap_err().code(), Code::AlreadyExists);
    let statistics = house.statistics().await;
    assert_eq!((statistics.copies, statistics.messages_sent, statistics.purged), (2, 1, 0));
    assert_eq!(house.vault.known().detokenized, 1, "the second message would come from the copies");

    house.erase("tok_mail").await;
    let refused = house.send("order-2", "tok_mail").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("ERASED"), "{}", refused.message());
    assert_eq!(house.vault.known().detokenized, 1, "the vault is not even asked");
    assert_eq!(house.messages().await.len(), 1);
    assert_eq!(house.statistics().await.copies, 1);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_configured_callers_are_served_and_refusals_are_told_apart() {
    let house = House::new().await;
    let request = GetStatisticsRequest { controller: CONTROLLER.into() };
    let refused = house.stranger.clone().get_statistics(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(house.send("k", "not a token").await.unwrap_err().code(), Code::InvalidArgument);
    house.vault.known().values.insert("tok_odd".into(), "nobody".into());
    let unmailable = house.send("k", "tok_odd").await.unwrap_err();
    assert_eq!(unmailable.code(), Code::FailedPrecondition);
    assert!(unmailable.message().starts_with("UNMAILABLE") && !unmailable.message().contains("nobody"));
    assert!(house.messages().await.is_empty());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newsletter_reaches_who_subscribed_and_is_still_there() {
    let house = House::new().await;
    for n in 0..12 {
        house.vault.known().values.insert(format!("tok_{n}"), format!("reader{n}@example.com").into());
    }
    let named =
        |token: String| SubscribeNewsletterRequest { controller: CONTROLLER.into(), email_token: token };
    let mut mail = house.mail.clone();
    for n in 0..12 {
        for _ in 0..2 {
            mail.subscribe_newsletter(named(format!("tok_{n}"))).await.unwrap();
        }
    }
    assert_eq!(house.statistics().await.subscribers, 12);
    let erased = mail.subscribe_newsletter(named("tok_gone".into())).await.unwrap_err();
    assert!(erased.message().starts_with("ERASED"));
    let leaving = UnsubscribeNewsletterRequest { controller: CONTROLLER.into(), email_token: "tok_3".into() };
    mail.unsubscribe_newsletter(leaving).await.unwrap();
    house.erase("tok_5").await;
    assert_eq!(house.statistics().await.subscribers, 10, "a purge takes the subscription with it");

    let letter = SendNewsletterRequest {
        controller: CONTROLLER.into(),
        subject: "News".into(),
        body: "One\n\nTwo".into(),
    };
    let sent = mail.send_newsletter(letter.clone()).await.unwrap().into_inner();
    assert_eq!((sent.sent, sent.gone), (10, 0));
    let mut reached: Vec<String> = house.messages().await.into_iter().map(|(to, _)| to).collect();
    reached.sort();
    let mut expected: Vec<String> =
        [0, 1, 2, 4, 6, 7, 8, 9, 10, 11].map(|n| format!("reader{n}@example.com")).into();
    expected.sort();
    assert_eq!(reached, expected);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_calls_at_once_send_one_message() {
    let house = House::new().await;
    house.vault.slow.store(true, Ordering::SeqCst);
    let first = house.send("order-1", "tok_mail");
    let second = async {
        house.vault.asked.notified().await; // the first one is under way
        let second = house.send("order-1", "tok_mail").await;
        house.vault.let_go.notify_one();
        second
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second.unwrap_err().code(), Code::Aborted);
    first.unwrap();
    assert_eq!(house.messages().await.len(), 1);
    house.stop().await;
}
