//! The file of a key backup: parts of `record/v1.KeyBackupPart`, each behind its length; a head, the records of the
//! key database, an end with their number and the SHA-256 of all before. Ciphertext but for its metadata.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytes::Bytes;
use cloakroom_core::clock::UnixMs;
use cloakroom_crypto::hash;
use cloakroom_keytree::layout::STATE_KEY;
use cloakroom_proto::record::v1 as record;
use cloakroom_proto::record::v1::key_backup_part::Part;
use cloakroom_store::embedded::{EmbeddedRecords, Folder};
use cloakroom_store::{Batch, Records};
use data_encoding::HEXLOWER;
use prost::Message;

use crate::EngineError;

const VERSION: u32 = 1;
/// The longest part: a sealed page is some KiB, the state a little more for each root in escrow.
const PART_BYTES_MAX: usize = 1 << 20;
/// Records in one commit of a restored key database.
const AT_ONCE: usize = 1_000;

/// What a key backup says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyBackupFile {
    /// Names the backup: the id of the root that opens it, in hex.
    pub id: String,
    /// The key tree, in hex.
    pub tree_id: String,
    /// The root's number.
    pub epoch: u64,
    /// The commit that it is a copy of.
    pub commit: u64,
    /// The newest log frame that the keys knew of; 0 for none.
    pub frame: u64,
    /// When it was made.
    pub made_unix_ms: UnixMs,
    /// When its root is destroyed: from then on it is noise.
    pub until_unix_ms: UnixMs,
    /// Records in it.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
}

/// Writes a key backup.
pub(super) struct Writing {
    out: BufWriter<File>,
    sum: hash::Sum,
    records: u64,
}

impl Writing {
    pub(super) fn begin(file: File, head: record::KeyBackupHead) -> io::Result<Self> {
        let mut writing = Self { out: BufWriter::new(file), sum: hash::Sum::default(), records: 0 };
        writing.part(Part::Head(record::KeyBackupHead { version: VERSION, ..head }))?;
        Ok(writing)
    }

    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.records = self.records.saturating_add(1);
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.part(Part::Record(record::KeyBackupRecord { key, value }))
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        let sha256 = Bytes::copy_from_slice(&std::mem::take(&mut self.sum).finish());
        self.part(Part::End(record::KeyBackupEnd { records: self.records, sha256 }))?;
        self.out.flush()
    }

    fn part(&mut self, part: Part) -> io::Result<()> {
        let bytes = record::KeyBackupPart { part: Some(part) }.encode_to_vec();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
        for piece in [&length[..], &bytes] {
            self.sum.add(piece);
            self.out.write_all(piece)?;
        }
        Ok(())
    }
}

/// Reads a key backup part by part.
struct Reading<'a> {
    path: &'a Path,
    input: BufReader<File>,
    sum: hash::Sum,
    head: record::KeyBackupHead,
    records: u64,
    bytes: u64,
}

impl<'a> Reading<'a> {
    fn begin(path: &'a Path) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Backup { what: "reading the key backup", source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let (input, sum, head) =
            (BufReader::new(file), hash::Sum::default(), record::KeyBackupHead::default());
        let mut reading = Self { path, input, sum, head, records: 0, bytes };
        match reading.part()? {
            Part::Head(head) if head.version == VERSION => reading.head = head,
            Part::Head(_) => return Err(reading.no("of a later version")),
            _ => return Err(reading.no("not a key backup")),
        }
        Ok(reading)
    }

    fn no(&self, what: &str) -> EngineError {
        EngineError::BackupRefused(format!("{}: {what}", self.path.display()))
    }

