//! Events between what decides (`core`) and what disk holds (`record/v1`). Golden bytes are tested here.

use bytes::Bytes;
use cloakroom_core::event::{
    AccessFileSealed, Ack, AckStatus, AcksCollected, Body, DoomedValue, DownstreamRegistered,
    ErasureCompleted, ErasureRequested, Event, FactRecorded, KeyBackupEnded, KeysBackedUp, KeysDestroyed,
    KeysRestored, Outcome, RegisterApplied, RequestRemembered, Shape, Started, SubjectCreated, SystemKeyKind,
    SystemKeyMade, ValueRectified, ValueStored, ValuesReleased,
};
use cloakroom_core::ids::{
    CommitPosition, EventNumber, FramePosition, RootId, Slot, SlotRange, StartId, SubjectNumber, Subtree,
    TreeId,
};
use cloakroom_core::refusal::Code;
use cloakroom_proto::record::v1 as record;
use prost::Message;

const VERSION: u32 = 1;

/// What lies in the log is not an event that this version knows.
#[derive(Debug, thiserror::Error)]
#[error("event {number} does not read: {what}")]
pub struct Unreadable {
    /// Which event.
    pub number: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

/// An event as the log holds it.
pub fn encode(event: &Event) -> Bytes {
    let body = match &event.body {
        Body::Started(it) => record::event::Body::Started(record::Started {
            start_id: copy(&it.start.0),
            tree_id: copy(&it.tree.0),
            software: it.software.clone(),
            owner_number: it.owner,
            abandons: it.abandons.map(|lacking| record::FramePosition {
                start_id: copy(&lacking.start.0),
                number: lacking.number,
            }),
        }),
        Body::SystemKeyMade(it) => record::event::Body::SystemKeyMade(record::SystemKeyMade {
            kind: match it.kind {
                SystemKeyKind::Address => record::SystemKeyKind::Address,
                SystemKeyKind::Signing => record::SystemKeyKind::Signing,
                SystemKeyKind::Idempotency => record::SystemKeyKind::Idempotency,
            }
            .into(),
            slot: slot(it.slot),
            verifying_key: it.verifying_key.clone(),
        }),
        Body::RegisterApplied(it) => record::event::Body::RegisterApplied(record::RegisterApplied {
            controller: it.controller.clone(),
            version: it.version,
            toml: it.toml.clone(),
            principal: it.principal.clone(),
            subtree: it.subtree.0,
        }),
        Body::SubjectCreated(it) => record::event::Body::SubjectCreated(record::SubjectCreated {
            controller: it.controller.clone(),
            bits: it.bits,
        }),
        Body::ValueStored(it) => record::event::Body::ValueStored(stored(it)),
        Body::ValueRectified(it) => record::event::Body::ValueRectified(record::ValueRectified {
            subject: it.subject.0,
            previous: it.previous.0,
            value: it.value.0,
            value_version: it.value_version,
            former: slot(it.former),
            slot: slot(it.slot),
            sealed: it.sealed.clone(),
            bits: it.bits,
        }),
        Body::ValuesReleased(it) => record::event::Body::ValuesReleased(record::ValuesReleased {
            controller: it.controller.clone(),
            subject: it.subject.0,
            previous: it.previous.0,
            values: doomed(&it.values),
            deadline_unix_ms: it.deadline,
            downstreams: it.downstreams.clone(),
        }),
        Body::FactRecorded(it) => record::event::Body::FactRecorded(record::FactRecorded {
            subject: it.subject.0,
            previous: it.previous.0,
            activity: it.activity.clone(),
            kind: it.kind,
            holds_unix_ms: it.holds,
        }),
        Body::RequestRemembered(it) => record::event::Body::RequestRemembered(remembered(it)),
        Body::ErasureRequested(it) => record::event::Body::ErasureRequested(requested(it)),
        Body::KeysDestroyed(it) => record::event::Body::KeysDestroyed(record::KeysDestroyed {
            fences: it.fences.iter().map(|fence| fence.0).collect(),
            epoch: it.epoch,
            destroy_class: it.destroy_class.clone(),
            later: it.later.iter().map(|(fence, at)| later(*fence, *at)).collect(),
        }),
        Body::KeysBackedUp(it) => record::event::Body::KeysBackedUp(record::KeysBackedUp {
            root_id: copy(&it.root.0),
            epoch: it.epoch,
            at: commit(it.at),
            ends: it.ends.iter().map(|(subtree, end)| subtree_end(*subtree, *end)).collect(),
            until_unix_ms: it.until,
            principal: it.principal.clone(),
        }),
        Body::KeyBackupEnded(it) => record::event::Body::KeyBackupEnded(record::KeyBackupEnded {
            backups: it.backups.iter().map(|backup| backup.0).collect(),
            epoch: it.epoch,
            destroy_class: it.destroy_class.clone(),
            fences: it.fences.iter().map(|fence| fence.0).collect(),
        }),
        Body::KeysRestored(it) => record::event::Body::KeysRestored(record::KeysRestored {
            root_id: copy(&it.root.0),
            at: commit(it.at),
            lacking: it.lacking.iter().map(slot_range).collect(),
            principal: it.principal.clone(),
        }),
        Body::AccessFileSealed(it) => record::event::Body::AccessFileSealed(record::AccessFileSealed {
            first_entry: it.first_entry,
            entries: it.entries,
            sha256: copy(&it.sha256),
        }),
        Body::AcksCollected(it) => record::event::Body::AcksCollected(record::AcksCollected {
            fence: it.fence.0,
            previous: it.previous.0,
            acks: it.acks.iter().map(ack).collect(),
        }),
        Body::ErasureCompleted(it) => record::event::Body::ErasureCompleted(record::ErasureCompleted {
            fence: it.fence.0,
            previous: it.previous.0,
            with_expiry: it.with_expiry,
            certificate: it.certificate.clone(),
        }),
        Body::ErasureOverdue { fence, previous } => {
            record::event::Body::ErasureOverdue(record::ErasureOverdue {
                fence: fence.0,
                previous: previous.0,
            })
        }
        Body::ErasureRedriven { fence, previous, principal } => {
            record::event::Body::ErasureRedriven(record::ErasureRedriven {
                fence: fence.0,
                previous: previous.0,
                principal: principal.clone(),
            })
        }
        Body::DownstreamRegistered(it) => {
            record::event::Body::DownstreamRegistered(record::DownstreamRegistered {
                downstream: it.downstream.clone(),
                verifying_key: it.verifying_key.clone(),
                copies_tree_id: it.copies_tree_id.clone(),
                destroy_class: it.destroy_class.clone(),
                principal: it.principal.clone(),
            })
        }
    };
    record::Event { version: VERSION, at_unix_ms: event.at, body: Some(body) }.encode_to_vec().into()
}

/// Reads an event of the log.
///
/// # Errors
/// [`Unreadable`] for anything that [`encode`] does not write.
pub fn decode(number: EventNumber, bytes: Bytes) -> Result<Event, Unreadable> {
    let bad = |what| Unreadable { number: number.0, what };
    let read = record::Event::decode(bytes).map_err(|_| bad("encoding"))?;
    if read.version != VERSION {
        return Err(bad("version"));
    }
    let body = decode_body(read.body.ok_or(bad("body"))?).map_err(bad)?;
    Ok(Event { at: read.at_unix_ms, body })
}

fn decode_body(body: record::event::Body) -> Result<Body, &'static str> {
    use record::event::Body as Read;
    Ok(match body {
        Read::Started(it) => Body::Started(Started {
            start: StartId::from_slice(&it.start_id).ok_or("start id")?,
            tree: TreeId::from_slice(&it.tree_id).ok_or("tree id")?,
            software: it.software,
            owner: it.owner_number,
            abandons: it.abandons.map(position).transpose()?,
        }),
        Read::SystemKeyMade(it) => Body::SystemKeyMade(SystemKeyMade {
            kind: match it.kind() {
                record::SystemKeyKind::Address => SystemKeyKind::Address,
                record::SystemKeyKind::Signing => SystemKeyKind::Signing,
                record::SystemKeyKind::Idempotency => SystemKeyKind::Idempotency,
                record::SystemKeyKind::Unspecified => return Err("key kind"),
            },
            slot: read_slot(it.slot)?,
            verifying_key: it.verifying_key,
        }),
        Read::RegisterApplied(it) => Body::RegisterApplied(RegisterApplied {
            controller: it.controller,
            version: it.version,
            toml: it.toml,
            principal: it.principal,
            subtree: Subtree(it.subtree),
        }),
        Read::SubjectCreated(it) => {
            Body::SubjectCreated(SubjectCreated { controller: it.controller, bits: it.bits })
        }
        Read::ValueStored(it) => Body::ValueStored(read_stored(it)?),
        Read::ValueRectified(it) => Body::ValueRectified(ValueRectified {
            subject: SubjectNumber(it.subject),
            previous: EventNumber(it.previous),
            value: EventNumber(it.value),
            value_version: it.value_version,
            former: read_slot(it.former)?,
            slot: read_slot(it.slot)?,
            sealed: it.sealed,
            bits: it.bits,
        }),
        Read::ValuesReleased(it) => Body::ValuesReleased(ValuesReleased {
            controller: it.controller,
            subject: SubjectNumber(it.subject),
            previous: EventNumber(it.previous),
            values: read_doomed(it.values)?,
            deadline: it.deadline_unix_ms,
            downstreams: it.downstreams,
        }),
        Read::FactRecorded(it) => Body::FactRecorded(FactRecorded {
            subject: SubjectNumber(it.subject),
            previous: EventNumber(it.previous),
            activity: it.activity,
            kind: it.kind,
            holds: it.holds_unix_ms,
        }),
        Read::RequestRemembered(it) => Body::RequestRemembered(read_remembered(it)?),
        Read::ErasureRequested(it) => Body::ErasureRequested(read_requested(it)?),
        Read::KeysDestroyed(it) => Body::KeysDestroyed(KeysDestroyed {
            fences: it.fences.into_iter().map(EventNumber).collect(),
            epoch: it.epoch,
            destroy_class: it.destroy_class,
            later: it
                .later
                .into_iter()
                .map(|later| (EventNumber(later.fence), later.final_at_unix_ms))
                .collect(),
        }),
        Read::KeysBackedUp(it) => Body::KeysBackedUp(KeysBackedUp {
            root: RootId::from_slice(&it.root_id).ok_or("root id")?,
            epoch: it.epoch,
            at: read_commit(it.at)?,
            ends: it.ends.into_iter().map(|end| (Subtree(end.subtree), end.end)).collect(),
            until: it.until_unix_ms,
            principal: it.principal,
        }),
        Read::KeyBackupEnded(it) => Body::KeyBackupEnded(KeyBackupEnded {
            backups: it.backups.into_iter().map(EventNumber).collect(),
            epoch: it.epoch,
            destroy_class: it.destroy_class,
            fences: it.fences.into_iter().map(EventNumber).collect(),
        }),
        Read::KeysRestored(it) => Body::KeysRestored(KeysRestored {
            root: RootId::from_slice(&it.root_id).ok_or("root id")?,
            at: read_commit(it.at)?,
            lacking: it.lacking.iter().map(read_slot_range).collect(),
            principal: it.principal,
        }),
        Read::AccessFileSealed(it) => Body::AccessFileSealed(AccessFileSealed {
            first_entry: it.first_entry,
            entries: it.entries,
            sha256: it.sha256.as_ref().try_into().map_err(|_| "sha-256")?,
        }),
        Read::AcksCollected(it) => Body::AcksCollected(AcksCollected {
            fence: EventNumber(it.fence),
            previous: EventNumber(it.previous),
            acks: it.acks.into_iter().map(read_ack).collect::<Result<_, _>>()?,
        }),
        Read::ErasureCompleted(it) => Body::ErasureCompleted(ErasureCompleted {
            fence: EventNumber(it.fence),
            previous: EventNumber(it.previous),
            with_expiry: it.with_expiry,
            certificate: it.certificate,
        }),
        Read::ErasureOverdue(it) => {
            Body::ErasureOverdue { fence: EventNumber(it.fence), previous: EventNumber(it.previous) }
        }
        Read::ErasureRedriven(it) => Body::ErasureRedriven {
            fence: EventNumber(it.fence),
            previous: EventNumber(it.previous),
            principal: it.principal,
        },
        Read::DownstreamRegistered(it) => Body::DownstreamRegistered(DownstreamRegistered {
            downstream: it.downstream,
            verifying_key: it.verifying_key,
            copies_tree_id: it.copies_tree_id,
            destroy_class: it.destroy_class,
            principal: it.principal,
        }),
    })
}

