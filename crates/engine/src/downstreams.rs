//! Downstreams make themselves known, and ask for what they missed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_bus::{Outgoing, Signer};
use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::{Body, DownstreamRegistered};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_core::text;
use cloakroom_crypto::sign::VerifyingKey;

use crate::announce;
use crate::house::{House, declined};
use crate::proposal::Draft;

/// What a downstream says of itself.
#[allow(missing_docs)] // as in admin/v1
pub struct Registration {
    pub downstream: String,
    pub verifying_key: Vec<u8>,
    pub copies_tree_id: String,
    pub destroy_class: String,
}

/// What it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct Registered {
    pub controllers: Vec<String>,
    pub announcer_keys: Vec<[u8; 32]>,
    pub kafka_bootstrap: String,
}

/// What officers see of one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct DownstreamInfo {
    pub downstream: String,
    pub name: String,
    pub principal: String,
    pub region: String,
    pub registered: bool,
    pub destroy_class: String,
    pub last_answer_unix_ms: UnixMs,
    pub open_purges: u64,
}

/// One record of the erasure ledger, as it goes over Kafka; the last one of a replay is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct ReplayItem {
    pub position: u64,
    pub topic: String,
    pub key: String,
    pub headers: Vec<(String, String)>,
    pub record: Bytes,
}

/// A replay under way.
pub struct Replay {
    house: Arc<House>,
    signer: Signer,
    controllers: Vec<String>,
    next: u64,
    end: u64,
    ready: VecDeque<ReplayItem>,
    ended: bool,
}

impl House {
    pub(crate) async fn register_downstream(
        &self,
        principal: &str,
        registration: Registration,
    ) -> Result<Registered, CallRefusal> {
        let controllers = self.controllers_of(principal, &registration.downstream)?;
        let invalid = |what: &str| CallRefusal::Invalid(what.to_owned());
        VerifyingKey::from_bytes(&registration.verifying_key)
            .map_err(|_| invalid("verifying_key: not an Ed25519 key of 32 bytes"))?;
        text::check_optional_code(&registration.copies_tree_id)
            .map_err(|_| invalid("copies_tree_id: not an id"))?;
        text::check_optional_code(&registration.destroy_class)
            .map_err(|_| invalid("destroy_class: not an id"))?;
        let told = DownstreamRegistered {
            downstream: registration.downstream.clone(),
            verifying_key: registration.verifying_key.into(),
            copies_tree_id: registration.copies_tree_id,
            destroy_class: registration.destroy_class,
            principal: principal.to_owned(),
        };
        let registered = self.state.downstreams();
        // Answers are told apart by their key: two with one would be taken for each other.
        if registered.iter().any(|(name, other)| {
            *name != registration.downstream && other.verifying_key == told.verifying_key
        }) {
            return Err(CallRefusal::Conflict("verifying_key: another downstream has it".to_owned()));
        }
        let known = registered.get(&registration.downstream).cloned();
        if known.is_none_or(|known| *known != told) {
            let draft = Draft::of(Body::DownstreamRegistered(told));
            let written = self.propose(vec![], vec![draft], false).await.map_err(declined)?;
            let _events = written.into_inner();
        }
        Ok(Registered {
            controllers,
            announcer_keys: self.state.verifying.iter().map(|key| *key.as_bytes()).collect(),
            kafka_bootstrap: self.kafka_bootstrap.clone(),
        })
    }

    /// The controllers that name `downstream` with this principal; at least one.
    fn controllers_of(&self, principal: &str, downstream: &str) -> Result<Vec<String>, CallRefusal> {
        let registers = self.state.registers();
        let mut controllers: Vec<String> = registers
            .iter()
            .filter(|(_, known)| {
                known.register.downstream(downstream).is_some_and(|known| known.principal == principal)
            })
            .map(|(controller, _)| controller.clone())
            .collect();
        controllers.sort_unstable();
        if controllers.is_empty() {
            return Err(CallRefusal::Forbidden(
                "no register names this downstream with this principal".to_owned(),
            ));
        }
        Ok(controllers)
    }

