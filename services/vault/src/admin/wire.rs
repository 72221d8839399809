//! What the engine tells officers, as gRPC messages.

use std::sync::Arc;

use cloakroom_core::ids::{FramePosition, StartId};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_engine as engine;
use cloakroom_proto::admin::v1::{
    ApplyRegisterResponse, DoomedToken, Downstream, DownstreamState, Erasure, ErasureState, GetGateResponse,
    GetStatusResponse, KeptActivity, KeyBackup, Keys, LegalBasis, PreviewErasureResponse, PruneLogResponse,
    RegisterDownstreamResponse, ReplayErasuresResponse, VerifyLogResponse, preview_erasure_request,
    request_erasure_request,
};

use crate::gate::{GateView, OWED, advised};

pub(super) fn state(state: engine::ErasureState) -> ErasureState {
    use engine::ErasureState as State;
    match state {
        State::Fenced => ErasureState::Fenced,
        State::KeysDestroyed => ErasureState::KeysDestroyed,
        State::Propagating => ErasureState::Propagating,
        State::Completed => ErasureState::Completed,
        State::CompletedWithExpiry => ErasureState::CompletedWithExpiry,
        State::Overdue => ErasureState::Overdue,
    }
}

/// The frame that is to be accepted as missing; none for an empty id.
///
/// # Errors
/// [`CallRefusal::Invalid`] for an id that is none.
pub(super) fn frame(start_id: &str, number: u64) -> Result<Option<FramePosition>, CallRefusal> {
    if start_id.is_empty() {
        return Ok(None);
    }
    let start = (0..start_id.len().min(32))
        .step_by(2)
        .map(|at| start_id.get(at..at.saturating_add(2)).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<Vec<u8>>>();
    let start = start.filter(|_| start_id.len() == 32).and_then(|bytes| StartId::from_slice(&bytes));
    let start =
        start.ok_or_else(|| CallRefusal::Invalid("accept_start_id: 32 hexadecimal digits".to_owned()))?;
    Ok(Some(FramePosition { start, number }))
}

/// How the gate stands, and what can be done.
pub(super) fn gate(view: GateView) -> GetGateResponse {
    let standing = match view {
        GateView::Open => return GetGateResponse { open: true, ..Default::default() },
        GateView::Closed(standing) => standing,
    };
    let accept = standing.acceptable();
    GetGateResponse {
        open: false,
        reason: standing.closed.as_ref().map_or_else(|| OWED.to_owned(), advised),
        accept_start_id: accept.map(|lacking| lacking.start.to_string()).unwrap_or_default(),
        accept_frame: accept.map_or(0, |lacking| lacking.number),
        frames: standing.frame.map_or(0, |frame| frame.number),
        events: standing.events,
        newest_unix_ms: standing.newest_unix_ms,
        unnamed_slots: standing.unnamed_slots,
        needs_replay: standing.needs_replay(),
        key_backup: standing.key_backup_lacks.is_some(),
        slots_lacking: standing.key_backup_lacks.unwrap_or_default(),
    }
}

/// The state to filter by; none for unspecified.
///
/// # Errors
/// [`CallRefusal::Invalid`] for one that this version does not know.
pub(super) fn filter(state: i32) -> Result<Option<engine::ErasureState>, CallRefusal> {
    use engine::ErasureState as State;
    Ok(match ErasureState::try_from(state) {
        Err(_) => return Err(CallRefusal::Invalid("unknown state".to_owned())),
        Ok(ErasureState::Unspecified) => None,
        Ok(ErasureState::Fenced) => Some(State::Fenced),
        Ok(ErasureState::KeysDestroyed) => Some(State::KeysDestroyed),
        Ok(ErasureState::Propagating) => Some(State::Propagating),
        Ok(ErasureState::Completed) => Some(State::Completed),
        Ok(ErasureState::CompletedWithExpiry) => Some(State::CompletedWithExpiry),
        Ok(ErasureState::Overdue) => Some(State::Overdue),
    })
}

/// The number of a legal basis.
///
/// # Errors
/// [`CallRefusal::Invalid`] for none, or one that this version does not know.
pub(super) fn basis(basis: i32) -> Result<u32, CallRefusal> {
    LegalBasis::try_from(basis)
        .ok()
        .and_then(|basis| u32::try_from(basis as i32).ok())
        .filter(|basis| *basis > 0)
        .ok_or_else(|| CallRefusal::Invalid("a legal basis is needed: one of GDPR Art. 17(1)".to_owned()))
}

pub(super) fn who(who: Option<request_erasure_request::Who>) -> engine::Who {
    use request_erasure_request::Who;
    match who {
        Some(Who::SubjectId(id)) => engine::Who::SubjectId(id),
        Some(Who::Token(token)) => engine::Who::Token(token),
        Some(Who::Lookup(sought)) => looked_up(sought.field, sought.value.into()),
        None => engine::Who::Missing,
    }
}

pub(super) fn looked_up(field: String, value: Vec<u8>) -> engine::Who {
    engine::Who::Lookup(Arc::new(engine::LookupItem { field, value: engine::Plaintext::new(value) }))
}

pub(super) fn preview_who(who: Option<preview_erasure_request::Who>) -> engine::Who {
    use preview_erasure_request::Who;
    match who {
        Some(Who::SubjectId(id)) => engine::Who::SubjectId(id),
        Some(Who::Token(token)) => engine::Who::Token(token),
        Some(Who::Lookup(sought)) => looked_up(sought.field, sought.value.into()),
        None => engine::Who::Missing,
    }
}

pub(super) fn erasure(view: engine::ErasureView) -> Erasure {
    Erasure {
        erasure_id: view.erasure_id,
        controller: view.controller,
        state: state(view.state).into(),
        activities: view.activities,
        actor: view.actor,
        reason: view.reason,
        legal_basis: i32::try_from(view.legal_basis).unwrap_or_default(),
        tokens: view.tokens,
        requested_unix_ms: view.requested_unix_ms,
        keys_destroyed_unix_ms: view.keys_destroyed_unix_ms,
        completed_unix_ms: view.completed_unix_ms,
        deadline_unix_ms: view.deadline_unix_ms,
        epoch: view.epoch,
        destroy_class: view.destroy_class,
        final_at_unix_ms: view.final_at_unix_ms,
        final_unix_ms: view.final_unix_ms,
        downstreams: view.downstreams.into_iter().map(downstream_state).collect(),
    }
}

fn downstream_state(view: engine::DownstreamView) -> DownstreamState {
    DownstreamState {
        downstream: view.downstream,
        status: view.status,
        tokens_answered: view.tokens_answered,
        copies_purged: view.copies_purged,
        reason: view.reason,
        evidence: view.evidence,
        answered_unix_ms: view.answered_unix_ms,
        expires_unix_ms: view.expires_unix_ms,
    }
}

pub(super) fn preview(preview: engine::Preview) -> PreviewErasureResponse {
    let doomed = |(token, activity, field)| DoomedToken { token, activity, field };
    let kept = |(activity, reason, tokens)| KeptActivity { activity, reason, tokens };
    PreviewErasureResponse {
        subject_id: preview.subject_id,
        tokens: preview.tokens.into_iter().map(doomed).collect(),
        downstreams: preview.downstreams,
        kept: preview.kept.into_iter().map(kept).collect(),
    }
}

pub(super) fn registered(registered: engine::Registered) -> RegisterDownstreamResponse {
    RegisterDownstreamResponse {
        controllers: registered.controllers,
        announcer_keys: registered.announcer_keys.iter().map(|key| key.to_vec().into()).collect(),
        kafka_bootstrap: registered.kafka_bootstrap,
    }
}

pub(super) fn downstream(info: engine::DownstreamInfo) -> Downstream {
    Downstream {
        downstream: info.downstream,
        name: info.name,
        principal: info.principal,
        region: info.region,
        registered: info.registered,
        destroy_class: info.destroy_class,
        last_answer_unix_ms: info.last_answer_unix_ms,
        open_purges: info.open_purges,
    }
}

pub(super) fn replayed(item: engine::ReplayItem) -> ReplayErasuresResponse {
    ReplayErasuresResponse {
        position: item.position,
        topic: item.topic,
        record: item.record,
        headers: item.headers.into_iter().collect(),
        key: item.key,
    }
}

pub(super) fn applied(applied: engine::AppliedRegister) -> ApplyRegisterResponse {
    ApplyRegisterResponse {
        controller: applied.controller,
        version: applied.version,
        changes: applied.changes,
        warnings: applied.warnings,
    }
}

pub(super) fn status(status: engine::Status) -> GetStatusResponse {
    GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tree_id: status.tree_id,
        epoch: status.epoch,
        root_holder: status.root_holder,
        destroy_class: status.destroy_class,
        events: status.events,
        slots: status.slots,
        subtrees: status.subtrees,
        open_erasures: status.open_erasures,
        announce_lag: status.announce_lag,
        checks: status.checks.into_iter().collect(),
        kafka_bootstrap: status.kafka_bootstrap,
    }
}

