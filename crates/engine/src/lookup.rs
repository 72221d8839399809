//! Finds tokens by value, and leaves no trace of the value (erasure.md, "Looking up without leaving a trace").
//!
//! No hash of a value is ever written: the table is in memory alone. An entry goes when the fence that ends its
//! value is raised, before the batch that destroys its key; so to a look-up what was erased is what never was, by
//! the same steps. A hit is opened and compared, in constant time, under activities that the asker was granted.

mod build;
mod rate;
mod subject;
mod table;

use cloakroom_core::event::Body;
use cloakroom_core::field::{self, FieldType};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_core::text;
use cloakroom_crypto::Plaintext;
use zeroize::Zeroizing;

pub(crate) use build::keep;
pub(crate) use rate::Rate;
pub(crate) use table::{Lookups, Mark};

use crate::access::{Read, Reads};
use crate::house::House;
use crate::state::InForce;
use crate::tokenize::check_count;

/// The most matches in one answer: a value shared by more people than that finds nobody.
pub const MATCHES_MAX: usize = 100;

/// What is asked.
pub struct LookupRequest {
    /// The controller's slug.
    pub controller: String,
    /// A case or ticket id; people need one.
    pub reason: String,
    /// 1 to 1,000, and no more than the burst that the vault allows.
    pub items: Vec<LookupItem>,
    /// For the access log; zeros if there is no trace.
    pub trace: [u8; 16],
}

/// One value.
pub struct LookupItem {
    /// As the register names it.
    pub field: String,
    /// In any spelling that its field type takes for the same.
    pub value: Plaintext,
}

/// What stands for a value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matches {
    /// Oldest first, up to [`MATCHES_MAX`]; none for what was erased as for what never was.
    pub found: Vec<Match>,
    /// There are more.
    pub more: bool,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// In its shape.
    pub token: String,
    /// `sub_...`
    pub subject_id: String,
    /// Under which it is stored.
    pub activity: String,
}

/// The values found, and what is told of them.
type Answered = Result<(Vec<EventNumber>, Matches), Refusal>;

/// What the access log keeps of an answer.
fn on_record(controller: &InForce, field: &str, answer: &Answered) -> Vec<Read> {
    // What people type for a field is theirs until the register knows it.
    let known = controller.register.field(field);
    let field = known.map(|field| field.id.clone()).unwrap_or_default();
    let of = |value, outcome| Read { value, outcome, field: field.clone() };
    match answer {
        Ok((values, _)) if values.is_empty() => vec![of(None, Some(Code::NotFound))],
        Ok((values, _)) => values.iter().map(|value| of(Some(*value), None)).collect(),
        Err(refusal) => vec![of(None, Some(refusal.code))],
    }
}

fn too_many() -> CallRefusal {
    CallRefusal::Exhausted("more look-ups than this principal may make".to_owned())
}

/// A value in the spelling that it is compared in.
fn normal(field: FieldType, value: &Plaintext) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    Some(Zeroizing::new(field::normalise(field, text)))
}

impl House {
    pub(crate) async fn lookup(
        &self,
        principal: &str,
        request: LookupRequest,
    ) -> Result<Vec<Result<Matches, Refusal>>, CallRefusal> {
        let controller = self.register(principal, &request.controller)?;
        check_count(request.items.len())?;
        self.can_look_up(principal, &request.reason)?;
        let reads = |items| Reads {
            principal,
            verb: "lookup",
            controller: &request.controller,
            purpose: "",
            reason: &request.reason,
            masked: false,
            trace: request.trace,
            items,
        };
        if !self.lookup_rate.takes(principal, request.items.len(), self.clock.now_unix_ms()) {
            let refused = request.items.iter().map(|_| Read::nowhere(Code::Denied));
            self.record(reads(refused.collect())).await?;
            return Err(too_many());
        }
        let (mut done, mut answers) = (vec![], Vec::with_capacity(request.items.len()));
        for item in &request.items {
            let answer = self.find(principal, &controller, item).await;
            done.extend(on_record(&controller, &item.field, &answer));
            answers.push(answer.map(|(_, matches)| matches));
        }
        self.record(reads(done)).await?;
        Ok(answers)
    }