fn later(fence: EventNumber, at: i64) -> record::LaterFinal {
    record::LaterFinal { fence: fence.0, final_at_unix_ms: at }
}

fn commit(at: CommitPosition) -> Option<record::CommitPosition> {
    Some(record::CommitPosition { start_id: copy(&at.start.0), number: at.number })
}

fn read_commit(at: Option<record::CommitPosition>) -> Result<CommitPosition, &'static str> {
    let at = at.ok_or("commit")?;
    let start = StartId::from_slice(&at.start_id).ok_or("start id")?;
    Ok(CommitPosition { start, number: at.number })
}

fn subtree_end(subtree: Subtree, end: u64) -> record::SubtreeEnd {
    record::SubtreeEnd { subtree: subtree.0, end }
}

fn slot_range(range: &SlotRange) -> record::SlotRange {
    record::SlotRange { subtree: range.subtree.0, first: range.first, end: range.end }
}

fn read_slot_range(range: &record::SlotRange) -> SlotRange {
    SlotRange { subtree: Subtree(range.subtree), first: range.first, end: range.end }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn slot(slot: Slot) -> Option<record::Slot> {
    Some(record::Slot { subtree: slot.subtree.0, index: slot.index })
}

fn position(position: record::FramePosition) -> Result<FramePosition, &'static str> {
    let start = StartId::from_slice(&position.start_id).ok_or("start id")?;
    Ok(FramePosition { start, number: position.number })
}

