//! A disk and a root holder that remember every byte ever written, and lose power when told to.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_keytree::{FileHolder, HolderError, OwnerNumber, RootHolder};
use cloakroom_store::memory::MemoryRecords;
use cloakroom_store::{Answer, Batch, Records, StoreError, records_through};

/// Goes out after so many steps (commits, roots made, roots destroyed), and stays out until restored.
#[derive(Default)]
pub(crate) struct Power {
    /// Steps left, the last one included; 0 for never.
    left: AtomicU64,
    /// Whether the last step is done all the same.
    last_done: AtomicBool,
    out: AtomicBool,
}

enum Step {
    Do,
    DoAndFail,
    Fail,
}

impl Power {
    pub(crate) fn cut_at(&self, step: u64, done: bool) {
        self.left.store(step, Ordering::SeqCst);
        self.last_done.store(done, Ordering::SeqCst);
    }

    pub(crate) fn restore(&self) {
        self.left.store(0, Ordering::SeqCst);
        self.out.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::SeqCst)
    }

    fn step(&self) -> Step {
        if self.is_out() {
            return Step::Fail;
        }
        let counted =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
        if !counted {
            return Step::Do;
        }
        self.out.store(true, Ordering::SeqCst);
        if self.last_done.load(Ordering::SeqCst) { Step::DoAndFail } else { Step::Fail }
    }

    fn impose<T, E>(&self, work: impl FnOnce() -> Result<T, E>, fault: impl FnOnce() -> E) -> Result<T, E> {
        match self.step() {
            Step::Do => work(),
            Step::DoAndFail => work().and_then(|_| Err(fault())),
            Step::Fail => Err(fault()),
        }
    }
}

fn out() -> std::io::Error {
    std::io::Error::other("the power is out")
}

/// Records in memory.
#[derive(Default)]
pub(crate) struct Disk {
    records: MemoryRecords,
    ever: Mutex<Vec<(Vec<u8>, Bytes)>>,
    pub(crate) power: Arc<Power>,
}

impl Disk {
    /// Every value that any record ever had, also those that a cut took back: a disk keeps what it will.
    pub(crate) fn ever(&self) -> Vec<(Vec<u8>, Bytes)> {
        self.ever.lock().unwrap().clone()
    }
}

impl Records for Disk {
    records_through!(records: get scan sync);

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.commit(batch)
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        if !self.power.is_out() {
            let mut ever = self.ever.lock().unwrap();
            let put = batch.changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
            ever.extend(put);
        }
        let work = || {
            self.records.change(batch);
            Ok(())
        };
        Answer::now(self.power.impose(work, || StoreError::Io { what: "committing", source: out() }))
    }
}

/// The file holder, on the same power.
pub(crate) struct Holder {
    files: FileHolder,
    power: Arc<Power>,
    class: &'static str,
}

impl Holder {
    pub(crate) fn open(folder: &Path, power: Arc<Power>) -> Arc<dyn RootHolder> {
        Self::of_class(folder, power, "overwritten")
    }

    pub(crate) fn of_class(folder: &Path, power: Arc<Power>, class: &'static str) -> Arc<dyn RootHolder> {
        Arc::new(Self { files: FileHolder::open(folder).unwrap(), power, class })
    }

    fn impose<'a, T: Unpin + Send + 'a>(
        &self,
        work: impl Future<Output = Result<T, HolderError>>,
    ) -> Answer<'a, Result<T, HolderError>> {
        let work = || futures_util::FutureExt::now_or_never(work).unwrap();
        Answer::now(self.power.impose(work, || HolderError::Io { what: "a call", source: out() }))
    }
}

impl RootHolder for Holder {
    cloakroom_keytree::root_holder_through!(files: kind place own wrap unwrap list note noted);

    fn destroy_class(&self) -> &'static str {
        self.class
    }

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.impose(async { self.files.create(tree, owner, root).await })
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.impose(async { self.files.destroy(tree, owner, root).await })
    }
}
