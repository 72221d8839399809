//! `cloakroom keys status|jwks`

use std::path::PathBuf;

use clap::Subcommand;
use cloakroom_proto::admin::v1::{GetSigningKeysRequest, GetStatusRequest, GetStatusResponse};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, columns};
use crate::settings::Settings;

/// The key tree and the signing keys
#[derive(Subcommand, Debug)]
pub(crate) enum Keys {
    /// Shows the key tree: epoch, root holder, what a destruction is worth
    Status,
    /// Fetches the public signing keys (JWKS), to be pinned for `verify`
    Jwks {
        /// Write them here instead of to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl Keys {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let admin = settings.admin().await?;
        match self {
            Self::Status => {
                let status = admin.get_status(GetStatusRequest {}).await?;
                output.result(&json(&status), || text(&status))
            }
            Self::Jwks { out } => {
                let jwks = admin.get_signing_keys(GetSigningKeysRequest {}).await?.jwks;
                match out {
                    None => output.line(&jwks),
                    Some(path) => {
                        std::fs::write(path, format!("{jwks}\n")).map_err(CliError::file(path))?;
                        output.result(&json!({ "file": path }), || format!("written to {}", path.display()))
                    }
                }
            }
        }
    }
}

fn json(status: &GetStatusResponse) -> Value {
    json!({
        "version": status.version,
        "tree_id": status.tree_id,
        "epoch": status.epoch,
        "root_holder": status.root_holder,
        "destroy_class": status.destroy_class,
        "slots": status.slots,
        "subtrees": status.subtrees,
        "events": status.events,
        "open_erasures": status.open_erasures,
        "announce_lag": status.announce_lag,
    })
}

fn text(status: &GetStatusResponse) -> String {
    let rows = [
        ("tree", status.tree_id.clone()),
        ("epoch", status.epoch.to_string()),
        ("root holder", format!("{} (destroys: {})", status.root_holder, status.destroy_class)),
        ("slots", format!("{} in {} subtrees", status.slots, status.subtrees)),
        ("events", status.events.to_string()),
        ("open erasures", status.open_erasures.to_string()),
        ("not announced", status.announce_lag.to_string()),
    ];
    columns(&rows.map(|(name, words)| vec![name.to_owned(), words]))
}