fn read_slot(slot: Option<record::Slot>) -> Result<Slot, &'static str> {
    slot.map(|slot| Slot { subtree: Subtree(slot.subtree), index: slot.index }).ok_or("slot")
}

fn stored(it: &ValueStored) -> record::ValueStored {
    record::ValueStored {
        controller: it.controller.clone(),
        subject: it.subject.0,
        previous: it.previous.0,
        activity: it.activity.clone(),
        field: it.field.clone(),
        bits: it.bits,
        shape: match it.shape {
            Shape::Opaque => record::TokenShape::Opaque,
            Shape::Email => record::TokenShape::Email,
            Shape::Phone => record::TokenShape::Phone,
            Shape::Digits => record::TokenShape::Digits,
            Shape::Uuid => record::TokenShape::Uuid,
        }
        .into(),
        short_token: it.short_token.clone(),
        slot: slot(it.slot),
        sealed: it.sealed.clone(),
        subject_bits: it.subject_bits,
    }
}

fn read_stored(it: record::ValueStored) -> Result<ValueStored, &'static str> {
    Ok(ValueStored {
        shape: match it.shape() {
            record::TokenShape::Opaque => Shape::Opaque,
            record::TokenShape::Email => Shape::Email,
            record::TokenShape::Phone => Shape::Phone,
            record::TokenShape::Digits => Shape::Digits,
            record::TokenShape::Uuid => Shape::Uuid,
            record::TokenShape::Unspecified => return Err("shape"),
        },
        controller: it.controller,
        subject: SubjectNumber(it.subject),
        subject_bits: it.subject_bits,
        previous: EventNumber(it.previous),
        activity: it.activity,
        field: it.field,
        bits: it.bits,
        short_token: it.short_token,
        slot: read_slot(it.slot)?,
        sealed: it.sealed,
    })
}

