//! A data subject, as its chain of events tells it.

use std::collections::BTreeMap;

use crate::event::{Body, DoomedValue, Shape};
use crate::ids::{EventNumber, Slot, SubjectNumber};
use crate::refusal::{Code, Refusal};

/// The longest chain a subject may have: some years of purchases. A read of a chain stays below a
/// millisecond for every hundred.
pub const CHAIN_MAX: usize = 10_000;

/// One person under one controller.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The number of its first event.
    pub number: SubjectNumber,
    /// The random half of its id.
    pub bits: u64,
    /// Whose customer.
    pub controller: String,
    /// Its newest event.
    pub newest: EventNumber,
    /// Events in its chain.
    pub length: usize,
    /// All that was asked to be forgotten.
    pub erased: bool,
    /// By the `ValueStored` event.
    pub values: BTreeMap<EventNumber, Value>,
}

/// One value of a subject, without its contents.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Collected under.
    pub activity: String,
    /// What it is.
    pub field: String,
    /// Its token's shape.
    pub shape: Shape,
    /// Where its key lies.
    pub slot: Slot,
    /// 1, and one more for each rectification.
    pub version: u32,
    /// The event that holds the sealed bytes.
    pub sealed_in: EventNumber,
    /// No fence has condemned it.
    pub living: bool,
}

impl Subject {
    /// The subject after its first event; `None` if `body` is no such event.
    pub fn begin(number: EventNumber, body: &Body) -> Option<Self> {
        let Body::SubjectCreated(created) = body else { return None };
        Some(Self {
            number: SubjectNumber(number.0),
            bits: created.bits,
            controller: created.controller.clone(),
            newest: number,
            length: 1,
            erased: false,
            values: BTreeMap::new(),
        })
    }

    /// Takes the next event of the chain in.
    pub fn apply(&mut self, number: EventNumber, body: &Body) {
        self.newest = number;
        self.length = self.length.saturating_add(1);
        match body {
            Body::ValueStored(stored) => {
                let value = Value {
                    activity: stored.activity.clone(),
                    field: stored.field.clone(),
                    shape: stored.shape,
                    slot: stored.slot,
                    version: 1,
                    sealed_in: number,
                    living: true,
                };
                self.values.insert(number, value);
            }
            Body::ValueRectified(rectified) => {
                if let Some(value) = self.values.get_mut(&rectified.value) {
                    value.slot = rectified.slot;
                    value.version = rectified.value_version;
                    value.sealed_in = number;
                }
            }
            Body::ValuesReleased(released) => self.condemn(&released.values),
            Body::ErasureRequested(requested) => {
                self.condemn(&requested.values);
                self.erased |= requested.activities.is_empty();
            }
            _ => {}
        }
    }

    /// May another event join the chain?
    ///
    /// # Errors
    /// ERASED once all was asked to be forgotten, CONFLICT for a chain at its longest.
    pub fn may_grow(&self) -> Result<(), Refusal> {
        if self.erased {
            return Err(Refusal::new(Code::Erased, "the subject was erased"));
        }
        if self.length >= CHAIN_MAX {
            return Err(Refusal::new(
                Code::Conflict,
                format!("the subject has {CHAIN_MAX} events, the most there can be"),
            ));
        }
        Ok(())
    }

    /// The living values under `activity` of `field`: those in which the same value would be found again.
    pub fn living<'a>(
        &'a self,
        activity: &'a str,
        field: &'a str,
    ) -> impl Iterator<Item = (EventNumber, &'a Value)> {
        self.values
            .iter()
            .filter(move |(_, value)| value.living && value.activity == activity && value.field == field)
            .map(|(number, value)| (*number, value))
    }

    /// What an erasure of `activities` (none: all) condemns.
    pub fn scope(&self, activities: &[String]) -> Vec<DoomedValue> {
        self.values
            .iter()
            .filter(|(_, value)| {
                value.living && (activities.is_empty() || activities.contains(&value.activity))
            })
            .map(|(number, value)| DoomedValue { value: *number, slot: value.slot })
            .collect()
    }

    fn condemn(&mut self, doomed: &[DoomedValue]) {
        for doomed in doomed {
            if let Some(value) = self.values.get_mut(&doomed.value) {
                value.living = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{ErasureRequested, SubjectCreated, ValueRectified, ValueStored};
    use crate::ids::Subtree;

    fn slot(index: u64) -> Slot {
        Slot { subtree: Subtree(1), index }
    }

    fn stored(activity: &str, field: &str, index: u64) -> Body {
        Body::ValueStored(ValueStored {
            controller: "c".into(),
            subject: SubjectNumber(1),
            subject_bits: 0,
            previous: EventNumber(1),
            activity: activity.into(),
            field: field.into(),
            bits: 0,
            shape: Shape::Opaque,
            short_token: String::new(),
            slot: slot(index),
            sealed: Bytes::new(),
        })
    }

    fn person() -> Subject {
        let created = Body::SubjectCreated(SubjectCreated { controller: "c".into(), bits: 7 });
        let mut subject = Subject::begin(EventNumber(1), &created).unwrap();
        subject.apply(EventNumber(2), &stored("tickets", "email", 0));
        subject.apply(EventNumber(3), &stored("news", "email", 1));
        subject
    }

    fn erase(subject: &Subject, activities: &[&str]) -> Body {
        let activities: Vec<String> = activities.iter().map(|name| (*name).to_owned()).collect();
        Body::ErasureRequested(ErasureRequested {
            controller: "c".into(),
            subject: subject.number,
            previous: subject.newest,
            bits: 0,
            values: subject.scope(&activities),
            activities,
            actor: String::new(),
            reason: String::new(),
            legal_basis: 1,
            principal: String::new(),
            downstreams: vec![],
            deadline: 0,
            subject_commitment: [0; 32],
        })
    }

    #[test]
    fn an_erasure_of_one_activity_leaves_the_others() {
        let mut subject = person();
        let event = erase(&subject, &["news"]);
        assert_eq!(event.dooms(), [slot(1)]);
        subject.apply(EventNumber(4), &event);
        assert!(!subject.erased && subject.may_grow().is_ok());
        assert_eq!(subject.living("tickets", "email").count(), 1);
        assert_eq!(subject.living("news", "email").count(), 0);
    }

    #[test]
    fn an_erasure_of_all_ends_the_subject() {
        let mut subject = person();
        let event = erase(&subject, &[]);
        assert_eq!(event.dooms(), [slot(0), slot(1)]);
        subject.apply(EventNumber(4), &event);
        assert_eq!(subject.may_grow().unwrap_err().code, Code::Erased);
        assert!(subject.scope(&[]).is_empty(), "nothing is condemned twice");
    }

    #[test]
    fn a_rectified_value_is_condemned_where_it_lies_now() {
        let mut subject = person();
        let rectified = Body::ValueRectified(ValueRectified {
            subject: subject.number,
            previous: subject.newest,
            value: EventNumber(2),
            value_version: 2,
            former: slot(0),
            slot: slot(2),
            sealed: Bytes::new(),
            bits: 0,
        });
        assert_eq!(rectified.dooms(), [slot(0)]);
        subject.apply(EventNumber(4), &rectified);
        assert_eq!(erase(&subject, &[]).dooms(), [slot(2), slot(1)]);
    }

    #[test]
    fn a_chain_has_an_end() {
        let mut subject = person();
        subject.length = CHAIN_MAX;
        assert_eq!(subject.may_grow().unwrap_err().code, Code::Conflict);
    }
}
