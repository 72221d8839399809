//! The KMS that seals the file holder's roots, as it is configured: `[roots.kms]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A KMS answers within so long, or counts as away.
pub const KMS_TIMEOUT_MS: u64 = 5_000;

/// A transit engine of OpenBao or HashiCorp Vault, and how to be known to it: by a token in a file, by an
/// AppRole, or by a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct KmsConfig {
    /// `https://host:port`; plain `http://` only for this machine.
    pub address: String,
    /// The authority of its certificate, PEM.
    pub ca: PathBuf,
    /// The transit engine's mount.
    pub mount: String,
    /// Its key there, of a type with authenticated encryption.
    pub key: String,
    /// Its namespace, if it has them.
    pub namespace: String,
    /// For each call ([`KMS_TIMEOUT_MS`]).
    pub timeout_ms: u64,
    /// A file with a token, read at each call, so that an agent may replace it.
    pub token_file: PathBuf,
    /// An AppRole's id.
    pub role_id: String,
    /// The file of its secret id.
    pub secret_id_file: PathBuf,
    /// A client certificate, shown at each connection; by itself a way to log in.
    pub cert: PathBuf,
    /// Its private key.
    pub cert_key: PathBuf,
    /// The mount of the AppRole or certificate logins; empty for `approle` and `cert`.
    pub login_mount: String,
}

impl Default for KmsConfig {
    fn default() -> Self {
        Self {
            address: String::new(),
            ca: PathBuf::new(),
            mount: "transit".to_owned(),
            key: "cloakroom".to_owned(),
            namespace: String::new(),
            timeout_ms: KMS_TIMEOUT_MS,
            token_file: PathBuf::new(),
            role_id: String::new(),
            secret_id_file: PathBuf::new(),
            cert: PathBuf::new(),
            cert_key: PathBuf::new(),
            login_mount: String::new(),
        }
    }
}