fn doomed(values: &[DoomedValue]) -> Vec<record::DoomedValue> {
    values
        .iter()
        .map(|doomed| record::DoomedValue { value: doomed.value.0, slot: slot(doomed.slot) })
        .collect()
}

fn read_doomed(values: Vec<record::DoomedValue>) -> Result<Vec<DoomedValue>, &'static str> {
    values
        .into_iter()
        .map(|doomed| Ok(DoomedValue { value: EventNumber(doomed.value), slot: read_slot(doomed.slot)? }))
        .collect()
}

fn remembered(it: &RequestRemembered) -> record::RequestRemembered {
    use record::remembered_item::Outcome as Kept;
    let item = |outcome: &Outcome| record::RememberedItem {
        outcome: Some(match outcome {
            Outcome::Value(value) => Kept::Value(value.0),
            Outcome::Refused(code) => Kept::Error(*code as u32),
            Outcome::Erasure(fence) => Kept::Erasure(fence.0),
        }),
    };
    record::RequestRemembered {
        key_mac: copy(&it.key_mac),
        day_key: it.day_key.0,
        items: it.items.iter().map(item).collect(),
        verb: it.verb.clone(),
        controller: it.controller.clone(),
        activity: it.activity.clone(),
    }
}

fn read_remembered(it: record::RequestRemembered) -> Result<RequestRemembered, &'static str> {
    use record::remembered_item::Outcome as Kept;
    let item = |item: record::RememberedItem| match item.outcome {
        Some(Kept::Value(value)) => Ok(Outcome::Value(EventNumber(value))),
        Some(Kept::Error(code)) => Code::from_number(code).map(Outcome::Refused).ok_or("code"),
        Some(Kept::Erasure(fence)) => Ok(Outcome::Erasure(EventNumber(fence))),
        None => Err("outcome"),
    };
    Ok(RequestRemembered {
        key_mac: it.key_mac.as_ref().try_into().map_err(|_| "key mac")?,
        day_key: EventNumber(it.day_key),
        items: it.items.into_iter().map(item).collect::<Result<_, _>>()?,
        verb: it.verb,
        controller: it.controller,
        activity: it.activity,
    })
}

