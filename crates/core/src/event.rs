//! What has happened. The log is a sequence of these; everything else can be rebuilt from it.

use bytes::Bytes;

use crate::clock::UnixMs;
use crate::ids::{
    CommitPosition, EventNumber, FramePosition, RootId, Slot, SlotRange, StartId, SubjectNumber, Subtree,
    TreeId,
};

/// An event with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it was written.
    pub at: UnixMs,
    /// What happened.
    pub body: Body,
}

/// What happened. Past tense; field by field as in record/v1.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // said in proto/cloakroom/record/v1, where the bytes are
pub enum Body {
    Started(Started),
    SystemKeyMade(SystemKeyMade),
    RegisterApplied(RegisterApplied),
    SubjectCreated(SubjectCreated),
    ValueStored(ValueStored),
    ValueRectified(ValueRectified),
    ValuesReleased(ValuesReleased),
    FactRecorded(FactRecorded),
    RequestRemembered(RequestRemembered),
    ErasureRequested(ErasureRequested),
    KeysDestroyed(KeysDestroyed),
    AcksCollected(AcksCollected),
    ErasureCompleted(ErasureCompleted),
    ErasureOverdue { fence: EventNumber, previous: EventNumber },
    ErasureRedriven { fence: EventNumber, previous: EventNumber, principal: String },
    DownstreamRegistered(DownstreamRegistered),
    KeysBackedUp(KeysBackedUp),
    KeyBackupEnded(KeyBackupEnded),
    KeysRestored(KeysRestored),
    AccessFileSealed(AccessFileSealed),
}

/// A start of the vault.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// Unlike any other start's.
    pub start: StartId,
    /// The key tree that the log belongs to.
    pub tree: TreeId,
    /// The vault's version.
    pub software: String,
    /// The owner's number.
    pub owner: u64,
    /// Where an older log was accepted: the newest frame that the keys had recorded and this log lacks.
    pub abandons: Option<FramePosition>,
}

/// What a slot of the system subtree is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SystemKeyKind {
    /// Encrypts addresses.
    Address,
    /// Signs certificates and announcements.
    Signing,
    /// Keys the HMAC over callers' idempotency keys, for one day.
    Idempotency,
}

/// A key of the vault's own was made.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemKeyMade {
    /// What for.
    pub kind: SystemKeyKind,
    /// Where it lies.
    pub slot: Slot,
    /// For signing keys: 32 bytes.
    pub verifying_key: Bytes,
}

/// A controller's register came into force.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterApplied {
    /// Whose.
    pub controller: String,
    /// Counted from 1.
    pub version: u32,
    /// Its text.
    pub toml: String,
    /// Who applied it.
    pub principal: String,
    /// The controller's part of the tree.
    pub subtree: Subtree,
}

/// A person is known.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectCreated {
    /// Whose customer.
    pub controller: String,
    /// The random half of the subject id.
    pub bits: u64,
}

/// What a token looks like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Shape {
    /// `tok_` and 26 characters.
    #[default]
    Opaque,
    /// An address under the controller's token domain.
    Email,
    /// E.164 under +999.
    Phone,
    /// Digits, as many as the value has.
    Digits,
    /// A random UUID.
    Uuid,
}

/// A value came in.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct ValueStored {
    pub controller: String,
    pub subject: SubjectNumber,
    pub subject_bits: u64,
    pub previous: EventNumber,
    pub activity: String,
    pub field: String,
    pub bits: u64,
    pub shape: Shape,
    pub short_token: String,
    pub slot: Slot,
    pub sealed: Bytes,
}

/// A fence: a token stands for a new value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct ValueRectified {
    pub subject: SubjectNumber,
    pub previous: EventNumber,
    pub value: EventNumber,
    pub value_version: u32,
    pub former: Slot,
    pub slot: Slot,
    pub sealed: Bytes,
    pub bits: u64,
}

/// A value that a fence condemns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoomedValue {
    /// Its `ValueStored` event.
    pub value: EventNumber,
    /// Where its key lies now.
    pub slot: Slot,
}

/// A fence: single tokens are forgotten.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct ValuesReleased {
    pub controller: String,
    pub subject: SubjectNumber,
    pub previous: EventNumber,
    pub values: Vec<DoomedValue>,
    pub deadline: UnixMs,
    pub downstreams: Vec<String>,
}

/// A fact that a retention period counts from.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct FactRecorded {
    pub subject: SubjectNumber,
    pub previous: EventNumber,
    pub activity: String,
    pub kind: u32,
    pub holds: UnixMs,
}

/// What an idempotency key led to.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct RequestRemembered {
    pub key_mac: [u8; 32],
    pub day_key: EventNumber,
    pub items: Vec<Outcome>,
    pub verb: String,
    pub controller: String,
    pub activity: String,
}

/// What one item of a remembered request led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The `ValueStored` event whose token was given.
    Value(EventNumber),
    /// A refusal, by its code.
    Refused(crate::refusal::Code),
    /// The `ErasureRequested` event.
    Erasure(EventNumber),
}

/// A fence, and an erasure's first event.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct ErasureRequested {
    pub controller: String,
    pub subject: SubjectNumber,
    pub previous: EventNumber,
    pub bits: u64,
    /// Empty: all.
    pub activities: Vec<String>,
    pub actor: String,
    pub reason: String,
    pub legal_basis: u32,
    pub principal: String,
    pub values: Vec<DoomedValue>,
    pub downstreams: Vec<String>,
    pub deadline: UnixMs,
    pub subject_commitment: [u8; 32],
}

