//! What goes back: acks, and dead letters for what could not be processed. Codes and counts, no prose.

use cloakroom_bus::{BusError, Outgoing, Position, topics};
use cloakroom_proto::bus::v1::{Ack, AckStatus, DeadLetter};
use cloakroom_runtime::telemetry;

use super::{Kit, Verdict};
use crate::{Erasure, Purged};

const VERSION: u32 = 1;

impl Kit {
    /// The answer to one purge.
    pub(super) fn ack(&self, to: &Erasure, verdict: &Verdict) -> Option<Outgoing> {
        let at_unix_ms = self.clock.now_unix_ms();
        let mut ack = Ack {
            version: VERSION,
            purge_id: to.purge_id.clone(),
            token: to.token.to_string(),
            downstream: self.config.downstream.clone(),
            at_unix_ms,
            ..Default::default()
        };
        match verdict.clone() {
            Ok(Purged::Gone { count, evidence }) => {
                ack.set_status(AckStatus::Purged);
                (ack.purged_count, ack.evidence) = (count, evidence);
            }
            Ok(Purged::NothingHeld { evidence }) => {
                ack.set_status(AckStatus::NothingHeld);
                ack.evidence = evidence;
            }
            Ok(Purged::AwaitingExpiry { until_unix_ms, evidence }) => {
                ack.set_status(AckStatus::AwaitingExpiry);
                (ack.until_unix_ms, ack.evidence) = (until_unix_ms, evidence);
            }
            Err(reason) => {
                ack.set_status(AckStatus::Refused);
                ack.reason = reason;
            }
        }
        let id = format!("{}/{}/{}", ack.downstream, ack.purge_id, ack.status);
        let topic = topics::ack(&to.controller);
        let mut out = or_log(Outgoing::new(topic, to.purge_id.as_str(), id, at_unix_ms, &ack))?;
        out.trace = telemetry::traceparent();
        Some(out)
    }

    /// What is put aside for people to look at.
    pub(super) fn dead_letter(&self, position: &Position, reason: &str) -> Option<Outgoing> {
        let at_unix_ms = self.clock.now_unix_ms();
        self.metrics.dead_lettered(reason);
        let downstream = self.config.downstream.clone();
        let id = format!("{downstream}/{}/{}/{}", position.topic, position.partition, position.offset);
        let letter = DeadLetter {
            version: VERSION,
            downstream: downstream.clone(),
            topic: position.topic.clone(),
            partition: position.partition,
            offset: position.offset,
            reason: reason.to_owned(),
            at_unix_ms,
        };
        or_log(Outgoing::new(topics::DEAD_LETTER.to_owned(), downstream, id, at_unix_ms, &letter))
    }
}

fn or_log(made: Result<Outgoing, BusError>) -> Option<Outgoing> {
    made.inspect_err(|error| {
        tracing::error!(error = error as &dyn std::error::Error, "an answer cannot be sent")
    })
    .ok()
}
