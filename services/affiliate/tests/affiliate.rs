//! The whole service: gRPC over mutual TLS in front, a vault and a broker beside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // a test may panic

#[allow(dead_code)] // the kit's own tests use all of it
#[path = "../../../crates/downstream/tests/kit/vault.rs"]
mod vault;

use std::net::SocketAddr;
use std::time::Duration;

use cloakroom_affiliate::{AffiliateConfig, AffiliateError};
use cloakroom_bus::{Bootstrap, BusConfig, EmbeddedBroker, Outgoing, Publisher, Signer, topics};
use cloakroom_client::{Endpoint, channel};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_downstream::daemon::Config;
use cloakroom_proto::affiliate::v1::affiliate_service_client::AffiliateServiceClient;
use cloakroom_proto::affiliate::v1::*;
use cloakroom_proto::bus::v1::Purge;
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_runtime::identity::TlsFiles;
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_testkit::{ports, wait};
use tempfile::TempDir;
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
    service: AffiliateServiceClient<Channel>,
    stranger: AffiliateServiceClient<Channel>,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), AffiliateError>>,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port_file = folder.path().join("kafka.port");
        let broker = EmbeddedBroker::start(&port_file).unwrap();
        let bus = BusConfig::plaintext(Bootstrap::PortFile(port_file.clone()));
        topics::ensure(&bus, &[CONTROLLER.into()]).await.unwrap();
        let vault = Vault::start(broker.address()).await;
        let signer = Signer { source: "vault".into(), key: vault.announcer.clone() };
        let announcer = Publisher::connect(&bus, signer);
        let certs = vault.folder.path();
        let authority = Authority::open_or_create(certs, SystemClock.now_unix_ms()).unwrap();
        for name in ["shop", "stranger", "affiliate"] {
            authority.issue(&Holder::local(name), SystemClock.now_unix_ms(), 1).unwrap();
        }
        let [listen, health] = ports::several().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut config = Config::<AffiliateConfig>::default();
        (config.listen, config.health.listen) = (listen, health);
        (config.data, config.roots) = (folder.path().join("data"), folder.path().join("roots"));
        config.tls = TlsFiles::named(certs, "affiliate");
        config.callers = vec!["spiffe://cloakroom.local/shop".into()];
        (config.vault.address, config.vault.admin) = (vault.endpoint().address, vault.endpoint().address);
        config.kafka.port_file = port_file;
        let shutdown = Shutdown::new();
        let running = tokio::spawn(cloakroom_affiliate::run(config, Default::default(), shutdown.clone()));
        let client = async |name| {
            let endpoint = Endpoint::in_folder(listen.to_string(), certs, name);
            let connected = wait::until(DEADLINE, "the port", async || channel(&endpoint).await.ok()).await;
            AffiliateServiceClient::new(connected)
        };
        let (service, stranger) = (client("shop").await, client("stranger").await);
        Self { vault, _broker: broker, announcer, service, stranger, shutdown, running, folder }
    }

    async fn record(&self, change: impl FnOnce(&mut RecordConversionRequest)) -> Result<i64, Status> {
        let mut request = RecordConversionRequest {
            controller: CONTROLLER.into(),
            order_reference: "ST-1".into(),
            affiliate_code: "AFF-OWL".into(),
            email_token: "tok_email".into(),
            name_token: "tok_name".into(),
            amount_minor: 7400,
            currency: "GBP".into(),
        };
        change(&mut request);
        Ok(self.service.clone().record_conversion(request).await?.into_inner().commission_minor)
    }

    async fn statement(&self) -> Vec<StatementLine> {
        let request = GetStatementRequest { controller: CONTROLLER.into(), affiliate_code: "AFF-OWL".into() };
        self.service.clone().get_statement(request).await.unwrap().into_inner().lines
    }

    async fn customers(&self) -> Vec<Customer> {
        let request =
            ListCustomersRequest { controller: CONTROLLER.into(), affiliate_code: "AFF-OWL".into() };
        self.service.clone().list_customers(request).await.unwrap().into_inner().customers
    }

    async fn erase(&self, tokens: &[&str]) {
        let purge = |token: &&str| {
            self.vault.known().values.remove(*token);
            let id = format!("p-{token}");
            let message =
                Purge { version: 1, purge_id: id.clone(), token: (*token).into(), ..Default::default() };
            Outgoing::new(topics::erasure(CONTROLLER), *token, id, 1_750_000_000_000, &message).unwrap()
        };
        self.announcer.publish(tokens.iter().map(purge).collect()).await.unwrap();
    }

    async fn until_anonymous(&self, count: u64) {
        wait::until(DEADLINE, "the purge", async || {
            (self.statement().await[0].anonymous == count).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(DEADLINE, self.running).await.expect("in time").unwrap().unwrap();
        drop(self.folder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_keeps_the_sums_and_loses_the_person() {
    let house = House::new().await;
    house.vault.known().values.insert("tok_email".into(), "a***@example.com".into());
    house.vault.known().values.insert("tok_other".into(), "b***@example.com".into());
    assert_eq!(house.record(|_| ()).await.unwrap(), 370);
    let second = |request: &mut RecordConversionRequest| {
        (request.order_reference, request.email_token) = ("ST-2".into(), "tok_other".into());
        (request.name_token, request.amount_minor) = (String::new(), 1000);
    };
    assert_eq!(house.record(second).await.unwrap(), 50);
    let euros = |request: &mut RecordConversionRequest| {
        (request.order_reference, request.currency) = ("ST-3".into(), "EUR".into());
    };
    house.record(euros).await.unwrap();
    let line = |currency: &str, conversions, amount_minor, commission_minor, anonymous| StatementLine {
        currency: currency.into(),
        conversions,
        amount_minor,
        commission_minor,
        anonymous,
    };
    let customer = |order: &str, masked: &str, forgotten| Customer {
        order_reference: order.into(),
        email_masked: masked.into(),
        forgotten,
    };
    assert_eq!(house.statement().await, [line("EUR", 1, 7400, 370, 0), line("GBP", 2, 8400, 420, 0)]);
    let all = [("ST-1", "a***@example.com"), ("ST-2", "b***@example.com"), ("ST-3", "a***@example.com")];
    assert_eq!(house.customers().await, all.map(|(order, masked)| customer(order, masked, false)));

    house.erase(&["tok_email", "tok_name"]).await;
    house.until_anonymous(1).await;
    assert_eq!(house.statement().await, [line("EUR", 1, 7400, 370, 1), line("GBP", 2, 8400, 420, 1)]);
    let left = [("ST-1", "", true), ("ST-2", "b***@example.com", false), ("ST-3", "", true)];
    assert_eq!(
        house.customers().await,
        left.map(|(order, masked, forgotten)| customer(order, masked, forgotten))
    );
    assert_eq!(house.record(|_| ()).await.unwrap(), 370, "a repeat after the erasure changes nothing");

    let late = |request: &mut RecordConversionRequest| request.order_reference = "ST-4".into();
    assert_eq!(house.record(late).await.unwrap(), 370, "a sale told after its buyer was forgotten");
    assert_eq!(house.statement().await[1], line("GBP", 3, 15_800, 790, 2));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_counts_once_and_wrong_ones_are_refused() {
    let house = House::new().await;
    let (first, second) = tokio::join!(house.record(|_| ()), house.record(|_| ()));
    assert_eq!((first.unwrap(), second.unwrap()), (370, 370));
    assert_eq!(house.statement().await[0].conversions, 1);
    let other = house.record(|request| request.amount_minor = 7401).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    let wrong: [fn(&mut RecordConversionRequest); 6] = [
        |request| request.amount_minor = -1,
        |request| request.currency = "gbp".into(),
        |request| request.affiliate_code.clear(),
        |request| request.order_reference = "x".repeat(129),
        |request| request.email_token.clear(),
        |request| request.controller.clear(),
    ];
    for change in wrong {
        assert_eq!(house.record(change).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let asked = GetStatementRequest { controller: CONTROLLER.into(), affiliate_code: "AFF-OWL".into() };
    assert_eq!(house.stranger.clone().get_statement(asked).await.unwrap_err().code(), Code::PermissionDenied);
    house.stop().await;
}
