//! What a recorder writes down: every change of every watched file, in the order in which the kernel took them.
//!
//! A journal is one file in a folder: records of a length (u32) and an [`Op`], all little-endian, each byte that
//! was written stored where it was written. It outlives the process that it is about: the next start appends.
//! Paths are relative to the folder that the recorder was given, so that a journal can be played elsewhere.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const FILE: &str = "journal";

/// A file, whatever it is called just then. Another file of the same name, or of a reused inode, has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its number: 0, 1, 2, ... in the journal.
    pub at: u64,
    /// The process that did it; 0 for what the recorder or a test says by itself.
    pub pid: u32,
    /// What it did.
    pub what: What,
}

/// What can happen. A call is written down when it has returned, and only if it succeeded; a write that was
/// under way when its process was killed is written down whole, as its bytes may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The process began to run. A new boot of everything but the disk.
    Started,
    /// The process is gone.
    Ended,
    /// The recorder found this file, with these bytes, at a start: nobody wrote it under its eyes. What the
    /// journal knew under this path before is gone.
    Found {
        /// The file.
        file: FileId,
        /// Where.
        path: PathBuf,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// The recorder found, at a start, that this path is no more.
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// A file was opened, and perhaps made or emptied by that.
    Open {
        /// The file.
        file: FileId,
        /// Where.
        path: PathBuf,
        /// It was not there before.
        created: bool,
        /// It was emptied.
        truncated: bool,
    },
    /// Bytes were written.
    Write {
        /// The file.
        file: FileId,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// The file was cut or grown to this length.
    SetLen {
        /// The file.
        file: FileId,
        /// In bytes.
        length: u64,
    },
    /// `fallocate`.
    Allocate {
        /// The file.
        file: FileId,
        /// Where in it.
        offset: u64,
        /// In bytes.
        length: u64,
        /// The call's flags; 0 grows the file, `FALLOC_FL_PUNCH_HOLE` and `FALLOC_FL_ZERO_RANGE` make zeros.
        mode: u32,
    },
    /// `fsync` or `fdatasync` of a file returned.
    Sync {
        /// The file.
        file: FileId,
        /// What was done to the file by operations before this number is durable.
        since: u64,
        /// It was `fdatasync`, which keeps the length too.
        data_only: bool,
    },
    /// `sync_file_range` returned: promises nothing about a power cut.
    SyncRange {
        /// The file.
        file: FileId,
    },
    /// A folder was synced: what it holds, not what is in it.
    SyncFolder {
        /// Where.
        path: PathBuf,
        /// As in [`What::Sync`].
        since: u64,
    },
    /// A file or folder got another name, and replaced what had it.
    Rename {
        /// Its former name.
        from: PathBuf,
        /// Its new one.
        to: PathBuf,
    },
    /// A name went away.
    Unlink {
        /// What it named.
        file: FileId,
        /// Where.
        path: PathBuf,
    },
    /// A folder was made, or found at a start.
    MakeFolder {
        /// Where.
        path: PathBuf,
    },
    /// A folder was removed.
    RemoveFolder {
        /// Where.
        path: PathBuf,
    },
    /// Something that the test, not the process, says: what was acknowledged, say.
    Note(String),
}

/// Appends to a journal.
#[derive(Debug)]
pub struct Writer {
    file: File,
    next: u64,
}

impl Writer {
    /// Opens the journal in `folder`, made where missing, to go on behind its last whole record.
    ///
    /// # Errors
    /// Of the file system; [`io::ErrorKind::InvalidData`] if the journal is no journal.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(FILE))?;
        let mut next = 0;
        let mut end = 0;
        let mut reader = Reader::open(folder)?;
        while let Some(op) = reader.next() {
            next = op?.at + 1;
            end = reader.end;
        }
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file, next })
    }

    /// The number that the next operation will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Appends an operation and returns its number. The kernel has it then: it survives the test, not the machine.
    ///
    /// # Errors
    /// Of the file system.
    pub fn append(&mut self, pid: u32, what: What) -> io::Result<u64> {
        let at = self.next;
        let mut record = vec![0; 4];
        encode(&Op { at, pid, what }, &mut record);
        let length = u32::try_from(record.len() - 4).map_err(|_| invalid("an operation of 4 GiB"))?;
        record[..4].copy_from_slice(&length.to_le_bytes());
        self.file.write_all(&record)?;
        self.next += 1;
        Ok(at)
    }
}

/// Reads a journal from its beginning; ends before a record that is cut short, as one that is being written is.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    end: u64,
}

impl Reader {
    /// Opens the journal in `folder`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: BufReader::with_capacity(1 << 20, File::open(folder.join(FILE))?), end: 0 })
    }

    fn read(&mut self) -> io::Result<Option<Op>> {
        let mut length = [0; 4];
        if !fill(&mut self.file, &mut length)? {
            return Ok(None);
        }
        let mut record = vec![0; u32::from_le_bytes(length) as usize];
        if !fill(&mut self.file, &mut record)? {
            return Ok(None);
        }
        self.end += 4 + record.len() as u64;
        decode(&mut record.as_slice()).map(Some).ok_or_else(|| invalid("no operation"))
    }
}

