//! What is counted. Attributes are codes and topics, so their number is bounded.

use std::collections::BTreeMap;

use cloakroom_bus::Lag;
use cloakroom_runtime::telemetry::SECONDS;
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};

use super::Verdict;
use crate::Purged;

pub(super) struct Metrics {
    purges: Counter<u64>,
    age: Histogram<f64>,
    refused: Counter<u64>,
    dead_letters: Counter<u64>,
    retries: Counter<u64>,
    lag: Gauge<u64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = global::meter("cloakroom");
        let counter = |name| meter.u64_counter(name).build();
        Self {
            purges: counter("cloakroom.downstream.purges"),
            age: meter
                .f64_histogram("cloakroom.downstream.purge.age")
                .with_unit("s")
                .with_description("From the announcement of a purge to its end here.")
                .with_boundaries(
                    SECONDS.iter().copied().chain([30.0, 60.0, 300.0, 3600.0, 86_400.0]).collect(),
                )
                .build(),
            refused: counter("cloakroom.downstream.records.refused"),
            dead_letters: counter("cloakroom.downstream.dead_letters"),
            retries: counter("cloakroom.downstream.retries"),
            lag: meter
                .u64_gauge("cloakroom.downstream.lag")
                .with_unit("{record}")
                .with_description("Records of a topic that are not processed yet.")
                .build(),
        }
    }

    pub(super) fn purged(&self, verdict: &Verdict, age_ms: i64) {
        let outcome = match verdict {
            Ok(Purged::Gone { .. }) => "purged",
            Ok(Purged::NothingHeld { .. }) => "nothing-held",
            Ok(Purged::AwaitingExpiry { .. }) => "awaiting-expiry",
            Err(_) => "refused",
        };
        self.purges.add(1, &[KeyValue::new("outcome", outcome)]);
        self.age.record(age_ms.max(0) as f64 / 1000.0, &[]);
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub(super) fn dead_lettered(&self, reason: &str) {
        self.dead_letters.add(1, &[KeyValue::new("reason", reason.to_owned())]);
    }

    pub(super) fn retried(&self) {
        self.retries.add(1, &[]);
    }

    pub(super) fn lag(&self, lags: &[Lag]) {
        let mut by_topic: BTreeMap<&str, u64> = BTreeMap::new();
        for lag in lags {
            let records = by_topic.entry(&lag.topic).or_default();
            *records = records.saturating_add(lag.records);
        }
        for (topic, records) in by_topic {
            self.lag.record(records, &[KeyValue::new("topic", topic.to_owned())]);
        }
    }
}
