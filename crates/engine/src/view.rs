//! Erasures as officers see them.

use std::sync::atomic::Ordering;

use cloakroom_core::certificate::status_name;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::erasure::{Erasure, State};
use cloakroom_core::event::{AckStatus, Body, ErasureCompleted};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_crypto::address::AddressKind;

use crate::house::{House, TRIES, declined};
use crate::projection;
use crate::proposal::{Declined, Draft, Guard};

/// The most erasures on a page.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;

/// Where an erasure stands, as an officer sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErasureState {
    /// Unreadable; the keys are about to be destroyed.
    Fenced,
    /// The keys are destroyed; not all of it is announced.
    KeysDestroyed,
    /// Announced; downstreams are answering.
    Propagating,
    /// Every required downstream has purged or held nothing.
    Completed,
    /// As completed, but a copy ends by expiry.
    CompletedWithExpiry,
    /// A deadline was missed; goes on.
    Overdue,
}

/// An erasure.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct ErasureView {
    pub erasure_id: String,
    pub controller: String,
    pub state: ErasureState,
    pub activities: Vec<String>,
    pub actor: String,
    pub reason: String,
    pub legal_basis: u32,
    pub tokens: u32,
    pub requested_unix_ms: UnixMs,
    pub keys_destroyed_unix_ms: UnixMs,
    pub completed_unix_ms: UnixMs,
    pub deadline_unix_ms: UnixMs,
    pub epoch: u64,
    pub destroy_class: String,
    pub final_at_unix_ms: UnixMs,
    pub final_unix_ms: UnixMs,
    pub downstreams: Vec<DownstreamView>,
}

/// One downstream's part in it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct DownstreamView {
    pub downstream: String,
    pub status: String,
    pub tokens_answered: u32,
    pub copies_purged: u32,
    pub reason: String,
    pub evidence: String,
    pub answered_unix_ms: UnixMs,
    pub expires_unix_ms: UnixMs,
}

/// Which erasures to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErasureFilter {
    /// Those in one state.
    pub state: Option<ErasureState>,
    /// Those that missed a deadline and are not done.
    pub overdue: bool,
}

impl House {
    pub(crate) fn view(&self, erasure: &Erasure) -> ErasureView {
        let announced = self.state.announced.load(Ordering::Acquire);
        let state = match erasure.state() {
            State::Completed => ErasureState::Completed,
            State::CompletedWithExpiry => ErasureState::CompletedWithExpiry,
            _ if erasure.overdue => ErasureState::Overdue,
            State::Fenced => ErasureState::Fenced,
            State::KeysDestroyed => match &erasure.destroyed {
                Some(destroyed) if destroyed.event.0 <= announced => ErasureState::Propagating,
                _ => ErasureState::KeysDestroyed,
            },
        };
        let request = erasure.request.as_ref();
        let destroyed = erasure.destroyed.as_ref();
        let bits = request.map_or(0, |request| request.bits);
        ErasureView {
            erasure_id: self.state.ids.text(AddressKind::Erasure, erasure.fence, bits),
            controller: erasure.controller.clone(),
            state,
            activities: request.map(|request| request.activities.clone()).unwrap_or_default(),
            actor: request.map(|request| request.actor.clone()).unwrap_or_default(),
            reason: request.map(|request| request.reason.clone()).unwrap_or_default(),
            legal_basis: request.map_or(0, |request| request.legal_basis),
            tokens: u32::try_from(erasure.values.len()).unwrap_or(u32::MAX),
            requested_unix_ms: erasure.requested_at,
            keys_destroyed_unix_ms: destroyed.map_or(0, |destroyed| destroyed.at),
            completed_unix_ms: erasure.completed.as_ref().map_or(0, |(at, _)| *at),
            deadline_unix_ms: erasure.deadline,
            epoch: destroyed.map_or(0, |destroyed| destroyed.epoch),
            destroy_class: destroyed.map(|destroyed| destroyed.class.clone()).unwrap_or_default(),
            final_at_unix_ms: destroyed.map_or(0, |destroyed| destroyed.final_at),
            final_unix_ms: destroyed.and_then(|destroyed| destroyed.finally).unwrap_or_default(),
            downstreams: erasure.downstreams.iter().map(|downstream| standing(erasure, downstream)).collect(),
        }
    }

    /// The erasure behind an id, for whoever may look.
    pub(crate) async fn erasure_by_id(
        &self,
        principal: &str,
        erasure_id: &str,
    ) -> Result<Erasure, CallRefusal> {
        let nowhere = || CallRefusal::NotFound("no such erasure".to_owned());
        let (number, bits) = self.state.ids.read(AddressKind::Erasure, erasure_id).ok_or_else(nowhere)?;
        let erasure = self.fence(number).await.map_err(|error| error.for_call())?.ok_or_else(nowhere)?;
        if erasure.request.as_ref().is_none_or(|request| request.bits != bits) {
            return Err(nowhere());
        }
        // Another controller's erasure and none at all look the same.
        let controller = self.register(principal, &erasure.controller).map_err(|_| nowhere())?;
        self.may_look(principal, &controller)?;
        Ok(erasure)
    }