    pub(crate) fn downstream_list(
        &self,
        principal: &str,
        controller: &str,
    ) -> Result<Vec<DownstreamInfo>, CallRefusal> {
        let known = self.register(principal, controller)?;
        self.may_look(principal, &known)?;
        let registered = self.state.downstreams();
        let open = self.state.open_erasures();
        let last = crate::state::read(&self.state.last_answers);
        let info = |downstream: &cloakroom_core::register::Downstream| {
            let told = registered.get(&downstream.id).filter(|told| told.principal == downstream.principal);
            let owed = open.iter().filter(|erasure| erasure.controller == controller).map(|erasure| {
                let (_, answered, _) = erasure.standing(&downstream.id);
                (erasure.values.len() as u64).saturating_sub(u64::from(answered))
            });
            DownstreamInfo {
                downstream: downstream.id.clone(),
                name: downstream.name.clone(),
                principal: downstream.principal.clone(),
                region: downstream.region.clone(),
                registered: told.is_some(),
                destroy_class: told.map(|told| told.destroy_class.clone()).unwrap_or_default(),
                last_answer_unix_ms: last
                    .get(&(controller.to_owned(), downstream.id.clone()))
                    .copied()
                    .unwrap_or_default(),
                open_purges: owed.sum(),
            }
        };
        Ok(known.register.downstreams().iter().map(info).collect())
    }
}

/// The ledger for `downstream` from event `since` on.
pub(crate) fn replay(
    house: &Arc<House>,
    signer: Signer,
    principal: &str,
    downstream: &str,
    since: u64,
) -> Result<Replay, CallRefusal> {
    let controllers = house.controllers_of(principal, downstream)?;
    Ok(Replay {
        end: *house.state.events.borrow(),
        house: Arc::clone(house),
        signer,
        controllers,
        next: since.max(1),
        ready: VecDeque::new(),
        ended: false,
    })
}

impl Replay {
    /// The next record; after the last one an empty one with the position to ask from again, then nothing.
    pub async fn next(&mut self) -> Option<Result<ReplayItem, CallRefusal>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            if self.next > self.end {
                return (!std::mem::replace(&mut self.ended, true)).then(|| {
                    Ok(ReplayItem {
                        position: self.end,
                        topic: String::new(),
                        key: String::new(),
                        headers: vec![],
                        record: Bytes::new(),
                    })
                });
            }
            let number = EventNumber(self.next);
            self.next = self.next.saturating_add(1);
            let records = match self.records(number).await {
                Ok(records) => records,
                Err(error) => return Some(Err(error.for_call())),
            };
            for record in records {
                match self.item(number, record) {
                    Ok(item) => self.ready.push_back(item),
                    Err(error) => return Some(Err(crate::EngineError::from(error).for_call())),
                }
            }
        }
    }

    async fn records(&self, number: EventNumber) -> Result<Vec<Outgoing>, crate::EngineError> {
        let Some(event) = self.house.event(number).await? else { return Ok(vec![]) };
        announce::records(&self.house, number, &event, Some(&self.controllers)).await
    }

    fn item(&self, number: EventNumber, record: Outgoing) -> Result<ReplayItem, cloakroom_bus::BusError> {
        let signed = record.signed(&self.signer)?;
        let text = |(name, value): (String, Bytes)| {
            let value = if name == "sig" {
                data_encoding::HEXLOWER.encode(&value)
            } else {
                String::from_utf8_lossy(&value).into_owned()
            };
            (name, value)
        };
        Ok(ReplayItem {
            position: number.0,
            topic: signed.topic,
            key: signed.key,
            headers: signed.headers.into_iter().map(text).collect(),
            record: signed.value,
        })
    }
}
