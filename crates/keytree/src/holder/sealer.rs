//! Roots at rest sealed by somebody else: what a stolen disk holds then opens only with that one's help.
//!
//! A KMS that seals cannot forget for us: it opens the bytes of a destroyed root again as long as it has its
//! key. So sealing does not change what a destruction is worth.

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::role::Root;
use cloakroom_crypto::{Key, Plaintext};
use cloakroom_store::Answer;

use super::HolderError;

/// Seals roots for the file holder, and opens them again.
///
/// Errors: [`HolderError::Unreachable`] where nobody answers, [`HolderError::Refused`] with the KMS's own words.
pub trait Sealer: Send + Sync {
    /// Seals 32 bytes, bound to `context`.
    fn seal<'a>(&'a self, context: &'a [u8], root: Plaintext) -> Answer<'a, Result<Vec<u8>, HolderError>>;

    /// Opens what [`Sealer::seal`] made with the same context.
    fn unseal<'a>(
        &'a self,
        context: &'a [u8],
        sealed: &'a [u8],
    ) -> Answer<'a, Result<Plaintext, HolderError>>;
}

/// What a sealed root is bound to: `cloakroom root 1`, the tree's id, the root's id, in hex.
fn context(tree: TreeId, root: RootId) -> String {
    format!("cloakroom root 1 {tree} {root}")
}

pub(super) async fn seal(
    sealer: &dyn Sealer,
    (tree, root): (TreeId, RootId),
    key: Key<Root>,
) -> Result<Vec<u8>, HolderError> {
    let mut bytes = Vec::with_capacity(32);
    key.write_to(&mut bytes).map_err(|_| HolderError::Damaged("new root"))?;
    drop(key);
    sealer.seal(context(tree, root).as_bytes(), Plaintext::new(bytes)).await
}

pub(super) async fn unseal(
    sealer: &dyn Sealer,
    (tree, root): (TreeId, RootId),
    sealed: &[u8],
) -> Result<Key<Root>, HolderError> {
    let opened = sealer.unseal(context(tree, root).as_bytes(), sealed).await?;
    if opened.len() != 32 {
        return Err(HolderError::Damaged("sealed root"));
    }
    Key::read_from(&mut opened.as_bytes()).map_err(|_| HolderError::Damaged("sealed root"))
}
