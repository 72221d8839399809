//! An erasure (or a release of single tokens), from its fence to its certificate.
//!
//! `decide` and `apply` are pure: what the vault and a simulation run is the same code. COMPLETED takes PURGED
//! or NOTHING_HELD (or a stated expiry) from every required downstream for every value; nothing else does.

use std::collections::BTreeMap;

use crate::clock::UnixMs;
use crate::event::{Ack, AckStatus, AcksCollected, Body, ErasureRequested, Event, ValuesReleased};
use crate::ids::{EventNumber, SubjectNumber};

/// Where an erasure stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Unreadable; the keys are about to be destroyed.
    Fenced,
    /// The keys are destroyed.
    KeysDestroyed,
    /// All that was required has been answered.
    Completed,
    /// As completed, but a copy ends by expiry.
    CompletedWithExpiry,
}

/// How a fence was closed.
#[derive(Clone, Debug, PartialEq)]
pub struct Destroyed {
    /// Event that says so.
    pub event: EventNumber,
    /// When.
    pub at: UnixMs,
    /// The epoch after which nothing older opens.
    pub epoch: u64,
    /// What the root holder's destruction is worth.
    pub class: String,
    /// When it is final: the end of the last escrow that reaches its slots, or at once.
    pub final_at: UnixMs,
    /// When the last such root was destroyed and probed; none while one is in escrow.
    pub finally: Option<UnixMs>,
}

/// A downstream's newest answer about one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it says.
    pub status: AckStatus,
    /// How many copies it purged.
    pub purged_count: u32,
    /// Epoch and class, or a vendor's job.
    pub evidence: String,
    /// A code, for failures and refusals.
    pub reason: String,
    /// Until when, for expiries.
    pub until: UnixMs,
    /// When it said so.
    pub at: UnixMs,
}

/// An erasure as its chain of events tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Erasure {
    /// Its fence; names the erasure.
    pub fence: EventNumber,
    /// Its newest event.
    pub newest: EventNumber,
    /// The event that began it; none for a release.
    pub request: Option<ErasureRequested>,
    /// Whose customer.
    pub controller: String,
    /// The person.
    pub subject: SubjectNumber,
    /// The `ValueStored` events of what dies.
    pub values: Vec<EventNumber>,
    /// Who must answer.
    pub downstreams: Vec<String>,
    /// By when.
    pub deadline: UnixMs,
    /// When it was asked for.
    pub requested_at: UnixMs,
    /// When and how the keys died.
    pub destroyed: Option<Destroyed>,
    /// By downstream, then by value index.
    pub answers: BTreeMap<String, BTreeMap<u32, Answer>>,
    /// A deadline was missed.
    pub overdue: bool,
    /// Announced again, so many times.
    pub redriven: u32,
    /// When all had answered, and the certificate.
    pub completed: Option<(UnixMs, String)>,
    /// Some copy ends by expiry.
    pub with_expiry: bool,
}

impl Erasure {
    /// The erasure after its fence; `None` if `event` is no fence that downstreams answer.
    pub fn begin(fence: EventNumber, event: &Event) -> Option<Self> {
        let new =
            |controller: &str, subject, values: Vec<EventNumber>, downstreams: &[String], deadline| Self {
                fence,
                newest: fence,
                request: None,
                controller: controller.to_owned(),
                subject,
                values,
                downstreams: downstreams.to_vec(),
                deadline,
                requested_at: event.at,
                destroyed: None,
                answers: BTreeMap::new(),
                overdue: false,
                redriven: 0,
                completed: None,
                with_expiry: false,
            };
        match &event.body {
            Body::ErasureRequested(request) => {
                let values = request.values.iter().map(|doomed| doomed.value).collect();
                let begun =
                    new(&request.controller, request.subject, values, &request.downstreams, request.deadline);
                Some(Self { request: Some(request.clone()), ..begun })
            }
            Body::ValuesReleased(ValuesReleased {
                controller,
                subject,
                values,
                downstreams,
                deadline,
                ..
            }) => {
                let values = values.iter().map(|doomed| doomed.value).collect();
                Some(new(controller, *subject, values, downstreams, *deadline))
            }
            _ => None,
        }
    }

