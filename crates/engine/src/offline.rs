//! The log read from its files alone, with no vault and no key beside it: a backup's parts ([`crate::backup`]), a
//! data folder ([`verify_folder`]). Whether nothing was damaged, checksums and the chain of frames say; whether
//! nobody put another log there, a checkpoint that the vault signed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use cloakroom_core::checkpoint::{Checkpoint, origin};
use cloakroom_core::event::{Body, SystemKeyKind};
use cloakroom_core::ids::{EventNumber, TreeId};
use cloakroom_core::merkle::{Growing, Hash};
use cloakroom_crypto::sign::VerifyingKey;
use cloakroom_crypto::{hash, note};
use cloakroom_store::embedded::reading::{
    Before, EntryReader, FrameReader, access_file_name, access_files, log_file_name, log_files,
};
use cloakroom_store::{Frame, FrameHash};

use crate::access::NamedFiles;
use crate::backup::failed;
use crate::prune::pruned_slot;
use crate::{EngineError, codec};

/// What reading a log, or a backup, from its files has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Frames read.
    pub frames: u64,
    /// Events read.
    pub events: u64,
    /// Of these, events that were pruned to their leaf hashes.
    pub pruned: u64,
    /// The root of the Merkle tree over the events.
    pub root: Hash,
    /// Entries of the access log read.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// None if all is well.
    pub problems: Vec<String>,
}

/// Reads the log and the access log of the data folder `data`, also while a vault runs in it: every checksum, the
/// chain of frames, every event, the files of the access log that events name; and whether the log begins with what
/// `checkpoint` says, signed by one of `pinned` or, where these are none, by the keys that the log itself names.
///
/// # Errors
/// [`EngineError::Backup`] if the folder cannot be read, [`EngineError::BackupRefused`] if there is no log in it;
/// what is wrong with what was read is in the answer.
pub fn verify_folder(
    data: &Path,
    checkpoint: Option<&str>,
    pinned: &[VerifyingKey],
) -> Result<Verified, EngineError> {
    let listed = |folder: &str| Some(data.join(folder)).filter(|folder| folder.is_dir());
    let files = listed("log").map(|folder| log_files(&folder)).transpose()?.unwrap_or_default();
    if files.is_empty() {
        return Err(crate::backup::nothing());
    }
    let mut reading = LogReading::new(checkpoint, pinned);
    let last = files.len().saturating_sub(1);
    for (place, (first_event, path)) in files.iter().enumerate() {
        let file = File::open(path).map_err(failed("reading the log"))?;
        let read = reading.file(*first_event, BufReader::new(&file))?;
        // What is behind the last whole frame: in the newest file, one that is being written, or was when the
        // power went out.
        let length = file.metadata().map_err(failed("reading the log"))?.len();
        let (end, _) = read.unwrap_or_default();
        if end != length {
            let name = log_file_name(*first_event);
            let bytes = length.saturating_sub(end);
            let newest =
                if place == last { ", the newest file's end: cut short, or being written" } else { "" };
            reading.found.problems.push(format!("{name}: {bytes} bytes behind its last whole frame{newest}"));
        }
    }
    let named = std::mem::take(&mut reading.named);
    let (wanted, mut now) = (named.first_entries(), BTreeMap::new());
    let mut found = reading.finish();
    let mut next_entry = None;
    for (first_entry, path) in
        listed("access").map(|folder| access_files(&folder)).transpose()?.unwrap_or_default()
    {
        let name = access_file_name(first_entry);
        if next_entry.is_some_and(|next| next != first_entry) {
            found.problems.push(format!("{name}: does not follow the access file before"));
        }
        let file = File::open(&path).map_err(failed("reading the access log"))?;
        let (entries, end) = entries_of(BufReader::new(&file), first_entry)?;
        let length = file.metadata().map_err(failed("reading the access log"))?.len();
        if end != length {
            let bytes = length.saturating_sub(end);
            found.problems.push(format!("{name}: {bytes} bytes behind its last whole entry"));
        }
        if wanted.contains(&first_entry) {
            let bytes = std::fs::read(&path).map_err(failed("reading the access log"))?;
            now.insert(first_entry, hash::sha256(&bytes));
        }
        next_entry = Some(first_entry.saturating_add(entries));
        found.entries = found.entries.saturating_add(entries);
        found.bytes = found.bytes.saturating_add(end);
    }
    found.problems.extend(named.problems(&now));
    Ok(found)
}