/// Closes fences.
#[derive(Clone, Debug, PartialEq)]
pub struct KeysDestroyed {
    /// Which.
    pub fences: Vec<EventNumber>,
    /// The root that is now the only one.
    pub epoch: u64,
    /// What the destruction of the former ones is worth.
    pub destroy_class: String,
    /// Which of them a key backup reaches, and when the last such escrow ends.
    pub later: Vec<(EventNumber, UnixMs)>,
}

/// The key tree was copied, its root is in escrow, and another one in its place.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct KeysBackedUp {
    pub root: RootId,
    pub epoch: u64,
    pub at: CommitPosition,
    pub ends: Vec<(Subtree, u64)>,
    pub until: UnixMs,
    pub principal: String,
}

/// Roots in escrow are destroyed and probed: what was erased under them is final.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct KeyBackupEnded {
    pub backups: Vec<EventNumber>,
    pub epoch: u64,
    pub destroy_class: String,
    pub fences: Vec<EventNumber>,
}

/// The key tree went on from a key backup.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct KeysRestored {
    pub root: RootId,
    pub at: CommitPosition,
    pub lacking: Vec<SlotRange>,
    pub principal: String,
}

/// A file of the access log is full: from here on it holds what it held then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessFileSealed {
    /// The number of its first entry, counted from 0.
    pub first_entry: u64,
    /// How many it holds.
    pub entries: u64,
    /// Of the whole file.
    pub sha256: [u8; 32],
}

/// What a downstream says about one token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AckStatus {
    /// Has not said anything.
    Waiting,
    /// Could not; will not try again by itself.
    Failed,
    /// Will not.
    Refused,
    /// Knows of it.
    Received,
    /// Is at it.
    InProgress,
    /// Ends by itself at a date.
    AwaitingExpiry,
    /// Purged its copies.
    Purged,
    /// Had none.
    NothingHeld,
}

impl AckStatus {
    /// Whether this downstream owes nothing more about the token.
    pub fn is_final(self) -> bool {
        self >= AckStatus::AwaitingExpiry
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct Ack {
    pub value_index: u32,
    pub downstream: String,
    pub status: AckStatus,
    pub purged_count: u32,
    pub evidence: String,
    pub reason: String,
    pub until: UnixMs,
    pub at: UnixMs,
}

/// Answers of downstreams about one fence.
#[derive(Clone, Debug, PartialEq)]
pub struct AcksCollected {
    /// Which.
    pub fence: EventNumber,
    /// Its newest event before this.
    pub previous: EventNumber,
    /// In the order in which they came.
    pub acks: Vec<Ack>,
}

/// Every required downstream has answered for every value.
#[derive(Clone, Debug, PartialEq)]
pub struct ErasureCompleted {
    /// Which fence.
    pub fence: EventNumber,
    /// Its newest event before this.
    pub previous: EventNumber,
    /// Some copy ends by expiry.
    pub with_expiry: bool,
    /// A compact JWS; empty for releases.
    pub certificate: String,
}

/// A downstream has made itself known.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // as in record/v1
pub struct DownstreamRegistered {
    pub downstream: String,
    pub verifying_key: Bytes,
    pub copies_tree_id: String,
    pub destroy_class: String,
    pub principal: String,
}

impl Body {
    /// The aggregate whose chain this event is part of, and the event before it there. The first event of an
    /// aggregate names none: its own number is the aggregate's.
    pub fn chain(&self) -> Option<(EventNumber, EventNumber)> {
        let subject = |number: SubjectNumber| EventNumber(number.0);
        match self {
            Body::ValueStored(event) => Some((subject(event.subject), event.previous)),
            Body::ValueRectified(event) => Some((subject(event.subject), event.previous)),
            Body::ValuesReleased(event) => Some((subject(event.subject), event.previous)),
            Body::FactRecorded(event) => Some((subject(event.subject), event.previous)),
            Body::ErasureRequested(event) => Some((subject(event.subject), event.previous)),
            Body::AcksCollected(event) => Some((event.fence, event.previous)),
            Body::ErasureCompleted(event) => Some((event.fence, event.previous)),
            Body::ErasureOverdue { fence, previous } | Body::ErasureRedriven { fence, previous, .. } => {
                Some((*fence, *previous))
            }
            _ => None,
        }
    }

    /// The slots that this event names as filled.
    pub fn fills(&self) -> Option<Slot> {
        match self {
            Body::SystemKeyMade(event) => Some(event.slot),
            Body::ValueStored(event) => Some(event.slot),
            Body::ValueRectified(event) => Some(event.slot),
            _ => None,
        }
    }

    /// The slots that this event condemns: what makes it a fence.
    pub fn dooms(&self) -> Vec<Slot> {
        match self {
            Body::ValueRectified(event) => vec![event.former],
            Body::ValuesReleased(event) => event.values.iter().map(|doomed| doomed.slot).collect(),
            Body::ErasureRequested(event) => event.values.iter().map(|doomed| doomed.slot).collect(),
            _ => vec![],
        }
    }

    /// Whether this event must be closed by a batch.
    pub fn is_fence(&self) -> bool {
        matches!(self, Body::ValueRectified(_) | Body::ValuesReleased(_) | Body::ErasureRequested(_))
    }
}
