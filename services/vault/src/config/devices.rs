//! Root holders that are devices, as they are configured: `[roots.pkcs11]` and `[roots.tpm]`.

use std::path::PathBuf;
use std::sync::Arc;

use cloakroom_engine::RootHolder;
use serde::{Deserialize, Serialize};

use super::LEASE_MS;
use crate::VaultError;

/// A device answers within so long, or counts as away.
pub const DEVICE_TIMEOUT_MS: u64 = 10_000;
/// The first of sixteen NV indexes in the range that is the owner's to hand out.
pub const FIRST_INDEX: u32 = 0x0180_c10a;
/// A tree takes one, and a second for a moment in each batch.
pub const INDEXES: u32 = 16;

/// A token of a PKCS#11 library.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Pkcs11Config {
    /// The maker's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// A file of mode 0600 with its user PIN.
    pub pin_file: PathBuf,
    /// Or the variable that has it.
    pub pin_env: String,
    /// How long an ownership of the key tree holds without being renewed ([`LEASE_MS`]); every start waits as long.
    pub lease_ms: u64,
    /// For each call ([`DEVICE_TIMEOUT_MS`]).
    pub timeout_ms: u64,
}

/// A TPM 2.0 of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TpmConfig {
    /// How to reach it, in tpm2-tss's words.
    pub tcti: String,
    /// The folder for what lies beside it: lock, owners' numbers, notes. The same one for all that use this TPM.
    pub state: PathBuf,
    /// The first NV index to use ([`FIRST_INDEX`]).
    pub first_index: u32,
    /// How many ([`INDEXES`]).
    pub indexes: u32,
    /// A file of mode 0600 with the owner hierarchy's password; empty if it has none.
    pub owner_auth_file: PathBuf,
    /// A file of mode 0600 with the indexes' password; empty for none.
    pub index_auth_file: PathBuf,
    /// For each call ([`DEVICE_TIMEOUT_MS`]).
    pub timeout_ms: u64,
}

impl Default for Pkcs11Config {
    fn default() -> Self {
        Self {
            module: PathBuf::new(),
            token: "cloakroom".to_owned(),
            pin_file: PathBuf::new(),
            pin_env: String::new(),
            lease_ms: LEASE_MS,
            timeout_ms: DEVICE_TIMEOUT_MS,
        }
    }
}

impl Default for TpmConfig {
    fn default() -> Self {
        Self {
            tcti: "device:/dev/tpmrm0".to_owned(),
            state: "tpm".into(),
            first_index: FIRST_INDEX,
            indexes: INDEXES,
            owner_auth_file: PathBuf::new(),
            index_auth_file: PathBuf::new(),
            timeout_ms: DEVICE_TIMEOUT_MS,
        }
    }
}

impl Pkcs11Config {
    #[cfg(feature = "pkcs11")]
    pub(super) fn open(&self) -> Result<Arc<dyn RootHolder>, VaultError> {
        use std::time::Duration;

        use cloakroom_engine::holder::{Pkcs11Holder, Pkcs11Options, SecretSource};

        let pin = match (self.pin_file.as_os_str().is_empty(), self.pin_env.is_empty()) {
            (false, true) => SecretSource::File(self.pin_file.clone()),
            (true, false) => SecretSource::Env(self.pin_env.clone()),
            _ => {
                let reason = "wanted is the PIN's file, or roots.pkcs11.pin_env with its variable";
                return Err(VaultError::Config { key: "roots.pkcs11.pin_file", reason });
            }
        };
        if self.module.as_os_str().is_empty() {
            let reason = "wanted is the PKCS#11 library of the token's maker";
            return Err(VaultError::Config { key: "roots.pkcs11.module", reason });
        }
        Ok(Arc::new(Pkcs11Holder::open(Pkcs11Options {
            module: self.module.clone(),
            token: self.token.clone(),
            pin,
            lease: Duration::from_millis(self.lease_ms),
            answer_within: Duration::from_millis(self.timeout_ms),
        })?))
    }

    #[cfg(not(feature = "pkcs11"))]
    pub(super) fn open(&self) -> Result<Arc<dyn RootHolder>, VaultError> {
        Err(VaultError::Config { key: "roots.holder", reason: "this vault was built without pkcs11" })
    }
}

impl TpmConfig {
    #[cfg(feature = "tpm")]
    pub(super) fn open(&self) -> Result<Arc<dyn RootHolder>, VaultError> {
        use std::time::Duration;

        use cloakroom_engine::holder::{SecretSource, TpmHolder, TpmOptions};

        let secret =
            |file: &PathBuf| (!file.as_os_str().is_empty()).then(|| SecretSource::File(file.clone()));
        Ok(Arc::new(TpmHolder::open(TpmOptions {
            tcti: self.tcti.clone(),
            state: self.state.clone(),
            first_index: self.first_index,
            indexes: self.indexes,
            owner_auth: secret(&self.owner_auth_file),
            index_auth: secret(&self.index_auth_file),
            answer_within: Duration::from_millis(self.timeout_ms),
        })?))
    }

    #[cfg(not(feature = "tpm"))]
    pub(super) fn open(&self) -> Result<Arc<dyn RootHolder>, VaultError> {
        Err(VaultError::Config { key: "roots.holder", reason: "this vault was built without tpm" })
    }
}

#[cfg(all(test, feature = "pkcs11", feature = "tpm"))]
mod tests {
    use super::*;

    fn refused(opened: Result<Arc<dyn RootHolder>, VaultError>) -> &'static str {
        match opened {
            Ok(_) => panic!("opened"),
            Err(VaultError::Config { key, .. }) => key,
            Err(VaultError::Holder(_)) => "asked",
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_token_needs_a_library_and_one_way_to_its_pin() {
        let config = Pkcs11Config::default();
        assert_eq!(refused(config.open()), "roots.pkcs11.pin_file");
        let (pin_file, pin_env) = (PathBuf::from("pin"), "PIN".to_owned());
        let both = Pkcs11Config { pin_file: pin_file.clone(), pin_env: pin_env.clone(), ..config.clone() };
        assert_eq!(refused(both.open()), "roots.pkcs11.pin_file");
        let one = Pkcs11Config { pin_file, ..config };
        assert_eq!(refused(one.open()), "roots.pkcs11.module");
        let whole = Pkcs11Config { module: "/nowhere/none.so".into(), ..one };
        assert_eq!(refused(whole.open()), "asked");
    }

    #[test]
    fn a_tpm_that_is_not_there_is_said_by_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let config = TpmConfig { tcti: "device:/nowhere/tpm".to_owned(), state, ..TpmConfig::default() };
        assert_eq!(refused(config.open()), "asked");
    }
}