pub(super) fn keys(keys: engine::KeysView) -> Keys {
    Keys {
        holder: keys.holder,
        place: keys.place,
        destroy_class: keys.destroy_class,
        epoch: keys.epoch,
        owner: keys.owner,
        lease_ms: keys.lease_ms.unwrap_or_default(),
        roots_held: keys.roots_held,
        left: keys.left,
        trouble: keys.trouble,
        backups: keys.backups.into_iter().map(key_backup).collect(),
        not_final: keys.not_final,
    }
}

pub(super) fn key_backup(backup: engine::KeyBackupView) -> KeyBackup {
    KeyBackup {
        id: backup.id,
        epoch: backup.epoch,
        made_unix_ms: backup.made_unix_ms,
        until_unix_ms: backup.until_unix_ms,
    }
}

pub(super) fn verdict(verdict: engine::LogVerdict) -> VerifyLogResponse {
    VerifyLogResponse {
        events: verdict.events,
        frames: verdict.frames,
        digest: verdict.digest,
        problems: verdict.problems,
        root: verdict.root,
        pruned: verdict.pruned,
    }
}

pub(super) fn pruned(pruned: engine::Pruned) -> PruneLogResponse {
    PruneLogResponse { segments: pruned.segments, values: pruned.values, bytes_freed: pruned.bytes_freed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_go_there_and_back() {
        for number in 1..=6 {
            let known = filter(number).unwrap().unwrap();
            assert_eq!(state(known) as i32, number);
        }
        assert!(matches!(filter(0), Ok(None)));
        assert!(filter(7).is_err() && filter(-1).is_err());
    }

    #[test]
    fn an_erasure_needs_a_legal_basis_that_is_known() {
        assert_eq!(basis(2), Ok(2));
        assert!(basis(0).is_err() && basis(7).is_err() && basis(-1).is_err());
    }
}
