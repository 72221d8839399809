//! The trace that a request belongs to, carried to the notices that it leads to. Purges carry none: what
//! belongs together must not be told for ever by a topic.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cloakroom_core::ids::EventNumber;

/// Traces of events that are not announced yet; while a broker is away for long the oldest are dropped, which
/// costs a trace its continuation and nothing else.
const KEPT_MAX: usize = 4_096;

tokio::task_local! {
    static TRACEPARENT: String;
}

/// Runs a call as part of the trace that the W3C `traceparent` names, if there is one.
pub async fn traced<F: Future>(traceparent: Option<String>, call: F) -> F::Output {
    match traceparent {
        Some(traceparent) => TRACEPARENT.scope(traceparent, call).await,
        None => call.await,
    }
}

/// Which event belongs to which trace.
#[derive(Default)]
pub(crate) struct Traces(Mutex<BTreeMap<EventNumber, String>>);

impl Traces {
    /// Remembers that `event` came from the call that asks this.
    pub(crate) fn note(&self, event: EventNumber) {
        let Ok(traceparent) = TRACEPARENT.try_with(Clone::clone) else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(event, traceparent);
        while kept.len() > KEPT_MAX {
            kept.pop_first();
        }
    }

    /// The trace of `event`, if it is known.
    pub(crate) fn of(&self, event: EventNumber) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&event).cloned()
    }

    /// Forgets the traces of everything up to `event`: it is announced.
    pub(crate) fn announced(&self, event: EventNumber) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|known, _| *known > event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_has_the_trace_of_its_call_until_it_is_announced() {
        let traces = Traces::default();
        traces.note(EventNumber(1));
        traced(Some("00-a-b-01".to_owned()), async { traces.note(EventNumber(2)) }).await;
        assert_eq!(
            (traces.of(EventNumber(1)), traces.of(EventNumber(2))),
            (None, Some("00-a-b-01".to_owned()))
        );
        traces.announced(EventNumber(2));
        assert_eq!(traces.of(EventNumber(2)), None);
    }

    #[tokio::test]
    async fn traces_are_bounded() {
        let traces = Traces::default();
        for number in 0..KEPT_MAX as u64 + 10 {
            traced(Some("00-a-b-01".to_owned()), async { traces.note(EventNumber(number)) }).await;
        }
        assert_eq!(traces.0.lock().unwrap().len(), KEPT_MAX);
    }
}
