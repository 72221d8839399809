//! What is counted besides the calls themselves (which `runtime` does for every daemon): items by verb and
//! code, and how the vault is. Labels are verbs and codes, never ids and never values.

use std::cell::Cell;
use std::time::Duration;

use cloakroom_core::refusal::{Code, Refusal};
use cloakroom_engine::{Engine, Pruned, Status};
use cloakroom_runtime::shutdown::Shutdown;
use opentelemetry::metrics::{Counter, Gauge, Meter};
use opentelemetry::{KeyValue, global};

fn meter() -> Meter {
    global::meter("cloakroom")
}

/// Whether the gate is closed; the items that a replay of the ledger destroyed again.
pub(crate) struct GateFigures {
    closed: Gauge<u64>,
    replayed: Counter<u64>,
}

impl GateFigures {
    pub(crate) fn new() -> Self {
        Self {
            closed: meter()
                .u64_gauge("cloakroom.gate.closed")
                .with_description("1 while the vault lives and does not serve.")
                .build(),
            replayed: meter()
                .u64_counter("cloakroom.gate.replayed")
                .with_description("Values destroyed again by a replay of the ledger.")
                .build(),
        }
    }

    pub(crate) fn closed(&self, closed: bool) {
        self.closed.record(closed.into(), &[]);
    }

    pub(crate) fn replayed(&self, values: u64) {
        self.replayed.add(values, &[]);
    }
}

/// Items answered, by verb and code.
#[derive(Clone)]
pub(crate) struct ItemCounter(Counter<u64>);

impl ItemCounter {
    pub(crate) fn new() -> Self {
        Self(meter().u64_counter("cloakroom.items").with_description("Items answered.").build())
    }

    /// Counts the items of one call, and enters them when it is dropped: an entry costs more than an item.
    pub(crate) fn of_call(&self, verb: &'static str) -> ItemTally<'_> {
        ItemTally { counter: &self.0, verb, codes: Default::default() }
    }
}

/// The items of one call, by the numbers of their codes; 0 is OK.
pub(crate) struct ItemTally<'a> {
    counter: &'a Counter<u64>,
    verb: &'static str,
    codes: [Cell<u64>; CODES],
}

/// OK, and those of [`Code`].
const CODES: usize = 9;

impl ItemTally<'_> {
    /// Counts one item's answer.
    pub(crate) fn count<A>(&self, answer: &Result<A, Refusal>) {
        let code = answer.as_ref().err().map_or(0, |refusal| refusal.code as usize);
        if let Some(items) = self.codes.get(code) {
            items.set(items.get().saturating_add(1));
        }
    }
}

impl Drop for ItemTally<'_> {
    fn drop(&mut self) {
        for (number, items) in (0..).zip(&self.codes).filter(|(_, items)| items.get() > 0) {
            let code = Code::from_number(number).map_or("OK", Code::name);
            let labels = [KeyValue::new("cloakroom.verb", self.verb), KeyValue::new("cloakroom.code", code)];
            self.counter.add(items.get(), &labels);
        }
    }
}

/// Counts what a pruning of the log did: rare enough to ask for the instruments each time.
pub(crate) fn pruned(pruned: &Pruned) {
    let add = |name: &'static str, what: &'static str, by: u64| {
        meter().u64_counter(name).with_description(what).build().add(by, &[]);
    };
    add("cloakroom.log.pruned", "Values whose ciphertext a pruning dropped.", pruned.values);
    add("cloakroom.log.pruned.bytes", "Bytes of disk that pruning freed.", pruned.bytes_freed);
}

struct Gauges {
    events: Gauge<u64>,
    tree_events: Gauge<u64>,
    slots: Gauge<u64>,
    subtrees: Gauge<u64>,
    open_erasures: Gauge<u64>,
    overdue_erasures: Gauge<u64>,
    stuck_fences: Gauge<u64>,
    key_backups: Gauge<u64>,
    fences_not_final: Gauge<u64>,
    slots_lost: Gauge<u64>,
    announce_lag: Gauge<u64>,
    epoch: Gauge<u64>,
    roots_left: Gauge<u64>,
    holder_troubled: Gauge<u64>,
    lookup_ready: Gauge<u64>,
    lookup_values: Gauge<u64>,
}

impl Gauges {
    fn new() -> Self {
        let gauge =
            |name: &'static str, what: &'static str| meter().u64_gauge(name).with_description(what).build();
        Self {
            events: gauge("cloakroom.events", "Events in the log."),
            tree_events: gauge("cloakroom.log.tree.events", "Events in the log's Merkle tree."),
            slots: gauge("cloakroom.slots", "Slots of the key tree handed out."),
            subtrees: gauge("cloakroom.subtrees", "Subtrees of the key tree."),
            open_erasures: gauge("cloakroom.erasures.open", "Erasures that are not completed."),
            overdue_erasures: gauge(
                "cloakroom.erasures.overdue",
                "Open erasures that missed their deadline.",
            ),
            stuck_fences: gauge(
                "cloakroom.erasures.stuck",
                "Erasures, releases and rectifications whose page of keys does not open.",
            ),
            key_backups: gauge("cloakroom.key_backups", "Key backups whose roots are in escrow."),
            fences_not_final: gauge(
                "cloakroom.erasures.not_final",
                "Erasures, releases and rectifications that a root in escrow still reaches.",
            ),
            slots_lost: gauge("cloakroom.slots.lost", "Slots whose keys a restored key backup lacked."),
            announce_lag: gauge("cloakroom.announce.lag", "Events not yet announced."),
            epoch: gauge("cloakroom.epoch", "The number of the current root."),
            roots_left: gauge(
                "cloakroom.roots.left",
                "Former roots in another holder that are not proved gone: no erasure is final meanwhile.",
            ),
            holder_troubled: gauge(
                "cloakroom.roots.troubled",
                "1 while the root holder fails to make or destroy a root: no erasure gets on meanwhile.",
            ),
            lookup_ready: gauge("cloakroom.lookup.ready", "1 once tokens can be found by value."),
            lookup_values: gauge("cloakroom.lookup.values", "Values that tokens can be found by."),
        }
    }

    fn record(&self, status: &Status, (ready, values): (bool, u64)) {
        self.lookup_ready.record(ready.into(), &[]);
        self.lookup_values.record(values, &[]);
        self.events.record(status.events, &[]);
        self.tree_events.record(status.tree_events, &[]);
        self.slots.record(status.slots, &[]);
        self.subtrees.record(status.subtrees.into(), &[]);
        self.open_erasures.record(status.open_erasures, &[]);
        self.overdue_erasures.record(status.overdue_erasures, &[]);
        self.stuck_fences.record(status.stuck_fences, &[]);
        self.key_backups.record(status.key_backups, &[]);
        self.fences_not_final.record(status.fences_not_final, &[]);
        self.slots_lost.record(status.slots_lost, &[]);
        self.announce_lag.record(status.announce_lag, &[]);
        self.epoch.record(status.epoch, &[]);
        self.roots_left.record(status.roots_left, &[]);
        self.holder_troubled.record(status.holder_troubled.into(), &[]);
    }
}

/// Takes the gauges every `every`, until `shutdown`.
pub(crate) async fn follow(engine: Engine, every: Duration, shutdown: Shutdown) {
    let gauges = Gauges::new();
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = tick.tick() => {}
        }
        gauges.record(&engine.figures(), engine.lookup_figures());
    }
}