    fn part(&mut self) -> Result<Part, EngineError> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|_| self.no("it ends too early"))?;
        let wanted = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if wanted > PART_BYTES_MAX {
            return Err(self.no("not a key backup"));
        }
        let mut bytes = vec![0; wanted];
        self.input.read_exact(&mut bytes).map_err(|_| self.no("it ends too early"))?;
        let read = record::KeyBackupPart::decode(&bytes[..]).ok().and_then(|read| read.part);
        let part = read.ok_or_else(|| self.no("not a key backup"))?;
        if !matches!(part, Part::End(_)) {
            self.sum.add(&length);
            self.sum.add(&bytes);
        }
        Ok(part)
    }

    /// The next record; none at the end, whose checksum is right.
    fn next(&mut self) -> Result<Option<record::KeyBackupRecord>, EngineError> {
        match self.part()? {
            Part::Record(record) => {
                self.records = self.records.saturating_add(1);
                Ok(Some(record))
            }
            Part::End(end) => {
                let sum = std::mem::take(&mut self.sum).finish();
                let same = end.records == self.records && end.sha256[..] == sum;
                if same { Ok(None) } else { Err(self.no("its checksum differs")) }
            }
            Part::Head(_) => Err(self.no("not a key backup")),
        }
    }

    fn described(self) -> KeyBackupFile {
        let head = self.head;
        KeyBackupFile {
            id: HEXLOWER.encode(&head.root_id),
            tree_id: HEXLOWER.encode(&head.tree_id),
            epoch: head.epoch,
            commit: head.at.as_ref().map_or(0, |at| at.number),
            frame: head.log.as_ref().map_or(0, |log| log.number),
            made_unix_ms: head.made_unix_ms,
            until_unix_ms: head.until_unix_ms,
            records: self.records,
            bytes: self.bytes,
        }
    }
}

/// Reads a key backup back: every part and the checksum over them.
///
/// # Errors
/// [`EngineError::BackupRefused`] for what is no whole key backup.
pub fn verify(file: &Path) -> Result<KeyBackupFile, EngineError> {
    let mut reading = Reading::begin(file)?;
    while reading.next()?.is_some() {}
    Ok(reading.described())
}

/// Makes of a key backup the key database in the folder `keys`, where there is none; a restore that was cut short is
/// begun again. Whether it may be gone on from, the vault's gate tells.
///
/// # Errors
/// [`EngineError::BackupRefused`] where keys lie there, or for what is no whole key backup.
pub async fn restore(file: &Path, keys: &Path) -> Result<KeyBackupFile, EngineError> {
    let found = verify(file)?;
    let _claimed = Folder::claim(keys, crate::open::FORMAT)?;
    let records = EmbeddedRecords::open(&keys.join("tree"))?;
    if records.get(STATE_KEY).await?.is_some() {
        let text =
            format!("keys lie in {} already: a key backup is restored where there are none", keys.display());
        return Err(EngineError::BackupRefused(text));
    }
    crate::projection::clear(&records).await?;
    let mut reading = Reading::begin(file)?;
    let (mut batch, mut last) = (Batch::default(), Batch::default());
    while let Some(record) = reading.next()? {
        // Last of all: with this the keys are there.
        let into = if record.key == STATE_KEY { &mut last } else { &mut batch };
        into.put(record.key.to_vec(), record.value);
        if batch.changes.len() >= AT_ONCE {
            records.apply(std::mem::take(&mut batch)).await?;
        }
    }
    records.apply(batch).await?;
    records.sync().await?;
    records.commit(last).await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> record::KeyBackupHead {
        record::KeyBackupHead {
            tree_id: Bytes::from_static(&[0xaa; 16]),
            root_id: Bytes::from_static(&[0xbb; 16]),
            epoch: 3,
            made_unix_ms: 1_000,
            until_unix_ms: 2_000,
            ..record::KeyBackupHead::default()
        }
    }

    fn written(file: &Path) {
        let mut writing = Writing::begin(File::create(file).unwrap(), head()).unwrap();
        writing.record(b"p1", b"page").unwrap();
        writing.record(STATE_KEY, b"state").unwrap();
        writing.end().unwrap();
    }

    #[test]
    fn golden_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b");
        written(&file);
        let golden = [
            "000000300a2e08011210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1a10bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            "200338e80740d00f",
            "0000000c120a0a0270311204706167650000000c120a0a017312057374617465",
            "000000261a2408021220",
            "18a09e1f97cb1e44094d05b089e699726ae4048aeb63f379b4e22034f90cd129",
        ]
        .concat();
        assert_eq!(HEXLOWER.encode(&std::fs::read(&file).unwrap()), golden);
        let verified = verify(&file).unwrap();
        assert_eq!((verified.records, verified.epoch, verified.id.len()), (2, 3, 32));
    }

    #[test]
    fn a_byte_changed_or_missing_anywhere_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b");
        written(&file);
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&file, &changed).unwrap();
            assert!(verify(&file).is_err(), "byte {at} changed");
            std::fs::write(&file, &whole[..at]).unwrap();
            assert!(verify(&file).is_err(), "cut at {at}");
        }
    }
}
