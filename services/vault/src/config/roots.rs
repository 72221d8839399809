//! The root holder, as it is configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloakroom_engine::{FileHolder, RootHolder};
use serde::{Deserialize, Serialize};

use crate::VaultError;

/// Who keeps the root above the keys: `[roots]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, expecting = "a table: [roots] with `holder` and its settings, `folder` for the file holder")]
pub struct RootsConfig {
    /// What keeps it.
    pub holder: HolderKind,
    /// The file holder's folder.
    pub folder: PathBuf,
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
        Self { holder: HolderKind::default(), folder: "roots".into() }
    }
}

impl RootsConfig {
    /// Whether roots would lie in `folder`.
    pub(super) fn shares(&self, folder: &Path) -> bool {
        self.holder == HolderKind::File && self.folder == folder
    }

    /// Opens the holder.
    ///
    /// # Errors
    /// [`VaultError::Holder`] with what the holder says.
    pub fn open(&self) -> Result<Arc<dyn RootHolder>, VaultError> {
        match self.holder {
            HolderKind::File => Ok(Arc::new(FileHolder::open(&self.folder)?)),
        }
    }
}
