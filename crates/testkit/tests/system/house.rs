//! A set of daemons in a folder of its own, with certificates, registers and ports of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use cloakroom_client::{AdminClient, Client, Endpoint, Retry, channel_lazy};
use cloakroom_proto::admin::v1::{ApplyRegisterRequest, Erasure, ErasureState, GetErasureRequest};
use cloakroom_proto::affiliate::v1::affiliate_service_client::AffiliateServiceClient;
use cloakroom_proto::mail::v1::GetStatisticsRequest;
use cloakroom_proto::mail::v1::GetStatisticsResponse;
use cloakroom_proto::mail::v1::mail_service_client::MailServiceClient;
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_testkit::daemons::{Daemon, program};
use cloakroom_testkit::{ports, unique, wait};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// A start in the dev profile on a machine whose processors others use too.
pub(crate) const START_MAX: Duration = Duration::from_secs(60);
/// Whatever goes through Kafka and back. A consumer group needs 6 s to give up a dead member.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(120);

const REGISTER: &str = include_str!("../../../../examples/registers/see-tickets/register.toml");
/// Certificates by file name, and the path of each one's SPIFFE id.
const PEOPLE: [(&str, &str); 8] = [
    ("vault", "vault"),
    ("admin", "person/admin"),
    ("dpo", "person/dpo"),
    ("orders", "service/orders"),
    ("support", "service/support"),
    ("operator", "person/operator"),
    ("mail", "downstream/mail"),
    ("affiliate", "downstream/affiliate"),
];

/// Three daemons and everything they need. Its folder stays where a test fails.
pub(crate) struct House {
    folder: Option<TempDir>,
    /// The controller's slug: nobody else's on a shared Kafka.
    pub(crate) controller: String,
    pub(crate) vault: Daemon,
    pub(crate) mail: Daemon,
    pub(crate) affiliate: Daemon,
    pub(crate) at: Addresses,
}

/// Ports that stay the same over all starts.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) vault: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) vault_health: SocketAddr,
    pub(crate) mail: SocketAddr,
    pub(crate) mail_health: SocketAddr,
    pub(crate) affiliate: SocketAddr,
    pub(crate) affiliate_health: SocketAddr,
    sink: SocketAddr,
}

impl Addresses {
    fn new() -> Self {
        let [vault, admin, vault_health, mail, mail_health, affiliate, affiliate_health, sink] =
            ports::lasting::<8>().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self { vault, admin, vault_health, mail, mail_health, affiliate, affiliate_health, sink }
    }
}

impl House {
    /// Writes everything down; `kafka` is its bootstrap, or `None` for the embedded broker. Nothing is started.
    pub(crate) fn prepare(kafka: Option<&str>) -> Self {
        let folder = tempfile::Builder::new().prefix("cloakroom-system-").tempdir().unwrap();
        let at = Addresses::new();
        issue(&folder.path().join("certs"));
        fs::create_dir(folder.path().join("logs")).unwrap();
        let house = |name, config: String| {
            let path = folder.path().join(format!("{name}.toml"));
            fs::write(&path, config).unwrap();
            Daemon::new(name, ["--config".into(), path], folder.path().join(format!("logs/{name}.log")))
        };
        Self {
            vault: house("cloakroomd", vault_config(folder.path(), "vault", &at, kafka)),
            mail: house("cloakroom-mail", mail_config(folder.path(), &at, kafka)),
            affiliate: house("cloakroom-affiliate", affiliate_config(folder.path(), &at, kafka)),
            controller: unique("see-tickets"),
            folder: Some(folder),
            at,
        }
    }

    /// Has all daemons log at their loudest, and send traces and metrics to `collector`.
    pub(crate) fn tell_everything(&self, collector: SocketAddr) {
        for name in ["cloakroomd", "cloakroom-mail", "cloakroom-affiliate"] {
            let path = self.folder().join(format!("{name}.toml"));
            let config = fs::read_to_string(&path).unwrap();
            let quiet = "telemetry = { filter = \"info\" }";
            let loud = format!(
                "telemetry = {{ filter = \"debug\", otlp = {{ endpoint = \"http://{collector}\", \
                 metrics_interval_ms = 1000 }} }}"
            );
            assert!(config.contains(quiet));
            fs::write(&path, config.replace(quiet, &loud)).unwrap();
        }
    }

