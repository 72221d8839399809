//! `cloakroom keys backup create|list|restore|end`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use cloakroom_client::{AdminClient, ClientError};
use cloakroom_engine::{EngineError, KeyBackupFile, key_backups};
use cloakroom_proto::admin::v1::back_up_keys_response::Part;
use cloakroom_proto::admin::v1::{BackUpKeysRequest, EndKeyBackupRequest, GetKeysRequest, KeyBackup};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, columns, moment, note};
use crate::settings::Settings;

/// How key backups are called in their folder.
const EXTENSION: &str = "keys";

/// Backups of the keys, each of which opens for the window that is configured and not longer
#[derive(Subcommand, Debug)]
pub(crate) enum Backup {
    /// Copies the key tree as it is now and puts its root in escrow: what is erased from now on, and is in the copy,
    /// is final only when the window is over
    Create {
        /// The folder that key backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
    },
    /// Lists the key backups in a folder, and whether the vault can still open them
    List {
        /// The folder that key backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
    },
    /// Makes of a key backup the keys folder of a vault that lost its own; then `keys restore-escrowed`
    Restore {
        /// Which one [default: the newest]
        id: Option<String>,
        /// The folder that key backups lie in
        #[arg(long, value_name = "DIR")]
        target: PathBuf,
        /// The vault's keys folder, on this machine: without keys
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
    },
    /// Destroys the root of a key backup before its window is over: the backup is noise from then on
    End {
        /// Which one
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// Every one
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

impl Backup {
    /// Runs the command.
    pub(super) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        match self {
            Self::Create { target } => create(&settings.admin().await?, target, output).await,
            Self::List { target } => list(settings, target, output).await,
            Self::Restore { id, target, keys } => {
                let file = found(target, id.as_deref())?;
                let restored = key_backups::restore(&file, keys).await?;
                output.result(&described(&restored), || {
                    format!(
                        "key backup {} of {} restored to {}; start the vault, then: cloakroom keys restore-escrowed",
                        restored.id,
                        moment(restored.made_unix_ms),
                        keys.display()
                    )
                })
            }
            Self::End { id, .. } => {
                let request = EndKeyBackupRequest { id: id.clone().unwrap_or_default() };
                let admin = super::patient(settings.admin().await?);
                let keys = admin.end_key_backup(request).await?.keys.unwrap_or_default();
                output.result(&super::keys_json(&keys), || {
                    format!("the root is destroyed and probed; {} key backups are left", keys.backups.len())
                })
            }
        }
    }
}

async fn create(admin: &AdminClient, target: &Path, output: &Output) -> Result<(), CliError> {
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true).mode(0o700).create(target).map_err(CliError::file(target))?;
    let status = |status| ClientError::Status(Box::new(status));
    let mut parts = admin.back_up_keys(BackUpKeysRequest {}).await?;
    let (mut made, draft) = (KeyBackup::default(), target.join("draft"));
    let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let mut file = options.map_err(CliError::file(&draft))?;
    while let Some(next) = parts.message().await.map_err(status)? {
        match next.part {
            Some(Part::Backup(told)) => made = told,
            Some(Part::Bytes(bytes)) => file.write_all(&bytes).map_err(CliError::file(&draft))?,
            None => {}
        }
    }
    file.sync_all().map_err(CliError::file(&draft))?;
    if let Err(error) = key_backups::verify(&draft) {
        note(&format!("key backup {} did not arrive whole: end it and make another", made.id));
        return Err(error.into());
    }
    let path = target.join(&made.id).with_extension(EXTENSION);
    let kept = std::fs::rename(&draft, &path).and_then(|()| File::open(target)?.sync_all());
    kept.map_err(CliError::file(&path))?;
    output.result(&escrow(&made), || {
        format!(
            "key backup {} written to {}; what it knows of and is erased before {} is final then, when its root is \
             destroyed",
            made.id,
            path.display(),
            moment(made.until_unix_ms)
        )
    })
}

async fn list(settings: &Settings, target: &Path, output: &Output) -> Result<(), CliError> {
    let open = match settings.admin().await {
        Ok(admin) => admin.get_keys(GetKeysRequest {}).await.map_err(CliError::from),
        Err(error) => Err(error),
    };
    let open = match open {
        Ok(keys) => Some(keys.keys.unwrap_or_default().backups),
        Err(error) => {
            note(&format!("without what the vault says: {error}"));
            None
        }
    };
    let lies: Vec<_> = files(target)?.iter().map(|file| (file.clone(), key_backups::verify(file))).collect();
    let opens = |id: &str| open.as_ref().map(|open| open.iter().any(|open| open.id == id));
    let rows = lies.iter().map(|(file, read)| match read {
        Ok(read) => json!({ "backup": described(read), "opens": opens(&read.id) }),
        Err(error) => json!({ "file": file, "problem": error.to_string() }),
    });
    output.result(&rows.collect::<Vec<_>>(), || {
        let row = |(file, read): &(PathBuf, Result<KeyBackupFile, EngineError>)| match read {
            Ok(read) => {
                let state = match opens(&read.id) {
                    Some(true) => format!("opens until {}", moment(read.until_unix_ms)),
                    Some(false) => "noise: its root is destroyed".to_owned(),
                    None => format!("opens until {} at most", moment(read.until_unix_ms)),
                };
                vec![read.id.clone(), moment(read.made_unix_ms), state]
            }
            Err(error) => vec![file.display().to_string(), String::new(), error.to_string()],
        };
        columns(&lies.iter().map(row).collect::<Vec<_>>())
    })
}

fn files(target: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = std::fs::read_dir(target).map_err(CliError::file(target))?;
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(CliError::file(target))?.path();
        files.extend((path.extension() == Some(EXTENSION.as_ref())).then_some(path));
    }
    files.sort();
    Ok(files)
}

/// The file of that backup, or of the newest.
fn found(target: &Path, id: Option<&str>) -> Result<PathBuf, CliError> {
    if let Some(id) = id {
        return Ok(target.join(id).with_extension(EXTENSION));
    }
    let read = files(target)?.into_iter().filter_map(|file| Some((key_backups::verify(&file).ok()?, file)));
    let newest = read.max_by_key(|(read, _)| read.made_unix_ms).map(|(_, file)| file);
    newest.ok_or_else(|| CliError::Refused(format!("no key backup lies in {}", target.display())))
}

fn described(read: &KeyBackupFile) -> Value {
    json!({
        "id": read.id, "tree_id": read.tree_id, "epoch": read.epoch, "commit": read.commit, "frame": read.frame,
        "made_unix_ms": read.made_unix_ms, "until_unix_ms": read.until_unix_ms, "records": read.records,
        "bytes": read.bytes,
    })
}

/// A key backup whose root is in escrow.
pub(super) fn escrow(backup: &KeyBackup) -> Value {
    json!({
        "id": backup.id, "epoch": backup.epoch, "made_unix_ms": backup.made_unix_ms,
        "until_unix_ms": backup.until_unix_ms,
    })
}
