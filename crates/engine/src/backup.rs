//! Backups of the data: the log and the access log, ciphertext alone. Keys are never in one, so a backup may
//! lie anywhere and be of any age: what was forgotten since stays forgotten in it.
//!
//! - `target`: where backups go; a folder today
//! - `manifest`: what a backup consists of; a backup exists once its manifest does
//! - `crate::offline`: reading a log back from its files
//! - [`create`], [`verify`], [`restore`]
//!
//! A log only grows, so a consistent copy of one in use is a prefix: the frames that are whole, made durable
//! before they are believed. Projections are not copied; a start builds them from the log. Parts are named by
//! their SHA-256, and a sealed segment is known by the hash of its last frame, which covers all before it: what
//! an earlier backup has is neither read nor copied again.

mod manifest;
mod target;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::Body;
use cloakroom_core::ids::EventNumber;
use cloakroom_crypto::hash;
use cloakroom_store::embedded::reading::{
    Before, FrameReader, access_files, log_file_name, log_files, make_durable,
};
use cloakroom_store::{Frame, FrameHash};
use data_encoding::HEXLOWER;

pub use manifest::{AccessPart, LogPart, Manifest};
pub use target::{BackupTarget, FolderTarget};

use crate::offline::{LogReading, Verified, entries_of};
use crate::{EngineError, codec};
use manifest::{MANIFESTS, part_name};
use target::Checked;

/// What a backup came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Created {
    /// The backup.
    pub manifest: Manifest,
    /// Bytes that were copied.
    pub copied_bytes: u64,
    /// Bytes that an earlier backup had already.
    pub reused_bytes: u64,
}

/// What lies in a target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listed {
    /// Whole backups, oldest first.
    pub backups: Vec<Manifest>,
    /// Names of manifests that do not read.
    pub damaged: Vec<String>,
}

/// Up to where a backup is restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// All of it.
    End,
    /// The frames whose last event has at most this number.
    Event(u64),
    /// The frames before the first one that holds an event after this moment.
    Time(UnixMs),
}

/// Where a restored log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Its frames.
    pub frames: u64,
    /// Its events.
    pub events: u64,
    /// When its newest event was written.
    pub newest_unix_ms: UnixMs,
    parts: usize,
    last_bytes: u64,
}

/// Backs up the data folder `data` to `target`, also while a vault runs in it.
///
/// # Errors
/// [`EngineError::Backup`] if the target fails, a full disk above all; nothing half-written is ever listed.
/// [`EngineError::BackupRefused`] where there is nothing to back up, or the target is another vault's.
pub fn create(
    data: &Path,
    target: &dyn BackupTarget,
    now: UnixMs,
    checkpoint: Option<String>,
) -> Result<Created, EngineError> {
    let known = list(target)?.backups;
    let files = whole_files(&data.join("log"))?;
    let tree_id = tree_of(&files)?;
    if let Some(other) = known.iter().find(|known| known.tree_id != tree_id) {
        let text = format!("the target holds backups of another vault (tree {})", other.tree_id);
        return Err(EngineError::BackupRefused(text));
    }
    let mut copy = Copy { target, copied_bytes: 0, reused_bytes: 0 };
    let mut log: Vec<LogPart> = vec![];
    let mut newest = None;
    for (index, (first_event, path)) in files.iter().enumerate() {
        let sealed = files.get(index.saturating_add(1)).map(|(_, next)| before(next)).transpose()?.flatten();
        let length = std::fs::metadata(path).map_err(failed("reading the log"))?.len();
        // By its length too: what was pruned since hashes to the same, and is shorter.
        let same = |part: &&LogPart| {
            sealed.is_some_and(|sealed| {
                (part.first_event, part.bytes, &part.frame_hash)
                    == (*first_event, length, &HEXLOWER.encode(&sealed.hash))
            })
        };
        if let Some(part) = known.iter().flat_map(|known| &known.log).find(same)
            && copy.has(part.bytes, &part.sha256)?
        {
            log.push(part.clone());
            continue;
        }
        let walked = walk(path)?;
        let sha256 = copy.part(path, walked.bytes)?;
        let frame_hash = HEXLOWER.encode(&walked.hash);
        log.push(LogPart { first_event: *first_event, bytes: walked.bytes, sha256, frame_hash });
        newest = Some(walked);
    }
    let Some(Walked { newest: Some((frame, newest_unix_ms)), hash, .. }) = newest else {
        return Err(nothing());
    };
    let access = access_parts(&data.join("access"), &known, &mut copy)?;
    let events = frame.first_event.0.saturating_add(frame.events.len() as u64).saturating_sub(1);
    let manifest = Manifest {
        format: manifest::FORMAT,
        id: format!("{now:013}-{events}"),
        made_unix_ms: now,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        tree_id,
        start_id: frame.at.start.to_string(),
        frames: frame.at.number,
        events,
        frame_hash: HEXLOWER.encode(&hash),
        newest_unix_ms,
        checkpoint,
        log,
        access,
    };
    manifest.put(target)?;
    Ok(Created { manifest, copied_bytes: copy.copied_bytes, reused_bytes: copy.reused_bytes })
}

