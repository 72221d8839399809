//! The erasure ledger outside the vault: exported as signed lines, and destroyed again from them where a vault
//! was restored that knows less. By token, never by slot: in another branch a slot may be somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cloakroom_bus::{Keyring, topics, verify};
use cloakroom_core::clock::UnixMs;
use cloakroom_core::erasure::Erasure;
use cloakroom_core::event::{Body, DoomedValue, ErasureRequested, ValuesReleased};
use cloakroom_core::ids::{EventNumber, SubjectNumber};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_core::subject::Subject;
use cloakroom_crypto::address::AddressKind;
use cloakroom_crypto::{hash, jws, random};
use cloakroom_proto::bus::v1 as bus;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::EngineError;
use crate::erase::{deadline, required};
use crate::house::{House, TRIES, declined};
use crate::proposal::{Closed, Declined, Draft, Guard};
use crate::state::InForce;

/// What a line's signature says that it is.
const TYPE: &str = "cloakroom-ledger+json";
const VERSION: u32 = 1;
/// How long Kafka may take to give all that it has.
const KAFKA_WITHIN: Duration = Duration::from_secs(60);

/// A line of the ledger: one fence whose keys are destroyed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    version: u32,
    tree_id: String,
    /// The fence's event.
    fence: u64,
    controller: String,
    /// Of an erasure; empty for a release.
    erasure_id: String,
    activities: Vec<String>,
    actor: String,
    reason: String,
    legal_basis: u32,
    requested_unix_ms: UnixMs,
    destroyed_unix_ms: UnixMs,
    epoch: u64,
    destroy_class: String,
    tokens: Vec<String>,
}

/// What a replay came to, or would.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// Lines or records read.
    pub entries: u64,
    /// Tokens whose values were destroyed again.
    pub destroyed: u64,
    /// Tokens whose values this log knows to be dead.
    pub dead: u64,
    /// Tokens that this log never gave: what they stood for came later.
    pub unknown: u64,
}

/// The ledger, line by line.
pub struct Export {
    house: Arc<House>,
    next: u64,
    end: u64,
    ready: Vec<EventNumber>,
}

impl Export {
    pub(crate) fn begin(house: &Arc<House>, principal: &str, since: u64) -> Result<Self, CallRefusal> {
        house.may_restore(principal)?;
        let end = *house.state.events.borrow();
        Ok(Self { house: Arc::clone(house), next: since.max(1), end, ready: vec![] })
    }

    /// The next line, signed; none at the end.
    pub async fn next(&mut self) -> Option<Result<String, CallRefusal>> {
        loop {
            while let Some(fence) = self.ready.pop() {
                match self.house.ledger_line(fence).await {
                    Ok(Some(line)) => return Some(Ok(line)),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error.for_call())),
                }
            }
            if self.next > self.end {
                return None;
            }
            let number = EventNumber(self.next);
            self.next = self.next.saturating_add(1);
            match self.house.event(number).await {
                Ok(Some(event)) => {
                    if let Body::KeysDestroyed(closed) = event.body {
                        self.ready = closed.fences;
                        self.ready.reverse();
                    }
                }
                Ok(None) => return None,
                Err(error) => return Some(Err(error.for_call())),
            }
        }
    }
}

impl House {
    /// Restoring concerns every controller's people at once.
    fn may_restore(&self, principal: &str) -> Result<(), CallRefusal> {
        if self.is_admin(principal) {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("the ledger is for administrators".to_owned()))
    }

    async fn ledger_line(&self, fence: EventNumber) -> Result<Option<String>, EngineError> {
        let Some(erasure) = self.fence(fence).await? else { return Ok(None) };
        let Some(entry) = self.entry(&erasure).await? else { return Ok(None) };
        let json = serde_json::to_vec(&entry).map_err(|_| EngineError::Projection)?;
        Ok(Some(jws::sign(&self.state.signing, TYPE, &json)))
    }