    /// Starts the vault and applies the register; returns when it is ready.
    pub(crate) async fn open_vault(kafka: Option<&str>) -> Self {
        let mut house = Self::prepare(kafka);
        house.vault.start();
        house.vault_is_ready().await;
        house.apply_register().await;
        house
    }

    /// Starts all three; returns when all are ready.
    pub(crate) async fn open(kafka: Option<&str>) -> Self {
        let mut house = Self::open_vault(kafka).await;
        house.mail.start();
        house.affiliate.start();
        house.downstreams_are_ready().await;
        house
    }

    pub(crate) async fn apply_register(&self) {
        let request = ApplyRegisterRequest { toml: self.register(), dry_run: false };
        let applied = self.admin("admin").apply_register(request).await.unwrap();
        assert_eq!(applied.controller, self.controller);
    }

    /// The example's register under this house's own slug.
    pub(crate) fn register(&self) -> String {
        let named = format!("controller = \"{}\"", self.controller);
        let register = REGISTER.replace("controller = \"see-tickets\"", &named);
        assert!(register.contains(&named));
        register
    }

    /// Another vault over the folders `<name>/data` and `<name>/keys`, with the same roots and ports of its own.
    pub(crate) fn another_vault(&self, name: &str, kafka: Option<&str>) -> (Daemon, Addresses) {
        let at = Addresses::new();
        let path = self.folder().join(format!("another-{name}.toml"));
        fs::write(&path, vault_config(self.folder(), name, &at, kafka)).unwrap();
        let log = self.folder().join(format!("logs/another-{name}.log"));
        (Daemon::new("cloakroomd", ["--config".into(), path], log), at)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    pub(crate) async fn vault_is_ready(&self) {
        ready(self.at.vault_health, "the vault").await;
    }

    pub(crate) async fn downstreams_are_ready(&self) {
        ready(self.at.mail_health, "mail").await;
        ready(self.at.affiliate_health, "affiliate").await;
    }

    /// The vault's services' API, for the certificate of this name.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::lazy(&self.endpoint(self.at.vault, name), None).unwrap().with_retry(PATIENT)
    }

    pub(crate) fn admin(&self, name: &str) -> AdminClient {
        AdminClient::lazy(&self.endpoint(self.at.admin, name), None).unwrap().with_retry(PATIENT)
    }

    /// The command line, as one of [`PEOPLE`]; what it said, it said in words unless told `--output json`.
    pub(crate) fn cloakroom(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("cloakroom"));
        command.args(["--admin", &self.at.admin.to_string(), "--as", name, "--certs"]);
        command.arg(self.folder().join("certs")).args(arguments).env_remove("CLOAKROOM_OUTPUT");
        command.output().unwrap()
    }

    pub(crate) fn mail_client(&self) -> MailServiceClient<Channel> {
        MailServiceClient::new(channel_lazy(&self.endpoint(self.at.mail, "orders")).unwrap())
    }

    pub(crate) fn affiliate_client(&self) -> AffiliateServiceClient<Channel> {
        AffiliateServiceClient::new(channel_lazy(&self.endpoint(self.at.affiliate, "orders")).unwrap())
    }

    pub(crate) fn endpoint(&self, address: SocketAddr, name: &str) -> Endpoint {
        Endpoint::in_folder(address.to_string(), &self.folder().join("certs"), name)
    }

    /// What mail counts for the controller.
    pub(crate) async fn mail_statistics(&self) -> GetStatisticsResponse {
        let request = GetStatisticsRequest { controller: self.controller.clone() };
        self.mail_client().get_statistics(request).await.unwrap().into_inner()
    }

    /// Waits until an erasure is completed.
    pub(crate) async fn completed(&self, erasure_id: &str) -> Erasure {
        let admin = self.admin("dpo");
        wait::until(SETTLE_MAX, "the erasure's completion", async || {
            let request = GetErasureRequest { erasure_id: erasure_id.to_owned() };
            let erasure = admin.get_erasure(request).await.unwrap().erasure.unwrap();
            (erasure.state() == ErasureState::Completed).then_some(erasure)
        })
        .await
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            println!("everything of the house stays in {}", folder.keep().display());
            for daemon in [&self.vault, &self.mail, &self.affiliate] {
                println!("{}", daemon.last_words());
            }
        }
    }
}

