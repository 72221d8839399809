//! The access log: every read and every refusal, handed to the system before the answer.

use bytes::Bytes;
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_proto::record::v1 as record;
use prost::Message;

use crate::EngineError;
use crate::house::House;

const VERSION: u32 = 1;

/// One call that reads.
pub(crate) struct Reads<'a> {
    pub(crate) principal: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) controller: &'a str,
    pub(crate) purpose: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) masked: bool,
    pub(crate) trace: [u8; 16],
    pub(crate) items: Vec<Read>,
}

/// One token of it.
pub(crate) struct Read {
    /// What the token led to.
    pub(crate) value: Option<EventNumber>,
    /// Why it was refused; none if it was given.
    pub(crate) outcome: Option<Code>,
    pub(crate) field: String,
}

impl Read {
    pub(crate) fn nowhere(code: Code) -> Self {
        Self { value: None, outcome: Some(code), field: String::new() }
    }
}

impl House {
    /// # Errors
    /// A read that cannot be recorded is not answered.
    pub(crate) async fn record(&self, reads: &Reads<'_>) -> Result<(), CallRefusal> {
        let item = |read: &Read| record::AccessItem {
            value: read.value.map_or(0, |number| number.0),
            outcome: read.outcome.map_or(0, |code| code as u32),
            field: read.field.clone(),
        };
        let entry = record::Access {
            version: VERSION,
            at_unix_ms: self.clock.now_unix_ms(),
            principal: reads.principal.to_owned(),
            verb: reads.verb.to_owned(),
            controller: reads.controller.to_owned(),
            purpose: reads.purpose.to_owned(),
            reason: reads.reason.to_owned(),
            trace_id: Bytes::copy_from_slice(&reads.trace),
            items: reads.items.iter().map(item).collect(),
            masked: reads.masked,
        };
        self.access.append(&entry.encode_to_vec()).await.map_err(|error| EngineError::from(error).for_call())
    }
}
