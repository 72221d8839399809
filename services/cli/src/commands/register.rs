//! `cloakroom register apply|diff|report`

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use cloakroom_core::register::{Change, ChangeKind, Register as Parsed, diff, report, warnings};
use cloakroom_proto::admin::v1::{ApplyRegisterRequest, ApplyRegisterResponse, GetRegisterRequest};
use serde_json::json;

use crate::error::CliError;
use crate::output::{Output, Tone, moment};
use crate::settings::Settings;

/// Registers of processing activities (GDPR Art. 30)
#[derive(Subcommand, Debug)]
pub(crate) enum Register {
    /// Applies a register, showing what changes
    Apply {
        /// register.toml, or the folder that holds it
        path: PathBuf,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Shows what a register would change
    Diff {
        /// register.toml, or the folder that holds it
        path: PathBuf,
        /// Compare with this one, offline, instead of the one in force
        #[arg(long, value_name = "REGISTER.toml")]
        against: Option<PathBuf>,
    },
    /// Prints the record of processing activities and its contradictions
    Report {
        /// register.toml or its folder; without one the register in force is asked for
        path: Option<PathBuf>,
        /// Whose register is in force
        #[arg(long, required_unless_present = "path", conflicts_with = "path")]
        controller: Option<String>,
        /// What is printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Write it here instead of to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// What a report is written in.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// One page, for a browser or a printer
    Html,
    /// Markdown
    #[default]
    Md,
    /// One line an activity
    Csv,
}

impl Register {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        match self {
            Self::Apply { path, dry_run } => ask(path, *dry_run, settings, output).await,
            Self::Diff { path, against: None } => ask(path, true, settings, output).await,
            Self::Diff { path, against: Some(old) } => {
                let ((_, old), (_, new)) = (read(old)?, read(path)?);
                let changes: Vec<String> = diff(Some(&old), &new).iter().map(line).collect();
                let found = warnings(&new);
                let json = json!({ "changes": changes, "warnings": found });
                output.result(&json, || listed(&changes, &found, output))
            }
            Self::Report { path, controller, format, out } => {
                let (register, edition) = match path {
                    Some(path) => (read(path)?.1, "not applied yet".to_owned()),
                    None => in_force(settings, controller.as_deref().unwrap_or_default()).await?,
                };
                let text = match format {
                    Format::Html => report::html(&register, &edition),
                    Format::Md => report::markdown(&register, &edition),
                    Format::Csv => report::csv(&register),
                };
                match out {
                    Some(path) => std::fs::write(path, text).map_err(CliError::file(path)),
                    None => output.raw(text.as_bytes()),
                }
            }
        }
    }
}

/// A register's text and what it says, from its file or the folder that holds it.
pub(super) fn read(path: &Path) -> Result<(String, Parsed), CliError> {
    let path = if path.is_dir() { path.join("register.toml") } else { path.to_owned() };
    let text = std::fs::read_to_string(&path).map_err(CliError::file(&path))?;
    let register = Parsed::parse(&text).map_err(|source| CliError::Register { path, source })?;
    Ok((text, register))
}

async fn ask(path: &Path, dry_run: bool, settings: &Settings, output: &Output) -> Result<(), CliError> {
    let (toml, _) = read(path)?; // what is wrong with it is told here, with line and key
    let answer = settings.admin().await?.apply_register(ApplyRegisterRequest { toml, dry_run }).await?;
    let json = json!({
        "controller": answer.controller,
        "version": answer.version,
        "changes": answer.changes,
        "warnings": answer.warnings,
        "applied": !dry_run,
    });
    output.result(&json, || text(&answer, dry_run, output))
}

/// What applying a register changed, or would change.
pub(super) fn text(answer: &ApplyRegisterResponse, dry_run: bool, output: &Output) -> String {
    let done = match (answer.changes.is_empty(), dry_run) {
        (true, _) => "nothing changes; version",
        (false, true) => "nothing applied yet; in force is version",
        (false, false) => "applied; in force is version",
    };
    let listed = listed(&answer.changes, &answer.warnings, output);
    format!("{listed}{}: {done} {}\n", answer.controller, answer.version)
}

fn listed(changes: &[String], warnings: &[String], output: &Output) -> String {
    let mut text = String::new();
    for change in changes {
        let tone = match change.chars().next() {
            Some('+') => Tone::Good,
            Some('-') => Tone::Bad,
            _ => Tone::Warning,
        };
        text.push_str(&format!("{}\n", output.paint(tone, change)));
    }
    for warning in warnings {
        text.push_str(&format!("{}\n", output.paint(Tone::Warning, &format!("worth a look: {warning}"))));
    }
    text
}

fn line(change: &Change) -> String {
    let sign = match change.kind {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Changed => '~',
    };
    format!("{sign} {}", change.what)
}

async fn in_force(settings: &Settings, controller: &str) -> Result<(Parsed, String), CliError> {
    let request = GetRegisterRequest { controller: controller.to_owned() };
    let found = settings.admin().await?.get_register(request).await?;
    let edition = format!("version {}, applied {}", found.version, moment(found.applied_unix_ms));
    let wrong = |source| CliError::Register { path: controller.into(), source };
    Ok((Parsed::parse(&found.toml).map_err(wrong)?, edition))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/registers");

    #[test]
    fn a_folder_stands_for_its_register() {
        let (text, register) = read(&Path::new(EXAMPLES).join("see-tickets")).unwrap();
        assert_eq!(register.controller(), "see-tickets");
        assert!(diff(Some(&register), &Parsed::parse(&text).unwrap()).is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("register.toml"), "controller = 1").unwrap();
        let error = read(folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().ends_with("register.toml"), "{error}");
        assert_eq!(read(&folder.path().join("none.toml")).unwrap_err().exit_code(), 2);
    }
}