/// Outlives a daemon that is killed and started again.
const PATIENT: Retry = Retry {
    deadline: Duration::from_secs(45),
    first_pause: Duration::from_millis(50),
    longest_pause: Duration::from_millis(400),
};

fn issue(folder: &Path) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap();
    let authority = Authority::open_or_create(folder, now).unwrap();
    for (name, path) in PEOPLE {
        let principal = Some(format!("spiffe://cloakroom.local/{path}"));
        authority.issue(&Holder { principal, ..Holder::local(name) }, now, 2).unwrap();
    }
}

/// A vault whose data and keys lie in `folder/<name>`, with the roots that all vaults of the folder share.
pub(crate) fn vault_config(folder: &Path, name: &str, at: &Addresses, kafka: Option<&str>) -> String {
    let (folder, kafka) = (folder.display(), kafka.unwrap_or_default());
    let Addresses { vault, admin, vault_health, .. } = at;
    format!(
        r#"
listen = "{vault}"
data = "{folder}/{name}/data"
keys = "{folder}/{name}/keys"
roots = {{ folder = "{folder}/roots" }}
admins = ["spiffe://cloakroom.local/person/admin"]
admin = {{ listen = "{admin}" }}
health = {{ listen = "{vault_health}", gauges_ms = 200 }}
tls = {{ cert = "{folder}/certs/vault.pem", key = "{folder}/certs/vault.key", ca = "{folder}/certs/ca.pem" }}
memory = {{ allow_unlocked = true }}
kafka = {{ bootstrap = "{kafka}" }}
telemetry = {{ filter = "info" }}
"#
    )
}

fn mail_config(folder: &Path, at: &Addresses, kafka: Option<&str>) -> String {
    let mut config = downstream_config(folder, "mail", (at.mail, at.mail_health), at, kafka);
    config.push_str(&format!("own = {{ sink = \"{}\" }}\n", at.sink));
    config
}

fn affiliate_config(folder: &Path, at: &Addresses, kafka: Option<&str>) -> String {
    downstream_config(folder, "affiliate", (at.affiliate, at.affiliate_health), at, kafka)
}

fn downstream_config(
    folder: &Path,
    name: &str,
    (listen, health): (SocketAddr, SocketAddr),
    at: &Addresses,
    kafka: Option<&str>,
) -> String {
    let kafka = match kafka {
        Some(bootstrap) => format!("{{ bootstrap = \"{bootstrap}\" }}"),
        None => format!("{{ port_file = \"{}/vault/data/kafka.port\" }}", folder.display()),
    };
    let folder = folder.display();
    let Addresses { vault, admin, .. } = at;
    format!(
        r#"
listen = "{listen}"
data = "{folder}/{name}/data"
roots = "{folder}/{name}/roots"
callers = ["spiffe://cloakroom.local/service/orders"]
health = {{ listen = "{health}" }}
tls = {{ cert = "{folder}/certs/{name}.pem", key = "{folder}/certs/{name}.key", ca = "{folder}/certs/ca.pem" }}
vault = {{ address = "{vault}", admin = "{admin}" }}
kafka = {kafka}
memory = {{ allow_unlocked = true }}
telemetry = {{ filter = "info" }}
"#
    )
}

/// Status and body of a GET over plain HTTP; `None` if nobody answers.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) async fn ready(address: SocketAddr, who: &str) {
    wait::until(START_MAX, &format!("{who} is ready"), async || {
        let (status, _) = get(address, "/readyz").await?;
        (status == 200).then_some(())
    })
    .await;
}

/// The value of a metric whose name and labels begin with `name`, summed; 0 if there is none.
pub(crate) async fn metric(address: SocketAddr, name: &str) -> f64 {
    let (status, text) = get(address, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Waits until a daemon says why it is not ready, and returns that.
pub(crate) async fn gate(address: SocketAddr) -> String {
    wait::until(START_MAX, "a closed gate", async || {
        let (status, body) = get(address, "/readyz").await?;
        assert_ne!(status, 200, "the gate is open: {body}");
        let reason = serde_json::from_str::<serde_json::Value>(&body).unwrap()["conditions"]["gate"].take();
        reason.as_str().filter(|reason| *reason != "starting").map(str::to_owned)
    })
    .await
}

/// Copies a folder of a vault that is stopped.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// All that a program said.
pub(crate) fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat()
}
