//! `cloakroom backup create|list|verify|restore`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cloakroom_client::AdminClient;
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_engine::backup::{self, Created, FolderTarget, Manifest, Restored, Until};
use cloakroom_engine::offline::Verified;
use cloakroom_proto::admin::v1::GetLogCheckpointRequest;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, columns, moment, note};
use crate::settings::Settings;

/// Backups of the data: ciphertext alone, of any age, anywhere; keys are never in one
#[derive(Subcommand, Debug)]
pub(crate) enum Backup {
    /// Copies what the target lacks of a vault's data folder; the vault may run meanwhile
    Create {
        /// The vault's data folder, on this machine
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The folder that backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
        /// Besides, write when it was made and how large it is, as Prometheus' text (node_exporter's textfile folder)
        #[arg(long, value_name = "FILE")]
        metrics: Option<PathBuf>,
    },
    /// Lists what lies in a target, oldest first
    List {
        /// The folder that backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
    },
    /// Reads a backup back: every checksum, every frame and the chain that they make
    Verify {
        /// Which one [default: the newest]
        id: Option<String>,
        /// The folder that backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
        /// Every backup in the target
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Restores a backup as a new data folder; without --yes only says where it would end
    Restore {
        /// Which one [default: the newest]
        id: Option<String>,
        /// The folder that backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
        /// The data folder to make: missing or empty
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// End there: an event's number, or a moment (2027-01-31T08:00:00Z) [default: all of it]
        #[arg(long, value_name = "POSITION|TIME", value_parser = until)]
        at: Option<Until>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

fn until(text: &str) -> Result<Until, String> {
    if let Ok(event) = text.parse() {
        return Ok(Until::Event(event));
    }
    let moment: jiff::Timestamp = text.parse().map_err(|_| "neither a number nor a moment".to_owned())?;
    Ok(Until::Time(moment.as_millisecond()))
}

impl Backup {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        match self {
            Self::Create { data, target, metrics } => {
                let checkpoint = checkpoint(settings).await;
                let made = create(data, target, checkpoint)?;
                if let Some(file) = metrics {
                    tell(file, &made)?;
                }
                output.result(&created_json(&made), || created(&made))
            }
            Self::List { target } => list(target, output),
            Self::Verify { id, target, all } => verify(id.as_deref(), target, *all, output),
            Self::Restore { id, target, data, at, yes } => {
                let at = at.unwrap_or(Until::End);
                let (manifest, end) = restore(id.as_deref(), target, data, at, *yes)?;
                let json = json!({
                    "id": manifest.id, "restored": yes, "data": data, "frames": end.frames,
                    "events": end.events, "newest_unix_ms": end.newest_unix_ms,
                });
                output.result(&json, || restored(&manifest, &end, data, *yes))
            }
        }
    }
}

/// The vault's signed checkpoint, where it can be asked: it says what the log held no later than the backup.
async fn checkpoint(settings: &Settings) -> Option<String> {
    if settings.certs.is_none() || settings.name.is_none() {
        return None;
    }
    let asked = async {
        let admin: AdminClient = settings.admin().await?;
        Ok::<_, CliError>(admin.get_log_checkpoint(GetLogCheckpointRequest {}).await?.checkpoint)
    };
    match asked.await {
        Ok(checkpoint) => Some(checkpoint),
        Err(error) => {
            note(&format!("without the vault's signed checkpoint: {error}"));
            None
        }
    }
}

/// Makes a backup.
pub(super) fn create(data: &Path, target: &Path, checkpoint: Option<String>) -> Result<Created, CliError> {
    let target = FolderTarget::new(target);
    Ok(backup::create(data, &target, SystemClock.now_unix_ms(), checkpoint)?)
}

/// Writes the figures of the newest backup where a collector reads them, whole or not at all. A backup that failed
/// leaves the former ones, whose age then tells.
fn tell(file: &Path, made: &Created) -> Result<(), CliError> {
    let draft = file.with_extension("part");
    std::fs::write(&draft, figures(made))
        .and_then(|()| std::fs::rename(&draft, file))
        .map_err(CliError::file(file))
}

fn figures(made: &Created) -> String {
    let Manifest { events, made_unix_ms, newest_unix_ms, checkpoint, .. } = &made.manifest;
    let seconds = |unix_ms: i64| unix_ms / 1_000;
    let figures = [
        ("made_timestamp_seconds", "When the newest backup was made.", seconds(*made_unix_ms).to_string()),
        ("newest_event_timestamp_seconds", "Its newest event.", seconds(*newest_unix_ms).to_string()),
        ("events", "Events in it.", events.to_string()),
        ("bytes", "How large it is.", made.manifest.bytes().to_string()),
        ("copied_bytes", "What of it was copied.", made.copied_bytes.to_string()),
        ("signed", "1 with the vault's signed checkpoint.", u8::from(checkpoint.is_some()).to_string()),
    ];
    let lines = figures.map(|(name, help, value)| {
        let name = format!("cloakroom_backup_{name}");
        format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
    });
    lines.concat()
}

/// What was made, in words.
pub(super) fn created(made: &Created) -> String {
    let Manifest { id, events, newest_unix_ms, .. } = &made.manifest;
    format!(
        "backup {id}: {events} events, the newest of {}; {} copied, {} there before",
        moment(*newest_unix_ms),
        size(made.copied_bytes),
        size(made.reused_bytes)
    )
}

fn created_json(made: &Created) -> Value {
    json!({
        "backup": made.manifest,
        "copied_bytes": made.copied_bytes,
        "reused_bytes": made.reused_bytes,
    })
}

/// Restores a backup, or says where it would end.
pub(super) fn restore(
    id: Option<&str>,
    target: &Path,
    data: &Path,
    at: Until,
    yes: bool,
) -> Result<(Manifest, Restored), CliError> {
    let target = FolderTarget::new(target);
    let manifest = backup::find(&target, id)?;
    let end = match yes {
        true => backup::restore(&target, &manifest, at, data)?,
        false => backup::plan(&target, &manifest, at)?,
    };
    Ok((manifest, end))
}

/// What was restored, or would be, in words.
pub(super) fn restored(manifest: &Manifest, end: &Restored, data: &Path, yes: bool) -> String {
    let word = if yes { "restored" } else { "would be restored (--yes does it)" };
    let cut = match manifest.events.saturating_sub(end.events) {
        0 => String::new(),
        events => format!("; {events} later events of the backup are left out"),
    };
    format!(
        "backup {} {word} to {}: {} events, the newest of {}{cut}",
        manifest.id,
        data.display(),
        end.events,
        moment(end.newest_unix_ms)
    )
}

fn list(target: &Path, output: &Output) -> Result<(), CliError> {
    let listed = backup::list(&FolderTarget::new(target))?;
    let json = json!({ "backups": listed.backups, "damaged": listed.damaged });
    output.result(&json, || {
        let heading = ["backup", "made", "events", "newest event", "size"].map(str::to_owned).to_vec();
        let row = |known: &Manifest| {
            vec![
                known.id.clone(),
                moment(known.made_unix_ms),
                known.events.to_string(),
                moment(known.newest_unix_ms),
                size(known.bytes()),
            ]
        };
        let rows: Vec<_> = std::iter::once(heading).chain(listed.backups.iter().map(row)).collect();
        let mut text = columns(&rows);
        listed.damaged.iter().for_each(|name| text.push_str(&format!("damaged: {name}\n")));
        text
    })?;
    match listed.damaged.len() {
        0 => Ok(()),
        damaged => Err(CliError::Refused(format!("{damaged} manifests are damaged"))),
    }
}

fn verify(id: Option<&str>, target: &Path, all: bool, output: &Output) -> Result<(), CliError> {
    let target = FolderTarget::new(target);
    let wanted = if all { backup::list(&target)?.backups } else { vec![backup::find(&target, id)?] };
    let mut found: Vec<(Manifest, Verified)> = vec![];
    for manifest in wanted {
        let verified = backup::verify(&target, &manifest)?;
        found.push((manifest, verified));
    }
    let json: Vec<Value> = found
        .iter()
        .map(|(manifest, verified)| {
            json!({
                "id": manifest.id, "frames": verified.frames, "events": verified.events,
                "entries": verified.entries, "bytes": verified.bytes, "problems": verified.problems,
            })
        })
        .collect();
    output
        .result(&json, || found.iter().map(|(manifest, verified)| checked(manifest, verified)).collect())?;
    match found.iter().map(|(_, verified)| verified.problems.len()).sum() {
        0_usize => Ok(()),
        problems => Err(CliError::Refused(format!("{problems} problems"))),
    }
}

fn checked(manifest: &Manifest, verified: &Verified) -> String {
    let mut text = format!(
        "backup {}: {} events in {} frames and {} accesses read back, {}\n",
        manifest.id,
        verified.events,
        verified.frames,
        verified.entries,
        size(verified.bytes)
    );
    verified.problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n")));
    text
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut size = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_ends_at_a_number_or_a_moment() {
        assert_eq!(until("17"), Ok(Until::Event(17)));
        assert_eq!(until("2027-01-15T08:00:00Z"), Ok(Until::Time(1_800_000_000_000)));
        assert!(until("yesterday").is_err());
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(64 << 20)],
            ["0 bytes", "1023 bytes", "1.5 KiB", "64.0 MiB"]
        );
    }
}
