//! Root holders: whoever keeps the one small secret above a key tree.
//!
//! A holder's work is to forget. What a certificate may claim is what its holder says of itself in
//! [`RootHolder::destroy_class`].

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(any(feature = "pkcs11", feature = "tpm"))]
mod desk;
mod file;
#[cfg(feature = "pkcs11")]
mod pkcs11;
pub mod quorum;
mod sealer;
#[cfg(any(feature = "pkcs11", feature = "tpm"))]
mod secret;
#[cfg(feature = "contract")]
pub mod through;
#[cfg(feature = "tpm")]
mod tpm;

pub use file::FileHolder;
#[cfg(feature = "pkcs11")]
pub use pkcs11::{Pkcs11Holder, Pkcs11Options};
pub use quorum::QuorumHolder;
pub use sealer::Sealer;
#[cfg(any(feature = "pkcs11", feature = "tpm"))]
pub use secret::SecretSource;
#[cfg(feature = "tpm")]
pub use tpm::{TpmHolder, TpmOptions};

use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_crypto::role::Page;
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Answer;

/// Given at each [`RootHolder::own`], above all before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnerNumber(pub u64);

/// A root that a holder has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldRoot {
    /// Its id.
    pub root: RootId,
    /// The owner that made it; 0 where that cannot be read any more.
    pub owner: OwnerNumber,
}

/// Why a root holder did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HolderError {
    /// The system below failed.
    #[error("{what} failed")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process owns the tree.
    #[error("tree {0} has another owner")]
    Owned(TreeId),
    /// The call came from a former owner.
    #[error("owner {} of tree {tree} was replaced", .owner.0)]
    Replaced {
        /// The tree.
        tree: TreeId,
        /// Who called.
        owner: OwnerNumber,
    },
    /// There is no such root.
    #[error("root {0} is not held")]
    NoSuchRoot(RootId),
    /// What was wrapped does not open under that root.
    #[error("root {0} does not open this")]
    DoesNotOpen(RootId),
    /// Others can read what must be secret.
    #[error("{path} has mode {mode:o}; it must be {wanted:o}")]
    Exposed {
        /// The file or folder, below the holder's folder.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode it must have.
        wanted: u32,
    },
    /// A file of the holder does not read as what it should be.
    #[error("the holder's {0} does not read")]
    Damaged(&'static str),
    /// Nobody answered, or too few did: nothing is known of what was asked.
    #[error("the root holder cannot be reached: {0}")]
    Unreachable(String),
    /// The holder said no: a wrong PIN, a certificate that it does not know, a policy. The text is its own.
    #[error("the root holder refuses: {0}")]
    Refused(String),
    /// The holder has no room for another root.
    #[error("the root holder is full")]
    Full,
}

/// Keeps the roots of key trees. Every call names the tree; calls that change something name the owner.
pub trait RootHolder: Send + Sync {
    /// What kind it is, for status and logs.
    fn kind(&self) -> &'static str;

    /// What kind it is and where it lies, for the keys to remember and for people to read.
    fn place(&self) -> String {
        self.kind().to_owned()
    }

    /// What a destruction by this holder is worth; goes into every certificate.
    fn destroy_class(&self) -> &'static str;

    /// Takes the tree for this process alone.
    ///
    /// # Errors
    /// [`HolderError::Owned`] while another lives.
    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>>;

    /// Takes the tree from an owner that is known to be dead, without waiting for its lease. The same as
    /// [`RootHolder::own`] where an ownership ends with its process.
    fn take_over(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        self.own(tree)
    }

    /// How long an ownership holds without being renewed; `None` where it ends with its process.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// Prolongs the ownership by a lease, counted from before the call. An owner that could not renew stops
    /// serving before its lease ends.
    ///
    /// # Errors
    /// [`HolderError::Replaced`] where another owns the tree by now.
    fn renew(&self, tree: TreeId, owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        let _ = (tree, owner);
        Answer::now(Ok(()))
    }

    /// What it lacks although it works, as far as its last answers told: an operator mends that before more is
    /// lost. Without a call.
    fn ailment(&self) -> Option<String> {
        None
    }

    /// Gives the ownership back at a clean stop, so that the next start need not wait for its lease to end.
    ///
    /// # Errors
    /// Nobody heard; then the lease ends by itself.
    fn release(&self, tree: TreeId, owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        let _ = (tree, owner);
        Answer::now(Ok(()))
    }

    /// Makes a root; durable when this returns.
    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>>;

    /// Wraps the key of the directory's top page.
    fn wrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        key: KeyRef<'a, Page>,
    ) -> Answer<'a, Result<Bytes, HolderError>>;

    /// Unwraps it.
    ///
    /// # Errors
    /// [`HolderError::NoSuchRoot`], [`HolderError::DoesNotOpen`].
    fn unwrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        anchor: &'a [u8],
    ) -> Answer<'a, Result<Key<Page>, HolderError>>;

    /// Destroys a root, as finally as the class says; none such is a success.
    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>>;

    /// All roots of a tree.
    fn list(&self, tree: TreeId) -> Answer<'_, Result<Vec<HeldRoot>, HolderError>>;

    /// Remembers the newest key commit; never goes back.
    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>>;

    /// The commit noted last.
    fn noted(&self, tree: TreeId) -> Answer<'_, Result<Option<CommitPosition>, HolderError>>;
}
