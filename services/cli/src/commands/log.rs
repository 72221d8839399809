//! `cloakroom log verify|checkpoint|keys|prune`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use cloakroom_client::{AdminClient, Retry};
use cloakroom_core::merkle::Hash;
use cloakroom_crypto::jws;
use cloakroom_crypto::sign::VerifyingKey;
use cloakroom_engine::offline;
use cloakroom_proto::admin::v1::{
    GetLogCheckpointRequest, GetSigningKeysRequest, PruneLogRequest, VerifyLogRequest,
};
use data_encoding::BASE64;
use serde_json::json;

use crate::error::CliError;
use crate::output::Output;
use crate::proofs::{self, Check};
use crate::settings::Settings;

/// The vault's log
#[derive(Subcommand, Debug)]
pub(crate) enum Log {
    /// Replays the whole log and compares: every checksum, every projection, every slot, and the Merkle tree
    /// with the checkpoint that the vault has signed
    Verify(Verify),
    /// Fetches what the log says of itself, signed, to be kept for `log verify --since`
    Checkpoint {
        /// Write it here instead of to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shows the keys that sign checkpoints, as other transparency logs' tools take them
    Keys,
    /// Drops the ciphertext of erased values from full segments; hashes, proofs and answers stay
    Prune {
        /// How long it may take, in seconds
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        timeout_s: u64,
    },
}

/// `log verify`
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// A checkpoint kept earlier: the log must begin with what it says
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// The vault's public keys, pinned before (`keys jwks`); without them the vault is asked for its own
    #[arg(long, value_name = "JWKS")]
    keys: Option<PathBuf>,
    /// Read this data folder (a vault's, or a copy of one) with no vault asked: every checksum, the chain of frames,
    /// every event; keys pinned here are then the only ones believed, or else those that the log itself names
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// How long it may take, in seconds
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    timeout_s: u64,
}

impl Log {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        if let Self::Verify(Verify { folder: Some(folder), since, keys, .. }) = self {
            return of_folder(folder, since.as_deref(), keys.as_deref(), output);
        }
        let admin = settings.admin().await?;
        match self {
            Self::Verify(verify) => verify.run(admin, output).await,
            Self::Checkpoint { out } => {
                let checkpoint = admin.get_log_checkpoint(GetLogCheckpointRequest {}).await?.checkpoint;
                match out {
                    None => output.raw(checkpoint.as_bytes()),
                    Some(path) => {
                        std::fs::write(path, checkpoint).map_err(CliError::file(path))?;
                        output.result(&json!({ "file": path }), || format!("written to {}", path.display()))
                    }
                }
            }
            Self::Keys => {
                let keys = admin.get_log_checkpoint(GetLogCheckpointRequest {}).await?.verifier_keys;
                output.result(&json!({ "verifier_keys": keys }), || keys.join("\n"))
            }
            Self::Prune { timeout_s } => {
                let pruned = patient(admin, *timeout_s).prune_log(PruneLogRequest {}).await?;
                let json = json!({
                    "segments": pruned.segments,
                    "values": pruned.values,
                    "bytes_freed": pruned.bytes_freed,
                });
                output.result(&json, || {
                    format!(
                        "{} values lost their ciphertext in {} segments; {} bytes freed",
                        pruned.values, pruned.segments, pruned.bytes_freed
                    )
                })
            }
        }
    }
}

fn patient(admin: AdminClient, timeout_s: u64) -> AdminClient {
    admin.with_retry(Retry { deadline: Duration::from_secs(timeout_s), ..Retry::default() })
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(CliError::file(path))
}

fn parsed(jwks: &str) -> Result<Vec<VerifyingKey>, CliError> {
    jws::parse_jwks(jwks).map_err(|error| CliError::Refused(format!("NOT VERIFIED: the keys: {error}")))
}

