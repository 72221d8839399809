//! What a vault that was restored lacks, and what it would cost to go on with it.

use std::collections::HashMap;

use cloakroom_core::clock::UnixMs;
use cloakroom_core::ids::{EventNumber, FramePosition, Subtree};
use cloakroom_core::start;
use cloakroom_store::Log;

use crate::{EngineError, GateReason, Options, codec, open};

/// How data, keys and root holder stand to each other, before anything is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Why the gate is closed; none if a start would serve.
    pub closed: Option<GateReason>,
    /// The newest frame of the log; none in an empty one.
    pub frame: Option<FramePosition>,
    /// Events in the log.
    pub events: u64,
    /// When the newest of them was written; 0 in an empty log.
    pub newest_unix_ms: UnixMs,
    /// Slots that the keys handed out and this log does not name: what they hold dies if this log is accepted.
    pub unnamed_slots: u64,
    /// Why the gate would stay closed even if this log were accepted.
    pub remains: Option<GateReason>,
    /// These keys are a backup whose root still opens them: slots that the log names and they lack.
    pub key_backup_lacks: Option<u64>,
}

impl Standing {
    /// Whether what was erased since may have keys again here, because root and keys came back too: accepting
    /// takes a replay of the ledger.
    pub fn needs_replay(&self) -> bool {
        matches!(self.closed, Some(GateReason::Witnessed { .. }))
    }

    /// The frame to name when this log is accepted; none where accepting it is no way out.
    pub fn acceptable(&self) -> Option<FramePosition> {
        match (&self.closed, &self.remains) {
            (Some(GateReason::LogBehindKeys { lacking }), None) => Some(*lacking),
            (Some(GateReason::Witnessed { seen }), None) => Some(*seen),
            _ => None,
        }
    }
}

pub(crate) async fn standing(options: &Options) -> Result<Standing, EngineError> {
    let looked = open::look(options, &mut ()).await?;
    let mut closed = looked.gate(None).await?;
    if closed.is_none() {
        let (ahead, _) = looked.witnessed(options, None).await?;
        closed = ahead.map(|seen| GateReason::Witnessed { seen });
    }
    let remains = match &closed {
        Some(GateReason::LogBehindKeys { lacking }) => looked.gate(Some(*lacking)).await?,
        Some(GateReason::Witnessed { .. }) => None,
        other => other.clone(),
    };
    let events = looked.end.events;
    let (counted, newest_unix_ms) = read(looked.log(), events).await?;
    let older =
        matches!(closed, Some(GateReason::KeysBehindLog { .. } | GateReason::KeysBehindHolder { .. }));
    let key_backup_lacks = match older && looked.backup_gate().await?.is_none() {
        true => Some(
            looked.found.lacking(&counted).iter().fold(0, |sum, range| range.slots().saturating_add(sum)),
        ),
        false => None,
    };
    Ok(Standing {
        closed,
        frame: looked.end.newest.map(|(at, _)| at),
        events,
        newest_unix_ms,
        unnamed_slots: start::beyond(looked.found.ends(), &counted).count() as u64,
        remains,
        key_backup_lacks,
    })
}

/// For each subtree the first slot that no frame names, and the time of the newest event.
async fn read(log: &dyn Log, events: u64) -> Result<(HashMap<Subtree, u64>, UnixMs), EngineError> {
    let (mut ends, mut at, mut newest) = (HashMap::new(), 1_u64, 0);
    while at <= events {
        let Some((frame, _)) = log.frame_of(EventNumber(at)).await? else { break };
        ends.extend(frame.ends);
        let next = frame.first_event.0.saturating_add(frame.events.len().max(1) as u64);
        if let Some(bytes) = frame.events.last() {
            newest = codec::decode(EventNumber(next.saturating_sub(1)), bytes.clone())?.at;
        }
        at = next;
    }
    Ok((ends, newest))
}
