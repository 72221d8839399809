//! Certificates, configuration, and the three daemons.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloakroom_client::{Endpoint, channel};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::certs::{Authority, Holder, TRUST_DOMAIN};
use tonic::transport::Channel;

use super::child::Child;
use super::folder::Folder;
use super::http;
use crate::error::CliError;
use crate::output::{Format, note};
use crate::settings::Settings;

/// How long a daemon may take to be ready.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(90);

/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often the downstreams ask for new controllers: somebody who plays waits for them.
const REFRESH_MS: u64 = 1_000;

/// How long development certificates last: longer than anybody plays with one run.
const DAYS: i64 = 90;

/// Who has a certificate: its name, and its place in the trust domain.
const HOLDERS: [(&str, &str); 8] = [
    ("vault", "vault"),
    ("mail", "downstream/mail"),
    ("affiliate", "downstream/affiliate"),
    ("orders", "service/orders"),
    ("support", "service/support"),
    ("dpo", "person/dpo"),
    ("auditor", "person/auditor"),
    ("operator", "person/operator"),
];

/// Where everybody listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// The vault, for services.
    pub(super) vault: SocketAddr,
    /// Its admin endpoint.
    pub(super) admin: SocketAddr,
    /// Its health and metrics.
    pub(super) health: SocketAddr,
    /// mail.
    pub(super) mail: SocketAddr,
    /// mail's health, metrics and development sink.
    pub(super) mail_health: SocketAddr,
    /// The development SMTP sink.
    pub(super) smtp: SocketAddr,
    /// affiliate.
    pub(super) affiliate: SocketAddr,
    /// affiliate's health and metrics.
    pub(super) affiliate_health: SocketAddr,
}

/// Where a vault beside the vault listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    /// For services.
    pub(super) vault: SocketAddr,
    /// For officers.
    pub(super) admin: SocketAddr,
    /// Health and metrics.
    pub(super) health: SocketAddr,
}

impl Ports {
    /// The ports of docs/api.md, each replaced by a free one where it is taken; or free ones altogether.
    fn choose(any: bool) -> Result<Self, CliError> {
        // All held until all are chosen, so that no two are the same.
        let mut held = Vec::new();
        let mut port = |wanted: u16| -> Result<SocketAddr, CliError> {
            let at = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
            let listener = at(if any { 0 } else { wanted }).or_else(|_| at(0))?;
            let address = listener.local_addr()?;
            held.push(listener);
            Ok(address)
        };
        Ok(Self {
            vault: port(7443)?,
            admin: port(7444)?,
            health: port(9464)?,
            mail: port(7451)?,
            mail_health: port(9465)?,
            smtp: port(7425)?,
            affiliate: port(7452)?,
            affiliate_health: port(9466)?,
        })
    }
}

/// Everything that runs on this machine.
pub(super) struct House {
    /// Where it lies.
    pub(super) folder: Folder,
    /// Where it listens.
    pub(super) ports: Ports,
    children: Vec<Child>,
}

impl House {
    /// Makes certificates and configuration; starts nothing yet.
    pub(super) fn prepare(folder: Folder, any_ports: bool) -> Result<Self, CliError> {
        for name in ["certs", "logs", "vault", "mail", "affiliate"] {
            folder.make(name)?;
        }
        let now = SystemClock.now_unix_ms();
        let authority = Authority::open_or_create(&folder.at("certs"), now)?;
        for (name, place) in HOLDERS {
            let principal = Some(format!("spiffe://{TRUST_DOMAIN}/{place}"));
            let holder = Holder { name: name.to_owned(), principal, ..Holder::local(name) };
            authority.issue(&holder, now, DAYS)?;
        }
        let house = Self { ports: Ports::choose(any_ports)?, folder, children: Vec::new() };
        house.folder.write("vault.toml", house.vault_config().as_bytes())?;
        house.folder.write("mail.toml", house.mail_config().as_bytes())?;
        house.folder.write("affiliate.toml", house.affiliate_config().as_bytes())?;
        house.folder.write("cli.toml", house.cli_config().as_bytes())?;
        Ok(house)
    }

