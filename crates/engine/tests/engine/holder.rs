//! A root holder that does not do what it is asked while it is told not to, or without power.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};
use cloakroom_store::Answer;

/// What goes wrong.
#[derive(Default)]
pub(crate) struct Moods {
    pub(crate) keeps_roots: AtomicBool,
    pub(crate) makes_none: AtomicBool,
    pub(crate) deaf: AtomicBool,
}

/// Asked before a root is made or destroyed; whether it is done, and whether that is told.
pub(crate) trait Steps: Send + Sync {
    fn step(&self) -> (bool, bool);
}

impl Steps for () {
    fn step(&self) -> (bool, bool) {
        (true, true)
    }
}

pub(crate) struct Moody {
    pub(crate) inner: Arc<dyn RootHolder>,
    pub(crate) moods: Arc<Moods>,
    pub(crate) steps: Arc<dyn Steps>,
}

fn no<T>() -> Result<T, HolderError> {
    Err(HolderError::Io { what: "a call", source: std::io::Error::other("in no mood") })
}

impl Moody {
    fn impose<'a>(
        &'a self,
        refused: &AtomicBool,
        work: impl FnOnce() -> Answer<'a, Result<(), HolderError>>,
    ) -> Answer<'a, Result<(), HolderError>> {
        if refused.load(Ordering::SeqCst) {
            return Answer::now(no());
        }
        let (done, told) = self.steps.step();
        let work = done.then(work);
        Answer::later(async move {
            match work {
                Some(work) => work.await?,
                None => return no(),
            }
            if told { Ok(()) } else { no() }
        })
    }
}

impl RootHolder for Moody {
    cloakroom_keytree::root_holder_through!(inner: kind place destroy_class own wrap unwrap list noted);

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.impose(&self.moods.makes_none, || self.inner.create(tree, owner, root))
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.impose(&self.moods.keeps_roots, || self.inner.destroy(tree, owner, root))
    }

    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>> {
        if self.moods.deaf.load(Ordering::SeqCst) {
            return Answer::now(no());
        }
        self.inner.note(tree, owner, commit)
    }
}
