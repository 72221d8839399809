//! The keyholder quorum, as it is configured.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_engine::RootHolder;
use cloakroom_engine::holder::QuorumHolder;
use cloakroom_runtime::identity::TlsFiles;
use serde::{Deserialize, Serialize};

use crate::{VaultError, keyholders};

/// So many keyholders give a root back, where nothing is configured: of three, one may be lost.
pub const THRESHOLD: u8 = 2;
/// An ownership of the key tree is renewed three times in this time; another process waits for so long.
pub const LEASE_MS: u64 = 30_000;

/// The keyholders that keep the root between them: `[roots.keyholders]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct KeyholdersConfig {
    /// Where they are, `host:port` each; shares are dealt to these names. Exchange fewer than `threshold` at a
    /// time.
    pub addresses: Vec<String>,
    /// So many of them give a root back ([`THRESHOLD`]). When so few are left that this is not met, every key is
    /// lost.
    pub threshold: u8,
    /// How long an ownership of the key tree holds without being renewed ([`LEASE_MS`]); at most the keyholders'
    /// own `lease_ms`.
    pub lease_ms: u64,
}

impl Default for KeyholdersConfig {
    fn default() -> Self {
        Self { addresses: Vec::new(), threshold: THRESHOLD, lease_ms: LEASE_MS }
    }
}

impl KeyholdersConfig {
    /// The quorum; each keyholder is connected, as whoever `tls` names, when it is first asked.
    pub(super) fn open(&self, tls: &TlsFiles) -> Result<Arc<dyn RootHolder>, VaultError> {
        if self.addresses.is_empty() {
            let reason = "wanted are the keyholders' addresses, host:port each";
            return Err(VaultError::Config { key: "roots.keyholders.addresses", reason });
        }
        let keyholders = keyholders::connect(&self.addresses, tls)?;
        let lease = Duration::from_millis(self.lease_ms);
        Ok(Arc::new(QuorumHolder::new(keyholders, self.threshold, lease)?))
    }
}