    fn vault_config(&self) -> String {
        let at = |name: &str| quoted(&self.folder.at(name));
        let Ports { vault, admin, health, .. } = self.ports;
        format!(
            "listen = \"{vault}\"\n\
             data = {}\nkeys = {}\nroots.folder = {}\n\
             admins = [\"spiffe://{TRUST_DOMAIN}/person/dpo\"]\n\n\
             [admin]\nlisten = \"{admin}\"\n\n\
             [health]\nlisten = \"{health}\"\n\n\
             [tls]\n{}\n\
             [memory]\nallow_unlocked = true # a development machine's keys are no loss\n",
            at("vault/data"),
            at("vault/keys"),
            at("vault/roots"),
            self.tls("vault"),
        )
    }

    /// A configuration for a vault beside the vault, whose folders lie in `name`, and where it will listen.
    pub(super) fn beside(&self, name: &str) -> Result<(PathBuf, Beside), CliError> {
        let Ports { vault, admin, health, .. } = Ports::choose(true)?;
        let at = |part: &str| quoted(&self.folder.at(name).join(part));
        let config = format!(
            "listen = \"{vault}\"\n\
             data = {}\nkeys = {}\nroots.folder = {}\n\
             admins = [\"spiffe://{TRUST_DOMAIN}/person/dpo\"]\n\n\
             [admin]\nlisten = \"{admin}\"\n\n\
             [health]\nlisten = \"{health}\"\n\n\
             [tls]\n{}\n\
             [memory]\nallow_unlocked = true\n",
            at("data"),
            at("keys"),
            at("roots"),
            self.tls("vault"),
        );
        let path = self.folder.write(&format!("{name}.toml"), config.as_bytes())?;
        Ok((path, Beside { vault, admin, health }))
    }

    fn mail_config(&self) -> String {
        let config = self.downstream_config("mail", self.ports.mail, self.ports.mail_health);
        // Without a relay, mail goes to the sink, which keeps it in memory and shows it at /messages.
        format!("{config}\n[own]\nsink = \"{}\"\n", self.ports.smtp)
    }

    fn affiliate_config(&self) -> String {
        self.downstream_config("affiliate", self.ports.affiliate, self.ports.affiliate_health)
    }

    fn downstream_config(&self, name: &str, listen: SocketAddr, health: SocketAddr) -> String {
        let at = |place: &str| quoted(&self.folder.at(name).join(place));
        let Ports { vault, admin, .. } = self.ports;
        format!(
            "listen = \"{listen}\"\n\
             data = {}\nroots = {}\n\
             callers = [\"spiffe://{TRUST_DOMAIN}/service/orders\"]\n\n\
             [health]\nlisten = \"{health}\"\n\n\
             [tls]\n{}\n\
             [vault]\naddress = \"{vault}\"\nadmin = \"{admin}\"\nrefresh_ms = {REFRESH_MS}\n\n\
             [kafka]\nport_file = {}\n\n\
             [memory]\nallow_unlocked = true\n",
            at("data"),
            at("roots"),
            self.tls(name),
            quoted(&self.folder.at("vault").join("data").join("kafka.port")), // the vault's own broker
        )
    }

    fn tls(&self, name: &str) -> String {
        let at = |file: String| quoted(&self.folder.at("certs").join(file));
        format!(
            "cert = {}\nkey = {}\nca = {}\n",
            at(format!("{name}.pem")),
            at(format!("{name}.key")),
            at("ca.pem".to_owned())
        )
    }

    fn cli_config(&self) -> String {
        let Ports { vault, admin, .. } = self.ports;
        format!("vault = \"{vault}\"\nadmin = \"{admin}\"\ncerts = \"certs\"\n")
    }

    /// Starts the vault and waits until it serves.
    pub(super) async fn start_vault(&mut self) -> Result<(), CliError> {
        self.start("cloakroomd", "vault.toml", "vault.log")?;
        self.ready("cloakroomd", self.ports.health).await
    }