    pub(crate) async fn erasures(
        &self,
        principal: &str,
        controller: &str,
        filter: ErasureFilter,
        page_size: usize,
        page_token: &str,
    ) -> Result<(Vec<ErasureView>, String), CallRefusal> {
        let known = self.register(principal, controller)?;
        self.may_look(principal, &known)?;
        let size = if page_size == 0 { PAGE_DEFAULT } else { page_size.min(PAGE_MAX) };
        let bad = || CallRefusal::Invalid("page_token: not one of ours".to_owned());
        let mut after = match page_token {
            "" => None,
            token => {
                let (number, _) = self.state.ids.read(AddressKind::Erasure, token).ok_or_else(bad)?;
                Some(projection::listed(controller, number))
            }
        };
        let prefix = projection::prefix(b'a', controller);
        let mut page = vec![];
        loop {
            let found = self.projections.scan(&prefix, after.as_deref(), PAGE_MAX).await;
            let found = found.map_err(|error| crate::EngineError::from(error).for_call())?;
            let Some((last, _)) = found.last() else { return Ok((page, String::new())) };
            after = Some(last.to_vec());
            for (key, _) in &found {
                let number = key.get(prefix.len()..).map(projection::parse);
                let Some(Ok(number)) = number else { continue };
                let Some(erasure) =
                    self.fence(EventNumber(number)).await.map_err(|error| error.for_call())?
                else {
                    continue;
                };
                let view = self.view(&erasure);
                let overdue = erasure.overdue && erasure.completed.is_none();
                if filter.state.is_none_or(|state| state == view.state) && (!filter.overdue || overdue) {
                    page.push(view);
                }
                if page.len() == size {
                    let next = page.last().map(|view| view.erasure_id.clone()).unwrap_or_default();
                    return Ok((page, next));
                }
            }
        }
    }

    pub(crate) async fn redrive(
        &self,
        principal: &str,
        erasure_id: &str,
    ) -> Result<ErasureView, CallRefusal> {
        for _ in 0..TRIES {
            let erasure = self.erasure_by_id(principal, erasure_id).await?;
            let controller = self.register(principal, &erasure.controller)?;
            self.may_erase(principal, &controller)?;
            if erasure.completed.is_some() {
                return Ok(self.view(&erasure));
            }
            let redriven = Body::ErasureRedriven {
                fence: erasure.fence,
                previous: erasure.newest,
                principal: principal.to_owned(),
            };
            match self.propose_on(&erasure, redriven).await {
                Ok(()) => {
                    return self
                        .erasure_by_id(principal, erasure_id)
                        .await
                        .map(|erasure| self.view(&erasure));
                }
                Err(Declined::Stale) => {}
                Err(reason) => return Err(declined(reason)),
            }
        }
        Err(declined(Declined::Stale))
    }

    pub(crate) async fn certificate(&self, principal: &str, erasure_id: &str) -> Result<String, CallRefusal> {
        let erasure = self.erasure_by_id(principal, erasure_id).await?;
        match erasure.completed {
            Some((_, certificate)) => Ok(certificate),
            None => Err(CallRefusal::Conflict(
                "not every downstream has purged yet: there is no certificate".to_owned(),
            )),
        }
    }

    /// Adds an event to an erasure's chain, unless another came first.
    pub(crate) async fn propose_on(&self, erasure: &Erasure, body: Body) -> Result<(), Declined> {
        let guards = vec![Guard::Head { aggregate: erasure.fence, newest: erasure.newest }];
        let written = self.propose(guards, vec![Draft::of(body)], true).await?;
        let _events = written.into_inner();
        Ok(())
    }

    /// Signs the certificate and closes the case, if nobody owes an answer any more.
    pub(crate) async fn complete(&self, erasure: &Erasure) -> Result<(), Declined> {
        let Some(with_expiry) = erasure.decide_completion() else { return Ok(()) };
        let certificate = self.sign_certificate(erasure).await.map_err(|error| {
            tracing::error!(error = error.chain(), "a certificate could not be made");
            Declined::Stopped
        })?;
        let completed =
            ErasureCompleted { fence: erasure.fence, previous: erasure.newest, with_expiry, certificate };
        self.propose_on(erasure, Body::ErasureCompleted(completed)).await
    }

    async fn sign_certificate(&self, erasure: &Erasure) -> Result<String, crate::EngineError> {
        use cloakroom_core::certificate::{Certificate, Leaf, TYP};
        let Some(request) = &erasure.request else { return Ok(String::new()) };
        let leaf = self.log.leaves(erasure.fence, 1).await?.first().copied().unwrap_or_default();
        let leaf = Leaf {
            index: erasure.fence.0.saturating_sub(1),
            hash: leaf.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let erasure_id = self.state.ids.text(AddressKind::Erasure, erasure.fence, request.bits);
        let certificate = Certificate::of(erasure, erasure_id, leaf, self.clock.now_unix_ms());
        let (Some(mut certificate), Some(destroyed)) = (certificate, &erasure.destroyed) else {
            return Err(crate::EngineError::Projection);
        };
        certificate.proof = Some(self.prove(erasure.fence, destroyed.event).await?);
        let payload = serde_json::to_vec(&certificate).map_err(|_| crate::EngineError::Projection)?;
        Ok(cloakroom_crypto::jws::sign(&self.state.signing, TYP, &payload))
    }
}

fn standing(erasure: &Erasure, downstream: &str) -> DownstreamView {
    let (answer, tokens_answered, copies_purged) = erasure.standing(downstream);
    DownstreamView {
        downstream: downstream.to_owned(),
        status: status_name(answer.status).to_owned(),
        tokens_answered,
        copies_purged,
        reason: answer.reason,
        evidence: answer.evidence,
        answered_unix_ms: answer.at,
        expires_unix_ms: if answer.status == AckStatus::AwaitingExpiry { answer.until } else { 0 },
    }
}