/// The backups in `target`.
///
/// # Errors
/// [`EngineError::Backup`] if the target cannot be read.
pub fn list(target: &dyn BackupTarget) -> Result<Listed, EngineError> {
    let mut listed = Listed::default();
    for name in target.list(MANIFESTS).map_err(failed("listing the backups"))? {
        match Manifest::read(target, &name)? {
            Some(manifest) => listed.backups.push(manifest),
            None => listed.damaged.push(name),
        }
    }
    listed.backups.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(listed)
}

/// The backup `id`, or the newest.
///
/// # Errors
/// [`EngineError::BackupRefused`] if there is none.
pub fn find(target: &dyn BackupTarget, id: Option<&str>) -> Result<Manifest, EngineError> {
    let mut backups = list(target)?.backups;
    let found = match id {
        None => backups.pop(),
        Some(id) => backups.into_iter().find(|known| known.id == id),
    };
    found.ok_or_else(|| EngineError::BackupRefused("there is no such backup in the target".to_owned()))
}

/// Reads a backup back: every checksum, every frame and the chain that they make, every entry, the files of the access
/// log that events name; and whether its log is the one that the checkpoint kept with it signed.
///
/// # Errors
/// [`EngineError::Backup`] if the target cannot be read; what is wrong with what was read is in the answer.
pub fn verify(target: &dyn BackupTarget, manifest: &Manifest) -> Result<Verified, EngineError> {
    let mut reading = LogReading::new(manifest.checkpoint.as_deref(), &[]);
    for part in &manifest.log {
        let name = log_file_name(part.first_event);
        let Some(bytes) = read_part(target, &part.sha256, &name, &mut reading.found.problems)? else {
            continue;
        };
        let Some((end, newest)) = reading.file(part.first_event, &bytes[..])? else { continue };
        if end != part.bytes || HEXLOWER.encode(&newest) != part.frame_hash {
            reading.found.problems.push(format!("{name}: its frames end at byte {end}"));
        }
    }
    let newest = HEXLOWER.encode(&reading.newest_hash());
    let named = std::mem::take(&mut reading.named);
    let mut verified = reading.finish();
    if (verified.frames, verified.events, &newest) != (manifest.frames, manifest.events, &manifest.frame_hash)
    {
        verified.problems.push("the log does not end where the manifest says".to_owned());
    }
    let mut now = BTreeMap::new();
    for part in &manifest.access {
        let name = format!("access file {}", part.first_entry);
        let Some(bytes) = read_part(target, &part.sha256, &name, &mut verified.problems)? else { continue };
        now.insert(part.first_entry, hash::sha256(&bytes));
        let (entries, end) = entries_of(&bytes[..], part.first_entry)?;
        verified.entries = verified.entries.saturating_add(entries);
        verified.bytes = verified.bytes.saturating_add(end);
        if entries != part.entries {
            verified.problems.push(format!("{name}: {entries} of {} entries read", part.entries));
        }
    }
    verified.problems.extend(named.problems(&now));
    Ok(verified)
}

/// A part's bytes, if they are what its name says. One is a segment at most: it fits into memory.
fn read_part(
    target: &dyn BackupTarget,
    sha256: &str,
    name: &str,
    problems: &mut Vec<String>,
) -> Result<Option<Vec<u8>>, EngineError> {
    let mut bytes = vec![];
    match target.open(&part_name(sha256)).and_then(|mut part| part.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            problems.push(format!("{name}: missing"));
            return Ok(None);
        }
        Err(error) => return Err(failed("reading a part")(error)),
    }
    if HEXLOWER.encode(&hash::sha256(&bytes)) == sha256 {
        return Ok(Some(bytes));
    }
    problems.push(format!("{name}: its checksum differs"));
    Ok(None)
}

