//! `cloakroom ledger export`

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Subcommand;
use cloakroom_client::ClientError;
use cloakroom_proto::admin::v1::ExportLedgerRequest;
use serde_json::json;

use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// The erasure ledger outside the vault
#[derive(Subcommand, Debug)]
pub(crate) enum Ledger {
    /// Writes a signed line for each erasure and release whose keys are destroyed, for `restore --replay-from`
    Export {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Only what was destroyed from this event on
        #[arg(long, default_value_t = 0, value_name = "EVENT")]
        since: u64,
    },
}

impl Ledger {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let Self::Export { out, since } = self;
        let admin = settings.admin().await?;
        let mut told = admin.export_ledger(ExportLedgerRequest { since: *since }).await?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(out);
        let mut file = BufWriter::new(file.map_err(CliError::file(out))?);
        let mut lines = 0_u64;
        while let Some(next) = told.message().await.map_err(|status| ClientError::Status(Box::new(status)))? {
            writeln!(file, "{}", next.line).map_err(CliError::file(out))?;
            lines = lines.saturating_add(1);
        }
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(CliError::file(out))?;
        let json = json!({ "file": out, "entries": lines });
        output.result(&json, || format!("{lines} entries written to {}", out.display()))
    }
}
