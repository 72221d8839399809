//! Root holders: whoever keeps the one small secret above a key tree.
//!
//! A holder's work is to forget. What a certificate may claim is what its holder says of itself in
//! [`RootHolder::destroy_class`].

mod file;

pub use file::FileHolder;

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
}

/// Keeps the roots of key trees. Every call names the tree; calls that change something name the owner.
pub trait RootHolder: Send + Sync {
    /// What kind it is, for status and logs.
    fn kind(&self) -> &'static str;

    /// What a destruction by this holder is worth; goes into every certificate.
    fn destroy_class(&self) -> &'static str;

    /// Takes the tree for this process alone.
    ///
    /// # Errors
    /// [`HolderError::Owned`] while another lives.
    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>>;

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
