//! A record as it travels: CloudEvents in binary mode (Kafka protocol binding 1.0), signed.
//!
//! Headers `ce_specversion`, `ce_id`, `ce_type`, `ce_source`, `ce_time` and `content-type`; `kid` and `sig`
//! (Ed25519, 64 bytes) over topic, key, every `ce_*` header in the order of their names, and value, each
//! length-prefixed; `traceparent` on notices and acks. Nothing personal in any of them.

use std::collections::HashMap;

use bytes::Bytes;
use cloakroom_core::clock::UnixMs;
use cloakroom_crypto::sign::{self, SigningKey, VerifyingKey};
use jiff::Timestamp;

use crate::error::BusError;
use crate::topics::Kind;

const SPEC_VERSION: &str = "1.0";
const CONTENT_TYPE: &str = "application/protobuf";
/// `version-trace-parent-flags` of W3C Trace Context.
const TRACEPARENT_BYTES: usize = 55;

/// A record to be sent.
#[derive(Clone)]
pub struct Outgoing {
    /// Where to, see [`crate::topics`].
    pub topic: String,
    /// What orders it among others of its topic: token, purge id, tree id or downstream.
    pub key: String,
    /// What it is. Must be what its topic carries.
    pub kind: Kind,
    /// The same for every sending of the same thing, so that a receiver knows it again.
    pub id: String,
    /// When it happened.
    pub time_unix_ms: UnixMs,
    /// The encoded message of `bus/v1`.
    pub value: Bytes,
    /// The W3C `traceparent` it belongs to. Sent on notices and acks only, left out elsewhere.
    pub trace: Option<String>,
}

impl Outgoing {
    /// A record for `topic`. The kind is the topic's.
    ///
    /// # Errors
    /// [`BusError::Malformed`] if `topic` is none of ours.
    pub fn new(
        topic: String,
        key: impl Into<String>,
        id: impl Into<String>,
        time_unix_ms: UnixMs,
        message: &impl prost::Message,
    ) -> Result<Self, BusError> {
        let Some(kind) = Kind::of_topic(&topic) else {
            return Err(BusError::Malformed { topic, part: "topic" });
        };
        let value = message.encode_to_vec().into();
        Ok(Self { topic, key: key.into(), kind, id: id.into(), time_unix_ms, value, trace: None })
    }

    /// What goes over Kafka, for those who ask for it over another way: a replay of the erasure ledger.
    ///
    /// # Errors
    /// [`BusError::Malformed`] as for a publication.
    pub fn signed(self, signer: &crate::Signer) -> Result<Signed, BusError> {
        self.sign(&signer.source, &signer.key)
    }

    /// Its headers and signature.
    pub(crate) fn sign(self, source: &str, key: &SigningKey) -> Result<Signed, BusError> {
        let malformed = |part| BusError::Malformed { topic: self.topic.clone(), part };
        if Kind::of_topic(&self.topic) != Some(self.kind) {
            return Err(malformed("kind"));
        }
        for (part, text) in [("key", self.key.as_str()), ("id", &self.id), ("source", source)] {
            if text.is_empty() {
                return Err(malformed(part));
            }
        }
        let time = Timestamp::from_millisecond(self.time_unix_ms).map_err(|_| malformed("time"))?.to_string();
        let attributes: Vec<(&str, &[u8])> = vec![
            ("ce_id", self.id.as_bytes()),
            ("ce_source", source.as_bytes()),
            ("ce_specversion", SPEC_VERSION.as_bytes()),
            ("ce_time", time.as_bytes()),
            ("ce_type", self.kind.ce_type().as_bytes()),
        ];
        let signature =
            key.sign(&sign::record_bytes(&self.topic, self.key.as_bytes(), &attributes, &self.value));
        let mut headers: Vec<(String, Bytes)> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value)))
            .collect();
        headers.push(("content-type".into(), Bytes::from_static(CONTENT_TYPE.as_bytes())));
        headers.push(("kid".into(), key.verifying_key().kid().into()));
        headers.push(("sig".into(), Bytes::copy_from_slice(&signature)));
        if let Some(trace) =
            self.trace.filter(|trace| self.kind.may_be_traced() && trace.len() == TRACEPARENT_BYTES)
        {
            headers.push(("traceparent".into(), trace.into()));
        }
        Ok(Signed { topic: self.topic, key: self.key, headers, value: self.value })
    }
}

/// A record ready for the wire.
pub struct Signed {
    /// Where to.
    pub topic: String,
    /// What orders it among others of its topic.
    pub key: String,
    /// CloudEvents attributes, `kid` and `sig`.
    pub headers: Vec<(String, Bytes)>,
    /// The encoded message of `bus/v1`.
    pub value: Bytes,
}

/// Where a record stood, as seen by the subscription that received it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// Which connection of the subscription: a broker that was replaced has other offsets.
    pub(crate) connection: u64,
}

impl Position {
    /// Of a record that no subscription received: a way in for fuzzing.
    #[doc(hidden)]
    pub fn nowhere(topic: String) -> Self {
        Self { topic, partition: 0, offset: 0, connection: 0 }
    }
}

/// A record as it arrived. Nothing about it can be trusted before [`verify`].
#[derive(Clone)]
pub struct Incoming {
    /// Where it stood.
    pub position: Position,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<(String, Bytes)>,
    /// The value; empty for a tombstone.
    pub value: Bytes,
}