/// Where the log would end if `manifest` were restored `until` there.
///
/// # Errors
/// [`EngineError::BackupRefused`] where nothing of it lies before that.
pub fn plan(target: &dyn BackupTarget, manifest: &Manifest, until: Until) -> Result<Restored, EngineError> {
    let mut end = Restored {
        frames: manifest.frames,
        events: manifest.events,
        newest_unix_ms: manifest.newest_unix_ms,
        parts: manifest.log.len(),
        last_bytes: manifest.log.last().map_or(0, |part| part.bytes),
    };
    if until == Until::End {
        return Ok(end);
    }
    end = Restored::default();
    'parts: for (index, part) in manifest.log.iter().enumerate() {
        if matches!(until, Until::Event(event) if part.first_event > event) {
            break;
        }
        let file = target.open(&part_name(&part.sha256)).map_err(failed("reading a part"))?;
        let Some(mut reader) = FrameReader::open(BufReader::new(file), hash::frame)? else { break };
        while let Some((frame, _)) = reader.next_frame()? {
            let Some(newest_unix_ms) = kept(&frame, until)? else { break 'parts };
            end = Restored {
                frames: frame.at.number,
                events: last_event(&frame),
                newest_unix_ms,
                parts: index.saturating_add(1),
                last_bytes: reader.bytes(),
            };
        }
    }
    if end.frames == 0 {
        return Err(EngineError::BackupRefused("nothing in the backup lies before that".to_owned()));
    }
    Ok(end)
}

/// The time of a frame's newest event, if the frame lies before `until`.
fn kept(frame: &Frame, until: Until) -> Result<Option<UnixMs>, EngineError> {
    let mut newest = UnixMs::MIN;
    for (number, bytes) in (frame.first_event.0..).zip(&frame.events) {
        newest = newest.max(codec::decode(EventNumber(number), bytes.clone())?.at);
    }
    let kept = match until {
        Until::End => true,
        Until::Event(event) => last_event(frame) <= event,
        Until::Time(moment) => newest <= moment,
    };
    Ok(kept.then_some(newest))
}

fn last_event(frame: &Frame) -> u64 {
    frame.first_event.0.saturating_add(frame.events.len() as u64).saturating_sub(1)
}

/// Restores a backup into the folder `data`, which must be missing or empty. It appears there whole or not at
/// all. The access log comes whole: who read what happened, wherever the log ends.
///
/// # Errors
/// [`EngineError::Backup`] if the target or the disk fails, or a part is not what its name says.
pub fn restore(
    target: &dyn BackupTarget,
    manifest: &Manifest,
    until: Until,
    data: &Path,
) -> Result<Restored, EngineError> {
    let end = plan(target, manifest, until)?;
    let draft = target::Draft::beside(data)?;
    let log: Vec<&LogPart> = manifest.log.iter().take(end.parts).collect();
    let last = log.len().saturating_sub(1);
    for (index, part) in log.into_iter().enumerate() {
        let bytes = if index == last { end.last_bytes } else { part.bytes };
        let name = format!("log/{}", log_file_name(part.first_event));
        draft.file(&name, &mut open_part(target, &part.sha256)?, Some(bytes))?;
    }
    for part in &manifest.access {
        let name =
            format!("access/{}", cloakroom_store::embedded::reading::access_file_name(part.first_entry));
        draft.file(&name, &mut open_part(target, &part.sha256)?, None)?;
    }
    draft.publish()?;
    Ok(end)
}

fn open_part(target: &dyn BackupTarget, sha256: &str) -> Result<Checked<Box<dyn Read>>, EngineError> {
    let part = target.open(&part_name(sha256)).map_err(failed("reading a part"))?;
    Ok(Checked::new(part, sha256.to_owned()))
}

/// Copies parts that the target lacks.
struct Copy<'a> {
    target: &'a dyn BackupTarget,
    copied_bytes: u64,
    reused_bytes: u64,
}

impl Copy<'_> {
    /// Whether the target has a part, and counts it if so.
    fn has(&mut self, bytes: u64, sha256: &str) -> Result<bool, EngineError> {
        let size = self.target.size(&part_name(sha256)).map_err(failed("asking for a part"))?;
        if size != Some(bytes) {
            return Ok(false);
        }
        self.reused_bytes = self.reused_bytes.saturating_add(bytes);
        Ok(true)
    }

    /// Copies the first `bytes` of a file; answers with their SHA-256.
    fn part(&mut self, path: &Path, bytes: u64) -> Result<String, EngineError> {
        let open = || File::open(path).map(|file| file.take(bytes)).map_err(failed("reading the log"));
        let mut sum = hash::Sum::default();
        target::pass(&mut open()?, |piece| sum.add(piece)).map_err(failed("reading the log"))?;
        let sha256 = HEXLOWER.encode(&sum.finish());
        if !self.has(bytes, &sha256)? {
            // Read twice, so that a part may be named by its hash in any kind of store; whatever changed in
            // between fails the second reading, and nothing is stored.
            let mut again = Checked::new(open()?, sha256.clone());
            self.target.put(&part_name(&sha256), &mut again).map_err(failed("writing a part"))?;
            self.copied_bytes = self.copied_bytes.saturating_add(bytes);
        }
        Ok(sha256)
    }
}

