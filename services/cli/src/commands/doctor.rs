//! `cloakroom doctor`

use std::path::PathBuf;

use clap::Args;
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_proto::admin::v1::GetStatusRequest;
use cloakroom_runtime::machine::{Finding, Inspection, Severity, inspect};
use serde::Serialize;

use crate::error::CliError;
use crate::output::{Output, Tone, columns};
use crate::settings::Settings;

/// A folder that is written to should have so much room: segments, pages, and what a start keeps reserved.
const ROOM_BYTES: u64 = 1 << 30;

/// What the vault states of itself that works, but weakens a promise.
const RISKS: [&str; 2] = ["keys-replica", "memory-lock"];

/// Looks at this machine and asks the vault how it is
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// A folder that is written to, to look at its disk; may be given again
    #[arg(long, value_name = "DIR")]
    folder: Vec<PathBuf>,
    /// A file that only its owner may read (root, keys); may be given again
    #[arg(long, value_name = "FILE")]
    secret: Vec<PathBuf>,
    /// Look at this machine alone
    #[arg(long)]
    offline: bool,
}

#[derive(Serialize)]
struct Check {
    check: String,
    severity: Severity,
    found: String,
    advice: String,
}

impl From<Finding> for Check {
    fn from(finding: Finding) -> Self {
        Self {
            check: finding.check.to_owned(),
            severity: finding.severity,
            found: finding.found,
            advice: finding.advice.to_owned(),
        }
    }
}

impl Doctor {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let mut secret_files = self.secret.clone();
        if let (Some(certs), Some(name)) = (&settings.certs, &settings.name) {
            secret_files.push(certs.join(format!("{name}.key")));
        }
        let inspection = Inspection {
            now_unix_ms: SystemClock.now_unix_ms(),
            folders: self.folder.iter().map(|folder| (folder.clone(), ROOM_BYTES)).collect(),
            secret_files,
            ..Inspection::default()
        };
        let mut checks: Vec<Check> = inspect(&inspection).into_iter().map(Check::from).collect();
        let asked = if self.offline { Ok(Vec::new()) } else { ask(settings).await };
        let unreachable = match asked {
            Ok(found) => {
                checks.extend(found);
                None
            }
            Err(error) => {
                let advice = "is it running, and are --admin, --certs and --as right?".to_owned();
                let found = error.to_string();
                checks.push(Check { check: "vault".to_owned(), severity: Severity::Wrong, found, advice });
                Some(error)
            }
        };
        output.result(&checks, || text(&checks, output))?;
        let wrong = checks.iter().filter(|check| check.severity == Severity::Wrong).count();
        match (unreachable, wrong) {
            (Some(error), _) => Err(error),
            (None, 0) => Ok(()),
            (None, wrong) => Err(CliError::Refused(format!("{wrong} of {} checks are wrong", checks.len()))),
        }
    }
}

async fn ask(settings: &Settings) -> Result<Vec<Check>, CliError> {
    let status = settings.admin().await?.get_status(GetStatusRequest {}).await?;
    let mut checks: Vec<_> = status.checks.into_iter().collect();
    checks.sort_unstable();
    let check = |(check, found): (String, String)| {
        let severity = match found.as_str() {
            "ok" => Severity::Fine,
            _ if RISKS.contains(&check.as_str()) => Severity::Warning,
            _ => Severity::Wrong,
        };
        Check { check: format!("vault: {check}"), severity, found, advice: String::new() }
    };
    Ok(checks.into_iter().map(check).collect())
}

fn text(checks: &[Check], output: &Output) -> String {
    let row = |check: &Check| {
        let (tone, word) = match check.severity {
            Severity::Fine => (Tone::Good, "fine   "),
            Severity::Warning => (Tone::Warning, "warning"),
            Severity::Wrong => (Tone::Bad, "wrong  "),
        };
        let advice = if check.advice.is_empty() { String::new() } else { format!(": {}", check.advice) };
        vec![output.paint(tone, word), check.check.clone(), format!("{}{advice}", check.found)]
    };
    columns(&checks.iter().map(row).collect::<Vec<_>>())
}
