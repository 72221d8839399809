//! Engines that fail on purpose, and power cuts: for the tests of whatever stands on the store.
//!
//! - [`Faults`] with [`FaultyLog`] and [`FaultyRecords`]: the nth write or sync fails, and all after it
//! - [`PacedLog`]: events and frames are read when the test lets them
//! - [`VolatileRecords`]: loses what was not synced
//! - [`power_cut`]: the folder of an embedded log as a power cut would leave it

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cloakroom_core::ids::EventNumber;

use crate::embedded::EmbeddedLog;
use crate::log::{Frame, FrameHash, Log};
use crate::records::{Batch, Records};
use crate::{Answer, StoreError};

/// Whether the call that fails has done its work all the same: an error proves neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Nothing was done.
    Undone,
    /// All was done, and an error told.
    Done,
}

/// Which call fails. Shared by the layers that it is given to, which then count together.
#[derive(Debug)]
pub struct Faults {
    /// Calls left, this one included; 0 for never.
    writes: AtomicU64,
    syncs: AtomicU64,
    failing: Failing,
    failed: AtomicBool,
}

/// What to do with a call.
enum Verdict {
    Do,
    DoAndFail,
    Fail,
}

impl Faults {
    /// Nothing fails.
    pub fn none() -> Arc<Faults> {
        Faults::new(0, 0, Failing::Undone)
    }

    /// The `nth` write (append, apply, commit, cut), counted from 1, fails, and everything after it.
    pub fn nth_write(nth: u64, failing: Failing) -> Arc<Faults> {
        Faults::new(nth, 0, failing)
    }

    /// The `nth` sync (sync, commit), counted from 1, fails, and everything after it.
    pub fn nth_sync(nth: u64, failing: Failing) -> Arc<Faults> {
        Faults::new(0, nth, failing)
    }

    /// Whether the fault has come.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    fn new(writes: u64, syncs: u64, failing: Failing) -> Arc<Faults> {
        let failed = AtomicBool::new(false);
        Arc::new(Faults { writes: AtomicU64::new(writes), syncs: AtomicU64::new(syncs), failing, failed })
    }

    fn verdict(&self, writes: bool, syncs: bool) -> Verdict {
        if self.failed() {
            return Verdict::Fail;
        }
        let counted = |counter: &AtomicU64| {
            counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        };
        let now = (writes && counted(&self.writes) == Ok(1)) | (syncs && counted(&self.syncs) == Ok(1));
        if !now {
            return Verdict::Do;
        }
        self.failed.store(true, Ordering::SeqCst);
        match self.failing {
            Failing::Undone => Verdict::Fail,
            Failing::Done => Verdict::DoAndFail,
        }
    }

    fn impose<'a, T: Send + Unpin + 'a>(
        &self,
        (writes, syncs): (bool, bool),
        work: impl FnOnce() -> Answer<'a, Result<T, StoreError>>,
    ) -> Answer<'a, Result<T, StoreError>> {
        match self.verdict(writes, syncs) {
            Verdict::Do => work(),
            Verdict::Fail => Answer::now(Err(fault())),
            Verdict::DoAndFail => {
                let done = work();
                Answer::later(async move {
                    done.await?;
                    Err(fault())
                })
            }
        }
    }
}

fn fault() -> StoreError {
    StoreError::Io { what: "a fault made on purpose", source: std::io::Error::other("faulty") }
}

/// A log whose writes and syncs fail as [`Faults`] say. Reads go on.
pub struct FaultyLog {
    inner: Arc<dyn Log>,
    faults: Arc<Faults>,
}

impl FaultyLog {
    /// A layer over `inner`.
    pub fn new(inner: Arc<dyn Log>, faults: Arc<Faults>) -> FaultyLog {
        FaultyLog { inner, faults }
    }
}

impl Log for FaultyLog {
    crate::log_through!(inner: find_end event frame_of leaves sealed);

    fn cut(&self) -> Answer<'_, Result<(), StoreError>> {
        self.faults.impose((true, false), || self.inner.cut())
    }

    fn append(&self, frame: &Frame, urgent: bool) -> Answer<'_, Result<FrameHash, StoreError>> {
        self.faults.impose((true, false), || self.inner.append(frame, urgent))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        self.faults.impose((false, true), || self.inner.sync())
    }

    fn prune(
        &self,
        first: EventNumber,
        shorter: BTreeMap<u64, Bytes>,
    ) -> Answer<'_, Result<u64, StoreError>> {
        self.faults.impose((true, true), || self.inner.prune(first, shorter))
    }
}

/// What somebody is about to read of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// One event.
    Event(EventNumber),
    /// The frame that holds this event.
    Frame(EventNumber),
}

/// A log that is read only after a wait of the test's own.
pub struct PacedLog {
    inner: Arc<dyn Log>,
    wait: Box<dyn Fn(Reading) -> Answer<'static, ()> + Send + Sync>,
}

impl PacedLog {
    /// A layer over `inner` that waits for what `wait` makes before each event and frame that it reads.
    pub fn new(
        inner: Arc<dyn Log>,
        wait: impl Fn(Reading) -> Answer<'static, ()> + Send + Sync + 'static,
    ) -> PacedLog {
        PacedLog { inner, wait: Box::new(wait) }
    }
}

impl Log for PacedLog {
    crate::log_through!(inner: find_end cut append sync leaves sealed prune);

