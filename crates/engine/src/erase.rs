//! Forgetting a person: fence first, from which on every read answers ERASED; then the batch that destroys
//! the keys and the former root; then the answer. Announcing follows from the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::clock::UnixMs;
use cloakroom_core::erasure::Erasure;
use cloakroom_core::event::{Body, ErasureRequested, Outcome, RequestRemembered};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_core::register::{Register, Role};
use cloakroom_core::subject::Subject;
use cloakroom_core::text;
use cloakroom_crypto::{hash, random};

use crate::house::{House, TRIES, declined};
use crate::idempotency::{Known, Memo};
use crate::lookup::LookupItem;
use crate::proposal::{Declined, Draft, Guard, drafted};
use crate::state::InForce;
use crate::view::ErasureView;

const VERB: &str = "erase";
const HOUR_MS: UnixMs = 60 * 60 * 1_000;
/// Whoever waits for a batch asks so often whether the writer still runs.
const WRITER_ASKED_EVERY: Duration = Duration::from_secs(1);
/// The grounds of GDPR Art. 17(1), a to f.
const LEGAL_BASES: u32 = 6;

/// A request to forget.
#[allow(missing_docs)] // as in admin/v1
#[derive(Clone)]
pub struct ErasureRequest {
    pub controller: String,
    pub who: Who,
    pub activities: Vec<String>,
    pub actor: String,
    pub reason: String,
    pub legal_basis: u32,
    pub idempotency_key: String,
}

/// Whom it is about.
#[derive(Clone)]
pub enum Who {
    /// A subject id.
    SubjectId(String),
    /// Any token of the subject.
    Token(String),
    /// A value that one subject alone has.
    Lookup(Arc<LookupItem>),
    /// None of them.
    Missing,
}

/// What an erasure would destroy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preview {
    /// Whom.
    pub subject_id: String,
    /// Token, activity and field of what would die.
    pub tokens: Vec<(String, String, String)>,
    /// Who would be told and must answer.
    pub downstreams: Vec<String>,
    /// Activity, why it would stay, how many values.
    pub kept: Vec<(String, String, u32)>,
}

/// Who must answer for every value: all of the controller's downstreams, since one that is no recipient of an
/// activity may still hold what it should not.
pub(crate) fn required(register: &Register) -> Vec<String> {
    register.downstreams().iter().map(|downstream| downstream.id.clone()).collect()
}

/// By when all must have answered: the longest time that the register gives one of them.
pub(crate) fn deadline(register: &Register, now: UnixMs) -> UnixMs {
    let hours = register.downstreams().iter().map(|downstream| downstream.deadline_hours).max().unwrap_or(0);
    now.saturating_add(UnixMs::from(hours).saturating_mul(HOUR_MS))
}

impl House {
    /// The erasure after its keys are destroyed, and the salt that opens the certificate's commitment: given
    /// once, kept nowhere, empty on a repeat.
    pub(crate) async fn request_erasure(
        &self,
        principal: &str,
        request: ErasureRequest,
    ) -> Result<(ErasureView, String), CallRefusal> {
        let controller = self.register(principal, &request.controller)?;
        self.may_erase(principal, &controller)?;
        check(&controller.register, &request)?;
        let who = match self.named(principal, &controller, &request.who, &request.reason).await {
            Err(CallRefusal::NotFound(nobody)) => {
                return Err(self.nobody_any_more(principal, &request.idempotency_key, nobody).await);
            }
            who => who?,
        };
        for _ in 0..TRIES {
            let subject = self.whom(&controller, &who).await?;
            let memo = match self.remembered(principal, VERB, &request.idempotency_key).await? {
                Some(Known::Repeat(_, before)) => return self.repeat(&before, &request, &subject).await,
                Some(Known::New(memo)) => Some(memo),
                None => None,
            };
            if subject.erased {
                return self.erased_before(&subject).await;
            }
            match self.fence_off(principal, &controller, &request, &subject, memo).await {
                Ok(done) => return Ok(done),
                Err(Declined::Stale) => {}
                Err(reason) => return Err(declined(reason)),
            }
        }
        Err(declined(Declined::Stale))
    }

