//! What the daemon is told: `vault.toml`, overridden by `CLOAKROOM_*` variables, overridden by flags.
//! A sample with every key stands in `deploy/config/vault.toml`; a test holds it to the defaults here.

mod devices;
mod kafka;
mod keyholders;
mod kms;
mod roots;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use cloakroom_engine::{Options, RootHolder};
use cloakroom_runtime::config::load;
use cloakroom_runtime::identity::{Principal, TlsFiles};
use cloakroom_runtime::serve::ServeConfig;
use cloakroom_runtime::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

pub use devices::{DEVICE_TIMEOUT_MS, FIRST_INDEX, INDEXES, Pkcs11Config, TpmConfig};
pub use kafka::{KafkaConfig, KafkaTls, PARTITIONS, REPLICATION_FACTOR, RETENTION_MS};
pub use keyholders::{KeyholdersConfig, LEASE_MS, THRESHOLD};
pub use kms::{KMS_TIMEOUT_MS, KmsConfig};
pub use roots::{HolderKind, RootsConfig};

use crate::VaultError;

/// What every variable of this daemon begins with.
pub const VARIABLE_PREFIX: &str = "CLOAKROOM_";

/// The services' port.
pub const LISTEN_PORT: u16 = 7443;
/// The officers' port.
pub const ADMIN_PORT: u16 = 7444;
/// The port for health and metrics.
pub const HEALTH_PORT: u16 = 9464;
/// Writes that may wait for the log: some commits' worth. Beyond it calls get RESOURCE_EXHAUSTED at once.
pub const QUEUE_WRITES_MAX: usize = 1_024;
/// Events in one group commit: more would make the first of them wait for the last.
pub const COMMIT_EVENTS_MAX: usize = 4096;
/// The access log's files: what one event of the log names.
const ACCESS_FILE_BYTES: u64 = 16 << 20;
/// Kept free on the disk: what a start, a fence and a batch need when nothing else may be written any more.
pub const RESERVE_BYTES: u64 = 256 << 20;
/// The access log reaches the disk after so long at most; the kernel has it before every answer.
pub const ACCESS_SYNC_MS: u64 = 100;
/// Look-ups by value that each principal may make a second: as many as a busy support desk types.
pub const LOOKUP_PER_SECOND: u32 = 10;
/// And at once: a list of some orders, but no directory.
pub const LOOKUP_BURST: u32 = 100;
/// A batch waits so long for further fences.
pub const ERASE_BATCH_MS: u64 = 50;
/// How often the gauges of `/metrics` are taken.
pub const GAUGES_MS: u64 = 1_000;
/// Who the vault says it is in what it announces, where nothing is configured: the development authority's.
pub const PRINCIPAL: &str = "spiffe://cloakroom.local/vault";

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Where services call ([`LISTEN_PORT`]).
    pub listen: SocketAddr,
    /// Events and projections: ciphertext only, to be backed up anywhere.
    pub data: PathBuf,
    /// The key tree: never in a backup of the data.
    pub keys: PathBuf,
    /// Who keeps the root above the keys.
    pub roots: RootsConfig,
    /// Who kept it before: the root moves from there, and what a move left there is destroyed.
    pub former_roots: Option<RootsConfig>,
    /// The SPIFFE id that announcements name as their source ([`PRINCIPAL`]).
    pub principal: String,
    /// SPIFFE ids that may do everything at the admin endpoint: the first administrators. Everybody else
    /// stands in a register.
    pub admins: Vec<String>,
    /// The admin endpoint.
    pub admin: AdminConfig,
    /// Health and metrics.
    pub health: HealthConfig,
    /// The vault's own certificate, and the authority of everybody's.
    pub tls: TlsFiles,
    /// Memory.
    pub memory: MemoryConfig,
    /// The disk.
    pub store: StoreConfig,
    /// The access log.
    pub access: AccessConfig,
    /// Forgetting.
    pub erase: EraseConfig,
    /// Copies of the keys for disasters.
    pub key_backups: KeyBackupsConfig,
    /// Finding tokens by value.
    pub lookup: LookupConfig,
    /// The bus to the downstreams.
    pub kafka: KafkaConfig,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    /// The bounds of each of the three ports.
    pub limits: ServeConfig,
    /// Where all this was read: no key of it, and known to the daemon alone.
    #[serde(skip)]
    pub source: Option<Source>,
    /// Take the keys from an owner that is known to be dead: no key either, but said at one start.
    #[serde(skip)]
    pub take_over: bool,
}

