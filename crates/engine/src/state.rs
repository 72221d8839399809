//! What is known in memory of a log: registers, keys of the vault's own, open fences. Changed by the writer
//! alone, once what it says is durable; read by every request.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwap;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::erasure::Erasure;
use cloakroom_core::event::{Body, DownstreamRegistered, Event, SystemKeyKind};
use cloakroom_core::field::FieldType;
use cloakroom_core::ids::{EventNumber, Slot, Subtree};
use cloakroom_core::register::Register;
use cloakroom_crypto::sign::{SigningKey, VerifyingKey};
use cloakroom_crypto::{Key, role};
use tokio::sync::watch;

use crate::EngineError;
use crate::keys::KeysView;
use crate::lease::Lease;
use crate::lookup::Lookups;
use crate::tokens::Ids;
use crate::trace::Traces;

/// A register in force.
pub(crate) struct InForce {
    pub(crate) register: Register,
    pub(crate) toml: String,
    pub(crate) version: u32,
    pub(crate) applied_at: UnixMs,
    pub(crate) subtree: Subtree,
}

/// A key for one day's idempotency keys.
pub(crate) struct DayKey {
    pub(crate) event: EventNumber,
    pub(crate) made_at: UnixMs,
    pub(crate) slot: Slot,
    pub(crate) key: Key<role::Idempotency>,
}

pub(crate) struct State {
    registers: ArcSwap<HashMap<String, Arc<InForce>>>,
    downstreams: ArcSwap<HashMap<String, Arc<DownstreamRegistered>>>,
    fenced: RwLock<HashSet<Slot>>,
    fenced_count: AtomicUsize,
    /// Fences with a slot on a page that does not open.
    stuck: RwLock<BTreeSet<EventNumber>>,
    rectified: RwLock<HashMap<EventNumber, EventNumber>>,
    open: RwLock<BTreeMap<EventNumber, Erasure>>,
    pub(crate) ids: Ids,
    pub(crate) signing: Arc<SigningKey>,
    /// All keys that ever signed, newest last.
    pub(crate) verifying: Vec<VerifyingKey>,
    pub(crate) day_keys: RwLock<Vec<Arc<DayKey>>>,
    newest_day_key: AtomicU64,
    /// Durable events; the announcer follows it.
    pub(crate) events: watch::Sender<u64>,
    /// Until when the tree is owned; set once, at the end of a start.
    pub(crate) lease: OnceLock<Arc<Lease>>,
    /// How the keys stood with their root holder last.
    pub(crate) keys: RwLock<KeysView>,
    pub(crate) announced: AtomicU64,
    /// Counts changes of erasures.
    pub(crate) erasure_changes: watch::Sender<u64>,
    pub(crate) traces: Traces,
    pub(crate) last_answers: RwLock<HashMap<(String, String), UnixMs>>,
    /// What tokens are found by.
    pub(crate) lookups: Lookups,
}

/// What a state is made of at a start, read from log and projections.
pub(crate) struct Seed {
    pub(crate) ids: Ids,
    pub(crate) signing: Arc<SigningKey>,
    pub(crate) verifying: Vec<VerifyingKey>,
    pub(crate) day_keys: Vec<Arc<DayKey>>,
    /// Of those that ever were.
    pub(crate) newest_day_key: EventNumber,
    pub(crate) rectified: HashMap<EventNumber, EventNumber>,
    pub(crate) open: BTreeMap<EventNumber, Erasure>,
    pub(crate) events: u64,
    pub(crate) announced: u64,
}