    async fn entry(&self, erasure: &Erasure) -> Result<Option<Entry>, EngineError> {
        let Some(controller) = self.state.register(&erasure.controller) else { return Ok(None) };
        let Some(destroyed) = &erasure.destroyed else { return Ok(None) };
        let mut tokens = vec![];
        for value in &erasure.values {
            if let Some(Body::ValueStored(stored)) = self.event(*value).await?.map(|event| event.body) {
                tokens.push(self.token(&controller.register, *value, &stored));
            }
        }
        let request = erasure.request.as_ref();
        let erasure_id = request
            .map(|request| self.state.ids.text(AddressKind::Erasure, erasure.fence, request.bits))
            .unwrap_or_default();
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        Ok(Some(Entry {
            version: VERSION,
            tree_id: self.tree.id().to_string(),
            fence: erasure.fence.0,
            controller: erasure.controller.clone(),
            erasure_id,
            activities: request.map(|request| request.activities.clone()).unwrap_or_default(),
            actor: text(request.map(|request| &request.actor)),
            reason: text(request.map(|request| &request.reason)),
            legal_basis: request.map_or(0, |request| request.legal_basis),
            requested_unix_ms: erasure.requested_at,
            destroyed_unix_ms: destroyed.at,
            epoch: destroyed.epoch,
            destroy_class: destroyed.class.clone(),
            tokens,
        }))
    }

    /// Destroys again what signed lines name, each a fence of its own with its own events; answers once the keys
    /// are gone. Lines that this vault's key did not sign are refused before anything is done.
    pub(crate) async fn replay_ledger(
        &self,
        principal: &str,
        lines: &[String],
        dry_run: bool,
    ) -> Result<Replayed, CallRefusal> {
        self.may_restore(principal)?;
        let mut entries = Vec::with_capacity(lines.len());
        for (at, line) in lines.iter().enumerate() {
            let wrong = |why: &str| CallRefusal::Invalid(format!("line {}: {why}", at.saturating_add(1)));
            let (header, payload) =
                jws::verify(line.trim(), &self.state.verifying).map_err(|error| wrong(&error.to_string()))?;
            let entry: Entry = serde_json::from_slice(&payload).map_err(|_| wrong("not a ledger entry"))?;
            if header.typ != TYPE || entry.version != VERSION || entry.tree_id != self.tree.id().to_string() {
                return Err(wrong("not an entry of this vault's ledger"));
            }
            entries.push(entry);
        }
        self.replay(principal, entries, dry_run).await
    }

    /// The same from what Kafka still holds: purges, signed by this vault. They do not say who asked or why.
    pub(crate) async fn replay_kafka(&self, principal: &str, dry_run: bool) -> Result<Replayed, CallRefusal> {
        self.may_restore(principal)?;
        let nowhere = || CallRefusal::Unavailable("no Kafka is configured, or it does not answer".to_owned());
        let config = self.bus.as_ref().ok_or_else(nowhere)?;
        let controllers: Vec<String> = self.state.registers().keys().cloned().collect();
        let keyring: Keyring =
            self.state.verifying.iter().map(|key| ("announcer".to_owned(), key.clone())).collect();
        let mut entries = vec![];
        for controller in controllers {
            let topic = topics::erasure(&controller);
            let read = cloakroom_bus::read_topic(config, &topic);
            let records = tokio::time::timeout(KAFKA_WITHIN, read).await.map_err(|_| nowhere())?;
            let records = records.map_err(|error| EngineError::from(error).for_call())?;
            let purges = records.into_iter().filter_map(|record| verify(record, &keyring).ok());
            let tokens: Vec<String> =
                purges.filter_map(|verified| Some(verified.decode::<bus::Purge>().ok()?.token)).collect();
            entries.push(Entry::of_tokens(controller, tokens));
        }
        self.replay(principal, entries, dry_run).await
    }

    async fn replay(
        &self,
        principal: &str,
        entries: Vec<Entry>,
        dry_run: bool,
    ) -> Result<Replayed, CallRefusal> {
        let mut replayed = Replayed::default();
        let mut closing = vec![];
        for entry in entries {
            replayed.entries = replayed.entries.saturating_add(1);
            let wanted = self.wanted(&entry, &mut replayed).await.map_err(|error| error.for_call())?;
            let Some(controller) = self.state.register(&entry.controller) else { continue };
            for (subject, values) in wanted {
                if !dry_run {
                    let fenced = self.fence_again(principal, &controller, &entry, subject, &values).await;
                    closing.extend(fenced.map_err(declined)?);
                }
            }
        }
        for closed in closing {
            let _epoch = closed.await.map_err(|_| declined(Declined::Stopped))?;
        }
        Ok(replayed)
    }

