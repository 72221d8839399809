//! Takes values in, gives tokens out.
//!
//! Everything that needs the value happens on the request's own task: checks, recognition of a value that is
//! there already (by opening, never by a hash), sealing under a fresh key. The writer sees ciphertext.

use std::collections::HashMap;

use bytes::Bytes;
use cloakroom_core::event::{Body, Outcome, RequestRemembered, Shape, SubjectCreated, ValueStored};
use cloakroom_core::field;
use cloakroom_core::ids::{EventNumber, SubjectNumber};
use cloakroom_core::mutants::Mutant;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_core::subject::{CHAIN_MAX, Subject};
use cloakroom_core::{card, text};
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, Plaintext, hash, random, role, short};

use crate::house::{House, TRIES, declined};
use crate::idempotency::{Known, Memo};
use crate::mutants;
use crate::proposal::{BLANK, Declined, Draft, Guard, NewKey, drafted, place_of};
use crate::state::InForce;

/// The most items in one request, of any verb.
pub const ITEMS_MAX: usize = 1_000;
const VERB: &str = "tokenize";

/// What comes in.
pub struct TokenizeRequest {
    /// The controller's slug.
    pub controller: String,
    /// As the register names it.
    pub activity: String,
    /// Empty, or up to 128 bytes.
    pub idempotency_key: String,
    /// 1 to [`ITEMS_MAX`].
    pub items: Vec<TokenizeItem>,
}

/// One value.
pub struct TokenizeItem {
    /// Up to 128 bytes; the caller's.
    pub reference: String,
    /// Whose it is.
    pub subject: SubjectRef,
    /// As the register names it.
    pub field: String,
    /// What is to be kept.
    pub value: Plaintext,
    /// What the token shall look like; none if the wire named a shape that is unknown.
    pub shape: Option<Shape>,
}

/// Whose value it is.
pub enum SubjectRef {
    /// A subject id.
    Known(String),
    /// A label: items with the same one become one new subject.
    New(String),
    /// Neither.
    Missing,
}

/// One value's token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tokenized {
    /// In its shape.
    pub token: String,
    /// `sub_...`
    pub subject_id: String,
}

/// Checks a number of items.
pub(crate) fn check_count(count: usize) -> Result<(), CallRefusal> {
    match count {
        1..=ITEMS_MAX => Ok(()),
        _ => Err(CallRefusal::Invalid(format!("a request has 1 to {ITEMS_MAX} items, not {count}"))),
    }
}

/// A request being worked on.
struct Work<'a> {
    house: &'a House,
    controller: &'a InForce,
    /// Of the look-up fields, asked for before the controller's register.
    generation: u64,
    activity: &'a str,
    items: &'a [TokenizeItem],
}

/// What one item comes to.
#[derive(Clone)]
enum Done {
    /// A value that is there already.
    Held {
        number: EventNumber,
        token: Tokenized,
    },
    /// The draft of a new one.
    Drafted(usize),
    Refused(Refusal),
}

impl Done {
    /// A refusal that may be gone at the next try: remembered, it would be the answer for a day.
    fn is_passing(&self) -> bool {
        matches!(self, Done::Refused(refusal) if refusal.code == Code::KeyUnavailable)
    }
}

/// A plan to be committed.
struct Plan {
    guards: Vec<Guard>,
    drafts: Vec<Draft>,
    done: Vec<Done>,
    people: Vec<Person>,
    labels: HashMap<String, usize>,
    ids: HashMap<String, usize>,
    /// New values of this request: person, item, draft.
    fresh: Vec<(usize, usize, usize)>,
}

/// Somebody whom the request is about.
struct Person {
    bits: u64,
    /// The draft that creates the subject.
    drafted: Option<usize>,
    known: Option<Subject>,
}

impl House {
    pub(crate) async fn tokenize(
        &self,
        principal: &str,
        request: TokenizeRequest,
    ) -> Result<Vec<Result<Tokenized, Refusal>>, CallRefusal> {
        let generation = self.state.lookups.generation();
        let controller = self.register(principal, &request.controller)?;
        check_count(request.items.len())?;
        text::check_idempotency_key(&request.idempotency_key)
            .map_err(|bad| CallRefusal::Invalid(format!("idempotency_key: {bad}")))?;
        let work = Work {
            house: self,
            controller: &controller,
            generation,
            activity: &request.activity,
            items: &request.items,
        };
        let checked: Vec<Result<(), Refusal>> =
            request.items.iter().map(|item| work.check(principal, item)).collect();
        for _ in 0..TRIES {
            let memo = match self.remembered(principal, VERB, &request.idempotency_key).await? {
                Some(Known::Repeat(at, before)) => return work.repeat(at, &before, &checked).await,
                Some(Known::New(memo)) => Some(memo),
                None => None,
            };
            let _room = self.room_for(request.items.len()).await.map_err(declined)?;
            let plan = work.plan(&checked).await?;
            if memo.is_some() && plan.done.iter().any(Done::is_passing) {
                return Err(CallRefusal::Unavailable(
                    "a record cannot be read now; nothing was stored, try again".to_owned(),
                ));
            }
            match work.commit(plan, memo.as_ref()).await {
                Ok(answers) => return Ok(answers),
                Err(Declined::Stale) => {}
                Err(reason) => return Err(declined(reason)),
            }
        }
        Err(declined(Declined::Stale))
    }
}

