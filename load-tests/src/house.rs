//! The servers under load: real `cloakroomd` processes with certificates of a development authority, and the
//! echo beside them. All on free ports, in one folder that goes when the run ends.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloakroom_client::proto::admin::v1::{ApplyRegisterRequest, VerifyLogRequest};
use cloakroom_client::proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_client::{AdminClient, Client, Endpoint, Retry};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::certs::{Authority, Holder, TRUST_DOMAIN};

use crate::child::Child;
use crate::error::LoadError;
use crate::work::Connections;

/// What the echo is called in messages.
pub(crate) const ECHO: &str = "the echo";
const VAULT: &str = "cloakroomd";
/// How long the echo may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Replaying a log of some million events.
const VERIFY_WITHIN: Duration = Duration::from_secs(600);
/// How long the certificates last: longer than any run.
const DAYS: i64 = 7;
/// Who has a certificate: its name, and its place in the trust domain.
const HOLDERS: [(&str, &str); 8] = [
    ("vault", "vault"),
    ("echo", "echo"),
    ("load", "service/load"),
    ("dpo", "person/dpo"),
    ("mail", "downstream/mail"),
    ("affiliate", "downstream/affiliate"),
    ("bao", "bao"),
    ("kafka", "kafka"),
];

/// Certificates for everybody of one run.
pub(crate) struct Certs {
    folder: PathBuf,
}

impl Certs {
    /// Makes an authority in `folder` and issues everybody's.
    ///
    /// # Errors
    /// [`LoadError::Runtime`].
    pub(crate) fn issue(folder: &Path) -> Result<Self, LoadError> {
        let now = SystemClock.now_unix_ms();
        let authority = Authority::open_or_create(folder, now)?;
        for (name, place) in HOLDERS {
            let principal = Some(format!("spiffe://{TRUST_DOMAIN}/{place}"));
            authority.issue(&Holder { principal, ..Holder::local(name) }, now, DAYS)?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// `name` of this folder: its certificate, its key, the authority's certificate.
    pub(crate) fn files(&self, name: &str) -> [PathBuf; 3] {
        [format!("{name}.pem"), format!("{name}.key"), "ca.pem".to_owned()].map(|file| self.folder.join(file))
    }

    /// A server at `address`, called as `name`.
    pub(crate) fn endpoint(&self, address: SocketAddr, name: &str) -> Endpoint {
        Endpoint::in_folder(address.to_string(), &self.folder, name)
    }

    /// `count` connections to a server of the vault's API.
    ///
    /// # Errors
    /// [`LoadError::Client`].
    pub(crate) async fn connections(
        &self,
        address: SocketAddr,
        count: usize,
    ) -> Result<Connections, LoadError> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let client: VaultServiceClient<_> =
                Client::connect(&self.endpoint(address, "load")).await?.wire();
            connections.push(client);
        }
        Ok(connections)
    }
}

/// A vault under load.
pub(crate) struct Vault {
    /// Where services call.
    pub(crate) address: SocketAddr,
    /// Where officers call.
    pub(crate) admin: SocketAddr,
    /// From the start of its process until it was ready.
    pub(crate) ready_after: Duration,
    /// When that was.
    pub(crate) ready_at: Instant,
    officer: Endpoint,
    child: Child,
    run: Run,
}

/// What it takes to start one again.
struct Run {
    program: PathBuf,
    arguments: [OsString; 2],
    log: PathBuf,
    health: SocketAddr,
}

impl Run {
    async fn start(&self) -> Result<(Child, Duration), LoadError> {
        let begun = Instant::now();
        let mut child = Child::start(VAULT, &self.program, &self.arguments, self.log.clone())?;
        child.ready(self.health).await?;
        Ok((child, begun.elapsed()))
    }
}

impl Vault {
    /// Starts `program` in `folder` with everything at its default but the bus, which is Apache Kafka at
    /// `kafka` where given; waits until it is ready, and gives it `register`.
    ///
    /// # Errors
    /// [`LoadError::Server`] with the end of its log if it does not come up.
    pub(crate) async fn start(
        program: &Path,
        certs: &Certs,
        folder: &Path,
        (register, kafka): (&str, Option<&str>),
    ) -> Result<Self, LoadError> {
        std::fs::create_dir_all(folder).map_err(LoadError::file(folder))?;
        let [address, admin, health] = free_ports()?;
        let config = folder.join("vault.toml");
        let text = configuration(certs, folder, [address, admin, health], kafka);
        std::fs::write(&config, text).map_err(LoadError::file(&config))?;
        let arguments = [OsString::from("--config"), config.into()];
        let run = Run { program: program.to_owned(), arguments, log: folder.join("vault.log"), health };
        let (child, ready_after) = run.start().await?;
        let officer = certs.endpoint(admin, "dpo");
        let vault = Self { address, admin, ready_after, ready_at: Instant::now(), officer, child, run };
        let request = ApplyRegisterRequest { toml: register.to_owned(), dry_run: false };
        vault.officer().await?.apply_register(request).await?;
        Ok(vault)
    }

