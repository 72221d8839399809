//! What an erasure certificate says. No personal data: the subject is a salted commitment.

use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::erasure::Erasure;
use crate::event::AckStatus;

/// `typ` in the certificate's header.
pub const TYP: &str = "erasure-certificate+jwt";

/// The payload of the JWS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Format of this payload.
    pub version: u32,
    /// `era_...`
    pub erasure_id: String,
    /// Whose customer.
    pub controller: String,
    /// `all`, or the activities.
    pub scope: Vec<String>,
    /// Hex; opened by the salt that was given with the answer to the request.
    pub subject_commitment: String,
    /// Ids, never names.
    pub actor: String,
    /// A case or ticket id.
    pub reason: String,
    /// The ground of GDPR Art. 17(1), by its number there: `17.1.a` to `17.1.f`.
    pub legal_basis: String,
    /// How many values died.
    pub values_destroyed: usize,
    /// When it was asked for and the fence stood.
    pub fenced_unix_ms: UnixMs,
    /// When every former root was destroyed and probed.
    pub destroyed_unix_ms: UnixMs,
    /// When the last downstream had answered.
    pub completed_unix_ms: UnixMs,
    /// From when on no copy of the keys can yield the values: the end of the last key backup's escrow that reaches
    /// them, or when they were destroyed.
    pub final_at_unix_ms: UnixMs,
    /// The root that replaced those that could.
    pub epoch: u64,
    /// What the root holder's destruction is worth.
    pub destroy_class: String,
    /// Who purged.
    pub downstreams: Vec<Purger>,
    /// Where the fence stands in the log.
    pub log: Leaf,
    /// That fence and destruction are in the log; certificates made before the log could prove have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<LogProof>,
}

/// One downstream's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Purger {
    /// Its id in the register.
    pub downstream: String,
    /// PURGED, NOTHING_HELD, or AWAITING_EXPIRY with its date.
    pub status: String,
    /// Copies that it purged.
    pub copies_purged: u32,
    /// What it gave as evidence.
    pub evidence: String,
    /// When it had answered for all.
    pub answered_unix_ms: UnixMs,
    /// For AWAITING_EXPIRY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_ms: Option<UnixMs>,
}

/// An event's place in the log and its RFC 6962 leaf hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leaf {
    /// Counted from 0, as RFC 6962 does.
    pub index: u64,
    /// Hex.
    pub hash: String,
}

/// Shows, under the log's own signature, that an erasure's events are in it (RFC 6962).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogProof {
    /// What the log said of itself when both were in it: a signed note (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// The event from which on the values were unreadable.
    pub fence: Inclusion,
    /// The event that says that every former root was destroyed and probed.
    pub destroyed: Inclusion,
}

/// That one event is in the tree of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inclusion {
    /// Counted from 0.
    pub index: u64,
    /// The leaf hash, hex.
    pub hash: String,
    /// From the leaf's neighbour up to the root's child, hex.
    pub path: Vec<String>,
}

/// A name on the wire, in the CLI and in certificates.
pub fn status_name(status: AckStatus) -> &'static str {
    match status {
        AckStatus::Waiting => "WAITING",
        AckStatus::Failed => "FAILED",
        AckStatus::Refused => "REFUSED",
        AckStatus::Received => "RECEIVED",
        AckStatus::InProgress => "IN_PROGRESS",
        AckStatus::AwaitingExpiry => "AWAITING_EXPIRY",
        AckStatus::Purged => "PURGED",
        AckStatus::NothingHeld => "NOTHING_HELD",
    }
}

impl Certificate {
    /// What can be certified of `erasure` at `completed_at`; `None` while its keys live, and for releases.
    pub fn of(erasure: &Erasure, erasure_id: String, leaf: Leaf, completed_at: UnixMs) -> Option<Self> {
        let request = erasure.request.as_ref()?;
        let destroyed = erasure.destroyed.as_ref()?;
        let downstreams = erasure.downstreams.iter().map(|downstream| {
            let (standing, _, copies_purged) = erasure.standing(downstream);
            Purger {
                downstream: downstream.clone(),
                status: status_name(standing.status).to_owned(),
                copies_purged,
                evidence: standing.evidence,
                answered_unix_ms: standing.at,
                expires_unix_ms: (standing.status == AckStatus::AwaitingExpiry).then_some(standing.until),
            }
        });
        Some(Self {
            version: 1,
            erasure_id,
            controller: erasure.controller.clone(),
            scope: if request.activities.is_empty() {
                vec!["all".to_owned()]
            } else {
                request.activities.clone()
            },
            subject_commitment: request.subject_commitment.iter().map(|byte| format!("{byte:02x}")).collect(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            legal_basis: legal_basis_name(request.legal_basis),
            values_destroyed: erasure.values.len(),
            fenced_unix_ms: erasure.requested_at,
            destroyed_unix_ms: destroyed.at,
            completed_unix_ms: completed_at,
            final_at_unix_ms: destroyed.final_at,
            epoch: destroyed.epoch,
            destroy_class: destroyed.class.clone(),
            downstreams: downstreams.collect(),
            log: leaf,
            proof: None,
        })
    }
}

/// The letter of Art. 17(1) for the number on the wire.
pub fn legal_basis_name(number: u32) -> String {
    match number {
        letter @ 1..=6 => format!("17.1.{}", char::from(b'a' + (letter as u8 - 1))),
        _ => "unstated".to_owned(),
    }
}
