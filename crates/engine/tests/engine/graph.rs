//! The disclosure graph under every engine test: after each frame that became durable, and after each start,
//! from the roots that the holder has now no path reaches a dead key, and every living key is reached.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use cloakroom_core::event::{Body, SystemKeyKind};
use cloakroom_core::ids::{EventNumber, Slot, TreeId};
use cloakroom_engine::codec;
use cloakroom_engine::open::Layers;
use cloakroom_keytree::RootHolder;
use cloakroom_keytree::disclosure::{Trying, plunder};
use cloakroom_store::embedded::EmbeddedLog;
use cloakroom_store::{Answer, Batch, Log, Records, StoreError, log_through, records_through};

/// Every record ever written to the key database of one house, whatever became of it.
#[derive(Default)]
pub(crate) struct Graph {
    ever: Mutex<Vec<(Vec<u8>, Bytes)>>,
    side: Mutex<Option<Side>>,
    /// What was found wrong first; a task of the engine cannot fail a test, so the house does.
    broken: Mutex<Option<String>>,
}

/// What the engine under test stands on; weak, since an engine that has closed lets its folders go.
struct Side {
    log: Weak<dyn Log>,
    keys: Weak<dyn Records>,
    holder: Weak<dyn RootHolder>,
}

struct Open {
    log: Arc<dyn Log>,
    keys: Arc<dyn Records>,
    holder: Arc<dyn RootHolder>,
}

impl Side {
    fn open(&self) -> Option<Open> {
        Some(Open { log: self.log.upgrade()?, keys: self.keys.upgrade()?, holder: self.holder.upgrade()? })
    }
}

/// What a log says of its slots.
#[derive(Default)]
struct Told {
    tree: Option<TreeId>,
    events: u64,
    named: BTreeSet<Slot>,
    /// By fences, closed or not, and the vault's own keys that end with their day.
    dying: BTreeSet<Slot>,
    /// By fences that are closed.
    closed: BTreeSet<Slot>,
    /// It is an older log that somebody went on with: what was erased since is dead without a fence in it.
    older: bool,
}

impl Graph {
    /// Lays the recorder below what a test lays over the stores.
    pub(crate) fn under<'a>(self: &Arc<Self>, above: &'a mut dyn Layers) -> Recording<'a> {
        Recording { graph: Arc::clone(self), above, log: None, keys: None }
    }

    /// What is wrong, if anything ever was.
    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap().clone()
    }

    /// `at_rest`: after a start, with nothing under way, no key opens that no frame names.
    pub(crate) async fn look(&self, at_rest: bool) {
        if let Err(what) = self.invariant_only_the_living_open(at_rest).await {
            self.broken.lock().unwrap().get_or_insert(what);
        }
    }

    async fn invariant_only_the_living_open(&self, at_rest: bool) -> Result<(), String> {
        let side = self.side.lock().unwrap().as_ref().and_then(Side::open);
        let Some(Open { log, keys, holder }) = side else { return Ok(()) };
        let told = told(&*log).await;
        let Some(tree) = told.tree else { return Ok(()) };
        // What grows with the square of a test's length is looked at now and then in long ones.
        if told.events > 200 && !told.events.is_multiple_of(64) && !at_rest {
            return Ok(());
        }
        // Besides what was recorded: what lay there before, in a copy brought from elsewhere.
        let mut ever = self.ever.lock().unwrap().clone();
        let there = keys.scan(b"", None, usize::MAX).await.map_err(|error| error.to_string())?;
        ever.extend(there.into_iter().map(|(key, value)| (key.to_vec(), value)));
        ever.sort();
        ever.dedup();
        let open = plunder(&ever, &*holder, tree, Trying::ItsPlace).await.slots();
        let back: Vec<_> = open.intersection(&told.closed).collect();
        if !back.is_empty() {
            return Err(format!("slots of closed fences open with the living roots: {back:?}"));
        }
        let lost: Vec<_> = told.named.difference(&told.dying).filter(|slot| !open.contains(slot)).collect();
        if !lost.is_empty() && !told.older {
            return Err(format!("living slots do not open with the living roots: {lost:?}"));
        }
        let unnamed: Vec<_> = open.difference(&told.named).collect();
        if at_rest && !unnamed.is_empty() {
            return Err(format!("slots that no frame names open after a start: {unnamed:?}"));
        }
        Ok(())
    }
}

async fn told(log: &dyn Log) -> Told {
    let mut told = Told::default();
    let mut fences: Vec<(EventNumber, Vec<Slot>)> = vec![];
    for number in (1..).map(EventNumber) {
        let Ok(Some(bytes)) = log.event(number).await else { break };
        let Ok(event) = codec::decode(number, bytes) else { break };
        told.events = number.0;
        told.named.extend(event.body.fills());
        told.dying.extend(event.body.dooms());
        if event.body.is_fence() {
            fences.push((number, event.body.dooms()));
        }
        match event.body {
            Body::SystemKeyMade(made) if made.kind == SystemKeyKind::Idempotency => {
                told.dying.insert(made.slot);
            }
            Body::Started(started) => {
                told.tree = Some(started.tree);
                told.older |= started.abandons.is_some();
            }
            Body::KeysDestroyed(closed) => {
                let slots = fences.iter().filter(|(fence, _)| closed.fences.contains(fence));
                told.closed.extend(slots.flat_map(|(_, slots)| slots));
            }
            _ => {}
        }
    }
    told
}

/// What a test lays over the stores, and the recorder below it.
pub(crate) struct Recording<'a> {
    graph: Arc<Graph>,
    above: &'a mut dyn Layers,
    log: Option<Weak<dyn Log>>,
    keys: Option<Weak<dyn Records>>,
}

impl Layers for Recording<'_> {
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        let known: Arc<dyn Log> = Arc::<EmbeddedLog>::clone(&log);
        self.log = Some(Arc::downgrade(&known));
        Arc::new(RecordedLog { inner: self.above.log(log), graph: Arc::clone(&self.graph) })
    }

    fn keys(&mut self, keys: Arc<dyn Records>) -> Arc<dyn Records> {
        self.keys = Some(Arc::downgrade(&keys));
        self.above.keys(Arc::new(RecordedKeys { inner: keys, graph: Arc::clone(&self.graph) }))
    }

    fn projections(&mut self, projections: Arc<dyn Records>) -> Arc<dyn Records> {
        self.above.projections(projections)
    }

    fn holder(&mut self, holder: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        if let (Some(log), Some(keys)) = (self.log.clone(), self.keys.clone()) {
            *self.graph.side.lock().unwrap() = Some(Side { log, keys, holder: Arc::downgrade(&holder) });
        }
        self.above.holder(holder)
    }
}

struct RecordedKeys {
    inner: Arc<dyn Records>,
    graph: Arc<Graph>,
}

impl RecordedKeys {
    fn record(&self, batch: &Batch) {
        let put = batch.changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        self.graph.ever.lock().unwrap().extend(put);
    }
}

impl Records for RecordedKeys {
    records_through!(inner: get scan sync);

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.record(&batch);
        self.inner.apply(batch)
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.record(&batch);
        self.inner.commit(batch)
    }
}

struct RecordedLog {
    inner: Arc<dyn Log>,
    graph: Arc<Graph>,
}

impl Log for RecordedLog {
    log_through!(inner: find_end cut append event frame_of leaves sealed prune);

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::later(async {
            self.inner.sync().await?;
            self.graph.look(false).await;
            Ok(())
        })
    }
}
