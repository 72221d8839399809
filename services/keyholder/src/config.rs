//! What the daemon is told: `keyholder.toml`, overridden by `CLOAKROOM_*` variables, overridden by flags.
//! A sample with every key stands in `deploy/config/keyholder.toml`; a test holds it to the defaults here.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use cloakroom_runtime::identity::{Principal, TlsFiles};
use cloakroom_runtime::serve::ServeConfig;
use cloakroom_runtime::telemetry::TelemetryConfig;
use serde::{Deserialize, Serialize};

use crate::KeyholderError;
use crate::shelf::Limits;

/// What every variable of this daemon begins with.
pub const VARIABLE_PREFIX: &str = "CLOAKROOM_";
/// The owners' port.
pub const LISTEN_PORT: u16 = 7461;
/// The port for health and metrics.
pub const HEALTH_PORT: u16 = 9471;
/// The longest ownership granted at once, and how long none is granted after a start. Long enough to ride out a
/// restart of the network, short enough to wait for.
pub const LEASE_MS: u64 = 30_000;
/// Shares kept at once: a tree has one root, two during a batch, and one for each key backup in escrow. They take
/// 32 bytes of locked memory each.
pub const SHARES_MAX: usize = 4_096;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    /// Where owners call: gRPC, mutual TLS ([`LISTEN_PORT`]).
    pub listen: SocketAddr,
    /// SPIFFE ids of the vaults and downstreams that keep their roots here; nobody else may call.
    pub owners: Vec<String>,
    /// The longest ownership granted at once ([`LEASE_MS`]).
    pub lease_ms: u64,
    /// Shares kept at once ([`SHARES_MAX`]); beyond it no further root is taken.
    pub shares_max: usize,
    /// Health and metrics.
    pub health: HealthConfig,
    /// Its own certificate, and the authority of everybody's.
    pub tls: TlsFiles,
    /// Memory.
    pub memory: MemoryConfig,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    /// The bounds of each port.
    pub limits: ServeConfig,
}

/// Health and metrics: plain HTTP, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct HealthConfig {
    /// Where watchers call ([`HEALTH_PORT`]).
    pub listen: SocketAddr,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct MemoryConfig {
    /// Whether to start even where it cannot be locked: for development, where a share in swap is no loss.
    pub allow_unlocked: bool,
}

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: here(LISTEN_PORT),
            owners: Vec::new(),
            lease_ms: LEASE_MS,
            shares_max: SHARES_MAX,
            health: HealthConfig::default(),
            tls: TlsFiles::named("certs".as_ref(), "keyholder"),
            memory: MemoryConfig::default(),
            telemetry: TelemetryConfig::default(),
            limits: ServeConfig::default(),
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { listen: here(HEALTH_PORT) }
    }
}

impl Config {
    /// Who may call.
    pub(crate) fn owners(&self) -> Result<HashSet<Principal>, KeyholderError> {
        let wrong =
            KeyholderError::Config { key: "owners", reason: "wanted are SPIFFE ids: spiffe://domain/path" };
        self.owners.iter().map(|id| Principal::parse(id)).collect::<Option<_>>().ok_or(wrong)
    }

    pub(crate) fn limits(&self) -> Result<Limits, KeyholderError> {
        if self.lease_ms == 0 {
            return Err(KeyholderError::Config { key: "lease_ms", reason: "nobody could own anything" });
        }
        if self.shares_max == 0 {
            return Err(KeyholderError::Config { key: "shares_max", reason: "there is nothing to hold" });
        }
        Ok(Limits { lease: Duration::from_millis(self.lease_ms), shares_max: self.shares_max })
    }
}

#[cfg(test)]
mod tests {
    use cloakroom_runtime::config::load_from;

    use super::*;

    #[test]
    fn the_sample_file_says_the_defaults_and_nothing_that_is_unknown() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config/keyholder.toml");
        let mut sample: Config = load_from(Some(sample.as_ref()), VARIABLE_PREFIX, [], &[]).unwrap();
        let defaults = Config::default();
        assert!(sample.tls.cert.is_absolute() && !sample.owners.is_empty());
        sample.owners().unwrap();
        (sample.tls, sample.owners) = (defaults.tls.clone(), Vec::new());
        assert_eq!(sample, defaults);
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.owners().is_ok() && config.limits().is_ok()
        };
        assert!(with(|_| ()));
        assert!(!with(|config| config.owners = vec!["vault".into()]));
        assert!(!with(|config| config.lease_ms = 0));
        assert!(!with(|config| config.shares_max = 0));
    }
}
