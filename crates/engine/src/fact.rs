//! Records facts that retention periods count from.

use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::{Body, FactRecorded};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::CallRefusal;

use crate::house::{House, TRIES, declined};
use crate::proposal::{Declined, Draft, Guard};

/// The kinds of facts on the wire: 1 to this.
const KINDS: u32 = 6;
/// The year 9999: what lies beyond is a mistake in the unit.
const HOLDS_MAX: UnixMs = 253_402_300_799_999;

/// A fact.
#[allow(missing_docs)] // as in vault/v1
pub struct Fact {
    pub controller: String,
    pub subject_id: String,
    pub activity: String,
    pub kind: u32,
    pub holds_unix_ms: UnixMs,
}

impl House {
    pub(crate) async fn record_fact(&self, principal: &str, fact: Fact) -> Result<(), CallRefusal> {
        let controller = self.register(principal, &fact.controller)?;
        if !(1..=KINDS).contains(&fact.kind) {
            return Err(CallRefusal::Invalid("kind: unknown".to_owned()));
        }
        if !(0..=HOLDS_MAX).contains(&fact.holds_unix_ms) {
            return Err(CallRefusal::Invalid("holds_unix_ms: not a time between 1970 and 9999".to_owned()));
        }
        controller
            .register
            .may_record_fact(principal, &fact.activity)
            .map_err(|denied| CallRefusal::Forbidden(denied.code().to_owned()))?;
        for _ in 0..TRIES {
            let subject = self
                .subject_by_id(&fact.controller, &fact.subject_id)
                .await
                .map_err(|error| error.for_call())?
                .ok_or_else(|| CallRefusal::NotFound("no such subject".to_owned()))?;
            subject.may_grow().map_err(|refusal| CallRefusal::Conflict(refusal.message))?;
            let guards =
                vec![Guard::Head { aggregate: EventNumber(subject.number.0), newest: subject.newest }];
            let draft = Draft::of(Body::FactRecorded(FactRecorded {
                subject: subject.number,
                previous: EventNumber(0),
                activity: fact.activity.clone(),
                kind: fact.kind,
                holds: fact.holds_unix_ms,
            }));
            match self.propose(guards, vec![draft], false).await {
                Ok(written) => {
                    let _events = written.into_inner();
                    return Ok(());
                }
                Err(Declined::Stale) => {}
                Err(reason) => return Err(declined(reason)),
            }
        }
        Err(declined(Declined::Stale))
    }
}