fn requested(it: &ErasureRequested) -> record::ErasureRequested {
    record::ErasureRequested {
        controller: it.controller.clone(),
        subject: it.subject.0,
        previous: it.previous.0,
        bits: it.bits,
        activities: it.activities.clone(),
        actor: it.actor.clone(),
        reason: it.reason.clone(),
        legal_basis: it.legal_basis,
        principal: it.principal.clone(),
        values: doomed(&it.values),
        downstreams: it.downstreams.clone(),
        deadline_unix_ms: it.deadline,
        subject_commitment: copy(&it.subject_commitment),
    }
}

fn read_requested(it: record::ErasureRequested) -> Result<ErasureRequested, &'static str> {
    Ok(ErasureRequested {
        controller: it.controller,
        subject: SubjectNumber(it.subject),
        previous: EventNumber(it.previous),
        bits: it.bits,
        activities: it.activities,
        actor: it.actor,
        reason: it.reason,
        legal_basis: it.legal_basis,
        principal: it.principal,
        values: read_doomed(it.values)?,
        downstreams: it.downstreams,
        deadline: it.deadline_unix_ms,
        subject_commitment: it.subject_commitment.as_ref().try_into().map_err(|_| "subject commitment")?,
    })
}

/// The numbers of `cloakroom.bus.v1.AckStatus`, on the bus and on disk; 0 is for "nothing said".
pub fn status_number(status: AckStatus) -> u32 {
    match status {
        AckStatus::Waiting => 0,
        AckStatus::Received => 1,
        AckStatus::InProgress => 2,
        AckStatus::Purged => 3,
        AckStatus::NothingHeld => 4,
        AckStatus::Refused => 5,
        AckStatus::Failed => 6,
        AckStatus::AwaitingExpiry => 7,
    }
}

/// The status of that number; none for 0 and for numbers of a later version.
pub fn status_of(number: u32) -> Option<AckStatus> {
    use AckStatus::{AwaitingExpiry, Failed, InProgress, NothingHeld, Purged, Received, Refused};
    [Received, InProgress, Purged, NothingHeld, Refused, Failed, AwaitingExpiry]
        .into_iter()
        .find(|status| status_number(*status) == number)
}

fn ack(it: &Ack) -> record::CollectedAck {
    record::CollectedAck {
        value_index: it.value_index,
        downstream: it.downstream.clone(),
        status: status_number(it.status),
        purged_count: it.purged_count,
        evidence: it.evidence.clone(),
        reason: it.reason.clone(),
        until_unix_ms: it.until,
        at_unix_ms: it.at,
    }
}

fn read_ack(it: record::CollectedAck) -> Result<Ack, &'static str> {
    Ok(Ack {
        value_index: it.value_index,
        downstream: it.downstream,
        status: status_of(it.status).ok_or("status")?,
        purged_count: it.purged_count,
        evidence: it.evidence,
        reason: it.reason,
        until: it.until_unix_ms,
        at: it.at_unix_ms,
    })
}
