//! How the keys stand with their root holder, and what an operator asks of them: a new root, another holder.
//!
//! Both are one batch of the writer's ([`cloakroom_keytree::TreeWriter`]); it obeys between groups.

use std::fs::File;
use std::sync::{Arc, PoisonError};

use cloakroom_core::ids::RootId;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_keytree::holder::quorum::boot_time;
use cloakroom_keytree::{Fault, HolderError, RootHolder};
use tokio::sync::oneshot;

use crate::EngineError;
use crate::house::House;
use crate::key_backups::KeyBackupView;
use crate::lease::Held;
use crate::writer::Writer;

/// How the keys stand with their root holder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeysView {
    /// What kind of holder has the root.
    pub holder: String,
    /// Where, in its own words.
    pub place: String,
    /// What an erasure's destruction is worth: after a move, in every holder that the root lay in.
    pub destroy_class: String,
    /// The number of the current root.
    pub epoch: u64,
    /// Which owner of the tree this vault is, counted by its holder.
    pub owner: u64,
    /// How long the ownership holds without being renewed; none where it ends with the process.
    pub lease_ms: Option<u64>,
    /// Roots that the holder has: one, and none but in moments more.
    pub roots_held: u64,
    /// Holders in which a former root is not proved gone.
    pub left: Vec<String>,
    /// Key backups whose roots are in escrow, oldest first.
    pub backups: Vec<KeyBackupView>,
    /// Closed fences that are not final: a root in escrow reaches them.
    pub not_final: u64,
    /// What the holder failed to do, until it does: while this says anything fences may stay open.
    pub trouble: String,
}

/// What an operator asks of the writer.
pub(crate) enum Order {
    /// Nothing but to say how things stand.
    Tell,
    /// A new root; the former one destroyed.
    Rotate,
    /// The root to another holder, owned there by now.
    Move(Held),
    /// A key backup, written into a file.
    BackUp { principal: String, window_ms: u64, into: File },
    /// An escrow ended before its time; without a root, all.
    EndBackup(Option<RootId>),
}

/// An order on its way, and where its answer goes.
pub(crate) struct Asked {
    pub(crate) order: Order,
    pub(crate) answer: oneshot::Sender<Result<KeysView, String>>,
}

impl Writer {
    /// Does what was asked, and says how the keys stand then.
    ///
    /// # Errors
    /// What cannot be survived; what can is the asker's answer.
    pub(crate) async fn obey(&mut self, asked: Asked) -> Result<(), EngineError> {
        let refused = match asked.order {
            Order::Tell => None,
            Order::Rotate => self.rotate().await?,
            Order::Move(held) => self.move_roots(held).await?,
            Order::BackUp { principal, window_ms, into } => self.back_up(principal, window_ms, into).await?,
            Order::EndBackup(root) => self.end_backup(root).await?,
        };
        self.tell();
        let answer = match refused {
            Some(refused) => Err(refused),
            None => Ok(self.keys_view().await),
        };
        drop(asked.answer.send(answer)); // whoever left has no use for it
        Ok(())
    }

    async fn rotate(&mut self) -> Result<Option<String>, EngineError> {
        let epoch = self.tree.state().epoch;
        self.batch(true).await?;
        let done = self.tree.state().epoch > epoch && self.root_stays.is_none();
        Ok((!done).then(|| self.trouble.clone().unwrap_or_default()))
    }

    async fn move_roots(&mut self, held: Held) -> Result<Option<String>, EngineError> {
        let before = self.tree.holder().place();
        let moved = self.tree.move_to(Arc::clone(&held.holder), held.owner, self.durable()).await;
        if self.tree.holder().place() != before {
            tracing::info!(from = before, to = self.tree.holder().place(), "the root has moved");
            self.moved.send_replace(Some(held));
        } else if let Err(error) = held.holder.release(self.tree.state().tree, held.owner).await {
            tracing::warn!(%error, "the holder was not given back: its lease ends by itself");
        }
        match moved {
            Ok(_) => {
                self.close_fences().await?;
                Ok(None)
            }
            Err(fault @ Fault::RootStays(_)) => {
                self.root_stays_after_all();
                let text = EngineError::from(fault).chain();
                self.trouble = Some(text.clone());
                Ok(Some(text))
            }
            Err(fault @ Fault::Holder(HolderError::Replaced { .. })) => Err(fault.into()),
            Err(fault @ Fault::Holder(_)) => Ok(Some(EngineError::from(fault).chain())),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Shows status and metrics how the keys stand.
    pub(crate) fn tell(&self) {
        let (holder, state) = (self.tree.holder(), self.tree.state());
        let (backups, not_final) = self.backups_view();
        *self.state.keys.write().unwrap_or_else(PoisonError::into_inner) = KeysView {
            holder: holder.kind().to_owned(),
            place: holder.place(),
            destroy_class: state.destroyed_as(),
            epoch: state.epoch,
            owner: self.tree.owner().0,
            lease_ms: holder.lease().map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)),
            roots_held: 0,
            left: state.left.iter().map(|left| left.holder.clone()).collect(),
            backups,
            not_final,
            trouble: self.trouble.clone().unwrap_or_default(),
        };
    }

    /// The view with what only the holder knows; one that does not answer is trouble to be told, too.
    async fn keys_view(&self) -> KeysView {
        let mut view = self.state.keys_view();
        match self.tree.holder().list(self.tree.state().tree).await {
            Ok(held) => view.roots_held = held.len() as u64,
            Err(error) if view.trouble.is_empty() => {
                view.trouble = EngineError::from(Fault::from(error)).chain()
            }
            Err(_) => {}
        }
        view
    }
}

impl House {
    /// Owns the tree at `holder`, which may take a lease, and has the writer move the root there.
    ///
    /// # Errors
    /// As [`House::order`].
    pub(crate) async fn move_keys(
        &self,
        principal: &str,
        holder: Arc<dyn RootHolder>,
    ) -> Result<KeysView, CallRefusal> {
        if !self.is_admin(principal) {
            return Err(CallRefusal::Forbidden("roots are for administrators".to_owned()));
        }
        let conflict = |error: HolderError| CallRefusal::Conflict(error.to_string());
        let owner = holder.own(self.tree.id()).await.map_err(conflict)?;
        // Owning may have taken as long as it holds.
        let asked = boot_time();
        holder.renew(self.tree.id(), owner).await.map_err(conflict)?;
        self.order(principal, Order::Move(Held { holder, owner, asked })).await
    }

    /// Has the writer obey.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] with what the holder says.
    pub(crate) async fn order(&self, principal: &str, order: Order) -> Result<KeysView, CallRefusal> {
        match order {
            Order::Tell => self.may_operate(principal)?,
            _ if self.is_admin(principal) => {}
            _ => return Err(CallRefusal::Forbidden("roots are for administrators".to_owned())),
        }
        let stopping = || EngineError::Stopped.for_call();
        let (answer, answered) = oneshot::channel();
        self.orders.send(Asked { order, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?.map_err(CallRefusal::Conflict)
    }
}
