//! A vault of a test's own, and the people and services around it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloakroom_client::{Endpoint, channel};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_proto::admin::v1::admin_service_client::AdminServiceClient;
use cloakroom_proto::admin::v1::{ApplyRegisterRequest, RequestErasureRequest, request_erasure_request};
use cloakroom_proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, DetokenizeResult, ErrorCode, ItemError, ReadMode, TokenizeItem,
    TokenizeRequest, TokenizeResult, detokenize_result, tokenize_item, tokenize_result,
};
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry::{Telemetry, TelemetryConfig};
use cloakroom_vault::config::Config;
use cloakroom_vault::{Ended, Running, start};
use tempfile::TempDir;
use tonic::transport::Channel;

pub(crate) const SEE: &str = "see-tickets";
pub(crate) const LUMEN: &str = "active-tickets";
/// A controller without downstreams: its erasures complete at once.
pub(crate) const ALONE: &str = "alone";

/// Who there is, by the name of their certificate's files.
const PEOPLE: [(&str, &str); 11] = [
    ("admin", "person/admin"),
    ("dpo", "person/dpo"),
    ("auditor", "person/auditor"),
    ("orders", "service/orders"),
    ("support", "service/support"),
    ("mail", "downstream/mail"),
    ("affiliate", "downstream/affiliate"),
    ("lumen-dpo", "person/lumen-dpo"),
    ("box-office", "service/box-office"),
    ("stranger", "service/stranger"),
    ("vault", "vault"),
];

pub(crate) const ALONE_REGISTER: &str = r#"
controller = "alone"
name = "A controller without downstreams"
time_zone = "Europe/London"
token_domain = "tokens.alone.example"

[[field]]
id = "email"
type = "email"
category = "contact"

[[field]]
id = "note"
type = "free_text"
category = "free_text"

[[role]]
principal = "spiffe://cloakroom.local/person/dpo"
role = "dpo"

[[role]]
principal = "spiffe://cloakroom.local/service/orders"
role = "service"

[[activity]]
id = "sales"
name = "Sales"
purposes = ["selling"]
legal_basis = "6.1.b"
fields = ["email", "note"]
origin = "The buyer"
retention = "1 year"
recipients = []
transfers = "None"
security = "Tokens in place of values"

[[activity.access]]
principal = "spiffe://cloakroom.local/service/orders"
may = ["write", "read", "rectify", "release", "record_fact"]
purposes = ["selling"]
"#;

/// One for the process: the providers behind it are global.
fn telemetry() -> &'static Telemetry {
    static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();
    TELEMETRY.get_or_init(|| {
        let config = TelemetryConfig { filter: "warn".into(), ..TelemetryConfig::default() };
        Telemetry::start(&config, "cloakroom-vault", "test").unwrap()
    })
}

pub(crate) struct Setting {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    running: Option<Running>,
    shutdown: Shutdown,
}

impl Drop for Setting {
    /// Every test ends in an orderly stop, before its folders go.
    fn drop(&mut self) {
        self.shutdown.begin();
        let Some(running) = self.running.take() else { return };
        let ended =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(running.ended()));
        assert!(std::thread::panicking() || ended == Ended::Drained, "{ended:?}");
    }
}

impl Setting {
    /// A vault with the registers of three controllers.
    pub(crate) async fn new() -> Self {
        let setting = Self::bare().await;
        setting.apply(&shipped(SEE)).await;
        setting.apply(&shipped(LUMEN)).await;
        setting.apply(ALONE_REGISTER).await;
        setting
    }