    /// Starts both downstreams and waits until they serve: they register, catch up and follow Kafka. The
    /// register must name them by then.
    pub(super) async fn start_downstreams(&mut self) -> Result<(), CliError> {
        self.start("cloakroom-mail", "mail.toml", "mail.log")?;
        self.start("cloakroom-affiliate", "affiliate.toml", "affiliate.log")?;
        self.ready("cloakroom-mail", self.ports.mail_health).await?;
        self.ready("cloakroom-affiliate", self.ports.affiliate_health).await
    }

    fn start(&mut self, name: &'static str, config: &str, log: &str) -> Result<(), CliError> {
        let program = beside(name)?;
        let log = self.folder.at("logs").join(log);
        self.children.push(Child::start(name, &program, &self.folder.at(config), log)?);
        Ok(())
    }

    async fn ready(&mut self, name: &str, health: SocketAddr) -> Result<(), CliError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = http::get(health, "/readyz").await;
            if matches!(answer, Some((200, _))) {
                return Ok(());
            }
            if let Some(died) = self.children.iter_mut().find_map(Child::ended) {
                return Err(died);
            }
            if Instant::now() > deadline {
                let said = answer.map_or_else(|| "it does not answer".to_owned(), |(_, body)| body);
                return Err(CliError::Unreachable(format!("{name} is not ready: {said}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until one of the daemons ends by itself, which none should.
    pub(super) async fn watch(&mut self) -> CliError {
        loop {
            if let Some(died) = self.children.iter_mut().find_map(Child::ended) {
                return died;
            }
            tokio::time::sleep(LOOK_EVERY.saturating_mul(10)).await;
        }
    }

    /// Stops everybody, the vault last.
    pub(super) async fn stop(&mut self) {
        while let Some(mut child) = self.children.pop() {
            child.stop().await;
        }
    }

    /// How a command finds everything, as `name`.
    pub(super) fn settings(&self, name: &str) -> Settings {
        Settings {
            vault: self.ports.vault.to_string(),
            admin: self.ports.admin.to_string(),
            certs: Some(self.folder.at("certs")),
            name: Some(name.to_owned()),
            format: Format::Text,
        }
    }

    /// A channel to one of the downstreams, as `name`.
    pub(super) async fn channel(&self, address: SocketAddr, name: &str) -> Result<Channel, CliError> {
        Ok(channel(&Endpoint::in_folder(address.to_string(), &self.folder.at("certs"), name)).await?)
    }
}

/// A daemon's program lies beside this one.
pub(super) fn beside(name: &str) -> Result<PathBuf, CliError> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    let folder = path.parent().unwrap_or(Path::new("")).display();
    note("build all programs: cargo build --workspace --bins");
    Err(CliError::Usage(format!("{name} is not in {folder}")))
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::from(path.to_string_lossy().into_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn taken_ports_are_replaced_and_no_two_are_the_same() {
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 7443)); // or somebody else has it
        let ports = Ports::choose(false).unwrap();
        assert_ne!(ports.vault.port(), 7443);
        let all = [
            ports.vault,
            ports.admin,
            ports.health,
            ports.mail,
            ports.mail_health,
            ports.smtp,
            ports.affiliate,
            ports.affiliate_health,
        ];
        assert_eq!(BTreeSet::from(all).len(), all.len());
    }

    #[test]
    fn every_configuration_is_toml_and_everybody_has_a_certificate() {
        let parent = tempfile::tempdir().unwrap();
        let house = House::prepare(Folder::begin(&parent.path().join("dev")).unwrap(), true).unwrap();
        for name in ["vault.toml", "mail.toml", "affiliate.toml", "cli.toml"] {
            let text = std::fs::read_to_string(house.folder.at(name)).unwrap();
            toml::from_str::<toml::Table>(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        }
        for (name, _) in HOLDERS {
            assert!(house.folder.at("certs").join(format!("{name}.key")).exists());
        }
    }
}