    /// The living values that an entry's tokens lead to, by subject.
    async fn wanted(
        &self,
        entry: &Entry,
        replayed: &mut Replayed,
    ) -> Result<BTreeMap<SubjectNumber, BTreeSet<EventNumber>>, EngineError> {
        let mut wanted: BTreeMap<SubjectNumber, BTreeSet<EventNumber>> = BTreeMap::new();
        let controller = self.state.register(&entry.controller);
        for token in &entry.tokens {
            let resolved = match &controller {
                Some(controller) => self.resolve(controller, token).await.ok(),
                None => None,
            };
            let Some(resolved) = resolved else {
                replayed.unknown = replayed.unknown.saturating_add(1);
                continue;
            };
            let subject = self.subject(resolved.stored.subject).await?;
            if subject.values.get(&resolved.number).is_some_and(|value| value.living) {
                replayed.destroyed = replayed.destroyed.saturating_add(1);
                wanted.entry(subject.number).or_default().insert(resolved.number);
            } else {
                replayed.dead = replayed.dead.saturating_add(1);
            }
        }
        Ok(wanted)
    }

    async fn fence_again(
        &self,
        principal: &str,
        controller: &InForce,
        entry: &Entry,
        subject: SubjectNumber,
        values: &BTreeSet<EventNumber>,
    ) -> Result<Option<oneshot::Receiver<Closed>>, Declined> {
        for _ in 0..TRIES {
            let subject = self.subject(subject).await.map_err(|_| Declined::Stopped)?;
            let Some(fence) = self.again(principal, controller, entry, &subject, values) else {
                return Ok(None);
            };
            let head = Guard::Head { aggregate: EventNumber(subject.number.0), newest: subject.newest };
            match self.propose_fence(vec![head], vec![Draft::of(fence)]).await {
                Ok((written, closed)) => {
                    let _number = written.into_inner();
                    return Ok(Some(closed));
                }
                Err(Declined::Stale) => {}
                Err(reason) => return Err(reason),
            }
        }
        Err(Declined::Stale)
    }

    /// The fence that does it again; none if nothing of it lives by now.
    fn again(
        &self,
        principal: &str,
        controller: &InForce,
        entry: &Entry,
        subject: &Subject,
        values: &BTreeSet<EventNumber>,
    ) -> Option<Body> {
        let register = &controller.register;
        let deadline = deadline(register, self.clock.now_unix_ms());
        // Who was forgotten wholly is so again, whatever else of theirs an older log has.
        let whole = !entry.erasure_id.is_empty() && entry.activities.is_empty();
        let doomed: Vec<DoomedValue> =
            subject.scope(&[]).into_iter().filter(|doomed| whole || values.contains(&doomed.value)).collect();
        if doomed.is_empty() {
            return None;
        }
        if entry.erasure_id.is_empty() {
            return Some(Body::ValuesReleased(ValuesReleased {
                controller: entry.controller.clone(),
                subject: subject.number,
                previous: EventNumber(0),
                values: doomed,
                deadline,
                downstreams: required(register),
            }));
        }
        let subject_id = self.subject_id(subject.number, subject.bits);
        Some(Body::ErasureRequested(ErasureRequested {
            controller: entry.controller.clone(),
            subject: subject.number,
            previous: EventNumber(0),
            bits: random::u64(),
            activities: entry.activities.clone(),
            actor: entry.actor.clone(),
            reason: entry.reason.clone(),
            legal_basis: entry.legal_basis,
            principal: principal.to_owned(),
            values: doomed,
            downstreams: required(register),
            deadline,
            // Nobody asks for the salt of what was asked for before.
            subject_commitment: hash::commitment(&random::array::<32>(), &subject_id),
        }))
    }
}

impl Entry {
    /// Tokens of which no more is known than that they died.
    fn of_tokens(controller: String, tokens: Vec<String>) -> Self {
        Self {
            version: VERSION,
            tree_id: String::new(),
            fence: 0,
            controller,
            erasure_id: String::new(),
            activities: vec![],
            actor: String::new(),
            reason: String::new(),
            legal_basis: 0,
            requested_unix_ms: 0,
            destroyed_unix_ms: 0,
            epoch: 0,
            destroy_class: String::new(),
            tokens,
        }
    }
}
