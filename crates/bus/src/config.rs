//! Where the broker is and how to reach it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// How often a port file is looked at while nothing comes from the broker it named.
const PORT_FILE_LOOK: Duration = Duration::from_millis(300);

/// How to reach Kafka, and what topics look like that are made here.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusConfig {
    /// Where the broker is.
    pub bootstrap: Bootstrap,
    /// Names this process to the broker, in its logs and quotas.
    #[serde(default = "default_client_id")]
    pub client_id: String,
    /// Partitions of a controller's topics; those of the whole vault (checkpoint, dead letter) have one.
    #[serde(default = "default_partitions")]
    pub partitions: u16,
    /// Copies of each partition. From 3 on, a record counts as written when all but one have it.
    #[serde(default = "default_replication_factor")]
    pub replication_factor: u16,
    /// How long the broker keeps a record, in milliseconds. At least the age of the oldest backup that a
    /// downstream may restore: it then forgets again from here.
    #[serde(default = "default_retention_ms")]
    pub retention_ms: u64,
    /// Plain or TLS.
    #[serde(default)]
    pub security: Security,
    /// Further settings of librdkafka. What the bus promises (acknowledgements, idempotence, no timeout)
    /// cannot be set here: its own settings come last.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

impl BusConfig {
    /// A plain connection with one partition copy and the default retention.
    pub fn plaintext(bootstrap: Bootstrap) -> Self {
        Self {
            bootstrap,
            client_id: default_client_id(),
            partitions: default_partitions(),
            replication_factor: default_replication_factor(),
            retention_ms: default_retention_ms(),
            security: Security::Plaintext,
            extra: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusConfig")
            .field("bootstrap", &self.bootstrap)
            .field("client_id", &self.client_id)
            .field("partitions", &self.partitions)
            .field("replication_factor", &self.replication_factor)
            .field("retention_ms", &self.retention_ms)
            .field("security", &self.security)
            .field("extra", &self.extra.keys()) // a value may be a password
            .finish()
    }
}

fn default_client_id() -> String {
    "cloakroom".into()
}

fn default_partitions() -> u16 {
    4 // what the embedded broker gives, so that both spread keys alike
}

fn default_replication_factor() -> u16 {
    1
}

fn default_retention_ms() -> u64 {
    400 * 24 * 3600 * 1000 // a year's backups and a month to spare
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bootstrap {
    /// `host:port`, several separated by commas.
    Address(String),
    /// The file in which an [`crate::EmbeddedBroker`] states its address. Clients wait for it, and go to
    /// the new address when it changes.
    PortFile(PathBuf),
}

impl Bootstrap {
    /// Waits for the address.
    pub(crate) async fn resolve(&self) -> Address {
        match self {
            Self::Address(servers) => Address { servers: servers.clone(), start: String::new() },
            Self::PortFile(_) => loop {
                if let Some(address) = self.look() {
                    return address;
                }
                tokio::time::sleep(PORT_FILE_LOOK).await;
            },
        }
    }

    /// Returns once the broker is no longer the one at `known`.
    pub(crate) async fn moved(&self, known: &Address) {
        loop {
            match self {
                Self::Address(_) => std::future::pending().await,
                Self::PortFile(_) => tokio::time::sleep(PORT_FILE_LOOK).await,
            }
            if self.look().is_some_and(|now| now != *known) {
                return;
            }
        }
    }

    fn look(&self) -> Option<Address> {
        match self {
            Self::Address(_) => None,
            Self::PortFile(path) => Address::parse(&std::fs::read_to_string(path).ok()?),
        }
    }
}

/// A broker's address and which start of it this is: an embedded broker that comes back on the same port
/// has lost everything, so that a position in the former one means nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub(crate) servers: String,
    pub(crate) start: String,
}

impl Address {
    pub(crate) fn to_port_file(&self) -> String {
        format!("{}\n{}\n", self.servers, self.start)
    }

    fn parse(text: &str) -> Option<Self> {
        let (servers, start) = text.strip_suffix('\n')?.split_once('\n')?;
        Some(Self { servers: servers.to_owned(), start: start.to_owned() })
    }
}

/// Plain or TLS. Paths are to PEM files.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Security {
    /// No encryption: for the embedded broker, which listens on this machine alone.
    #[default]
    Plaintext,
    /// TLS with a client certificate, whose name is the principal in Kafka's access lists.
    Tls {
        /// The authority that signed the broker's certificate.
        ca: PathBuf,
        /// This client's certificate chain.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The key's password, if it has one.
        #[serde(default)]
        key_password: Option<String>,
    },
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext => f.write_str("Plaintext"),
            Self::Tls { ca, cert, key, .. } => f
                .debug_struct("Tls")
                .field("ca", ca)
                .field("cert", cert)
                .field("key", key)
                .finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_toml() {
        let config: BusConfig = toml::from_str(
            r#"
            bootstrap = { address = "kafka:9093" }
            partitions = 12
            security = { tls = { ca = "ca.pem", cert = "me.pem", key = "me.key", key_password = "planted" } }
            extra = { "sasl.password" = "planted" }
            "#,
        )
        .unwrap();
        assert_eq!(config.bootstrap, Bootstrap::Address("kafka:9093".into()));
        assert_eq!((config.partitions, config.replication_factor), (12, 1));
        assert!(!format!("{config:?}").contains("planted"), "{config:?}");
        assert!(format!("{config:?}").contains("sasl.password"));
    }

    #[test]
    fn reads_a_port_file_only_when_it_is_whole() {
        let address = Address { servers: "127.0.0.1:9092".into(), start: "7f".into() };
        let text = address.to_port_file();
        assert_eq!(Address::parse(&text), Some(address));
        for cut in 0..text.len() {
            assert_eq!(Address::parse(&text[..cut]), None, "{cut}");
        }
    }
}