    async fn fence_off(
        &self,
        principal: &str,
        controller: &InForce,
        request: &ErasureRequest,
        subject: &Subject,
        memo: Option<Memo>,
    ) -> Result<(ErasureView, String), Declined> {
        let salt = random::array::<32>();
        let subject_id = self.subject_id(subject.number, subject.bits);
        let fence = ErasureRequested {
            controller: request.controller.clone(),
            subject: subject.number,
            previous: EventNumber(0),
            bits: random::u64(),
            activities: request.activities.clone(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            legal_basis: request.legal_basis,
            principal: principal.to_owned(),
            values: subject.scope(&request.activities),
            downstreams: required(&controller.register),
            deadline: deadline(&controller.register, self.clock.now_unix_ms()),
            subject_commitment: hash::commitment(&salt, &subject_id),
        };
        let mut guards =
            vec![Guard::Head { aggregate: EventNumber(subject.number.0), newest: subject.newest }];
        let mut drafts = vec![Draft::of(Body::ErasureRequested(fence))];
        if let Some(memo) = memo {
            guards.extend(memo.guards());
            drafts.push(memo.draft(VERB, &request.controller, "", vec![Outcome::Erasure(drafted(0))]));
        }
        let (written, closed) = self.propose_fence(guards, drafts).await?;
        let number = written.into_inner().first().copied().ok_or(Declined::Stopped)?;
        closed.await.map_err(|_| self.unclosed())?;
        let erasure = self.fence(number).await.ok().flatten().ok_or(Declined::Stopped)?;
        Ok((self.view(&erasure), salt.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub(crate) async fn preview_erasure(
        &self,
        principal: &str,
        controller: &str,
        who: Who,
        activities: &[String],
        reason: &str,
    ) -> Result<Preview, CallRefusal> {
        let controller = self.register(principal, controller)?;
        self.may_erase(principal, &controller)?;
        check_activities(&controller.register, activities)?;
        let who = self.named(principal, &controller, &who, reason).await?;
        let subject = self.whom(&controller, &who).await?;
        let scope = subject.scope(activities);
        let mut tokens = Vec::with_capacity(scope.len());
        for doomed in &scope {
            let event = self.event(doomed.value).await.map_err(|error| error.for_call())?;
            if let Some(Body::ValueStored(stored)) = event.map(|event| event.body) {
                let token = self.token(&controller.register, doomed.value, &stored);
                tokens.push((token, stored.activity, stored.field));
            }
        }
        let mut kept: BTreeMap<String, u32> = BTreeMap::new();
        for (number, value) in &subject.values {
            if value.living && !scope.iter().any(|doomed| doomed.value == *number) {
                let count = kept.entry(value.activity.clone()).or_default();
                *count = count.saturating_add(1);
            }
        }
        Ok(Preview {
            subject_id: self.subject_id(subject.number, subject.bits),
            tokens,
            downstreams: required(&controller.register),
            kept: kept
                .into_iter()
                .map(|(activity, count)| (activity, "outside the scope".to_owned(), count))
                .collect(),
        })
    }

    pub(crate) fn may_erase(&self, principal: &str, controller: &InForce) -> Result<(), CallRefusal> {
        if self.is_admin(principal) || controller.register.may_erase(principal) {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("erasing takes the role dpo".to_owned()))
    }

    /// Whoever has a role with the controller may look; what is shown is no personal data.
    pub(crate) fn may_look(&self, principal: &str, controller: &InForce) -> Result<(), CallRefusal> {
        let roles = controller.register.roles_of(principal);
        if self.is_admin(principal)
            || [Role::Dpo, Role::Auditor, Role::Operator].into_iter().any(|role| roles.contains(role))
        {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("looking takes the role dpo, auditor or operator".to_owned()))
    }

    /// `who` without a value in it.
    async fn named(
        &self,
        principal: &str,
        controller: &InForce,
        who: &Who,
        reason: &str,
    ) -> Result<Who, CallRefusal> {
        match who {
            Who::Lookup(sought) => {
                self.only_subject_with(principal, controller, sought, reason).await.map(Who::SubjectId)
            }
            named => Ok(named.clone()),
        }
    }

    /// What a value that finds nobody means under an idempotency key that made an erasure: perhaps a repeat, perhaps
    /// another request. Nothing is kept of the value that could tell, so the erasure is named and not given.
    async fn nobody_any_more(&self, principal: &str, key: &str, nobody: String) -> CallRefusal {
        let fence = match self.remembered(principal, VERB, key).await {
            Err(refused) => return refused,
            Ok(Some(Known::Repeat(_, before))) => match before.items.as_slice() {
                [Outcome::Erasure(fence)] => *fence,
                _ => return CallRefusal::NotFound(nobody),
            },
            Ok(_) => return CallRefusal::NotFound(nobody),
        };
        match self.fence(fence).await {
            Ok(Some(erasure)) => CallRefusal::Conflict(format!(
                "the value finds nobody (any more); the idempotency key made {}",
                self.view(&erasure).erasure_id
            )),
            Ok(None) => CallRefusal::NotFound(nobody),
            Err(error) => error.for_call(),
        }
    }

    async fn whom(&self, controller: &InForce, who: &Who) -> Result<Subject, CallRefusal> {
        let nobody = || CallRefusal::NotFound("no such subject".to_owned());
        match who {
            Who::SubjectId(id) => {
                let found = self.subject_by_id(controller.register.controller(), id).await;
                found.map_err(|error| error.for_call())?.ok_or_else(nobody)
            }
            Who::Token(token) => {
                let resolved = self.resolve(controller, token).await.map_err(|_| nobody())?;
                self.subject(resolved.stored.subject).await.map_err(|error| error.for_call())
            }
            Who::Lookup(_) | Who::Missing => {
                Err(CallRefusal::Invalid("who: none of subject_id, token and lookup".to_owned()))
            }
        }
    }

    async fn repeat(
        &self,
        before: &RequestRemembered,
        request: &ErasureRequest,
        subject: &Subject,
    ) -> Result<(ErasureView, String), CallRefusal> {
        let conflict =
            || CallRefusal::Conflict("the idempotency key was used for another request".to_owned());
        let [Outcome::Erasure(fence)] = before.items.as_slice() else { return Err(conflict()) };
        let erasure = self.fence(*fence).await.map_err(|error| error.for_call())?.ok_or_else(conflict)?;
        let same = erasure.subject == subject.number
            && erasure.controller == request.controller
            && erasure.request.as_ref().is_some_and(|asked| {
                (&asked.activities, &asked.actor, &asked.reason, asked.legal_basis)
                    == (&request.activities, &request.actor, &request.reason, request.legal_basis)
            });
        if !same {
            return Err(conflict());
        }
        Ok((self.view(&self.destroyed(*fence).await?), String::new()))
    }

    /// Who asks to forget a person twice gets the erasure that did it.
    async fn erased_before(&self, subject: &Subject) -> Result<(ErasureView, String), CallRefusal> {
        let chain = crate::house::read_chain(&*self.log, &*self.projections, EventNumber(subject.number.0))
            .await
            .map_err(|error| error.for_call())?;
        let fence = chain.iter().rev().find_map(|(number, event)| match &event.body {
            Body::ErasureRequested(asked) if asked.activities.is_empty() => Some(*number),
            _ => None,
        });
        let Some(fence) = fence else { return Err(CallRefusal::NotFound("no such erasure".to_owned())) };
        Ok((self.view(&self.destroyed(fence).await?), String::new()))
    }

    /// An erasure that may still be on its way to destroying the keys, once it has.
    async fn destroyed(&self, fence: EventNumber) -> Result<Erasure, CallRefusal> {
        let mut changes = self.state.erasure_changes.subscribe();
        loop {
            let erasure = self.fence(fence).await.map_err(|error| error.for_call())?;
            let erasure = erasure.ok_or_else(|| CallRefusal::NotFound("no such erasure".to_owned()))?;
            if erasure.destroyed.is_some() {
                return Ok(erasure);
            }
            if self.state.is_stuck(fence) {
                return Err(declined(Declined::Stuck));
            }
            // Whoever waits must not keep a writer alive that is asked to stop, nor wait for one that failed.
            if self.writer.load().as_ref().is_none_or(|writer| writer.is_closed()) {
                return Err(declined(Declined::Stopped));
            }
            if let Ok(gone) = tokio::time::timeout(WRITER_ASKED_EVERY, changes.changed()).await {
                gone.map_err(|_| declined(Declined::Stopped))?;
            }
        }
    }
}

fn check(register: &Register, request: &ErasureRequest) -> Result<(), CallRefusal> {
    let invalid = |what: &str, bad: text::InvalidText| CallRefusal::Invalid(format!("{what}: {bad}"));
    text::check_code(&request.actor).map_err(|bad| invalid("actor", bad))?;
    text::check_optional_code(&request.reason).map_err(|bad| invalid("reason", bad))?;
    text::check_idempotency_key(&request.idempotency_key).map_err(|bad| invalid("idempotency_key", bad))?;
    if !(1..=LEGAL_BASES).contains(&request.legal_basis) {
        return Err(CallRefusal::Invalid(
            "legal_basis: one of the grounds of GDPR Art. 17(1) must be stated".to_owned(),
        ));
    }
    check_activities(register, &request.activities)
}

fn check_activities(register: &Register, activities: &[String]) -> Result<(), CallRefusal> {
    match activities.iter().find(|activity| register.activity(activity).is_none()) {
        Some(_) => Err(CallRefusal::Invalid("activities: one is not in the register".to_owned())),
        None => Ok(()),
    }
}
