//! The root holder, as it is configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloakroom_engine::{FileHolder, RootHolder};
use cloakroom_runtime::identity::TlsFiles;
use serde::{Deserialize, Serialize};

use super::{KeyholdersConfig, KmsConfig, Pkcs11Config, TpmConfig};
use crate::VaultError;
use crate::kms::Transit;

/// Who keeps the root above the keys: `[roots]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, expecting = "a table: [roots] with `holder` and its settings, `folder` for the file holder")]
pub struct RootsConfig {
    /// What keeps it.
    pub holder: HolderKind,
    /// The file holder's folder.
    pub folder: PathBuf,
    /// A KMS that seals the file holder's root at rest; none if absent.
    pub kms: Option<KmsConfig>,
    /// The keyholders that keep it between them.
    pub keyholders: KeyholdersConfig,
    /// The PKCS#11 token that keeps it.
    pub pkcs11: Pkcs11Config,
    /// The TPM that keeps it.
    pub tpm: TpmConfig,
}

/// What can keep a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderKind {
    /// Files on this machine.
    #[default]
    File,
    /// Several `cloakroom-keyholder`s, a share each, in memory only.
    Keyholders,
    /// A PKCS#11 token.
    Pkcs11,
    /// A TPM 2.0 of this machine.
    Tpm,
}

impl Default for RootsConfig {
    fn default() -> Self {
        Self {
            holder: HolderKind::default(),
            folder: "roots".into(),
            kms: None,
            keyholders: KeyholdersConfig::default(),
            pkcs11: Pkcs11Config::default(),
            tpm: TpmConfig::default(),
        }
    }
}

impl RootsConfig {
    /// Whether roots would lie in `folder`.
    pub(super) fn shares(&self, folder: &Path) -> bool {
        self.holder == HolderKind::File && self.folder == folder
    }

    /// Opens the holder; one elsewhere is called as whoever `tls` names. What it depends on is asked once, so that
    /// a wrong setting shows at the start.
    ///
    /// # Errors
    /// [`VaultError::Holder`] with what the holder says, [`VaultError::Config`] for what cannot be meant.
    pub async fn open(&self, tls: &TlsFiles) -> Result<Arc<dyn RootHolder>, VaultError> {
        match (self.holder, &self.kms) {
            (HolderKind::File, None) => Ok(Arc::new(FileHolder::open(&self.folder)?)),
            (HolderKind::Keyholders, None) => self.keyholders.open(tls),
            (HolderKind::Pkcs11, None) => self.pkcs11.open(),
            (HolderKind::Tpm, None) => self.tpm.open(),
            (HolderKind::Keyholders | HolderKind::Pkcs11 | HolderKind::Tpm, Some(_)) => {
                let reason = "a KMS seals what lies in a file, and only the file holder has one";
                Err(VaultError::Config { key: "roots.kms", reason })
            }
            (HolderKind::File, Some(kms)) => {
                let transit = Transit::new(kms.clone())?;
                transit.check().await?;
                Ok(Arc::new(FileHolder::open(&self.folder)?.sealed_by(Box::new(transit))))
            }
        }
    }
}