    /// Takes an event in: one of its chain, or the one that closes its fence.
    pub fn apply(&mut self, number: EventNumber, event: &Event) {
        match &event.body {
            Body::KeysDestroyed(closed) => {
                let later = closed.later.iter().find(|(fence, _)| *fence == self.fence);
                self.destroyed = Some(Destroyed {
                    event: number,
                    at: event.at,
                    epoch: closed.epoch,
                    class: closed.destroy_class.clone(),
                    final_at: later.map_or(event.at, |(_, until)| event.at.max(*until)),
                    finally: later.is_none().then_some(event.at),
                });
                return; // closes many fences, belongs to no chain
            }
            Body::KeyBackupEnded(_) => {
                if let Some(destroyed) = &mut self.destroyed {
                    (destroyed.final_at, destroyed.finally) = (event.at, Some(event.at));
                }
                return; // as above
            }
            Body::AcksCollected(collected) => {
                for ack in &collected.acks {
                    self.answers
                        .entry(ack.downstream.clone())
                        .or_default()
                        .insert(ack.value_index, answer(ack));
                }
            }
            Body::ErasureCompleted(completed) => {
                self.completed = Some((event.at, completed.certificate.clone()));
                self.with_expiry = completed.with_expiry;
            }
            Body::ErasureOverdue { .. } => self.overdue = true,
            Body::ErasureRedriven { .. } => self.redriven = self.redriven.saturating_add(1),
            _ => return,
        }
        self.newest = number;
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match (&self.completed, &self.destroyed) {
            (Some(_), _) if self.with_expiry => State::CompletedWithExpiry,
            (Some(_), _) => State::Completed,
            (None, Some(_)) => State::KeysDestroyed,
            (None, None) => State::Fenced,
        }
    }

    /// What of `acks` is news: answers of required downstreams about values of this erasure that change what
    /// is known. A final answer stays, whatever comes late, also where both come together.
    pub fn decide_acks(&self, acks: Vec<Ack>) -> Option<AcksCollected> {
        let mut news: Vec<Ack> = vec![];
        let mut newest = BTreeMap::<(String, u32), AckStatus>::new();
        for ack in acks {
            let place = (ack.downstream.clone(), ack.value_index);
            let before = newest
                .get(&place)
                .copied()
                .or_else(|| self.answers.get(&ack.downstream)?.get(&ack.value_index).map(|held| held.status));
            let stale = before.is_some_and(|status| status.is_final() || status == ack.status);
            let ours =
                self.downstreams.contains(&ack.downstream) && (ack.value_index as usize) < self.values.len();
            if ours && !stale {
                newest.insert(place, ack.status);
                news.push(ack);
            }
        }
        (!news.is_empty()).then_some(AcksCollected { fence: self.fence, previous: self.newest, acks: news })
    }

    /// Whether all has been answered that must be, and if so whether some copy ends by expiry.
    pub fn decide_completion(&self) -> Option<bool> {
        if self.completed.is_some() || self.destroyed.is_none() {
            return None;
        }
        let mut with_expiry = false;
        for downstream in &self.downstreams {
            for index in 0..self.values.len() {
                let index = u32::try_from(index).ok()?;
                let held = self.answers.get(downstream)?.get(&index)?;
                if !held.status.is_final() {
                    return None;
                }
                with_expiry |= held.status == AckStatus::AwaitingExpiry;
            }
        }
        Some(with_expiry)
    }

    /// Whether the deadline is past and nobody has said so yet.
    pub fn decide_overdue(&self, now: UnixMs) -> Option<Body> {
        (self.completed.is_none() && !self.overdue && now > self.deadline)
            .then_some(Body::ErasureOverdue { fence: self.fence, previous: self.newest })
    }

