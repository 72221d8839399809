//! Power that goes out at every step of a script: what was not synced is gone, or half of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cloakroom_core::ids::EventNumber;
use cloakroom_engine::open::Layers;
use cloakroom_keytree::RootHolder;
use cloakroom_store::embedded::EmbeddedLog;
use cloakroom_store::faulty::{VolatileRecords, power_cut};
use cloakroom_store::{
    Answer, Batch, Frame, FrameHash, Log, Records, StoreError, log_through, records_through,
};
use tokio::sync::Notify;

use crate::holder::{Moods, Moody, Steps};
use crate::house::House;
use crate::ledger::{Ledger, Stopped};

/// What is left of bytes that were written and not synced.
#[derive(Clone, Copy, Debug)]
enum Torn {
    Nothing,
    Half,
    All,
}

struct Power {
    /// Steps left, the last one included.
    left: AtomicU64,
    taken: AtomicU64,
    last_done: bool,
    out: AtomicBool,
    went_out: Notify,
}

impl Power {
    fn until(step: u64, last_done: bool) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(step),
            taken: AtomicU64::new(0),
            last_done,
            out: AtomicBool::new(false),
            went_out: Notify::new(),
        })
    }

    /// Whether the step is done, and whether that is told.
    fn take(&self) -> (bool, bool) {
        if self.out.load(Ordering::SeqCst) {
            return (false, false);
        }
        self.taken.fetch_add(1, Ordering::SeqCst);
        let last =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
        if last {
            self.out.store(true, Ordering::SeqCst);
            self.went_out.notify_waiters();
            return (self.last_done, false);
        }
        (true, true)
    }

    fn impose<'a, T: Send + Unpin + 'a>(
        &self,
        work: impl FnOnce() -> Answer<'a, Result<T, StoreError>>,
    ) -> Answer<'a, Result<T, StoreError>> {
        let (done, told) = self.take();
        let work = done.then(work);
        Answer::later(async move {
            let fault =
                || StoreError::Io { what: "a step", source: std::io::Error::other("the power is out") };
            let done = work.ok_or_else(fault)?.await?;
            if told { Ok(done) } else { Err(fault()) }
        })
    }
}

impl Steps for Power {
    fn step(&self) -> (bool, bool) {
        self.take()
    }
}

struct PoweredLog {
    inner: Arc<EmbeddedLog>,
    power: Arc<Power>,
}

impl Log for PoweredLog {
    log_through!(inner: find_end event frame_of leaves sealed);

    fn cut(&self) -> Answer<'_, Result<(), StoreError>> {
        self.power.impose(|| self.inner.cut())
    }

    fn append(&self, frame: &Frame, urgent: bool) -> Answer<'_, Result<FrameHash, StoreError>> {
        self.power.impose(|| self.inner.append(frame, urgent))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        self.power.impose(|| self.inner.sync())
    }

    fn prune(
        &self,
        first: EventNumber,
        shorter: std::collections::BTreeMap<u64, Bytes>,
    ) -> Answer<'_, Result<u64, StoreError>> {
        self.power.impose(|| self.inner.prune(first, shorter))
    }
}

struct PoweredRecords {
    inner: Arc<VolatileRecords>,
    power: Arc<Power>,
}

impl Records for PoweredRecords {
    records_through!(inner: get scan);

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.power.impose(|| self.inner.apply(batch))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        self.power.impose(|| self.inner.sync())
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.power.impose(|| self.inner.commit(batch))
    }
}

/// The stores of a vault, all on one power.
struct Machine {
    power: Arc<Power>,
    log: Option<Arc<EmbeddedLog>>,
    records: Mutex<Vec<Arc<VolatileRecords>>>,
}

impl Machine {
    fn records(&self, records: Arc<dyn Records>) -> Arc<dyn Records> {
        let inner = Arc::new(VolatileRecords::new(records));
        self.records.lock().unwrap().push(Arc::clone(&inner));
        Arc::new(PoweredRecords { inner, power: Arc::clone(&self.power) })
    }

    /// What the disk has once the power is out, put in place of what the system believed it had.
    async fn cut(self, house: &House, torn: Torn) {
        let left = |mut bytes: Vec<u8>| {
            match torn {
                Torn::Nothing => bytes.clear(),
                Torn::Half => bytes.truncate(bytes.len() / 2),
                Torn::All => {}
            }
            bytes
        };
        let records = std::mem::take(&mut *self.records.lock().unwrap());
        for records in records {
            let kept = match torn {
                Torn::Nothing => 0,
                Torn::Half => records.unsynced() / 2,
                Torn::All => records.unsynced(),
            };
            records.cut_power(kept).await.unwrap();
        }
        // A log whose end was not cut yet was synced when it was opened, and not written since.
        let Some(log) = self.log.filter(|log| log.synced() != (0, 0)) else { return };
        let after = tempfile::tempdir().unwrap();
        power_cut(&log, after.path(), left).unwrap();
        replace(&house.folder.join("data/log"), after.path());
    }
}

fn replace(folder: &Path, by: &Path) {
    for entry in std::fs::read_dir(by).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

impl Layers for Machine {
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        self.log = Some(Arc::clone(&log));
        Arc::new(PoweredLog { inner: log, power: Arc::clone(&self.power) })
    }

    fn keys(&mut self, keys: Arc<dyn Records>) -> Arc<dyn Records> {
        self.records(keys)
    }

    fn projections(&mut self, projections: Arc<dyn Records>) -> Arc<dyn Records> {
        self.records(projections)
    }

    fn holder(&mut self, inner: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        let steps: Arc<dyn Steps> = Arc::<Power>::clone(&self.power);
        Arc::new(Moody { inner, moods: Arc::<Moods>::default(), steps })
    }
}

/// Starts and runs the script; how many steps that took, and whether it came to its end.
async fn live(house: &House, ledger: &mut Ledger, power: Arc<Power>, torn: Torn) -> (u64, bool) {
    let mut machine = Machine { power: Arc::clone(&power), log: None, records: Mutex::default() };
    let mut ended = false;
    let went_out = power.went_out.notified();
    tokio::pin!(went_out);
    went_out.as_mut().enable();
    if let Ok(engine) = house.open_over(&mut machine).await {
        let ran = tokio::select! {
            biased;
            ran = ledger.script(&engine) => ran,
            () = went_out => Err(Stopped),
        };
        ended = ran.is_ok();
        engine.close().await;
    }
    machine.cut(house, torn).await;
    (power.taken.load(Ordering::SeqCst), ended)
}

async fn every_cut(last_done: bool, torn: Torn) {
    let rest = House::new();
    rest.ready().await.close().await;
    let mut step = 1;
    loop {
        let house = rest.fork();
        let mut ledger = Ledger::default();
        let (taken, ended) = live(&house, &mut ledger, Power::until(step, last_done), torn).await;
        // The power comes back, and goes out again during the start.
        if step % 3 == 0 {
            live(&house, &mut Ledger::default(), Power::until(1 + step % 7, last_done), torn).await;
        }
        let engine = house.open().await;
        ledger.check(&engine).await;
        engine.close().await;
        if ended && taken < step {
            break;
        }
        step += 1;
    }
    assert!(step > 60, "the script took only {step} steps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_that_goes_before_a_step_takes_what_was_not_synced_and_nothing_answered() {
    every_cut(false, Torn::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_that_goes_after_a_step_leaves_half_of_what_was_not_synced() {
    every_cut(true, Torn::Half).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_a_step_leaves_what_the_system_had() {
    every_cut(true, Torn::All).await;
}
