//! The servers under load: real `cloakroomd` processes with certificates of a development authority, and the
//! echo beside them. All on free ports, in one folder that goes when the run ends.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloakroom_client::proto::admin::v1::{ApplyRegisterRequest, GetStatusRequest, VerifyLogRequest};
use cloakroom_client::proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_client::{AdminClient, Client, Endpoint, Retry};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::certs::{Authority, Holder, TRUST_DOMAIN};

use crate::child::Child;
use crate::error::LoadError;
use crate::people::REGISTER;
use crate::work::Connections;

/// What the echo is called in messages.
pub(crate) const ECHO: &str = "the echo";
const VAULT: &str = "cloakroomd";
/// How long a server may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Replaying a log of some million events.
const VERIFY_WITHIN: Duration = Duration::from_secs(600);
/// How long the certificates last: longer than any run.
const DAYS: i64 = 7;
/// Who has a certificate: its name, and its place in the trust domain.
const HOLDERS: [(&str, &str); 4] =
    [("vault", "vault"), ("echo", "echo"), ("load", "service/load"), ("dpo", "person/dpo")];

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

    fn endpoint(&self, address: SocketAddr, name: &str) -> Endpoint {
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
    admin: Endpoint,
    child: Child,
}

impl Vault {
    /// Starts `program` in `folder` with everything at its default, waits until it serves, and gives it the
    /// register.
    ///
    /// # Errors
    /// [`LoadError::Server`] with the end of its log if it does not come up.
    pub(crate) async fn start(program: &Path, certs: &Certs, folder: &Path) -> Result<Self, LoadError> {
        std::fs::create_dir_all(folder).map_err(LoadError::file(folder))?;
        let [address, admin, health] = free_ports()?;
        let config = folder.join("vault.toml");
        let text = configuration(certs, folder, [address, admin, health]);
        std::fs::write(&config, text).map_err(LoadError::file(&config))?;
        let arguments = [OsString::from("--config"), config.into()];
        let child = Child::start(VAULT, program, &arguments, folder.join("vault.log"))?;
        let mut vault = Self { address, admin: certs.endpoint(admin, "dpo"), child };
        vault.ready().await?;
        let request = ApplyRegisterRequest { toml: REGISTER.to_owned(), dry_run: false };
        vault.officer().await?.apply_register(request).await?;
        Ok(vault)
    }

    async fn ready(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.child.ended()?;
            let asked = match AdminClient::connect(&self.admin).await {
                Ok(officer) => officer.get_status(GetStatusRequest {}).await.map(drop),
                Err(error) => Err(error),
            };
            match asked {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(self.child.failed(&format!("is not ready: {error}")));
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn officer(&self) -> Result<AdminClient, LoadError> {
        let retry = Retry { deadline: VERIFY_WITHIN, ..Retry::default() };
        Ok(AdminClient::connect(&self.admin).await?.with_retry(retry))
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

    /// Commits in its log so far; the log is replayed for it, and found whole.
    ///
    /// # Errors
    /// [`LoadError::Server`] for a log with problems, [`LoadError::Client`].
    pub(crate) async fn commits(&self) -> Result<u64, LoadError> {
        let verified = self.officer().await?.verify_log(VerifyLogRequest {}).await?;
        match verified.problems.as_slice() {
            [] => Ok(verified.frames),
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
}

/// All defaults but the places; memory may stay unlocked where the system forbids locking, as no key here
/// protects anybody.
fn configuration(certs: &Certs, folder: &Path, [vault, admin, health]: [SocketAddr; 3]) -> String {
    let quoted = |path: PathBuf| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
    let at = |name: &str| quoted(folder.join(name));
    let cert = |name: &str| quoted(certs.folder.join(name));
    format!(
        "listen = \"{vault}\"\ndata = {}\nkeys = {}\nroots.folder = {}\n\
         admins = [\"spiffe://{TRUST_DOMAIN}/person/dpo\"]\n\n\
         [admin]\nlisten = \"{admin}\"\n\n[health]\nlisten = \"{health}\"\n\n\
         [tls]\ncert = {}\nkey = {}\nca = {}\n\n[memory]\nallow_unlocked = true\n",
        at("data"),
        at("keys"),
        at("roots"),
        cert("vault.pem"),
        cert("vault.key"),
        cert("ca.pem"),
    )
}

fn free_ports() -> Result<[SocketAddr; 3], LoadError> {
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
    /// Starts it and waits until it says where it answers.
    ///
    /// # Errors
    /// [`LoadError::Server`].
    pub(crate) async fn start(certs: &Certs, folder: &Path) -> Result<Self, LoadError> {
        let this = std::env::current_exe().map_err(LoadError::system("finding this program"))?;
        let arguments = [OsString::from("echo"), certs.folder.clone().into()];
        let mut child = Child::start(ECHO, &this, &arguments, folder.join("echo.log"))?;
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
        let text = configuration(&certs, &folder.path().join("a \"b\""), ports);
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert!(read["data"].as_str().unwrap().ends_with("a \"b\"/data"));
        assert_eq!(read["admin"]["listen"].as_str(), Some(ports[1].to_string().as_str()));
        assert_eq!(ports.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    }
}