/// What a walk over a file of the log has found.
struct Walked {
    bytes: u64,
    hash: FrameHash,
    /// The newest frame, and when its newest event was written.
    newest: Option<(Frame, UnixMs)>,
}

/// Reads all whole frames of a file and makes them durable: what no power cut can take back may be copied.
fn walk(path: &Path) -> Result<Walked, EngineError> {
    let file = File::open(path).map_err(failed("reading the log"))?;
    let mut walked = Walked { bytes: 0, hash: [0; 32], newest: None };
    let Some(mut reader) = FrameReader::open(BufReader::new(&file), hash::frame)? else { return Ok(walked) };
    let mut newest = None;
    while let Some((frame, _)) = reader.next_frame()? {
        newest = Some(frame);
    }
    (walked.bytes, walked.hash) = (reader.bytes(), reader.newest_hash());
    make_durable(&file)?;
    if let Some(frame) = newest {
        let at = kept(&frame, Until::End)?.unwrap_or_default();
        walked.newest = Some((frame, at));
    }
    Ok(walked)
}

/// The log's files but a last one that has no whole frame yet.
fn whole_files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, EngineError> {
    let mut files = if folder.is_dir() { log_files(folder)? } else { vec![] };
    while let Some((_, last)) = files.last() {
        if walk(last)?.newest.is_some() {
            break;
        }
        files.pop();
    }
    if files.is_empty() { Err(nothing()) } else { Ok(files) }
}

/// What a file says of the one before.
fn before(path: &Path) -> Result<Option<Before>, EngineError> {
    let file = File::open(path).map_err(failed("reading the log"))?;
    Ok(FrameReader::open(file, hash::frame)?.map(|reader| reader.before()))
}

/// The tree that a log was written with: its first event says so.
fn tree_of(files: &[(u64, PathBuf)]) -> Result<String, EngineError> {
    let Some((_, path)) = files.first() else { return Err(nothing()) };
    let file = File::open(path).map_err(failed("reading the log"))?;
    if let Some(mut reader) = FrameReader::open(BufReader::new(file), hash::frame)?
        && let Some((frame, _)) = reader.next_frame()?
        && let Some(bytes) = frame.events.first()
        && let Body::Started(first) = codec::decode(frame.first_event, bytes.clone())?.body
    {
        return Ok(first.tree.to_string());
    }
    Err(nothing())
}

fn access_parts(
    folder: &Path,
    known: &[Manifest],
    copy: &mut Copy<'_>,
) -> Result<Vec<AccessPart>, EngineError> {
    let mut parts = vec![];
    let files = if folder.is_dir() { access_files(folder)? } else { vec![] };
    for (first_entry, path) in files {
        // A full file has its hash beside it.
        let kept = std::fs::read(path.with_extension("hash")).unwrap_or_default();
        let sha256 = kept.first_chunk::<32>().map(|sum| HEXLOWER.encode(sum));
        let same =
            |part: &&AccessPart| part.first_entry == first_entry && Some(&part.sha256) == sha256.as_ref();
        if let Some(part) = known.iter().flat_map(|known| &known.access).find(same)
            && copy.has(part.bytes, &part.sha256)?
        {
            parts.push(part.clone());
            continue;
        }
        let file = File::open(&path).map_err(failed("reading the access log"))?;
        let (entries, bytes) = entries_of(BufReader::new(file), first_entry)?;
        if bytes == 0 {
            continue;
        }
        parts.push(AccessPart { first_entry, entries, bytes, sha256: copy.part(&path, bytes)? });
    }
    Ok(parts)
}

pub(crate) fn nothing() -> EngineError {
    EngineError::BackupRefused("there is no log in that folder: name the vault's data folder".to_owned())
}

/// Says which step of a backup failed.
pub(crate) fn failed(what: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |source| EngineError::Backup { what, source }
}