impl Iterator for Reader {
    type Item = io::Result<Op>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Whether there was enough to fill `bytes`.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn encode(op: &Op, to: &mut Vec<u8>) {
    let mut record = Record(to);
    record.number(op.at).number(op.pid.into());
    match &op.what {
        What::Started => record.tag(0),
        What::Ended => record.tag(1),
        What::Found { file, path, bytes } => record.tag(2).number(file.0).path(path).bytes(bytes),
        What::Missing { path } => record.tag(3).path(path),
        What::Open { file, path, created, truncated } => {
            record.tag(4).number(file.0).path(path).tag((*created).into()).tag((*truncated).into())
        }
        What::Write { file, offset, bytes } => record.tag(5).number(file.0).number(*offset).bytes(bytes),
        What::SetLen { file, length } => record.tag(6).number(file.0).number(*length),
        What::Allocate { file, offset, length, mode } => {
            record.tag(7).number(file.0).number(*offset).number(*length).number((*mode).into())
        }
        What::Sync { file, since, data_only } => {
            record.tag(8).number(file.0).number(*since).tag((*data_only).into())
        }
        What::SyncRange { file } => record.tag(9).number(file.0),
        What::SyncFolder { path, since } => record.tag(10).path(path).number(*since),
        What::Rename { from, to } => record.tag(11).path(from).path(to),
        What::Unlink { file, path } => record.tag(12).number(file.0).path(path),
        What::MakeFolder { path } => record.tag(13).path(path),
        What::RemoveFolder { path } => record.tag(14).path(path),
        What::Note(text) => record.tag(15).bytes(text.as_bytes()),
    };
}

fn decode(from: &mut &[u8]) -> Option<Op> {
    let (at, pid) = (number(from)?, number(from)?.try_into().ok()?);
    let what = match tag(from)? {
        0 => What::Started,
        1 => What::Ended,
        2 => What::Found { file: file(from)?, path: path(from)?, bytes: bytes(from)? },
        3 => What::Missing { path: path(from)? },
        4 => What::Open {
            file: file(from)?,
            path: path(from)?,
            created: tag(from)? != 0,
            truncated: tag(from)? != 0,
        },
        5 => What::Write { file: file(from)?, offset: number(from)?, bytes: bytes(from)? },
        6 => What::SetLen { file: file(from)?, length: number(from)? },
        7 => What::Allocate {
            file: file(from)?,
            offset: number(from)?,
            length: number(from)?,
            mode: number(from)?.try_into().ok()?,
        },
        8 => What::Sync { file: file(from)?, since: number(from)?, data_only: tag(from)? != 0 },
        9 => What::SyncRange { file: file(from)? },
        10 => What::SyncFolder { path: path(from)?, since: number(from)? },
        11 => What::Rename { from: path(from)?, to: path(from)? },
        12 => What::Unlink { file: file(from)?, path: path(from)? },
        13 => What::MakeFolder { path: path(from)? },
        14 => What::RemoveFolder { path: path(from)? },
        15 => What::Note(String::from_utf8(bytes(from)?).ok()?),
        _ => return None,
    };
    from.is_empty().then_some(Op { at, pid, what })
}

struct Record<'a>(&'a mut Vec<u8>);

impl Record<'_> {
    fn tag(&mut self, tag: u8) -> &mut Self {
        self.0.push(tag);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn path(&mut self, path: &Path) -> &mut Self {
        self.bytes(path.as_os_str().as_bytes())
    }
}

fn tag(from: &mut &[u8]) -> Option<u8> {
    let (tag, rest) = from.split_first()?;
    *from = rest;
    Some(*tag)
}

fn number(from: &mut &[u8]) -> Option<u64> {
    let (number, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u64::from_le_bytes(*number))
}

fn bytes(from: &mut &[u8]) -> Option<Vec<u8>> {
    let length = number(from)?.try_into().ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes.to_vec())
}

fn path(from: &mut &[u8]) -> Option<PathBuf> {
    Some(OsStr::from_bytes(&bytes(from)?).into())
}

fn file(from: &mut &[u8]) -> Option<FileId> {
    number(from).map(FileId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<What> {
        let (file, path) = (FileId(7), PathBuf::from("keys/tree/db"));
        vec![
            What::Started,
            What::Found { file, path: path.clone(), bytes: vec![1; 3] },
            What::Missing { path: path.clone() },
            What::Open { file, path: path.clone(), created: true, truncated: false },
            What::Write { file, offset: 1 << 40, bytes: vec![0; 70_000] },
            What::SetLen { file, length: 9 },
            What::Allocate { file, offset: 1, length: 2, mode: 3 },
            What::Sync { file, since: 4, data_only: true },
            What::SyncRange { file },
            What::SyncFolder { path: "keys".into(), since: 8 },
            What::Rename { from: path.clone(), to: "keys/other".into() },
            What::Unlink { file, path },
            What::MakeFolder { path: "data".into() },
            What::RemoveFolder { path: "data".into() },
            What::Note("acknowledged".to_owned()),
            What::Ended,
        ]
    }

    #[test]
    fn what_is_written_is_read_and_a_second_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut writer = Writer::open(folder.path()).unwrap();
            for what in one_of_each() {
                writer.append(11, what).unwrap();
            }
        }
        let ops: Vec<Op> = Reader::open(folder.path()).unwrap().map(Result::unwrap).collect();
        let whats = one_of_each().into_iter().chain(one_of_each());
        let expected: Vec<Op> = (0..).zip(whats).map(|(at, what)| Op { at, pid: 11, what }).collect();
        assert_eq!(ops, expected);
    }

    #[test]
    fn a_record_cut_short_is_not_there_and_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        writer.append(1, What::Note("whole".to_owned())).unwrap();
        writer.append(1, What::Note("cut".to_owned())).unwrap();
        let file = OpenOptions::new().write(true).open(folder.path().join(FILE)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        assert_eq!(writer.append(1, What::Ended).unwrap(), 1);
        let ops: Vec<What> = Reader::open(folder.path()).unwrap().map(|op| op.unwrap().what).collect();
        assert_eq!(ops, [What::Note("whole".to_owned()), What::Ended]);
    }
}