impl Incoming {
    /// The only header of that name.
    fn header(&self, name: &'static str) -> Result<&Bytes, Refused> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(Refused::Malformed { part: name }),
        }
    }

    fn text(&self, name: &'static str) -> Result<&str, Refused> {
        std::str::from_utf8(self.header(name)?).map_err(|_| Refused::Malformed { part: name })
    }
}

/// A record that its signer really sent to this topic, unchanged.
#[derive(Clone)]
pub struct Verified {
    /// Where it stood.
    pub position: Position,
    /// Token, purge id, tree id or downstream.
    pub key: String,
    /// What it is: what its topic carries.
    pub kind: Kind,
    /// The same for every sending of the same thing.
    pub id: String,
    /// Who says to have sent it.
    pub source: String,
    /// Whose key signed it, as named in the [`Keyring`]. Whether that one may say this is the caller's to check.
    pub signer: String,
    /// When it happened, by the sender's clock.
    pub time_unix_ms: UnixMs,
    /// The encoded message of `bus/v1`.
    pub value: Bytes,
    /// The W3C `traceparent`, on notices and acks. Not signed: good for traces, for nothing else.
    pub trace: Option<String>,
}

impl Verified {
    /// The message.
    ///
    /// # Errors
    /// [`Refused::Malformed`] if it is not one of that type.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, Refused> {
        M::decode(self.value.clone()).map_err(|_| Refused::Malformed { part: "value" })
    }
}

/// Why a record is not believed. The code goes into the dead letter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It has no signature, or something that cannot be one.
    #[error("record is not signed")]
    Unsigned,
    /// Signed by a key that is not known here.
    #[error("record is signed by an unknown key")]
    UnknownKey,
    /// The signature is not that key's, or topic, key, `ce_*` headers or value are not what was signed.
    #[error("record's signature does not fit")]
    BadSignature,
    /// Signed, and yet not as records are.
    #[error("record is malformed: {part}")]
    Malformed {
        /// What of it.
        part: &'static str,
    },
}

impl Refused {
    /// A short code for dead letters and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::UnknownKey => "unknown-key",
            Self::BadSignature => "bad-signature",
            Self::Malformed { .. } => "unreadable",
        }
    }
}

/// The keys that are believed here, by `kid`, each with its owner's name.
#[derive(Default)]
pub struct Keyring(HashMap<String, (String, VerifyingKey)>);

impl Keyring {
    /// Believes `key`, whose owner is `signer`. Old keys stay: records signed before a rotation are still read.
    pub fn insert(&mut self, signer: impl Into<String>, key: VerifyingKey) {
        self.0.insert(key.kid(), (signer.into(), key));
    }

    /// Whether no key is believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S: Into<String>> FromIterator<(S, VerifyingKey)> for Keyring {
    fn from_iter<I: IntoIterator<Item = (S, VerifyingKey)>>(keys: I) -> Self {
        let mut ring = Self::default();
        for (signer, key) in keys {
            ring.insert(signer, key);
        }
        ring
    }
}

/// Checks a record's signature, then its form.
///
/// # Errors
/// [`Refused`], with nothing of the record in it.
pub fn verify(record: Incoming, keyring: &Keyring) -> Result<Verified, Refused> {
    let kid = record.text("kid").map_err(|_| Refused::Unsigned)?;
    let signature: &[u8; 64] =
        record.header("sig").ok().and_then(|sig| sig.as_ref().try_into().ok()).ok_or(Refused::Unsigned)?;
    let (signer, key) = keyring.0.get(kid).ok_or(Refused::UnknownKey)?;

    let topic = &record.position.topic;
    let record_key = record.key.as_deref().unwrap_or_default();
    let mut attributes: Vec<(&str, &[u8])> = record
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("ce_"))
        .map(|(name, value)| (name.as_str(), value.as_ref()))
        .collect();
    attributes.sort_unstable();
    if key.verify(&sign::record_bytes(topic, record_key, &attributes, &record.value), signature).is_err() {
        return Err(Refused::BadSignature);
    }

    let kind =
        Kind::from_ce_type(record.text("ce_type")?).filter(|kind| Kind::of_topic(topic) == Some(*kind));
    let kind = kind.ok_or(Refused::Malformed { part: "ce_type" })?;
    if record.text("ce_specversion")? != SPEC_VERSION {
        return Err(Refused::Malformed { part: "ce_specversion" });
    }
    let time: Timestamp =
        record.text("ce_time")?.parse().map_err(|_| Refused::Malformed { part: "ce_time" })?;
    let key = std::str::from_utf8(record_key).ok().filter(|key| !key.is_empty());
    Ok(Verified {
        key: key.ok_or(Refused::Malformed { part: "key" })?.to_owned(),
        kind,
        id: record.text("ce_id")?.to_owned(),
        source: record.text("ce_source")?.to_owned(),
        signer: signer.clone(),
        time_unix_ms: time.as_millisecond(),
        trace: if kind.may_be_traced() { record.text("traceparent").ok().map(str::to_owned) } else { None },
        value: record.value,
        position: record.position,
    })
}

#[cfg(test)]
mod tests;
