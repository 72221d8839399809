//! What a downstream's daemon is told: one TOML file, overridden by `CLOAKROOM_*` variables, overridden by
//! flags. What is a service's own stands under `own`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use cloakroom_bus::{Bootstrap, BusConfig, Security};
use cloakroom_client::Endpoint;
use cloakroom_runtime::config::Secret;
use cloakroom_runtime::identity::TlsFiles;
use cloakroom_runtime::serve::ServeConfig;
use cloakroom_runtime::telemetry::TelemetryConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kit::{REFRESH_MS, REPLAY_MS};
use crate::{DownstreamError, KitConfig};

/// What every variable of a daemon begins with.
pub const VARIABLE_PREFIX: &str = "CLOAKROOM_";

/// A service's own part of the configuration, and what tells it from others.
pub trait Service: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its id as a downstream, where nothing is configured; names its certificate's files too.
    const NAME: &'static str;
    /// Where callers call.
    const LISTEN_PORT: u16;
    /// Where watchers call.
    const HEALTH_PORT: u16;
}

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, bound = "S: Service")]
pub struct Config<S: Service> {
    /// Its id, as the registers name it.
    pub downstream: String,
    /// Where services call: gRPC, mutual TLS.
    pub listen: SocketAddr,
    /// The copies and everything beside them.
    pub data: PathBuf,
    /// The file root holder's folder: never in one backup with the data.
    pub roots: PathBuf,
    /// The file of its own signing key, made where it is missing; empty for `ack.key` beside the roots.
    pub key_file: PathBuf,
    /// SPIFFE ids of those who may call; nobody else may.
    pub callers: Vec<String>,
    /// Health and metrics.
    pub health: HealthConfig,
    /// Its own certificate, and the authority of everybody's.
    pub tls: TlsFiles,
    /// The vault.
    pub vault: VaultConfig,
    /// Kafka, where it is not what the vault says.
    pub kafka: KafkaConfig,
    /// Memory.
    pub memory: MemoryConfig,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    /// The bounds of each port.
    pub limits: ServeConfig,
    /// The service's own.
    pub own: S,
}

/// Health and metrics: plain HTTP, for whoever watches.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HealthConfig {
    /// Where watchers call.
    pub listen: SocketAddr,
}

/// The vault.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct VaultConfig {
    /// Its port for services, `host:port`.
    pub address: String,
    /// Its admin endpoint, `host:port`.
    pub admin: String,
    /// The name in its certificate, where it is not the address's host.
    pub server_name: Option<String>,
    /// How long connecting may take.
    pub connect_ms: u64,
    /// How often it is asked for new controllers and keys.
    pub refresh_ms: u64,
    /// How often its ledger is replayed, which closes what gaps Kafka may have left.
    pub replay_ms: u64,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:7443".to_owned(),
            admin: "127.0.0.1:7444".to_owned(),
            server_name: None,
            connect_ms: 5_000,
            refresh_ms: REFRESH_MS,
            replay_ms: REPLAY_MS,
        }
    }
}

/// Kafka; with neither `bootstrap` nor `port_file` it is where the vault says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// The file in which a vault on this machine states where its embedded broker is.
    pub port_file: PathBuf,
    /// Mutual TLS; plain text without.
    pub tls: Option<KafkaTls>,
    /// Further settings of librdkafka, a password among them maybe.
    pub extra: BTreeMap<String, Secret>,
}

/// Mutual TLS to the broker, all PEM.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KafkaTls {
    /// The authority of the broker's certificate.
    pub ca: PathBuf,
    /// The downstream's certificate there.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The key's password, if it has one.
    #[serde(default)]
    pub key_password: Secret,
}

/// Memory.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct MemoryConfig {
    /// Whether to start even where memory for keys cannot be locked: for development, where a key in swap is
    /// no loss.
    pub allow_unlocked: bool,
}

impl<S: Service> Default for Config<S> {
    fn default() -> Self {
        let here = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            downstream: S::NAME.to_owned(),
            listen: here(S::LISTEN_PORT),
            data: "data".into(),
            roots: "roots".into(),
            key_file: PathBuf::new(),
            callers: Vec::new(),
            health: HealthConfig { listen: here(S::HEALTH_PORT) },
            tls: TlsFiles::named("certs".as_ref(), S::NAME),
            vault: VaultConfig::default(),
            kafka: KafkaConfig::default(),
            memory: MemoryConfig::default(),
            telemetry: TelemetryConfig::default(),
            limits: ServeConfig::default(),
            own: S::default(),
        }
    }
}

