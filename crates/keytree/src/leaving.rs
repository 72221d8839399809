//! Moving a tree from one root holder to another.
//!
//! One batch does it: a new root in the new holder, one commit whose pointer names it and which remembers the
//! root left behind, and only then is that one destroyed, by its own holder, and probed. So whenever the
//! process dies, the pointer names the one root that opens the tree; and until the former root is proved gone,
//! the tree says [`Fault::RootStays`], over any number of starts, and no fence closes.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cloakroom_core::ids::{FramePosition, RootId, TreeId};
use cloakroom_store::Batch;

use crate::Fault;
use crate::escrow::in_escrow;
use crate::holder::{HolderError, OwnerNumber, RootHolder};
use crate::state::{LeftRoot, TreeState};
use crate::writer::{Batched, TreeWriter};

/// A holder that a tree moves away from.
pub(crate) struct Former {
    pub(crate) holder: Arc<dyn RootHolder>,
    tree: TreeId,
    owner: Mutex<Option<OwnerNumber>>,
    take_over: bool,
}

impl Former {
    pub(crate) fn new(
        holder: Arc<dyn RootHolder>,
        tree: TreeId,
        owner: Option<OwnerNumber>,
        take_over: bool,
    ) -> Self {
        Self { holder, tree, owner: Mutex::new(owner), take_over }
    }

    /// Owns the tree there, once.
    pub(crate) async fn owner(&self) -> Result<OwnerNumber, HolderError> {
        let owned = *self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = owned {
            return Ok(owner);
        }
        let owner = own(&*self.holder, self.tree, self.take_over).await?;
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        Ok(owner)
    }

    /// Destroys every root of the tree there, and proves that `left` no longer opens what it wrapped.
    async fn destroy(&self, left: &LeftRoot) -> Result<(), Fault> {
        let stays = |error| Fault::RootStays(Some(error));
        let owner = self.owner().await.map_err(stays)?;
        let held = self.holder.list(self.tree).await.map_err(stays)?;
        // An empty holder proves nothing unless it is the one.
        if left.holder != self.holder.place() && !held.iter().any(|held| held.root == left.root) {
            return Err(stays(elsewhere(left)));
        }
        for held in held.iter().filter(|held| held.owner <= owner) {
            let destroyed = self.holder.destroy(self.tree, owner, held.root).await;
            if let Err(HolderError::Replaced { .. }) = destroyed {
                // A lease that ran out while nobody needed it: the next try owns anew.
                *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            destroyed.map_err(stays)?;
        }
        match self.holder.unwrap(self.tree, left.root, &left.anchor).await {
            Err(HolderError::NoSuchRoot(_) | HolderError::DoesNotOpen(_)) => Ok(()),
            Err(error) => Err(stays(error)),
            Ok(_) => Err(Fault::RootStays(None)),
        }
    }
}

/// Owns the tree, or takes it from an owner that is known to be dead.
pub(crate) async fn own(
    holder: &dyn RootHolder,
    tree: TreeId,
    take_over: bool,
) -> Result<OwnerNumber, HolderError> {
    if take_over { holder.take_over(tree).await } else { holder.own(tree).await }
}

fn elsewhere(left: &LeftRoot) -> HolderError {
    HolderError::Unreachable(format!(
        "root {} was left in {}: name that holder as the former one",
        left.root, left.holder
    ))
}

impl TreeWriter {
    /// Moves the tree to `holder`, which the caller owns it at as `owner`: owning may take a lease, and the writer
    /// does not wait for that. Its root replaces the current one in a batch; the former holder's is destroyed
    /// and probed.
    ///
    /// # Errors
    /// [`Fault::RootStays`]: the tree has moved, the former root is not gone: [`TreeWriter::destroy_former`], as
    /// after a batch; or it was so before, and nothing moved. [`Fault::Holder`]: nothing moved.
    pub async fn move_to(
        &mut self,
        holder: Arc<dyn RootHolder>,
        owner: OwnerNumber,
        log: Option<FramePosition>,
    ) -> Result<Batched, Fault> {
        if holder.place() == self.holder.place() {
            return Err(HolderError::Refused(format!("the root lies in {} already", holder.place())).into());
        }
        if let Some(escrow) = self.state.escrows.first() {
            return Err(in_escrow(escrow).into());
        }
        self.destroy_former().await?;
        let left = std::mem::replace(&mut self.holder, holder);
        let left_owner = std::mem::replace(&mut self.owner, owner);
        self.former_holder = Some(Former::new(Arc::clone(&left), self.state.tree, Some(left_owner), false));
        self.in_former = true;
        let moved = self.batch(&[], Batch::default(), log).await;
        if self.in_former {
            // Nothing was committed: all is as it was.
            (self.holder, self.owner, self.in_former) = (left, left_owner, false);
            self.former_holder = None;
        }
        moved
    }

    /// The owner's number at the holder.
    pub fn owner(&self) -> OwnerNumber {
        self.owner
    }

    /// The holder that the current root lies in.
    pub fn holder(&self) -> &Arc<dyn RootHolder> {
        &self.holder
    }

    /// Writes into a batch's state in which holder its root lies, and what it leaves behind.
    pub(crate) fn say_where(&self, next: &mut TreeState, (root, anchor): &(RootId, Bytes)) {
        if let Some(former) = self.former_holder.as_ref().filter(|_| self.in_former) {
            next.left.push(LeftRoot { holder: former.holder.place(), root: *root, anchor: anchor.clone() });
            if next.destroy_class.is_empty() {
                former.holder.destroy_class().clone_into(&mut next.destroy_class);
            }
        }
        let class = self.holder.destroy_class();
        let before = std::mem::replace(&mut next.destroy_class, class.to_owned());
        if !before.is_empty() && before != class && !next.former_classes.contains(&before) {
            next.former_classes.push(before);
        }
        next.former_classes.retain(|former| former != class);
        next.holder = self.holder.place();
    }

    /// Destroys what a move left behind, and says durably that it is gone.
    pub(crate) async fn leave(&mut self) -> Result<(), Fault> {
        if let Some(first) = self.state.left.first() {
            let Some(former) = &self.former_holder else {
                return Err(Fault::RootStays(Some(elsewhere(first))));
            };
            for left in &self.state.left {
                former.destroy(left).await?;
            }
            self.state.left.clear();
            self.insert(&[], Batch::default(), None).await?;
        }
        if let Some(former) = self.former_holder.take()
            && let Ok(owner) = former.owner().await
            && let Err(error) = former.holder.release(self.state.tree, owner).await
        {
            tracing::warn!(%error, "the former root holder was not given back: its lease ends by itself");
        }
        Ok(())
    }
}