    fn event(&self, number: EventNumber) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        let turn = (self.wait)(Reading::Event(number));
        Answer::later(async move {
            turn.await;
            self.inner.event(number).await
        })
    }

    fn frame_of(&self, number: EventNumber) -> Answer<'_, Result<Option<(Frame, FrameHash)>, StoreError>> {
        let turn = (self.wait)(Reading::Frame(number));
        Answer::later(async move {
            turn.await;
            self.inner.frame_of(number).await
        })
    }
}

/// Records whose writes and syncs fail as [`Faults`] say. Reads go on.
pub struct FaultyRecords {
    inner: Arc<dyn Records>,
    faults: Arc<Faults>,
}

impl FaultyRecords {
    /// A layer over `inner`.
    pub fn new(inner: Arc<dyn Records>, faults: Arc<Faults>) -> FaultyRecords {
        FaultyRecords { inner, faults }
    }
}

impl Records for FaultyRecords {
    crate::records_through!(inner: get scan);

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.faults.impose((true, false), || self.inner.apply(batch))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        self.faults.impose((false, true), || self.inner.sync())
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.faults.impose((true, true), || self.inner.commit(batch))
    }
}

/// Records that reach the engine below only by a sync: dropping this, or [`VolatileRecords::cut_power`], loses
/// the rest, as a power cut would.
pub struct VolatileRecords {
    inner: Arc<dyn Records>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    batches: Vec<Batch>,
    /// What the batches leave of each key.
    changed: BTreeMap<Vec<u8>, Option<Bytes>>,
    dead: bool,
}

impl VolatileRecords {
    /// A layer over `inner`.
    pub fn new(inner: Arc<dyn Records>) -> VolatileRecords {
        VolatileRecords { inner, waiting: Mutex::default() }
    }

    /// Ends it all: the first `kept` of the batches that were not synced reach the disk, as they may have,
    /// and every later call fails.
    ///
    /// # Errors
    /// The engine's below.
    pub async fn cut_power(&self, kept: usize) -> Result<(), StoreError> {
        let batches = {
            let mut waiting = self.waiting();
            waiting.dead = true;
            waiting.changed.clear();
            std::mem::take(&mut waiting.batches)
        };
        self.write(batches.into_iter().take(kept).collect()).await
    }

    /// How many batches are not synced.
    pub fn unsynced(&self) -> usize {
        self.waiting().batches.len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, batches: Vec<Batch>) -> Result<(), StoreError> {
        for batch in batches {
            self.inner.apply(batch).await?;
        }
        self.inner.sync().await
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let batches = {
            let mut waiting = self.waiting();
            if waiting.dead {
                return Err(fault());
            }
            std::mem::take(&mut waiting.batches)
        };
        // Until they are below, `changed` answers; there it stays, as what it says is true below too.
        self.write(batches).await
    }

    fn take(&self, batch: Batch) -> Result<(), StoreError> {
        let mut waiting = self.waiting();
        if waiting.dead {
            return Err(fault());
        }
        waiting.changed.extend(batch.changes.iter().cloned());
        waiting.batches.push(batch);
        Ok(())
    }
}

impl Records for VolatileRecords {
    fn get(&self, key: &[u8]) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        match self.waiting().changed.get(key) {
            Some(value) => Answer::now(Ok(value.clone())),
            None => self.inner.get(key),
        }
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Answer<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        let changed: Vec<_> = self
            .waiting()
            .changed
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| &key[..] > after))
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect();
        // So many below could be removed above.
        let below = self.inner.scan(prefix, after, limit.saturating_add(changed.len()));
        Answer::later(async move {
            let mut merged: BTreeMap<_, _> =
                below.await?.into_iter().map(|(key, value)| (key, Some(value))).collect();
            merged.extend(changed);
            Ok(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).take(limit).collect())
        })
    }

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(self.take(batch))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::later(self.flush())
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        match self.take(batch) {
            Ok(()) => Answer::later(self.flush()),
            Err(error) => Answer::now(Err(error)),
        }
    }
}

/// Copies the folder of `log` into the empty folder `into` as a power cut now would leave it: what was synced,
/// and behind it what `torn` makes of the bytes that were not.
///
/// # Errors
/// [`StoreError::Io`] if a file cannot be read or written.
pub fn power_cut(
    log: &EmbeddedLog,
    into: &Path,
    mut torn: impl FnMut(Vec<u8>) -> Vec<u8>,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { what: "simulating a power cut", source };
    let (synced_segment, synced_bytes) = log.synced();
    for (first_event, path) in log.segment_files()? {
        let bytes = fs::read(&path).map_err(failed)?;
        let durable_bytes = match first_event {
            before if before < synced_segment => bytes.len() as u64,
            at if at == synced_segment => synced_bytes,
            // Its header was synced when it was made.
            _ => EmbeddedLog::SEGMENT_HEADER_BYTES,
        };
        let (durable, rest) = bytes.split_at(bytes.len().min(durable_bytes as usize));
        let survives = if rest.is_empty() { Vec::new() } else { torn(rest.to_vec()) };
        let Some(name) = path.file_name() else { continue };
        let copy = fs::File::create(into.join(name)).map_err(failed)?;
        copy.write_all_at(durable, 0).map_err(failed)?;
        copy.write_all_at(&survives, durable.len() as u64).map_err(failed)?;
    }
    Ok(())
}