impl Work<'_> {
    fn check(&self, principal: &str, item: &TokenizeItem) -> Result<(), Refusal> {
        let invalid = |what: String| Refusal::new(Code::Invalid, what);
        text::check_reference(&item.reference).map_err(|bad| invalid(format!("reference: {bad}")))?;
        let shape = item.shape.ok_or_else(|| invalid("shape: unknown".to_owned()))?;
        if let SubjectRef::Missing = item.subject {
            return Err(invalid("subject: neither subject_id nor new_subject".to_owned()));
        }
        let register = &self.controller.register;
        register
            .may_write(principal, self.activity, &item.field)
            .map_err(|denied| Refusal::new(Code::Denied, denied.code()))?;
        let Some(field) = register.field(&item.field) else {
            return Err(Refusal::new(Code::Denied, "unknown-field"));
        };
        let text = field::check_bytes(field.field_type, item.value.as_bytes())
            .map_err(|bad| invalid(format!("value: {}", bad.code())))?;
        if card::is_card_number(field.field_type, text) {
            return Err(invalid("value: card-number".to_owned()));
        }
        match shape {
            Shape::Email if register.token_domain().is_none() => {
                Err(invalid("shape: the controller has no token domain".to_owned()))
            }
            Shape::Digits if short::digits(text.chars().count()).is_none() => {
                Err(invalid("shape: no room for digits in a value of this length".to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn plan(&self, checked: &[Result<(), Refusal>]) -> Result<Plan, CallRefusal> {
        let mut plan = Plan {
            guards: vec![],
            drafts: vec![],
            done: vec![],
            people: vec![],
            labels: HashMap::new(),
            ids: HashMap::new(),
            fresh: vec![],
        };
        for (at, (item, checked)) in self.items.iter().zip(checked).enumerate() {
            let done = match checked {
                Ok(()) => match self.plan_item(&mut plan, at, item).await {
                    Ok(done) => done,
                    Err(refusal) => Done::Refused(refusal),
                },
                Err(refusal) => Done::Refused(refusal.clone()),
            };
            plan.done.push(done);
        }
        Ok(plan)
    }

    async fn plan_item(&self, plan: &mut Plan, at: usize, item: &TokenizeItem) -> Result<Done, Refusal> {
        let place = self.person(plan, item).await?;
        for (person, other, draft) in &plan.fresh {
            let same = self.items.get(*other).is_some_and(|other| {
                *person == place && other.field == item.field && other.value.same_as(&item.value)
            });
            if same {
                return Ok(Done::Drafted(*draft));
            }
        }
        let Some(person) = plan.people.get(place) else {
            return Err(Refusal::new(Code::Invalid, "subject")); // every place was given by `person`
        };
        if let Some(subject) = &person.known {
            if let Some(held) = self.held(subject, item).await? {
                return Ok(held); // adds nothing, so also where no more can be added
            }
            subject.may_grow()?;
            let added = plan.fresh.iter().filter(|(other, _, _)| *other == place).count();
            if subject.length.saturating_add(added) >= CHAIN_MAX {
                return Err(Refusal::new(
                    Code::Conflict,
                    format!("the subject has {CHAIN_MAX} events, the most there can be"),
                ));
            }
        }
        let (draft, guard) = self.draft(person, item)?;
        plan.guards.extend(guard);
        plan.fresh.push((place, at, plan.drafts.len()));
        plan.drafts.push(draft);
        Ok(Done::Drafted(plan.drafts.len().saturating_sub(1)))
    }

    /// The person an item is about, known or new: its place in the plan.
    async fn person(&self, plan: &mut Plan, item: &TokenizeItem) -> Result<usize, Refusal> {
        let controller = self.controller.register.controller();
        match &item.subject {
            SubjectRef::Known(id) => {
                if let Some(place) = plan.ids.get(id) {
                    return Ok(*place);
                }
                let found =
                    self.house.subject_by_id(controller, id).await.map_err(|error| error.for_item())?;
                let subject = found.ok_or_else(|| Refusal::new(Code::NotFound, "no such subject"))?;
                let aggregate = EventNumber(subject.number.0);
                plan.guards.push(Guard::Head { aggregate, newest: subject.newest });
                plan.ids.insert(id.clone(), plan.people.len());
                plan.people.push(Person { bits: subject.bits, drafted: None, known: Some(subject) });
            }
            SubjectRef::New(label) => {
                if let Some(place) = plan.labels.get(label) {
                    return Ok(*place);
                }
                let bits = random::u64();
                let created = SubjectCreated { controller: controller.to_owned(), bits };
                plan.labels.insert(label.clone(), plan.people.len());
                plan.people.push(Person { bits, drafted: Some(plan.drafts.len()), known: None });
                plan.drafts.push(Draft::of(Body::SubjectCreated(created)));
            }
            SubjectRef::Missing => return Err(Refusal::new(Code::Invalid, "subject: missing")),
        }
        Ok(plan.people.len().saturating_sub(1))
    }

    /// The same value of the same person, activity and field, if it is there already.
    async fn held(&self, subject: &Subject, item: &TokenizeItem) -> Result<Option<Done>, Refusal> {
        for (number, value) in subject.living(self.activity, &item.field) {
            let event = self.house.event(number).await.map_err(|error| error.for_item())?;
            let Some(Body::ValueStored(stored)) = event.map(|event| event.body) else { continue };
            match self.house.open(number, &stored).await {
                Ok(text) if text.same_as(&item.value) => {
                    return Ok(Some(Done::Held { number, token: self.tokenized(number, &stored) }));
                }
                Ok(_) => {}
                Err(refusal) if refusal.code == Code::Erased || self.house.tree.is_lost(value.slot) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(None)
    }

    /// Seals a value under a key of its own.
    fn draft(&self, person: &Person, item: &TokenizeItem) -> Result<(Draft, Option<Guard>), Refusal> {
        let invalid = |what| Refusal::new(Code::Invalid, what);
        let shape = item.shape.ok_or_else(|| invalid("shape: unknown"))?;
        let short_token = match shape {
            Shape::Opaque | Shape::Email => String::new(),
            Shape::Phone => short::phone(),
            Shape::Uuid => short::uuid(),
            Shape::Digits => {
                let length =
                    std::str::from_utf8(item.value.as_bytes()).map_or(0, |text| text.chars().count());
                short::digits(length).ok_or_else(|| invalid("shape: no room for digits"))?
            }
        };
        let (mut key, bits) = (NewKey::Value(Key::random()), random::u64());
        let controller = self.controller.register.controller();
        let context = Context {
            controller,
            subject_bits: person.bits,
            activity: self.activity,
            field: &item.field,
            bits,
            value_version: 1,
        };
        if Mutant::DerivedKeys.lives() {
            key = mutants::derived_key(&self.house.state, &context).unwrap_or(key);
        }
        let sealing = key.for_slot().for_job::<role::Value>();
        let sealed: Bytes = sealing.seal(&item.value, &context).map_err(|_| invalid("value: too-long"))?;
        let subject = match (person.drafted, &person.known) {
            (Some(draft), _) => SubjectNumber(drafted(draft).0),
            (None, Some(subject)) => subject.number,
            (None, None) => return Err(invalid("subject: missing")),
        };
        let guard = (!short_token.is_empty()).then(|| Guard::FreeToken(short_token.clone()));
        let stored = ValueStored {
            controller: controller.to_owned(),
            subject,
            subject_bits: person.bits,
            previous: EventNumber(0),
            activity: self.activity.to_owned(),
            field: item.field.clone(),
            bits,
            shape,
            short_token,
            slot: BLANK,
            sealed,
        };
        let at = (self.activity, item.field.as_str());
        let mark = self.house.mark(self.generation, self.controller, at, &item.value);
        let draft = Draft::with_key(Body::ValueStored(stored), self.controller.subtree, key);
        Ok((Draft { mark: Some(mark), ..draft }, guard))
    }

    async fn commit(
        &self,
        mut plan: Plan,
        memo: Option<&Memo>,
    ) -> Result<Vec<Result<Tokenized, Refusal>>, Declined> {
        if let Some(memo) = memo {
            let outcome = |done: &Done| match done {
                Done::Held { number, .. } => Outcome::Value(*number),
                Done::Drafted(draft) => Outcome::Value(drafted(*draft)),
                Done::Refused(refusal) => Outcome::Refused(refusal.code),
            };
            let outcomes = plan.done.iter().map(outcome).collect();
            plan.guards.extend(memo.guards());
            let controller = self.controller.register.controller();
            let mut remembered = memo.draft(VERB, controller, self.activity, outcomes);
            if Mutant::UnkeyedHash.lives()
                && let (Body::RequestRemembered(it), Some(item)) = (&mut remembered.body, self.items.last())
            {
                it.key_mac = hash::sha256(item.value.as_bytes());
            }
            plan.drafts.push(remembered);
        }
        // What the answers need stays here; keys and ciphertext go to the writer.
        let bodies: Vec<Option<ValueStored>> = plan
            .drafts
            .iter()
            .map(|draft| match &draft.body {
                Body::ValueStored(stored) => Some(ValueStored { sealed: Bytes::new(), ..stored.clone() }),
                _ => None,
            })
            .collect();
        let numbers = if plan.drafts.is_empty() {
            vec![]
        } else {
            self.house.propose(plan.guards, plan.drafts, false).await?.into_inner()
        };
        let answer = |done: Done| match done {
            Done::Held { token, .. } => Ok(token),
            Done::Refused(refusal) => Err(refusal),
            Done::Drafted(draft) => match (bodies.get(draft), numbers.get(draft)) {
                (Some(Some(stored)), Some(number)) => {
                    let mut stored = stored.clone();
                    let created = place_of(EventNumber(stored.subject.0));
                    if let Some(real) = created.and_then(|place| numbers.get(place)) {
                        stored.subject = SubjectNumber(real.0);
                    }
                    Ok(self.tokenized(*number, &stored))
                }
                _ => Err(Refusal::new(Code::KeyUnavailable, "the value was not stored")),
            },
        };
        Ok(plan.done.into_iter().map(answer).collect())
    }

    /// Answers a repeat of a request as the first one was, or CONFLICT where it says something else. A value
    /// that has died since answers ERASED; it is never stored again. `at` remembers the first one.
    async fn repeat(
        &self,
        at: EventNumber,
        before: &RequestRemembered,
        checked: &[Result<(), Refusal>],
    ) -> Result<Vec<Result<Tokenized, Refusal>>, CallRefusal> {
        let conflict =
            || Err(Refusal::new(Code::Conflict, "the idempotency key was used for another request"));
        let same_request = before.controller == self.controller.register.controller()
            && before.activity == self.activity
            && before.items.len() == self.items.len();
        let mut answers = vec![];
        let mut labels: HashMap<&str, SubjectNumber> = HashMap::new();
        for ((item, outcome), checked) in self.items.iter().zip(&before.items).zip(checked) {
            answers.push(match (outcome, checked) {
                (Outcome::Value(number), Ok(())) => self.repeat_value(at, *number, item, &mut labels).await,
                (Outcome::Refused(Code::Invalid), Err(refusal)) if refusal.code == Code::Invalid => {
                    Err(refusal.clone())
                }
                (Outcome::Refused(code), _) if *code != Code::Invalid => {
                    Err(Refusal::new(*code, "as before"))
                }
                _ => conflict(),
            });
        }
        let other = |answer: &Result<Tokenized, Refusal>| matches!(answer, Err(refusal) if refusal.code == Code::Conflict);
        if !same_request || answers.iter().any(other) {
            return Ok(self.items.iter().map(|_| conflict()).collect());
        }
        Ok(answers)
    }

    async fn repeat_value<'a>(
        &self,
        at: EventNumber,
        number: EventNumber,
        item: &'a TokenizeItem,
        labels: &mut HashMap<&'a str, SubjectNumber>,
    ) -> Result<Tokenized, Refusal> {
        let conflict = || Refusal::new(Code::Conflict, "the idempotency key was used for another request");
        let event = self.house.event(number).await.map_err(|error| error.for_item())?;
        let Some(Body::ValueStored(stored)) = event.map(|event| event.body) else { return Err(conflict()) };
        let same_person = match &item.subject {
            SubjectRef::Known(id) => *id == self.house.subject_id(stored.subject, stored.subject_bits),
            SubjectRef::New(label) => *labels.entry(label).or_insert(stored.subject) == stored.subject,
            SubjectRef::Missing => false,
        };
        if !same_person || stored.field != item.field {
            return Err(conflict());
        }
        let text = self.house.open(number, &stored).await?;
        // What stood there then cannot be compared any more, and whoever repeats a request gets its answer.
        let rectified_since = self.house.state.rectification(number).is_some_and(|newest| newest > at);
        if rectified_since || text.same_as(&item.value) {
            Ok(self.tokenized(number, &stored))
        } else {
            Err(conflict())
        }
    }

    fn tokenized(&self, number: EventNumber, stored: &ValueStored) -> Tokenized {
        Tokenized {
            token: self.house.token(&self.controller.register, number, stored),
            subject_id: self.house.subject_id(stored.subject, stored.subject_bits),
        }
    }
}
