//! What HTTP bodies hold. The names are those of the .proto files; enums are their names without prefix, and
//! 64-bit numbers are JSON numbers (none comes near 2^53). Unknown members of a request are refused.

use std::collections::BTreeMap;

use cloakroom_core::refusal::CallRefusal;
use cloakroom_engine as engine;
use cloakroom_proto::admin::v1::{ErasureState, GetGateResponse, LegalBasis};
use serde::{Deserialize, Serialize};

use super::wire;
use crate::gate::Decision;

const BASIS_PREFIX: &str = "LEGAL_BASIS_";
const STATE_PREFIX: &str = "ERASURE_STATE_";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestErasure {
    controller: String,
    subject_id: Option<String>,
    token: Option<String>,
    lookup: Option<ValueLookup>,
    #[serde(default)]
    activities: Vec<String>,
    actor: String,
    reason: String,
    legal_basis: String,
    #[serde(default)]
    idempotency_key: String,
}

impl RequestErasure {
    pub(super) fn into_engine(self) -> Result<engine::ErasureRequest, CallRefusal> {
        let basis = LegalBasis::from_str_name(&format!("{BASIS_PREFIX}{}", self.legal_basis));
        Ok(engine::ErasureRequest {
            controller: self.controller,
            who: who(self.subject_id, self.token, self.lookup)?,
            activities: self.activities,
            actor: self.actor,
            reason: self.reason,
            legal_basis: wire::basis(basis.unwrap_or_default().into())?,
            idempotency_key: self.idempotency_key,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewErasure {
    pub(super) controller: String,
    subject_id: Option<String>,
    token: Option<String>,
    lookup: Option<ValueLookup>,
    #[serde(default)]
    pub(super) activities: Vec<String>,
    #[serde(default)]
    pub(super) reason: String,
}

impl PreviewErasure {
    pub(super) fn who(&mut self) -> Result<engine::Who, CallRefusal> {
        who(self.subject_id.take(), self.token.take(), self.lookup.take())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueLookup {
    field: String,
    value: String,
}

fn who(
    subject_id: Option<String>,
    token: Option<String>,
    lookup: Option<ValueLookup>,
) -> Result<engine::Who, CallRefusal> {
    match (subject_id, token, lookup) {
        (Some(id), None, None) => Ok(engine::Who::SubjectId(id)),
        (None, Some(token), None) => Ok(engine::Who::Token(token)),
        (None, None, Some(sought)) => Ok(wire::looked_up(sought.field, sought.value.into_bytes())),
        _ => Err(CallRefusal::Invalid("one of subject_id, token and lookup is needed".to_owned())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErasuresQuery {
    pub(super) controller: String,
    state: Option<String>,
    #[serde(default)]
    overdue: bool,
    #[serde(default)]
    pub(super) page_size: u32,
    #[serde(default)]
    pub(super) page_token: String,
}

impl ErasuresQuery {
    pub(super) fn filter(&self) -> Result<engine::ErasureFilter, CallRefusal> {
        let state = match &self.state {
            None => None,
            Some(name) => {
                let known = ErasureState::from_str_name(&format!("{STATE_PREFIX}{name}"));
                let known = known.filter(|state| *state != ErasureState::Unspecified);
                let known = known.ok_or_else(|| CallRefusal::Invalid("unknown state".to_owned()))?;
                wire::filter(known.into())?
            }
        };
        Ok(engine::ErasureFilter { state, overdue: self.overdue })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControllerQuery {
    pub(super) controller: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyQuery {
    #[serde(default)]
    pub(super) dry_run: bool,
}

#[derive(Serialize)]
pub(super) struct ErasureRequested {
    pub(super) erasure: Erasure,
    pub(super) subject_salt: String,
}

#[derive(Serialize)]
pub(super) struct Erasures {
    pub(super) erasures: Vec<Erasure>,
    pub(super) next_page_token: String,
}

#[derive(Serialize)]
pub(super) struct Erasure {
    erasure_id: String,
    controller: String,
    state: &'static str,
    activities: Vec<String>,
    actor: String,
    reason: String,
    legal_basis: String,
    tokens: u32,
    requested_unix_ms: i64,
    keys_destroyed_unix_ms: i64,
    completed_unix_ms: i64,
    deadline_unix_ms: i64,
    epoch: u64,
    destroy_class: String,
    final_at_unix_ms: i64,
    final_unix_ms: i64,
    downstreams: Vec<DownstreamState>,
}

impl Erasure {
    pub(super) fn id(&self) -> &str {
        &self.erasure_id
    }
}

impl From<engine::ErasureView> for Erasure {
    fn from(view: engine::ErasureView) -> Self {
        let basis = i32::try_from(view.legal_basis).ok().and_then(|basis| LegalBasis::try_from(basis).ok());
        let basis = basis.unwrap_or_default().as_str_name().trim_start_matches(BASIS_PREFIX);
        Self {
            erasure_id: view.erasure_id,
            controller: view.controller,
            state: wire::state(view.state).as_str_name().trim_start_matches(STATE_PREFIX),
            activities: view.activities,
            actor: view.actor,
            reason: view.reason,
            legal_basis: basis.to_owned(),
            tokens: view.tokens,
            requested_unix_ms: view.requested_unix_ms,
            keys_destroyed_unix_ms: view.keys_destroyed_unix_ms,
            completed_unix_ms: view.completed_unix_ms,
            deadline_unix_ms: view.deadline_unix_ms,
            epoch: view.epoch,
            destroy_class: view.destroy_class,
            final_at_unix_ms: view.final_at_unix_ms,
            final_unix_ms: view.final_unix_ms,
            downstreams: view.downstreams.into_iter().map(DownstreamState::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct DownstreamState {
    downstream: String,
    status: String,
    tokens_answered: u32,
    copies_purged: u32,
    reason: String,
    evidence: String,
    answered_unix_ms: i64,
    expires_unix_ms: i64,
}

impl From<engine::DownstreamView> for DownstreamState {
    fn from(view: engine::DownstreamView) -> Self {
        Self {
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
}

#[derive(Serialize)]
pub(super) struct Preview {
    subject_id: String,
    tokens: Vec<DoomedToken>,
    downstreams: Vec<String>,
    kept: Vec<KeptActivity>,
}

#[derive(Serialize)]
struct DoomedToken {
    token: String,
    activity: String,
    field: String,
}

#[derive(Serialize)]
struct KeptActivity {
    activity: String,
    reason: String,
    tokens: u32,
}

impl From<engine::Preview> for Preview {
    fn from(preview: engine::Preview) -> Self {
        let doomed = |(token, activity, field)| DoomedToken { token, activity, field };
        let kept = |(activity, reason, tokens)| KeptActivity { activity, reason, tokens };
        Self {
            subject_id: preview.subject_id,
            tokens: preview.tokens.into_iter().map(doomed).collect(),
            downstreams: preview.downstreams,
            kept: preview.kept.into_iter().map(kept).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Downstreams {
    pub(super) downstreams: Vec<Downstream>,
}

#[derive(Serialize)]
pub(super) struct Downstream {
    downstream: String,
    name: String,
    principal: String,
    region: String,
    registered: bool,
    destroy_class: String,
    last_answer_unix_ms: i64,
    open_purges: u64,
}

impl From<engine::DownstreamInfo> for Downstream {
    fn from(info: engine::DownstreamInfo) -> Self {
        Self {
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
}

#[derive(Serialize)]
pub(super) struct AppliedRegister {
    controller: String,
    version: u32,
    changes: Vec<String>,
    warnings: Vec<String>,
}

impl From<engine::AppliedRegister> for AppliedRegister {
    fn from(applied: engine::AppliedRegister) -> Self {
        Self {
            controller: applied.controller,
            version: applied.version,
            changes: applied.changes,
            warnings: applied.warnings,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Register {
    pub(super) toml: String,
    pub(super) version: u32,
    pub(super) applied_unix_ms: i64,
}

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    tree_id: String,
    epoch: u64,
    root_holder: String,
    destroy_class: String,
    events: u64,
    slots: u64,
    subtrees: u32,
    open_erasures: u64,
    announce_lag: u64,
    kafka_bootstrap: String,
    checks: BTreeMap<String, String>,
}

impl From<engine::Status> for Status {
    fn from(status: engine::Status) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            tree_id: status.tree_id,
            epoch: status.epoch,
            root_holder: status.root_holder,
            destroy_class: status.destroy_class,
            events: status.events,
            slots: status.slots,
            subtrees: status.subtrees,
            open_erasures: status.open_erasures,
            announce_lag: status.announce_lag,
            kafka_bootstrap: status.kafka_bootstrap,
            checks: status.checks,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Keys {
    holder: String,
    place: String,
    destroy_class: String,
    epoch: u64,
    owner: u64,
    lease_ms: u64,
    roots_held: u64,
    left: Vec<String>,
    trouble: String,
    backups: Vec<KeyBackup>,
    not_final: u64,
}

#[derive(Serialize)]
struct KeyBackup {
    id: String,
    epoch: u64,
    made_unix_ms: i64,
    until_unix_ms: i64,
}

impl From<engine::KeyBackupView> for KeyBackup {
    fn from(backup: engine::KeyBackupView) -> Self {
        Self {
            id: backup.id,
            epoch: backup.epoch,
            made_unix_ms: backup.made_unix_ms,
            until_unix_ms: backup.until_unix_ms,
        }
    }
}

impl From<engine::KeysView> for Keys {
    fn from(keys: engine::KeysView) -> Self {
        Self {
            holder: keys.holder,
            place: keys.place,
            destroy_class: keys.destroy_class,
            epoch: keys.epoch,
            owner: keys.owner,
            lease_ms: keys.lease_ms.unwrap_or_default(),
            roots_held: keys.roots_held,
            left: keys.left,
            trouble: keys.trouble,
            backups: keys.backups.into_iter().map(KeyBackup::from).collect(),
            not_final: keys.not_final,
        }
    }
}

#[derive(Serialize)]
pub(super) struct LogVerdict {
    events: u64,
    frames: u64,
    digest: String,
    root: String,
    pruned: u64,
    problems: Vec<String>,
}

impl From<engine::LogVerdict> for LogVerdict {
    fn from(verdict: engine::LogVerdict) -> Self {
        Self {
            events: verdict.events,
            frames: verdict.frames,
            digest: verdict.digest,
            root: verdict.root,
            pruned: verdict.pruned,
            problems: verdict.problems,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Pruned {
    segments: u64,
    values: u64,
    bytes_freed: u64,
}

impl From<engine::Pruned> for Pruned {
    fn from(pruned: engine::Pruned) -> Self {
        Self { segments: pruned.segments, values: pruned.values, bytes_freed: pruned.bytes_freed }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LedgerQuery {
    #[serde(default)]
    pub(super) since: u64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Restore {
    accept_start_id: String,
    accept_frame: u64,
    from_kafka: bool,
    lines: Vec<String>,
    dry_run: bool,
    without_replay: bool,
}

impl Restore {
    pub(super) fn into_decision(self) -> Result<Decision, CallRefusal> {
        Ok(Decision {
            accept: wire::frame(&self.accept_start_id, self.accept_frame)?,
            from_kafka: self.from_kafka,
            lines: self.lines,
            dry_run: self.dry_run,
            without_replay: self.without_replay,
        })
    }
}

#[derive(Serialize)]
pub(super) struct Restored {
    accepted: bool,
    entries: u64,
    destroyed: u64,
    dead: u64,
    unknown: u64,
}

impl Restored {
    pub(super) fn new(accepted: bool, replayed: &engine::Replayed) -> Self {
        let engine::Replayed { entries, destroyed, dead, unknown, .. } = *replayed;
        Self { accepted, entries, destroyed, dead, unknown }
    }
}

#[derive(Serialize)]
pub(super) struct Gate {
    open: bool,
    reason: String,
    accept_start_id: String,
    accept_frame: u64,
    frames: u64,
    events: u64,
    newest_unix_ms: i64,
    unnamed_slots: u64,
    needs_replay: bool,
}

impl From<GetGateResponse> for Gate {
    fn from(gate: GetGateResponse) -> Self {
        Self {
            open: gate.open,
            reason: gate.reason,
            accept_start_id: gate.accept_start_id,
            accept_frame: gate.accept_frame,
            frames: gate.frames,
            events: gate.events,
            newest_unix_ms: gate.newest_unix_ms,
            unnamed_slots: gate.unnamed_slots,
            needs_replay: gate.needs_replay,
        }
    }
}
