//! The root holder, as it is configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloakroom_engine::{FileHolder, RootHolder};
use serde::{Deserialize, Serialize};

use super::KmsConfig;
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
}

/// What can keep a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderKind {
    /// Files on this machine.
    #[default]
    File,
}

impl Default for RootsConfig {
    fn default() -> Self {
        Self { holder: HolderKind::default(), folder: "roots".into(), kms: None }
    }
}

impl RootsConfig {
    /// Whether roots would lie in `folder`.
    pub(super) fn shares(&self, folder: &Path) -> bool {
        self.holder == HolderKind::File && self.folder == folder
    }

    /// Opens the holder; what it depends on is asked once, so that a wrong setting shows at the start.
    ///
    /// # Errors
    /// [`VaultError::Holder`] with what the holder says, [`VaultError::Config`] for what cannot be meant.
    pub async fn open(&self) -> Result<Arc<dyn RootHolder>, VaultError> {
        match (self.holder, &self.kms) {
            (HolderKind::File, None) => Ok(Arc::new(FileHolder::open(&self.folder)?)),
            (HolderKind::File, Some(kms)) => {
                let transit = Transit::new(kms.clone())?;
                transit.check().await?;
                Ok(Arc::new(FileHolder::open(&self.folder)?.sealed_by(Box::new(transit))))
            }
        }
    }
}
