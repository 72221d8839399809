//! `cloakroom restore`: what a closed gate lacks, and the ways out.

use std::path::Path;

use clap::Args;
use cloakroom_client::AdminClient;
use cloakroom_proto::admin::v1::{GetGateRequest, GetGateResponse, RestoreRequest, RestoreResponse};
use serde_json::json;

use crate::error::CliError;
use crate::output::{Output, moment};
use crate::settings::Settings;

/// Lines in one message: each some kilobytes, a message 4 MiB.
const LINES_AT_ONCE: usize = 100;

/// Says what the vault lacks while its gate is closed; goes on without it, destroys again what was erased since
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// Go on with the log that lies there, although it lacks what the keys recorded
    #[arg(long)]
    accept_older_log: bool,
    /// Destroy again what was erased since: from Kafka, or from a file of `cloakroom ledger export`
    #[arg(long, value_name = "kafka|FILE")]
    replay_from: Option<String>,
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    yes: bool,
    /// Accept although what was erased since could be read again, and there is nothing to replay it from
    #[arg(long, requires = "accept_older_log", conflicts_with = "replay_from")]
    without_replay: bool,
}

impl Restore {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let admin = settings.admin().await?;
        let gate = admin.get_gate(GetGateRequest {}).await?;
        if self.accept_older_log && gate.accept_start_id.is_empty() {
            let text = if gate.open { "the gate is open: there is nothing to accept" } else { &gate.reason };
            return Err(CliError::Refused(text.to_owned()));
        }
        let asked = self.accept_older_log || self.replay_from.is_some();
        let ask = asked && (self.yes || gate.open);
        let done = if ask { Some(decide(&admin, &gate, self).await?) } else { None };
        let json = json!({
            "open": gate.open, "reason": gate.reason, "accept_start_id": gate.accept_start_id,
            "accept_frame": gate.accept_frame, "frames": gate.frames, "events": gate.events,
            "newest_unix_ms": gate.newest_unix_ms, "unnamed_slots": gate.unnamed_slots,
            "needs_replay": gate.needs_replay,
            "done": done.as_ref().filter(|_| self.yes).map(told),
            "would_do": done.as_ref().filter(|_| !self.yes).map(told),
        });
        output.result(&json, || {
            let mut text = standing(&gate);
            if let Some(done) = &done {
                text.push_str(&outcome(done, self.yes));
            } else if asked {
                text.push_str("nothing was changed: --yes does it\n");
            }
            text
        })
    }
}

fn told(done: &RestoreResponse) -> serde_json::Value {
    json!({
        "accepted": done.accepted, "entries": done.entries, "destroyed": done.destroyed,
        "dead": done.dead, "unknown": done.unknown,
    })
}

async fn decide(
    admin: &AdminClient,
    gate: &GetGateResponse,
    asked: &Restore,
) -> Result<RestoreResponse, CliError> {
    let mut first = RestoreRequest {
        dry_run: !asked.yes,
        from_kafka: asked.replay_from.as_deref() == Some("kafka"),
        without_replay: asked.without_replay,
        ..RestoreRequest::default()
    };
    if asked.accept_older_log {
        first.accept_start_id.clone_from(&gate.accept_start_id);
        first.accept_frame = gate.accept_frame;
    }
    let lines = match &asked.replay_from {
        Some(file) if file != "kafka" => lines(file.as_ref())?,
        _ => vec![],
    };
    let more = lines
        .chunks(LINES_AT_ONCE)
        .map(|lines| RestoreRequest { lines: lines.to_vec(), ..RestoreRequest::default() });
    Ok(admin.restore(std::iter::once(first).chain(more).collect()).await?)
}

fn lines(file: &Path) -> Result<Vec<String>, CliError> {
    let text = std::fs::read_to_string(file).map_err(CliError::file(file))?;
    let lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(CliError::Usage(format!("{} holds no lines", file.display())));
    }
    Ok(lines)
}

/// Accepts what the gate says it lacks.
pub(super) async fn accept(admin: &AdminClient) -> Result<(GetGateResponse, RestoreResponse), CliError> {
    let gate = admin.get_gate(GetGateRequest {}).await?;
    let request = RestoreRequest {
        accept_start_id: gate.accept_start_id.clone(),
        accept_frame: gate.accept_frame,
        ..RestoreRequest::default()
    };
    let done = admin.restore(vec![request]).await?;
    Ok((gate, done))
}

/// How the vault stands, in words.
pub(super) fn standing(gate: &GetGateResponse) -> String {
    if gate.open {
        return "the gate is open\n".to_owned();
    }
    let mut text = format!("the gate is closed: {}\n", gate.reason);
    text.push_str(&format!(
        "the log here: {} frames, {} events, the newest of {}\n",
        gate.frames,
        gate.events,
        moment(gate.newest_unix_ms)
    ));
    if !gate.accept_start_id.is_empty() {
        text.push_str(&format!(
            "accepting it gives up what followed, up to frame {} and beyond: {} keys that no event of this log \
             names are destroyed for good; what was forgotten stays forgotten\n",
            gate.accept_frame, gate.unnamed_slots
        ));
    }
    if gate.needs_replay {
        text.push_str("what was erased since could be read again: accepting takes --replay-from\n");
    }
    text
}

fn outcome(done: &RestoreResponse, yes: bool) -> String {
    let accepted = if done.accepted { "the older log is accepted: the vault serves\n" } else { "" };
    if done.entries == 0 {
        return accepted.to_owned();
    }
    let word = if yes { "destroyed again" } else { "would be destroyed again (--yes does it)" };
    format!(
        "{accepted}{} entries: {} values {word}, {} were dead already, {} tokens came after this log\n",
        done.entries, done.destroyed, done.dead, done.unknown
    )
}