    /// The weakest of a downstream's answers, with what stands beside it (of several expiries the last); how
    /// many values it has answered and how many copies it purged.
    pub fn standing(&self, downstream: &str) -> (Answer, u32, u32) {
        let waiting = Answer {
            status: AckStatus::Waiting,
            purged_count: 0,
            evidence: String::new(),
            reason: String::new(),
            until: 0,
            at: 0,
        };
        let held = || self.answers.get(downstream).into_iter().flat_map(BTreeMap::values);
        let answered = held().filter(|answer| answer.status.is_final()).count();
        // A downstream counts as it likes.
        let purged = held().fold(0_u32, |sum, answer| sum.saturating_add(answer.purged_count));
        let missing = held().count() < self.values.len();
        let mut weakest = held().min_by_key(|answer| answer.status).cloned();
        if let Some(weakest) = &mut weakest {
            // One value purged outweighs the others of which nothing was held.
            if let Some(purge) = held().find(|answer| answer.purged_count > 0)
                && weakest.status == AckStatus::Purged
            {
                weakest.evidence.clone_from(&purge.evidence);
            }
            let status = weakest.status;
            let alike = held().filter(|answer| answer.status == status);
            weakest.until = alike.map(|answer| answer.until).max().unwrap_or_default();
            weakest.at = held().map(|answer| answer.at).max().unwrap_or_default();
        }
        let standing = match weakest {
            Some(weakest) if !missing || weakest.status < AckStatus::Received => weakest,
            Some(weakest) => Answer { status: AckStatus::InProgress, ..weakest },
            None if self.values.is_empty() => Answer { status: AckStatus::NothingHeld, ..waiting },
            None => waiting,
        };
        (standing, u32::try_from(answered).unwrap_or(u32::MAX), purged)
    }
}