/// Where a configuration was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What overrides it.
    pub flags: Vec<(String, String)>,
}

/// The admin endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct AdminConfig {
    /// Where officers call ([`ADMIN_PORT`]).
    pub listen: SocketAddr,
}

/// Health and metrics: plain HTTP, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct HealthConfig {
    /// Where watchers call ([`HEALTH_PORT`]).
    pub listen: SocketAddr,
    /// How often the gauges are taken ([`GAUGES_MS`]).
    pub gauges_ms: u64,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct MemoryConfig {
    /// For opened pages of the key tree, locked; RLIMIT_MEMLOCK must allow it, and 4 MiB besides for keys at
    /// work. 0: 48 MiB, or 4 where the system does not let so much be locked.
    pub cache_bytes: usize,
    /// Whether to start even where it cannot be locked: for development, where a key in swap is no loss.
    pub allow_unlocked: bool,
}

/// The disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct StoreConfig {
    /// Kept free ([`RESERVE_BYTES`]).
    pub reserve_bytes: u64,
    /// Events in one group commit ([`COMMIT_EVENTS_MAX`]).
    pub commit_events_max: usize,
    /// Writes that may wait for it ([`QUEUE_WRITES_MAX`]).
    pub queue_writes_max: usize,
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct AccessConfig {
    /// Between two syncs ([`ACCESS_SYNC_MS`]).
    pub sync_ms: u64,
}

/// Forgetting.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct EraseConfig {
    /// How long a batch waits for further fences ([`ERASE_BATCH_MS`]).
    pub batch_ms: u64,
}

/// Copies of the keys, each with a root that is destroyed when its window is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct KeyBackupsConfig {
    /// How long the root of a key backup stays in escrow, and so for how long what is erased is not final. 0: there
    /// are no key backups.
    pub window_ms: u64,
}

/// Finding tokens by value, for each principal by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct LookupConfig {
    /// Over time ([`LOOKUP_PER_SECOND`]).
    pub per_second: u32,
    /// At once ([`LOOKUP_BURST`]).
    pub burst: u32,
}

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: here(LISTEN_PORT),
            data: "data".into(),
            keys: "keys".into(),
            roots: RootsConfig::default(),
            former_roots: None,
            principal: PRINCIPAL.to_owned(),
            admins: Vec::new(),
            admin: AdminConfig::default(),
            health: HealthConfig::default(),
            tls: TlsFiles::named("certs".as_ref(), "vault"),
            memory: MemoryConfig::default(),
            store: StoreConfig::default(),
            access: AccessConfig::default(),
            erase: EraseConfig::default(),
            key_backups: KeyBackupsConfig::default(),
            lookup: LookupConfig::default(),
            kafka: KafkaConfig::default(),
            telemetry: TelemetryConfig::default(),
            limits: ServeConfig::default(),
            source: None,
            take_over: false,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: here(ADMIN_PORT) }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { listen: here(HEALTH_PORT), gauges_ms: GAUGES_MS }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            reserve_bytes: RESERVE_BYTES,
            commit_events_max: COMMIT_EVENTS_MAX,
            queue_writes_max: QUEUE_WRITES_MAX,
        }
    }
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self { sync_ms: ACCESS_SYNC_MS }
    }
}

impl Default for EraseConfig {
    fn default() -> Self {
        Self { batch_ms: ERASE_BATCH_MS }
    }
}

impl Default for LookupConfig {
    fn default() -> Self {
        Self { per_second: LOOKUP_PER_SECOND, burst: LOOKUP_BURST }
    }
}

impl Config {
    /// What it says by now, read again from where it was read.
    ///
    /// # Errors
    /// [`VaultError`] where it does not read any more, or nobody knows where it came from.
    pub fn reread(&self) -> Result<Self, VaultError> {
        let reason = "nobody knows where it was read";
        let source = self.source.as_ref().ok_or(VaultError::Config { key: "source", reason })?;
        let read: Self = load(source.file.as_deref(), VARIABLE_PREFIX, &source.flags)?;
        Ok(Self { source: self.source.clone(), ..read })
    }