    fn can_look_up(&self, principal: &str, reason: &str) -> Result<(), CallRefusal> {
        text::check_optional_code(reason).map_err(|bad| CallRefusal::Invalid(format!("reason: {bad}")))?;
        if principal.contains("/person/") && reason.is_empty() {
            return Err(CallRefusal::Invalid("reason: people need a case or ticket id".to_owned()));
        }
        if !self.state.lookups.is_whole() {
            return Err(CallRefusal::Unavailable(
                "the values are still being read since the start or a change of the look-up fields; try again"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    async fn find(&self, principal: &str, controller: &InForce, item: &LookupItem) -> Answered {
        let register = &controller.register;
        let activities = register
            .may_look_up(principal, &item.field)
            .map_err(|denied| Refusal::new(Code::Denied, denied.code()))?;
        self.find_under(controller, &activities, item).await
    }

    async fn find_under(&self, controller: &InForce, activities: &[&str], item: &LookupItem) -> Answered {
        let register = &controller.register;
        let Some(field) = register.field(&item.field).filter(|field| field.lookup) else {
            return Err(Refusal::new(Code::Invalid, "field: not marked for look-ups"));
        };
        let invalid = |what: &str| Refusal::new(Code::Invalid, format!("value: {what}"));
        field::check_bytes(field.field_type, item.value.as_bytes()).map_err(|bad| invalid(bad.code()))?;
        let normal = normal(field.field_type, &item.value).ok_or_else(|| invalid("not-utf8"))?;
        let mut candidates = vec![];
        for activity in activities {
            let hash = self.state.lookups.hash(register.controller(), activity, &field.id, &normal);
            candidates.extend(self.state.lookups.find(*hash, MATCHES_MAX.saturating_add(1)));
        }
        candidates.sort_unstable();
        let wanted = Plaintext::from_slice(normal.as_bytes());
        let (mut values, mut matches) = (vec![], Matches::default());
        for number in candidates {
            let Some((value, found)) = self.confirm(controller, field.field_type, number, &wanted).await?
            else {
                continue;
            };
            if values.len() == MATCHES_MAX {
                matches.more = true;
                break;
            }
            values.push(value);
            matches.found.push(found);
        }
        Ok((values, matches))
    }

    /// What event `number` put behind a token, if that is the value wanted and lives.
    async fn confirm(
        &self,
        controller: &InForce,
        field: FieldType,
        number: EventNumber,
        wanted: &Plaintext,
    ) -> Result<Option<(EventNumber, Match)>, Refusal> {
        let body = async |number| Ok(self.event(number).await?.map(|event| event.body));
        let failed = |error: crate::EngineError| error.for_item();
        let (value, stored) = match body(number).await.map_err(failed)? {
            Some(Body::ValueStored(stored)) => (number, stored),
            Some(Body::ValueRectified(it)) => match body(it.value).await.map_err(failed)? {
                Some(Body::ValueStored(stored)) => (it.value, stored),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let text = match self.open(value, &stored).await {
            Ok(text) => text,
            Err(refusal) if refusal.code == Code::Erased => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let same = normal(field, &text)
            .is_some_and(|normal| Plaintext::from_slice(normal.as_bytes()).same_as(wanted));
        Ok(same.then(|| {
            let found = Match {
                token: self.token(&controller.register, value, &stored),
                subject_id: self.subject_id(stored.subject, stored.subject_bits),
                activity: stored.activity.clone(),
            };
            (value, found)
        }))
    }

    /// How a value of `field` under `activity` would be found. `generation` was asked for before `controller`.
    pub(crate) fn mark(
        &self,
        generation: u64,
        controller: &InForce,
        (activity, field): (&str, &str),
        value: &Plaintext,
    ) -> Mark {
        let register = &controller.register;
        let hash = register.field(field).filter(|field| field.lookup).and_then(|found| {
            let normal = normal(found.field_type, value)?;
            let hash = self.state.lookups.hash(register.controller(), activity, field, &normal);
            Some(Box::new(hash))
        });
        Mark { generation, hash }
    }
}
