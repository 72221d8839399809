//! `cloakroom keys status|rotate|move|backup|restore-escrowed|jwks`

mod backup;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use cloakroom_client::{AdminClient, Retry};
use cloakroom_proto::admin::v1::{
    GetGateRequest, GetKeysRequest, GetSigningKeysRequest, GetStatusRequest, GetStatusResponse,
    Keys as Roots, MoveKeysRequest, RestoreEscrowedRequest, RotateKeysRequest,
};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, columns, moment};
use crate::settings::Settings;

/// The key tree and the signing keys
#[derive(Subcommand, Debug)]
pub(crate) enum Keys {
    /// Shows the key tree: epoch, root holder, what a destruction is worth
    Status,
    /// Replaces the root now and destroys the former one, as every erasure does
    Rotate,
    /// Moves the root to the holder that the vault's configuration names by now: write it into [roots], and the
    /// present one into [former_roots], before
    Move,
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Goes on from the key backup that was put in the place of lost keys: what it lacks is lost, what was forgotten
    /// since stays forgotten; without --yes only says what that would cost
    RestoreEscrowed {
        /// Do it
        #[arg(long)]
        yes: bool,
    },
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
        if let Self::Backup(command) = self {
            return command.run(settings, output).await;
        }
        let admin = settings.admin().await?;
        match self {
            Self::Backup(_) => Ok(()),
            Self::RestoreEscrowed { yes } => restore_escrowed(admin, *yes, output).await,
            Self::Status => {
                let status = admin.get_status(GetStatusRequest {}).await?;
                let keys = admin.get_keys(GetKeysRequest {}).await?.keys.unwrap_or_default();
                let mut shown = json(&status);
                if let Value::Object(shown) = &mut shown {
                    shown.insert("keys".to_owned(), keys_json(&keys));
                }
                output.result(&shown, || text(&status) + &keys_text(&keys))
            }
            Self::Rotate => {
                let keys = patient(admin).rotate_keys(RotateKeysRequest {}).await?.keys.unwrap_or_default();
                output.result(&keys_json(&keys), || {
                    format!("the root is a new one, of epoch {}; the former one is destroyed", keys.epoch)
                })
            }
            Self::Move => {
                let keys = patient(admin).move_keys(MoveKeysRequest {}).await?.keys.unwrap_or_default();
                output.result(&keys_json(&keys), || {
                    let Roots { place, epoch, destroy_class, .. } = &keys;
                    format!(
                        "the root lies in {place} now, epoch {epoch}; the former one is destroyed. Erasures are \
                         certified as {destroy_class}: older copies of the keys were under the former holder. \
                         [former_roots] is not needed any more."
                    )
                })
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

async fn restore_escrowed(admin: AdminClient, yes: bool, output: &Output) -> Result<(), CliError> {
    let gate = admin.get_gate(GetGateRequest {}).await?;
    if !gate.key_backup {
        let text = if gate.open { "the gate is open: there is nothing to restore" } else { &gate.reason };
        return Err(CliError::Refused(text.to_owned()));
    }
    let lacks = gate.slots_lacking;
    if !yes {
        let json = json!({ "restored": false, "slots_lost": lacks });
        return output.result(&json, || {
            format!(
                "these keys are a key backup that still opens; {lacks} slots that the log names are not in it: their \
                 values would answer KEY_UNAVAILABLE, those forgotten since ERASED. Nothing was changed: --yes does it"
            )
        });
    }
    let done = patient(admin).restore_escrowed(RestoreEscrowedRequest {}).await?;
    let keys = done.keys.unwrap_or_default();
    let json = json!({ "restored": true, "slots_lost": done.slots_lost, "keys": keys_json(&keys) });
    output.result(&json, || {
        format!(
            "the vault serves, epoch {}; {} slots are lost, what was forgotten stays forgotten. The backup is used up: \
             make another (cloakroom keys backup create)",
            keys.epoch, done.slots_lost
        )
    })
}

/// A batch takes moments, but owning a token takes a lease.
fn patient(admin: AdminClient) -> AdminClient {
    admin.with_retry(Retry { deadline: Duration::from_secs(300), ..Retry::default() })
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

fn keys_json(keys: &Roots) -> Value {
    json!({
        "holder": keys.holder,
        "place": keys.place,
        "destroy_class": keys.destroy_class,
        "epoch": keys.epoch,
        "owner": keys.owner,
        "lease_ms": keys.lease_ms,
        "roots_held": keys.roots_held,
        "left": keys.left,
        "trouble": keys.trouble,
        "backups": keys.backups.iter().map(backup::escrow).collect::<Vec<_>>(),
        "not_final": keys.not_final,
    })
}

fn keys_text(keys: &Roots) -> String {
    let lease = match keys.lease_ms {
        0 => "for as long as it runs".to_owned(),
        ms => format!("renewed within {ms} ms"),
    };
    let mut rows = vec![
        ("root lies in", keys.place.clone()),
        ("roots held", keys.roots_held.to_string()),
        ("owner", format!("number {}, {lease}", keys.owner)),
    ];
    rows.extend(keys.backups.iter().map(|backup| {
        ("key backup", format!("{}, its root in escrow until {}", backup.id, moment(backup.until_unix_ms)))
    }));
    if keys.not_final > 0 {
        rows.push(("not final yet", format!("{} erasures, releases and rectifications", keys.not_final)));
    }
    rows.extend(keys.left.iter().map(|left| ("NOT GONE in", left.clone())));
    if !keys.trouble.is_empty() {
        rows.push(("TROUBLE", keys.trouble.clone()));
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, words)| vec![name.to_owned(), words]).collect();
    columns(&rows)
}