fn answer(ack: &Ack) -> Answer {
    Answer {
        status: ack.status,
        purged_count: ack.purged_count,
        evidence: ack.evidence.clone(),
        reason: ack.reason.clone(),
        until: ack.until,
        at: ack.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DoomedValue, ErasureCompleted, KeysDestroyed};
    use crate::ids::{Slot, Subtree};

    fn event(body: Body) -> Event {
        Event { at: 1_000, body }
    }

    fn erasure(values: u64) -> Erasure {
        let doomed =
            |index| DoomedValue { value: EventNumber(10 + index), slot: Slot { subtree: Subtree(1), index } };
        let request = ErasureRequested {
            controller: "c".into(),
            subject: SubjectNumber(1),
            previous: EventNumber(1),
            bits: 0,
            activities: vec![],
            actor: "dsr-1".into(),
            reason: String::new(),
            legal_basis: 1,
            principal: String::new(),
            values: (0..values).map(doomed).collect(),
            downstreams: vec!["mail".into(), "affiliate".into()],
            deadline: 5_000,
            subject_commitment: [0; 32],
        };
        Erasure::begin(EventNumber(20), &event(Body::ErasureRequested(request))).unwrap()
    }

    fn ack(downstream: &str, value_index: u32, status: AckStatus) -> Ack {
        Ack {
            value_index,
            downstream: downstream.into(),
            status,
            purged_count: u32::from(status == AckStatus::Purged),
            evidence: String::new(),
            reason: String::new(),
            until: 0,
            at: 2_000,
        }
    }

    fn collect(erasure: &mut Erasure, acks: Vec<Ack>) -> bool {
        let Some(collected) = erasure.decide_acks(acks) else { return false };
        erasure.apply(EventNumber(erasure.newest.0 + 5), &event(Body::AcksCollected(collected)));
        true
    }

    fn destroy(erasure: &mut Erasure) {
        let closed = KeysDestroyed {
            fences: vec![erasure.fence],
            epoch: 3,
            destroy_class: "overwritten".into(),
            later: vec![],
        };
        erasure.apply(EventNumber(21), &event(Body::KeysDestroyed(closed)));
    }

    #[test]
    fn it_completes_only_when_every_downstream_answered_for_every_value() {
        let mut erasure = erasure(2);
        destroy(&mut erasure);
        use AckStatus::{NothingHeld, Purged};
        let all = [
            ("mail", 0, Purged),
            ("mail", 1, NothingHeld),
            ("affiliate", 0, NothingHeld),
            ("affiliate", 1, Purged),
        ];
        for (downstream, index, status) in all {
            assert_eq!(erasure.decide_completion(), None, "before {downstream} {index}");
            assert!(collect(&mut erasure, vec![ack(downstream, index, status)]));
        }
        assert_eq!(erasure.decide_completion(), Some(false));
        let done = ErasureCompleted {
            fence: erasure.fence,
            previous: erasure.newest,
            with_expiry: false,
            certificate: "jws".into(),
        };
        erasure.apply(EventNumber(99), &event(Body::ErasureCompleted(done)));
        assert_eq!((erasure.state(), erasure.decide_completion()), (State::Completed, None));
    }

    #[test]
    fn answers_before_the_keys_are_gone_complete_nothing() {
        let mut erasure = erasure(1);
        collect(
            &mut erasure,
            vec![ack("mail", 0, AckStatus::Purged), ack("affiliate", 0, AckStatus::Purged)],
        );
        assert_eq!(erasure.decide_completion(), None);
        destroy(&mut erasure);
        assert_eq!(erasure.decide_completion(), Some(false));
    }

    #[test]
    fn failures_refusals_and_strangers_never_complete_it() {
        let mut erasure = erasure(1);
        destroy(&mut erasure);
        assert!(!collect(
            &mut erasure,
            vec![ack("stranger", 0, AckStatus::Purged), ack("mail", 1, AckStatus::Purged)]
        ));
        collect(
            &mut erasure,
            vec![ack("mail", 0, AckStatus::Failed), ack("affiliate", 0, AckStatus::Refused)],
        );
        assert_eq!(erasure.decide_completion(), None);
        assert_eq!(erasure.standing("mail").0.status, AckStatus::Failed);
        collect(
            &mut erasure,
            vec![ack("mail", 0, AckStatus::Purged), ack("affiliate", 0, AckStatus::AwaitingExpiry)],
        );
        assert_eq!(erasure.decide_completion(), Some(true), "a failure may be made good");
    }

    #[test]
    fn a_repeated_or_late_answer_is_no_news() {
        let mut erasure = erasure(1);
        assert!(collect(
            &mut erasure,
            vec![ack("mail", 0, AckStatus::Purged), ack("mail", 0, AckStatus::Purged)]
        ));
        assert!(!collect(
            &mut erasure,
            vec![ack("mail", 0, AckStatus::NothingHeld), ack("mail", 0, AckStatus::Failed)]
        ));
        assert_eq!(erasure.standing("mail").0.status, AckStatus::Purged);
    }

    #[test]
    fn a_final_answer_stays_also_against_what_comes_in_the_same_batch() {
        use AckStatus::{Failed, NothingHeld, Purged, Received};
        for late in [Failed, NothingHeld, Received] {
            let mut erasure = erasure(1);
            // A downstream that was killed before its offset was committed says all of it again.
            let batch = [Received, Purged, late, Purged].map(|status| ack("mail", 0, status));
            assert!(collect(&mut erasure, batch.to_vec()));
            assert_eq!(erasure.standing("mail").0.status, Purged, "{late:?} came late");
        }
    }

    #[test]
    fn of_several_expiries_the_last_is_stated() {
        let mut erasure = erasure(3);
        for (index, until) in [(0, 7_000), (1, 9_000), (2, 8_000)] {
            let answer = Ack { until, ..ack("mail", index, AckStatus::AwaitingExpiry) };
            assert!(collect(&mut erasure, vec![answer]));
        }
        assert_eq!(erasure.standing("mail").0.until, 9_000);
    }

    #[test]
    fn a_downstream_that_counts_without_measure_counts_as_much_as_there_is() {
        let mut erasure = erasure(2);
        let purged = |index| Ack { purged_count: u32::MAX, ..ack("mail", index, AckStatus::Purged) };
        assert!(collect(&mut erasure, vec![purged(0), purged(1)]));
        assert_eq!(erasure.standing("mail").2, u32::MAX);
    }

    #[test]
    fn a_missed_deadline_is_said_once_and_ends_nothing() {
        let mut erasure = erasure(1);
        assert_eq!(erasure.decide_overdue(5_000), None);
        let overdue = erasure.decide_overdue(5_001).unwrap();
        erasure.apply(EventNumber(30), &event(overdue));
        assert_eq!((erasure.overdue, erasure.decide_overdue(9_000)), (true, None));
        assert_eq!(erasure.state(), State::Fenced);
    }

    #[test]
    fn an_erasure_of_nothing_completes_with_its_keys() {
        let mut erasure = erasure(0);
        assert_eq!(erasure.decide_completion(), None);
        destroy(&mut erasure);
        erasure.downstreams.clear();
        assert_eq!(erasure.decide_completion(), Some(false));
    }
}
