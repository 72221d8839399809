//! The bus, as it is configured.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cloakroom_engine::{Bootstrap, BusConfig, BusOptions, Security};
use cloakroom_runtime::config::Secret;
use serde::{Deserialize, Serialize};

use crate::VaultError;

/// Partitions of a controller's topics: as many as the embedded broker gives.
pub const PARTITIONS: u16 = 4;
/// Copies of each partition.
pub const REPLICATION_FACTOR: u16 = 1;
/// How long the broker keeps a record: a year's backups, and a month to spare.
pub const RETENTION_MS: u64 = 400 * 24 * 3_600_000;

/// Where Kafka is: the embedded broker, unless `bootstrap` names another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct KafkaConfig {
    /// A broker inside the vault, in memory, on this machine alone: for development and the first run.
    pub embedded: bool,
    /// Apache Kafka: `host:port`, several separated by commas. Takes the place of the embedded broker.
    pub bootstrap: String,
    /// Partitions of a controller's topics ([`PARTITIONS`]).
    pub partitions: u16,
    /// Copies of each partition ([`REPLICATION_FACTOR`]).
    pub replication_factor: u16,
    /// How long the broker keeps a record ([`RETENTION_MS`]).
    pub retention_ms: u64,
    /// Mutual TLS to the broker; plain text without.
    pub tls: Option<KafkaTls>,
    /// Further settings of librdkafka, a password among them maybe.
    pub extra: BTreeMap<String, Secret>,
}

/// Mutual TLS to the broker, all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct KafkaTls {
    /// The authority of the broker's certificate.
    pub ca: PathBuf,
    /// The vault's certificate there.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The key's password, if it has one.
    #[serde(default)]
    pub key_password: Secret,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            embedded: true,
            bootstrap: String::new(),
            partitions: PARTITIONS,
            replication_factor: REPLICATION_FACTOR,
            retention_ms: RETENTION_MS,
            tls: None,
            extra: BTreeMap::new(),
        }
    }
}

impl KafkaConfig {
    /// What the engine is told. No bus at all is none of the choices: erasures would reach nobody.
    pub(super) fn bus_options(&self) -> Result<BusOptions, VaultError> {
        if self.bootstrap.is_empty() {
            let reason = "name a broker where the embedded one is off";
            let missing = VaultError::Config { key: "kafka.bootstrap", reason };
            return if self.embedded { Ok(BusOptions::Embedded) } else { Err(missing) };
        }
        let security = self.tls.as_ref().map_or(Security::Plaintext, |tls| Security::Tls {
            ca: tls.ca.clone(),
            cert: tls.cert.clone(),
            key: tls.key.clone(),
            key_password: Some(tls.key_password.reveal().to_owned()).filter(|password| !password.is_empty()),
        });
        Ok(BusOptions::Kafka(BusConfig {
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            retention_ms: self.retention_ms,
            security,
            extra: self.extra.iter().map(|(key, value)| (key.clone(), value.reveal().to_owned())).collect(),
            ..BusConfig::plaintext(Bootstrap::Address(self.bootstrap.clone()))
        }))
    }
}