    /// Refuses what parses and still cannot be meant, before anything is opened.
    ///
    /// # Errors
    /// [`VaultError::Config`]
    pub fn check(&self) -> Result<(), VaultError> {
        let spiffe = |key, text: &str| match Principal::parse(text) {
            Some(_) => Ok(()),
            None => Err(VaultError::Config { key, reason: "wanted is a SPIFFE id: spiffe://domain/path" }),
        };
        spiffe("principal", &self.principal)?;
        self.admins.iter().try_for_each(|admin| spiffe("admins", admin))?;
        if self.data == self.keys || self.roots.shares(&self.data) {
            let reason =
                "data lies in one folder with keys or roots: a backup of the one must not hold the other";
            return Err(VaultError::Config { key: "data", reason });
        }
        self.kafka.bus_options().map(drop)
    }

    /// What the engine is opened with, besides a root holder ([`RootsConfig::open`]).
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn engine_options(&self, holder: Arc<dyn RootHolder>) -> Result<Options, VaultError> {
        self.check()?;
        Ok(Options {
            data: self.data.clone(),
            keys: self.keys.clone(),
            take_over: self.take_over,
            cache_bytes: self.memory.cache_bytes,
            allow_unlocked: self.memory.allow_unlocked,
            reserve_bytes: self.store.reserve_bytes,
            access_sync_ms: self.access.sync_ms,
            access_file_bytes: ACCESS_FILE_BYTES,
            erase_batch_ms: self.erase.batch_ms,
            key_backup_window_ms: self.key_backups.window_ms,
            lookup_per_second: self.lookup.per_second,
            lookup_burst: self.lookup.burst,
            queue_max: self.store.queue_writes_max,
            commit_events_max: self.store.commit_events_max,
            admins: self.admins.clone(),
            source: self.principal.clone(),
            bus: self.kafka.bus_options()?,
            ..Options::in_folder(&self.data, holder)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakroom_engine::FileHolder;
    use cloakroom_runtime::config::{dump, load_from};

    fn flag(key: &str, value: &str) -> Result<Config, VaultError> {
        Ok(load_from(None, VARIABLE_PREFIX, [], &[(key.to_owned(), value.to_owned())])?)
    }

    fn holder() -> Arc<dyn RootHolder> {
        let folder = tempfile::tempdir().unwrap();
        Arc::new(FileHolder::open(&folder.path().join("roots")).unwrap())
    }

    #[test]
    fn the_sample_file_says_the_defaults_and_nothing_that_is_unknown() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config/vault.toml");
        let mut sample: Config = load_from(Some(sample.as_ref()), VARIABLE_PREFIX, [], &[]).unwrap();
        let defaults = Config::default();
        // Where a machine keeps its files is the one thing that a sample knows better.
        assert!(sample.data.is_absolute() && sample.tls.cert.is_absolute());
        assert!(!sample.admins.is_empty());
        sample.engine_options(holder()).unwrap();
        (sample.data, sample.keys) = (defaults.data.clone(), defaults.keys.clone());
        (sample.roots, sample.tls) = (defaults.roots.clone(), defaults.tls.clone());
        sample.admins = Vec::new();
        assert_eq!(sample, defaults);
    }

    #[test]
    fn a_dump_is_a_configuration_that_says_the_same() {
        let config = flag("kafka.tls", "{ ca = 'a', cert = 'b', key = 'c' }").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.toml");
        std::fs::write(&path, dump(&config).unwrap()).unwrap();
        assert_eq!(load_from::<Config>(Some(&path), VARIABLE_PREFIX, [], &[]).unwrap(), config);
    }

    #[test]
    fn what_nothing_reads_is_an_error() {
        for key in ["lisen", "admin.lisen", "memory.locked_mib", "limits.calls", "kafka.tls.cerd"] {
            assert!(flag(key, "1").is_err(), "{key}");
        }
    }

    #[test]
    fn a_folder_for_the_roots_as_it_was_written_before_says_how_it_is_written_now() {
        let error = flag("roots", "/var/lib/roots").unwrap_err().to_string();
        assert!(error.contains("[roots]") && error.contains("folder"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let refused = |key: &str, value: &str| flag(key, value).unwrap().engine_options(holder()).is_err();
        assert!(refused("admins", "['dpo@example.com']"));
        assert!(refused("principal", "vault"));
        assert!(refused("keys", "data"));
        assert!(refused("kafka.embedded", "false"));
        assert!(!refused("erase.batch_ms", "0"));
    }
}
