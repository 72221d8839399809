//! New value, same token. The former value's slot dies like any other: a rectification is a fence.

use cloakroom_core::card;
use cloakroom_core::event::{Body, ValueRectified};
use cloakroom_core::field;
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_core::subject;
use cloakroom_crypto::{Key, Plaintext, random, role};

use crate::house::{House, Resolved, TRIES, Version, context, declined};
use crate::proposal::{BLANK, Declined, Draft, Guard, NewKey};
use crate::state::InForce;
use crate::tokenize::check_count;

/// What became of one item before its fence is closed.
enum Step {
    /// The value is what it was.
    Same(u32),
    /// The new value is durable; the former one dies in the next batch.
    Fenced(u32, tokio::sync::oneshot::Receiver<crate::proposal::Closed>),
}

impl House {
    /// Returns when the former values are destroyed.
    pub(crate) async fn rectify(
        &self,
        principal: &str,
        controller: &str,
        items: Vec<(String, Plaintext)>,
    ) -> Result<Vec<Result<u32, Refusal>>, CallRefusal> {
        let generation = self.state.lookups.generation();
        let controller = self.register(principal, controller)?;
        check_count(items.len())?;
        let mut steps = Vec::with_capacity(items.len());
        for (token, value) in &items {
            steps.push(self.rectify_one(principal, (&controller, generation), token, value).await);
        }
        let mut answers = Vec::with_capacity(steps.len());
        for step in steps {
            answers.push(match step {
                Ok(Step::Same(version)) => Ok(version),
                Ok(Step::Fenced(version, closed)) => {
                    closed.await.map_err(|_| declined(self.unclosed()))?;
                    Ok(version)
                }
                Err(refusal) => Err(refusal),
            });
        }
        Ok(answers)
    }

    async fn rectify_one(
        &self,
        principal: &str,
        (controller, generation): (&InForce, u64),
        token: &str,
        value: &Plaintext,
    ) -> Result<Step, Refusal> {
        let resolved = self.resolve(controller, token).await?;
        let stored = &resolved.stored;
        let register = &controller.register;
        register
            .may_rectify(principal, &stored.activity, &stored.field)
            .map_err(|denied| Refusal::new(Code::Denied, denied.code()))?;
        let known =
            register.field(&stored.field).ok_or_else(|| Refusal::new(Code::Denied, "unknown-field"))?;
        let text = field::check_bytes(known.field_type, value.as_bytes())
            .map_err(|bad| Refusal::new(Code::Invalid, format!("value: {}", bad.code())))?;
        if card::is_card_number(known.field_type, text) {
            return Err(Refusal::new(Code::Invalid, "value: card-number"));
        }
        let unable = |reason| Refusal::new(Code::KeyUnavailable, declined(reason).to_string());
        let _room = self.room_for(1).await.map_err(unable)?;
        for _ in 0..TRIES {
            let subject = self.subject(stored.subject).await.map_err(|error| error.for_item())?;
            // What dies is what the chain says, of which the guard speaks: memory may know a frame more.
            let Some(former) = subject.values.get(&resolved.number).filter(|value| value.living) else {
                return Err(Refusal::new(Code::Erased, "the value was erased"));
            };
            let same = match self.open(resolved.number, stored).await {
                Err(_) if self.tree.is_lost(former.slot) => false,
                opened => opened?.same_as(value),
            };
            if same {
                let version =
                    self.version(resolved.number, stored).await.map_err(|error| error.for_item())?;
                return Ok(Step::Same(version.number));
            }
            let (mut draft, next) = rectification(controller, &resolved, former, value)?;
            let at = (stored.activity.as_str(), stored.field.as_str());
            draft.mark = Some(self.mark(generation, controller, at, value));
            let guards =
                vec![Guard::Head { aggregate: EventNumber(subject.number.0), newest: subject.newest }];
            match self.propose_fence(guards, vec![draft]).await {
                Ok((written, closed)) => {
                    if let Some(event) = written.into_inner().first() {
                        self.state.traces.note(*event);
                    }
                    return Ok(Step::Fenced(next, closed));
                }
                Err(Declined::Stale) => {}
                Err(reason) => return Err(unable(reason)),
            }
        }
        Err(unable(Declined::Stale))
    }
}

fn rectification(
    controller: &InForce,
    resolved: &Resolved,
    former: &subject::Value,
    value: &Plaintext,
) -> Result<(Draft, u32), Refusal> {
    let number = former.version.saturating_add(1);
    let stored = &resolved.stored;
    let (key, bits) = (Key::<role::Value>::random(), random::u64());
    let next = Version { slot: BLANK, sealed: bytes::Bytes::new(), bits, number };
    let sealed = key
        .borrow()
        .seal(value, &context(stored, &next))
        .map_err(|_| Refusal::new(Code::Invalid, "value: too-long"))?;
    let body = Body::ValueRectified(ValueRectified {
        subject: stored.subject,
        previous: EventNumber(0),
        value: resolved.number,
        value_version: number,
        former: former.slot,
        slot: BLANK,
        sealed,
        bits,
    });
    Ok((Draft::with_key(body, controller.subtree, NewKey::Value(key)), number))
}
