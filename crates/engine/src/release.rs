//! Forgets single tokens: the same fence, batch and announcement as an erasure, without a certificate.

use std::collections::BTreeMap;

use cloakroom_core::event::{Body, DoomedValue, ValuesReleased};
use cloakroom_core::ids::{EventNumber, SubjectNumber};
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};

use crate::erase::{deadline, required};
use crate::house::{House, TRIES, declined};
use crate::proposal::{Declined, Draft, Guard};
use crate::state::InForce;
use crate::tokenize::check_count;

impl House {
    /// Answers each token with the epoch after which no copy of the keys can yield it. A token released before
    /// answers ERASED.
    pub(crate) async fn release(
        &self,
        principal: &str,
        controller: &str,
        tokens: Vec<String>,
    ) -> Result<Vec<Result<u64, Refusal>>, CallRefusal> {
        let controller = self.register(principal, controller)?;
        check_count(tokens.len())?;
        for _ in 0..TRIES {
            let mut wanted: BTreeMap<SubjectNumber, Vec<EventNumber>> = BTreeMap::new();
            let mut answers = Vec::with_capacity(tokens.len());
            for token in &tokens {
                answers.push(self.may_release(principal, &controller, token, &mut wanted).await);
            }
            match self.release_all(&controller, wanted).await? {
                Some(epoch) => return Ok(answers.into_iter().map(|answer| answer.map(|()| epoch)).collect()),
                None => continue,
            }
        }
        Err(declined(Declined::Stale))
    }

    async fn may_release(
        &self,
        principal: &str,
        controller: &InForce,
        token: &str,
        wanted: &mut BTreeMap<SubjectNumber, Vec<EventNumber>>,
    ) -> Result<(), Refusal> {
        let resolved = self.resolve(controller, token).await?;
        let stored = &resolved.stored;
        controller
            .register
            .may_release(principal, &stored.activity, &stored.field)
            .map_err(|denied| Refusal::new(Code::Denied, denied.code()))?;
        let subject = self.subject(stored.subject).await.map_err(|error| error.for_item())?;
        if subject.values.get(&resolved.number).is_none_or(|value| !value.living) {
            return Err(Refusal::new(Code::Erased, "the value was erased"));
        }
        let values = wanted.entry(stored.subject).or_default();
        if !values.contains(&resolved.number) {
            values.push(resolved.number);
        }
        Ok(())
    }

    /// One fence a subject, all closed by one batch; `None` if one of the subjects has changed meanwhile.
    async fn release_all(
        &self,
        controller: &InForce,
        wanted: BTreeMap<SubjectNumber, Vec<EventNumber>>,
    ) -> Result<Option<u64>, CallRefusal> {
        if wanted.is_empty() {
            return Ok(Some(0));
        }
        let (mut guards, mut drafts) = (vec![], vec![]);
        for (number, values) in wanted {
            let subject = self.subject(number).await.map_err(|error| error.for_call())?;
            guards.push(Guard::Head { aggregate: EventNumber(number.0), newest: subject.newest });
            let doomed: Vec<DoomedValue> = values
                .iter()
                .filter_map(|value| Some((value, subject.values.get(value)?)))
                .filter(|(_, value)| value.living)
                .map(|(number, value)| DoomedValue { value: *number, slot: value.slot })
                .collect();
            if doomed.len() != values.len() {
                return Ok(None);
            }
            drafts.push(Draft::of(Body::ValuesReleased(ValuesReleased {
                controller: controller.register.controller().to_owned(),
                subject: number,
                previous: EventNumber(0),
                values: doomed,
                deadline: deadline(&controller.register, self.clock.now_unix_ms()),
                downstreams: required(&controller.register),
            })));
        }
        match self.propose_fence(guards, drafts).await {
            Ok((written, closed)) => {
                let _events = written.into_inner();
                Ok(Some(closed.await.map_err(|_| declined(self.unclosed()))?.epoch))
            }
            Err(Declined::Stale) => Ok(None),
            Err(reason) => Err(declined(reason)),
        }
    }
}
