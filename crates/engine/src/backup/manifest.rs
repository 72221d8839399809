//! What a backup consists of. Its file's name ends in the hash of what stands in it.

use std::io::Read;

use cloakroom_core::clock::UnixMs;
use cloakroom_crypto::hash;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{BackupTarget, failed};
use crate::EngineError;

/// The folder of manifests in a target.
pub(super) const MANIFESTS: &str = "backups";
/// The folder of parts.
const PARTS: &str = "parts";
/// The format of manifests.
pub(super) const FORMAT: u32 = 1;
/// A manifest that would be longer is none.
const BYTES_MAX: u64 = 64 << 20;

/// A backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// Sorts by time.
    pub id: String,
    /// When it was made.
    pub made_unix_ms: UnixMs,
    /// The version that made it.
    pub software: String,
    /// The key tree that the log was written with, in hex.
    pub tree_id: String,
    /// The start that wrote the newest frame, in hex.
    pub start_id: String,
    /// The newest frame's number.
    pub frames: u64,
    /// The newest event's number.
    pub events: u64,
    /// The newest frame's hash, in hex: it covers the whole log.
    pub frame_hash: String,
    /// When the newest event was written.
    pub newest_unix_ms: UnixMs,
    /// The vault's signed checkpoint, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// The log's files, in order.
    pub log: Vec<LogPart>,
    /// The access log's files, in order.
    pub access: Vec<AccessPart>,
}

/// A file of the log, or the front of the one that still grew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPart {
    /// What the file is named by.
    pub first_event: u64,
    /// How long it is.
    pub bytes: u64,
    /// What it is named by in the target.
    pub sha256: String,
    /// The hash of its last frame.
    pub frame_hash: String,
}

/// A file of the access log, or the front of the one that still grew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessPart {
    /// What the file is named by.
    pub first_entry: u64,
    /// Entries in it.
    pub entries: u64,
    /// How long it is.
    pub bytes: u64,
    /// What it is named by in the target.
    pub sha256: String,
}

impl Manifest {
    /// Bytes in all parts.
    pub fn bytes(&self) -> u64 {
        let log = self.log.iter().map(|part| part.bytes);
        log.chain(self.access.iter().map(|part| part.bytes)).fold(0, u64::saturating_add)
    }

    /// Writes it, last of all: with this the backup exists.
    pub(super) fn put(&self, target: &dyn BackupTarget) -> Result<(), EngineError> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| failed("writing a manifest")(error.into()))?;
        let sum = HEXLOWER.encode(&hash::sha256(&text));
        let name = format!("{MANIFESTS}/{}.{sum}.json", self.id);
        target.put(&name, &mut text.as_slice()).map_err(failed("writing a manifest"))
    }

    /// The manifest of that name; none if it is not what its name says, or of a later format.
    pub(super) fn read(target: &dyn BackupTarget, name: &str) -> Result<Option<Self>, EngineError> {
        let mut text = vec![];
        let path = format!("{MANIFESTS}/{name}");
        let mut file = target.open(&path).map_err(failed("reading a manifest"))?.take(BYTES_MAX);
        file.read_to_end(&mut text).map_err(failed("reading a manifest"))?;
        let sum = HEXLOWER.encode(&hash::sha256(&text));
        let told = name.strip_suffix(".json").and_then(|name| name.rsplit_once('.')).map(|(_, sum)| sum);
        if told != Some(&sum) {
            return Ok(None);
        }
        let read: Option<Self> = serde_json::from_slice(&text).ok();
        Ok(read.filter(|manifest| manifest.format == FORMAT))
    }
}

/// How a part is named in a target. What is no hash is no part's: a manifest from elsewhere leads nowhere else.
pub(super) fn part_name(sha256: &str) -> String {
    let hex: String = sha256.chars().filter(char::is_ascii_hexdigit).take(64).collect();
    format!("{PARTS}/{hex}")
}