impl State {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            registers: ArcSwap::default(),
            downstreams: ArcSwap::default(),
            fenced: RwLock::default(),
            fenced_count: AtomicUsize::new(0),
            stuck: RwLock::default(),
            rectified: RwLock::new(seed.rectified),
            open: RwLock::new(seed.open),
            ids: seed.ids,
            signing: seed.signing,
            verifying: seed.verifying,
            day_keys: RwLock::new(seed.day_keys),
            newest_day_key: AtomicU64::new(seed.newest_day_key.0),
            events: watch::Sender::new(seed.events),
            lease: OnceLock::new(),
            keys: RwLock::default(),
            announced: AtomicU64::new(seed.announced),
            erasure_changes: watch::Sender::new(0),
            traces: Traces::default(),
            last_answers: RwLock::default(),
            lookups: Lookups::new(),
        }
    }

    /// Whether the tree is still this process's: asked after a value was opened, and before a write.
    pub(crate) fn is_owner(&self) -> bool {
        self.lease.get().is_none_or(|lease| lease.holds())
    }

    /// How the keys stand with their holder, as the writer and the renewals have seen it last.
    pub(crate) fn keys_view(&self) -> KeysView {
        let mut view = read(&self.keys).clone();
        let ailment = self.lease.get().and_then(|lease| lease.ailment());
        view.trouble = [view.trouble, ailment.unwrap_or_default()]
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        view
    }

    /// The register in force for `controller`.
    pub(crate) fn register(&self, controller: &str) -> Option<Arc<InForce>> {
        self.registers.load().get(controller).cloned()
    }

    pub(crate) fn registers(&self) -> Arc<HashMap<String, Arc<InForce>>> {
        self.registers.load_full()
    }

    pub(crate) fn downstreams(&self) -> Arc<HashMap<String, Arc<DownstreamRegistered>>> {
        self.downstreams.load_full()
    }

    /// Whether a fence stands before what lies in `slot`.
    pub(crate) fn is_fenced(&self, slot: Slot) -> bool {
        self.fenced_count.load(Ordering::Acquire) > 0 && read(&self.fenced).contains(&slot)
    }

    /// The event of the newest day's key for idempotency; 0 if there never was one.
    pub(crate) fn newest_day_key(&self) -> EventNumber {
        EventNumber(self.newest_day_key.load(Ordering::Acquire))
    }

    /// A page of keys that these fences condemn cannot be opened: they stay open until a start finds it whole.
    pub(crate) fn stick(&self, fences: impl IntoIterator<Item = EventNumber>) {
        self.stuck.write().unwrap_or_else(PoisonError::into_inner).extend(fences);
        self.erasure_changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn is_stuck(&self, fence: EventNumber) -> bool {
        read(&self.stuck).contains(&fence)
    }

    /// How many fences cannot be closed.
    pub(crate) fn stuck(&self) -> usize {
        read(&self.stuck).len()
    }

    /// The newest rectification of a value.
    pub(crate) fn rectification(&self, value: EventNumber) -> Option<EventNumber> {
        read(&self.rectified).get(&value).copied()
    }

    /// The events whose values a fence ends, asked before it is raised.
    pub(crate) fn ended(&self, event: &Event) -> Vec<EventNumber> {
        let newest = |value| self.rectification(value).unwrap_or(value);
        match &event.body {
            Body::ValueRectified(it) => vec![newest(it.value)],
            Body::ValuesReleased(it) => it.values.iter().map(|doomed| newest(doomed.value)).collect(),
            Body::ErasureRequested(it) => it.values.iter().map(|doomed| newest(doomed.value)).collect(),
            _ => vec![],
        }
    }

    /// An erasure or release that downstreams still owe answers for.
    pub(crate) fn open_erasure(&self, fence: EventNumber) -> Option<Erasure> {
        read(&self.open).get(&fence).cloned()
    }

    pub(crate) fn open_erasures(&self) -> Vec<Erasure> {
        read(&self.open).values().cloned().collect()
    }

    /// Raises the fences before slots; from here on reads answer ERASED.
    pub(crate) fn fence(&self, slots: impl IntoIterator<Item = Slot>) {
        let mut fenced = self.fenced.write().unwrap_or_else(PoisonError::into_inner);
        fenced.extend(slots);
        self.fenced_count.store(fenced.len(), Ordering::Release);
    }

    /// Takes them away: the slots are dead by themselves now.
    pub(crate) fn unfence<'a>(&self, slots: impl IntoIterator<Item = &'a Slot>) {
        let mut fenced = self.fenced.write().unwrap_or_else(PoisonError::into_inner);
        for slot in slots {
            fenced.remove(slot);
        }
        self.fenced_count.store(fenced.len(), Ordering::Release);
    }

    /// Takes in what a durable event means for reads: fences and rectifications. Before the chains have it, so
    /// that whatever is decided on a chain that does, with a guard that stands, was decided with this.
    pub(crate) fn raise(&self, number: EventNumber, event: &Event) {
        if let Body::ValueRectified(it) = &event.body {
            self.rectified.write().unwrap_or_else(PoisonError::into_inner).insert(it.value, number);
        }
        if event.body.is_fence() {
            self.fence(event.body.dooms());
        }
    }

    /// Takes in all else of a durable event.
    pub(crate) fn apply(&self, number: EventNumber, event: &Event) -> Result<(), EngineError> {
        match &event.body {
            Body::RegisterApplied(it) => {
                let register =
                    Register::parse(&it.toml).map_err(|_| EngineError::Register(it.controller.clone()))?;
                let before = self.register(&it.controller);
                let other = before.is_some_and(|before| looked_up(&before.register) != looked_up(&register));
                let in_force = Arc::new(InForce {
                    register,
                    toml: it.toml.clone(),
                    version: it.version,
                    applied_at: event.at,
                    subtree: it.subtree,
                });
                self.registers.rcu(|registers| {
                    let mut next = HashMap::clone(registers);
                    next.insert(it.controller.clone(), Arc::clone(&in_force));
                    next
                });
                if other {
                    self.lookups.begin_again();
                }
            }
            Body::DownstreamRegistered(it) => {
                let known = Arc::new(it.clone());
                self.downstreams.rcu(|downstreams| {
                    let mut next = HashMap::clone(downstreams);
                    next.insert(it.downstream.clone(), Arc::clone(&known));
                    next
                });
            }
            Body::SystemKeyMade(it) if it.kind == SystemKeyKind::Idempotency => {
                self.newest_day_key.fetch_max(number.0, Ordering::AcqRel);
            }
            _ => {}
        }
        self.apply_erasure(number, event);
        Ok(())
    }

    fn apply_erasure(&self, number: EventNumber, event: &Event) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = true;
        if let Some(begun) = Erasure::begin(number, event) {
            open.insert(number, begun);
        } else if let Body::KeysDestroyed(closed) = &event.body {
            for fence in &closed.fences {
                if let Some(erasure) = open.get_mut(fence) {
                    erasure.apply(number, event);
                }
            }
        } else if let Body::KeyBackupEnded(ended) = &event.body {
            for fence in &ended.fences {
                if let Some(erasure) = open.get_mut(fence) {
                    erasure.apply(number, event);
                }
            }
        } else if let Some((aggregate, _)) = event.body.chain()
            && let Some(erasure) = open.get_mut(&aggregate)
        {
            erasure.apply(number, event);
            if let Body::AcksCollected(collected) = &event.body {
                self.note_answers(&erasure.controller, collected);
            }
            if erasure.completed.is_some() {
                open.remove(&aggregate);
            }
        } else {
            changed = false;
        }
        drop(open);
        if changed {
            self.erasure_changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn note_answers(&self, controller: &str, collected: &cloakroom_core::event::AcksCollected) {
        let mut last = self.last_answers.write().unwrap_or_else(PoisonError::into_inner);
        for ack in &collected.acks {
            last.insert((controller.to_owned(), ack.downstream.clone()), ack.at);
        }
    }
}

/// The fields that tokens are found by.
fn looked_up(register: &Register) -> Vec<(&str, FieldType)> {
    let marked = register.fields().iter().filter(|field| field.lookup);
    marked.map(|field| (field.id.as_str(), field.field_type)).collect()
}

/// The kinds of keys that a vault must have before it serves.
pub(crate) const NEEDED_KEYS: [SystemKeyKind; 2] = [SystemKeyKind::Address, SystemKeyKind::Signing];

pub(crate) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