/// `log verify --folder`
fn of_folder(
    folder: &Path,
    since: Option<&Path>,
    keys: Option<&Path>,
    output: &Output,
) -> Result<(), CliError> {
    let keys = keys.map(read).transpose()?.map(|jwks| parsed(&jwks)).transpose()?.unwrap_or_default();
    let since = since.map(read).transpose()?;
    let found = offline::verify_folder(folder, since.as_deref(), &keys)?;
    let root = BASE64.encode(&found.root);
    let json = json!({
        "events": found.events,
        "frames": found.frames,
        "root": root,
        "pruned": found.pruned,
        "access_entries": found.entries,
        "bytes": found.bytes,
        "problems": found.problems,
    });
    output.result(&json, || {
        let mut text = format!(
            "{} events in {} frames and {} accesses read\nMerkle root {root}\n",
            found.events, found.frames, found.entries
        );
        if found.pruned > 0 {
            text.push_str(&pruned(found.pruned));
        }
        match (&since, found.problems.is_empty()) {
            (None, true) => {
                text.push_str("whole; that it is the vault's own log, a checkpoint shows (--since)\n")
            }
            (Some(_), true) => {
                text.push_str("whole; it begins with the log of the checkpoint kept earlier\n")
            }
            _ => found.problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n"))),
        }
        text
    })?;
    none_of(found.problems.len())
}

fn pruned(events: u64) -> String {
    format!("{events} erased values were pruned to their hashes\n")
}

fn none_of(problems: usize) -> Result<(), CliError> {
    match problems {
        0 => Ok(()),
        1 => Err(CliError::Refused("1 problem".to_owned())),
        problems => Err(CliError::Refused(format!("{problems} problems"))),
    }
}

impl Verify {
    async fn run(&self, admin: AdminClient, output: &Output) -> Result<(), CliError> {
        let jwks = match &self.keys {
            Some(path) => read(path)?,
            None => admin.get_signing_keys(GetSigningKeysRequest {}).await?.jwks,
        };
        let keys = parsed(&jwks)?;
        let since = self.since.as_deref().map(read).transpose()?;
        let signed = admin.get_log_checkpoint(GetLogCheckpointRequest {}).await?.checkpoint;
        let found = patient(admin.clone(), self.timeout_s).verify_log(VerifyLogRequest {}).await?;
        let root = BASE64.decode(found.root.as_bytes()).ok().and_then(|root| root.try_into().ok());
        let replayed: Option<(u64, Hash)> = root.map(|root| (found.events, root));
        let checks = compared(&admin, &keys, &signed, since.as_deref(), replayed).await?;
        let json = json!({
            "events": found.events,
            "frames": found.frames,
            "digest": found.digest,
            "root": found.root,
            "pruned": found.pruned,
            "checks": checks,
            "problems": found.problems,
        });
        output.result(&json, || {
            let mut text = format!(
                "{} events in {} frames, digest {}\nMerkle root {}\n",
                found.events, found.frames, found.digest, found.root
            );
            if found.pruned > 0 {
                text.push_str(&pruned(found.pruned));
            }
            text.push_str(&Check::text(&checks));
            found.problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n")));
            text
        })?;
        none_of(found.problems.len() + checks.iter().filter(|check| !check.held).count())
    }
}

/// Compares what was signed now, what was signed earlier, and what a replay of all events came to.
async fn compared(
    admin: &AdminClient,
    keys: &[VerifyingKey],
    signed: &str,
    since: Option<&str>,
    replayed: Option<(u64, Hash)>,
) -> Result<Vec<Check>, CliError> {
    let now = proofs::checkpoint(signed, keys).ok();
    let mut checks = vec![Check { name: "the checkpoint is signed by a known key", held: now.is_some() }];
    let Some(now) = now else { return Ok(checks) };
    let held = match replayed {
        Some((events, root)) => proofs::is_consistent(admin, (now.size, &now.root), (events, &root)).await?,
        None => false,
    };
    checks.push(Check { name: "the events make the tree that was signed", held });
    if let Some(since) = since {
        let older = proofs::checkpoint(since, keys)?;
        let held = older.origin == now.origin
            && proofs::is_consistent(admin, (older.size, &older.root), (now.size, &now.root)).await?;
        checks.push(Check { name: "the log begins with the one of the checkpoint kept earlier", held });
    }
    Ok(checks)
}