    async fn officer(&self) -> Result<AdminClient, LoadError> {
        let retry = Retry { deadline: VERIFY_WITHIN, ..Retry::default() };
        Ok(AdminClient::connect(&self.officer).await?.with_retry(retry))
    }

    /// `count` connections to the admin endpoint.
    ///
    /// # Errors
    /// [`LoadError::Client`].
    pub(crate) async fn officers(&self, count: usize) -> Result<Vec<AdminClient>, LoadError> {
        let mut officers = Vec::with_capacity(count);
        for _ in 0..count {
            officers.push(self.officer().await?);
        }
        Ok(officers)
    }

    /// Events and commits in its log so far; the log is replayed for it, and found whole.
    ///
    /// # Errors
    /// [`LoadError::Server`] for a log with problems, [`LoadError::Client`].
    pub(crate) async fn verify(&self) -> Result<Verified, LoadError> {
        let verified = self.officer().await?.verify_log(VerifyLogRequest {}).await?;
        match verified.problems.as_slice() {
            [] => Ok(Verified { events: verified.events, commits: verified.frames }),
            problems => Err(LoadError::Server { name: VAULT, what: problems.join(", ") }),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Drains and ends it.
    pub(crate) async fn stop(self) {
        self.child.stop().await;
    }

    /// Ends it as a crash would and starts it again, at the same addresses.
    ///
    /// # Errors
    /// [`LoadError::Server`] if it does not come up.
    pub(crate) async fn crash(&mut self) -> Result<(), LoadError> {
        self.child.kill9();
        (self.child, self.ready_after) = self.run.start().await?;
        self.ready_at = Instant::now();
        Ok(())
    }
}

/// A log that was replayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verified {
    pub(crate) events: u64,
    pub(crate) commits: u64,
}

/// All defaults but the places; memory may stay unlocked where the system forbids locking, as no key here
/// protects anybody.
fn configuration(
    certs: &Certs,
    folder: &Path,
    [vault, admin, health]: [SocketAddr; 3],
    kafka: Option<&str>,
) -> String {
    let quoted = |path: PathBuf| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
    let at = |name: &str| quoted(folder.join(name));
    let cert = |name: &str| quoted(certs.folder.join(name));
    let bus = match kafka {
        None => String::new(),
        Some(bootstrap) => format!(
            "bootstrap = \"{bootstrap}\"\ntls = {{ cert = {}, key = {}, ca = {} }}\n",
            cert("vault.pem"),
            cert("vault.key"),
            cert("ca.pem")
        ),
    };
    format!(
        "listen = \"{vault}\"\ndata = {}\nkeys = {}\nroots.folder = {}\n\
         admins = [\"spiffe://{TRUST_DOMAIN}/person/dpo\"]\n\n\
         [admin]\nlisten = \"{admin}\"\n\n[health]\nlisten = \"{health}\"\n\n\
         [tls]\ncert = {}\nkey = {}\nca = {}\n\n[memory]\nallow_unlocked = true\n\n\
         [kafka]\n{bus}",
        at("data"),
        at("keys"),
        at("roots"),
        cert("vault.pem"),
        cert("vault.key"),
        cert("ca.pem"),
    )
}

/// Different ports that nobody listens on now.
pub(crate) fn free_ports() -> Result<[SocketAddr; 3], LoadError> {
    let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All held until all are chosen, so that no two are the same.
    let chosen = || -> std::io::Result<[SocketAddr; 3]> {
        let held = [any()?, any()?, any()?];
        let [one, two, three] = &held;
        Ok([one.local_addr()?, two.local_addr()?, three.local_addr()?])
    };
    chosen().map_err(LoadError::system("choosing ports"))
}

/// The echo as a process.
pub(crate) struct Echo {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Echo {
    /// Starts it and waits until it says where it answers. `cores`: on threads as the vault's.
    ///
    /// # Errors
    /// [`LoadError::Server`].
    pub(crate) async fn start(certs: &Certs, folder: &Path, cores: bool) -> Result<Self, LoadError> {
        let this = std::env::current_exe().map_err(LoadError::system("finding this program"))?;
        let mut arguments = vec![OsString::from("echo"), certs.folder.clone().into()];
        arguments.extend(cores.then(|| "--cores".into()));
        let log = if cores { "echo-cores.log" } else { "echo.log" };
        let mut child = Child::start(ECHO, &this, &arguments, folder.join(log))?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(address) = child.said().lines().next().and_then(|line| line.parse().ok()) {
                return Ok(Self { address, child });
            }
            child.ended()?;
            if Instant::now() > deadline {
                return Err(child.failed("does not say where it answers"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.child.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_and_names_three_ports() {
        let folder = tempfile::tempdir().unwrap();
        let certs = Certs::issue(&folder.path().join("certs")).unwrap();
        let ports = free_ports().unwrap();
        let text = configuration(&certs, &folder.path().join("a \"b\""), ports, Some("127.0.0.1:9"));
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert!(read["data"].as_str().unwrap().ends_with("a \"b\"/data"));
        assert_eq!(read["admin"]["listen"].as_str(), Some(ports[1].to_string().as_str()));
        assert_eq!(ports.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    }
}