impl<S: Service> Config<S> {
    /// The vault's port for services.
    pub fn vault_endpoint(&self) -> Endpoint {
        self.endpoint(&self.vault.address)
    }

    /// What the kit is told.
    ///
    /// # Errors
    /// [`DownstreamError::Config`] for what parses and still cannot be meant.
    pub fn kit(&self) -> Result<KitConfig, DownstreamError> {
        if self.data == self.roots {
            let reason = "data and roots are one folder: a backup of the one must not hold the other";
            return Err(DownstreamError::Config { key: "roots", reason });
        }
        let key_file = match self.key_file.as_os_str().is_empty() {
            true => self.roots.join("ack.key"),
            false => self.key_file.clone(),
        };
        Ok(KitConfig {
            downstream: self.downstream.clone(),
            admin: self.endpoint(&self.vault.admin),
            kafka: self.kafka.bus(),
            key_file,
            refresh_ms: self.vault.refresh_ms,
            replay_ms: self.vault.replay_ms,
        })
    }

    fn endpoint(&self, address: &str) -> Endpoint {
        Endpoint {
            address: address.to_owned(),
            ca: self.tls.ca.clone(),
            cert: self.tls.cert.clone(),
            key: self.tls.key.clone(),
            server_name: self.vault.server_name.clone(),
            connect_ms: self.vault.connect_ms,
        }
    }
}

impl KafkaConfig {
    fn bus(&self) -> Option<BusConfig> {
        let bootstrap = if !self.bootstrap.is_empty() {
            Bootstrap::Address(self.bootstrap.clone())
        } else if !self.port_file.as_os_str().is_empty() {
            Bootstrap::PortFile(self.port_file.clone())
        } else {
            return None;
        };
        let security = self.tls.as_ref().map_or(Security::Plaintext, |tls| Security::Tls {
            ca: tls.ca.clone(),
            cert: tls.cert.clone(),
            key: tls.key.clone(),
            key_password: Some(tls.key_password.reveal().to_owned()).filter(|password| !password.is_empty()),
        });
        Some(BusConfig {
            security,
            extra: self.extra.iter().map(|(key, value)| (key.clone(), value.reveal().to_owned())).collect(),
            ..BusConfig::plaintext(bootstrap)
        })
    }
}

#[cfg(test)]
mod tests {
    use cloakroom_runtime::config::{dump, load_from};

    use super::*;

    #[derive(Clone, Debug, Default, Deserialize, Serialize)]
    #[serde(default)]
    struct Own {
        sender: String,
    }

    impl Service for Own {
        const NAME: &'static str = "post";
        const LISTEN_PORT: u16 = 1;
        const HEALTH_PORT: u16 = 2;
    }

    fn flags(flags: &[(&str, &str)]) -> Result<Config<Own>, DownstreamError> {
        let flags: Vec<_> =
            flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(load_from(None, VARIABLE_PREFIX, [], &flags)?)
    }

    #[test]
    fn a_dump_is_a_configuration_and_hides_secrets() {
        let config =
            flags(&[("own.sender", "a@b.c"), ("kafka.extra", "{ 'sasl.password' = 'planted' }")]).unwrap();
        let dumped = dump(&config).unwrap();
        assert!(dumped.contains("[own]") && !dumped.contains("planted"), "{dumped}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("post.toml");
        std::fs::write(&path, dumped).unwrap();
        let again: Config<Own> = load_from(Some(&path), VARIABLE_PREFIX, [], &[]).unwrap();
        assert_eq!(
            (again.own.sender.as_str(), again.listen.port(), again.health.listen.port()),
            ("a@b.c", 1, 2)
        );
        for key in ["lisen", "own.sendr", "vault.adress", "kafka.bootstap", "memory.unlocked"] {
            assert!(flags(&[(key, "1")]).is_err(), "{key}");
        }
    }

    #[test]
    fn kafka_is_where_the_configuration_says_or_else_the_vault() {
        let kafka =
            |given: &[(&str, &str)]| flags(given).unwrap().kit().unwrap().kafka.map(|bus| bus.bootstrap);
        assert_eq!(kafka(&[]), None);
        assert_eq!(kafka(&[("kafka.bootstrap", "k:9092")]), Some(Bootstrap::Address("k:9092".into())));
        assert_eq!(kafka(&[("kafka.port_file", "/x")]), Some(Bootstrap::PortFile("/x".into())));
        let one = flags(&[("data", "d"), ("roots", "d")]).unwrap();
        assert!(matches!(one.kit(), Err(DownstreamError::Config { key: "roots", .. })));
    }
}