/// How many whole entries a file of the access log has, and where they end.
pub(crate) fn entries_of(file: impl Read, first_entry: u64) -> Result<(u64, u64), EngineError> {
    let Some(mut reader) = EntryReader::open(file, first_entry)? else { return Ok((0, 0)) };
    while reader.next_entry()?.is_some() {}
    Ok((reader.entries(), reader.bytes()))
}

/// Reads the files of a log in their order: grows its Merkle tree, and holds the vault's word against it.
pub(crate) struct LogReading<'a> {
    checkpoint: Option<&'a str>,
    claimed: Option<Checkpoint>,
    /// Pinned, or what the log says that its vault signs with.
    keys: Vec<VerifyingKey>,
    of: Option<TreeId>,
    tree: Growing,
    /// The root where the tree was as large as the checkpoint says.
    root: Option<Hash>,
    before: Before,
    pub(crate) named: NamedFiles,
    pub(crate) found: Verified,
}

impl<'a> LogReading<'a> {
    /// What the checkpoint claims is taken as its claim; who signed it is looked at when the log is read.
    pub(crate) fn new(checkpoint: Option<&'a str>, pinned: &[VerifyingKey]) -> Self {
        let text = checkpoint.and_then(|note| note.get(..=note.find("\n\n")?));
        Self {
            checkpoint,
            claimed: text.and_then(Checkpoint::parse),
            keys: pinned.to_vec(),
            of: None,
            tree: Growing::default(),
            root: None,
            before: Before { first_event: 0, bytes: 0, hash: [0; 32] },
            named: NamedFiles::default(),
            found: Verified::default(),
        }
    }

    /// The next file: where its whole frames end, and the hash of the last. None where it has no sound header.
    pub(crate) fn file(
        &mut self,
        first_event: u64,
        file: impl Read,
    ) -> Result<Option<(u64, FrameHash)>, EngineError> {
        let name = log_file_name(first_event);
        let Some(mut reader) = FrameReader::open(file, hash::frame)? else {
            self.found.problems.push(format!("{name}: no sound header"));
            return Ok(None);
        };
        if reader.before() != self.before || reader.first_event().0 != first_event {
            self.found.problems.push(format!("{name}: does not follow the file before"));
        }
        while let Some((frame, leaves)) = reader.next_frame_with_leaves(hash::leaf)? {
            self.frame(&frame, &leaves);
        }
        self.found.bytes = self.found.bytes.saturating_add(reader.bytes());
        self.before = reader.as_before();
        Ok(Some((reader.bytes(), reader.newest_hash())))
    }

    fn frame(&mut self, frame: &Frame, leaves: &[Hash]) {
        self.found.frames = self.found.frames.saturating_add(1);
        self.found.events = self.found.events.saturating_add(frame.events.len() as u64);
        for (number, bytes) in (frame.first_event.0..).zip(&frame.events) {
            match codec::decode(EventNumber(number), bytes.clone()).map(|event| event.body) {
                Ok(Body::Started(started)) => self.of = self.of.or(Some(started.tree)),
                Ok(Body::SystemKeyMade(made))
                    if made.kind == SystemKeyKind::Signing && self.keys.is_empty() =>
                {
                    self.keys.extend(VerifyingKey::from_bytes(&made.verifying_key).ok());
                }
                Ok(body) if pruned_slot(&body).is_some() => {
                    self.found.pruned = self.found.pruned.saturating_add(1);
                }
                Ok(body) => self.named.read(EventNumber(number), &body),
                Err(error) => self.found.problems.push(error.to_string()),
            }
        }
        for leaf in leaves {
            self.tree.push(*leaf, hash::node, |_, _| ());
            if self.claimed.as_ref().is_some_and(|claimed| claimed.size == self.tree.size()) {
                self.root = self.tree.root(hash::node);
            }
        }
    }

    /// The newest frame's hash; zeros before the first.
    pub(crate) fn newest_hash(&self) -> FrameHash {
        self.before.hash
    }

    /// What was found, with what the checkpoint makes of it.
    pub(crate) fn finish(mut self) -> Verified {
        self.found.root = self.tree.root(hash::node).unwrap_or_else(hash::empty);
        self.found.problems.extend(self.against_checkpoint().map(str::to_owned));
        self.found
    }

    fn against_checkpoint(&self) -> Option<&'static str> {
        let note = self.checkpoint?;
        let Some(claimed) = &self.claimed else { return Some("its checkpoint does not read") };
        if note::open(note, &claimed.origin, &self.keys).is_err() {
            return Some("its checkpoint was not signed by the vault that wrote its log");
        }
        let ours = self.of.map(origin).is_some_and(|of| of == claimed.origin);
        (!ours || self.root != Some(claimed.root))
            .then_some("its log is not the one that its checkpoint signed")
    }
}