    /// A vault that knows nobody but its administrator.
    pub(crate) async fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemClock.now_unix_ms();
        let authority = Authority::open_or_create(&folder.path().join("certs"), now).unwrap();
        for (name, path) in PEOPLE {
            authority.issue(&holder(name, Some(path)), now, 1).unwrap();
        }
        let mut setting = Self { folder, authority, running: None, shutdown: Shutdown::new() };
        setting.start().await;
        setting
    }

    pub(crate) fn config(&self) -> Config {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let mut config = Config { listen: anywhere, ..Config::default() };
        config.admin.listen = anywhere;
        config.health.listen = anywhere;
        config.health.gauges_ms = 20;
        config.data = self.folder.path().join("data");
        config.keys = self.folder.path().join("keys");
        config.roots.folder = self.folder.path().join("roots");
        config.tls = cloakroom_runtime::identity::TlsFiles::named(&self.certs(), "vault");
        config.admins = vec!["spiffe://cloakroom.local/person/admin".into()];
        config.memory.allow_unlocked = true;
        config.memory.cache_bytes = 1 << 20;
        config.store.reserve_bytes = 1 << 20;
        config.erase.batch_ms = 0;
        config.limits.drain_ms = 5_000;
        config
    }

    pub(crate) async fn start(&mut self) {
        self.start_with(self.config()).await.unwrap();
    }

    pub(crate) async fn start_with(&mut self, config: Config) -> Result<(), cloakroom_vault::VaultError> {
        self.shutdown = Shutdown::new();
        let clock = Arc::new(SystemClock);
        self.running = Some(start(config, clock, telemetry(), self.shutdown.clone()).await?);
        Ok(())
    }

    pub(crate) fn begin_stop(&self) {
        self.shutdown.begin();
    }

    pub(crate) async fn stop(&mut self) -> Ended {
        self.shutdown.begin();
        self.running.take().unwrap().ended().await
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    pub(crate) async fn vault_channel(&self, who: &str) -> Channel {
        self.channel(self.running().vault_address.to_string(), who).await
    }

    pub(crate) async fn admin_channel(&self, who: &str) -> Channel {
        self.channel(self.running().admin_address.to_string(), who).await
    }

    async fn channel(&self, address: String, who: &str) -> Channel {
        channel(&Endpoint::in_folder(address, &self.certs(), who)).await.unwrap()
    }

    pub(crate) async fn vault(&self, who: &str) -> VaultServiceClient<Channel> {
        VaultServiceClient::new(self.vault_channel(who).await)
            .max_decoding_message_size(8 << 20)
            .max_encoding_message_size(8 << 20)
    }

    pub(crate) async fn admin(&self, who: &str) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.admin_channel(who).await)
    }

    pub(crate) async fn apply(&self, toml: &str) {
        let request = ApplyRegisterRequest { toml: toml.to_owned(), dry_run: false };
        self.admin("admin").await.apply_register(request).await.unwrap();
    }

    /// Tokenizes as the shop of [`SEE`], under its main activity.
    pub(crate) async fn tokenize(&self, items: Vec<TokenizeItem>) -> Vec<TokenizeResult> {
        let request = purchase(items);
        self.vault("orders").await.tokenize(request).await.unwrap().into_inner().items
    }

    /// One new person of [`SEE`] with an e-mail address: token and subject id.
    pub(crate) async fn person(&self, email: &str) -> (String, String) {
        let answers = self.tokenize(vec![item("1", "p", "email", email)]).await;
        made(&answers[0])
    }

    /// Reads as the mail service does.
    pub(crate) async fn read(&self, tokens: &[&str]) -> Vec<DetokenizeResult> {
        let request = reading("ticket_delivery", ReadMode::Plain, tokens);
        self.vault("mail").await.detokenize(request).await.unwrap().into_inner().items
    }

    /// Erases all of a subject of [`SEE`].
    pub(crate) async fn erase(&self, subject_id: &str) -> cloakroom_proto::admin::v1::RequestErasureResponse {
        let request = erasing(SEE, subject_id);
        self.admin("dpo").await.request_erasure(request).await.unwrap().into_inner()
    }
}

pub(crate) fn holder(name: &str, path: Option<&str>) -> Holder {
    Holder { principal: path.map(|path| format!("spiffe://cloakroom.local/{path}")), ..Holder::local(name) }
}

pub(crate) fn shipped(controller: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/registers");
    std::fs::read_to_string(root.join(controller).join("register.toml")).unwrap()
}

pub(crate) fn item(reference: &str, label: &str, field: &str, value: impl AsRef<[u8]>) -> TokenizeItem {
    TokenizeItem {
        reference: reference.into(),
        subject: Some(tokenize_item::Subject::NewSubject(label.into())),
        field: field.into(),
        value: value.as_ref().to_vec().into(),
        shape: 0,
    }
}

pub(crate) fn purchase(items: Vec<TokenizeItem>) -> TokenizeRequest {
    TokenizeRequest {
        controller: SEE.into(),
        activity: "ticket_purchase".into(),
        idempotency_key: String::new(),
        items,
    }
}

pub(crate) fn reading(purpose: &str, mode: ReadMode, tokens: &[&str]) -> DetokenizeRequest {
    let named = |(at, token): (usize, &&str)| DetokenizeItem {
        reference: at.to_string(),
        token: (*token).to_owned(),
    };
    DetokenizeRequest {
        controller: SEE.into(),
        purpose: purpose.into(),
        reason: "case-1".into(),
        mode: mode.into(),
        items: tokens.iter().enumerate().map(named).collect(),
    }
}

pub(crate) fn erasing(controller: &str, subject_id: &str) -> RequestErasureRequest {
    RequestErasureRequest {
        controller: controller.into(),
        who: Some(request_erasure_request::Who::SubjectId(subject_id.into())),
        activities: vec![],
        actor: "dsr-1".into(),
        reason: "case-1".into(),
        legal_basis: 2,
        idempotency_key: String::new(),
    }
}

/// The token and subject id that a value got.
pub(crate) fn made(result: &TokenizeResult) -> (String, String) {
    match result.result.as_ref().unwrap() {
        tokenize_result::Result::Tokenized(made) => (made.token.clone(), made.subject_id.clone()),
        tokenize_result::Result::Error(error) => panic!("{}: {}", error.code().as_str_name(), error.message),
    }
}

/// The code that a value was refused with, and the message.
pub(crate) fn refused(result: &TokenizeResult) -> (ErrorCode, String) {
    match result.result.as_ref().unwrap() {
        tokenize_result::Result::Tokenized(_) => panic!("{} was tokenized", result.reference),
        tokenize_result::Result::Error(error) => said(error),
    }
}

pub(crate) fn said(error: &ItemError) -> (ErrorCode, String) {
    (error.code(), error.message.clone())
}

/// A value that was read, or the code why not.
pub(crate) fn shown(result: &DetokenizeResult) -> Result<String, ErrorCode> {
    match result.result.as_ref().unwrap() {
        detokenize_result::Result::Value(value) => Ok(String::from_utf8(value.to_vec()).unwrap()),
        detokenize_result::Result::Error(error) => Err(error.code()),
    }
}

/// Asks until `found` says so; a minute is longer than anything takes.
pub(crate) async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
