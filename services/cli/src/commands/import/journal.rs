//! The files an import writes, and the state that says how far they count. Rows are appended and synced
//! before the state that counts them is put in place; what lies beyond the state is cut off when an import
//! goes on. So a process killed at any moment leaves nothing half done and nothing twice.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};
use serde::{Deserialize, Serialize};

use super::ImportError;

/// The version of state files that this program reads and writes.
const VERSION: u32 = 1;

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The CSV with tokens.
    pub(super) out: PathBuf,
    /// What could not be taken.
    pub(super) rejects: PathBuf,
    /// How far both count.
    pub(super) state: PathBuf,
}

/// How far an import has come. Counts and hashes of files, nothing of anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    /// Which CSV, in hex.
    pub(super) source: String,
    /// Which mapping, in hex.
    pub(super) mapping: String,
    /// Rows read and dealt with.
    pub(super) rows: u64,
    /// Of these, rows in the file with tokens.
    pub(super) taken: u64,
    /// Tokens in them.
    pub(super) tokens: u64,
    /// How much of the file with tokens counts.
    out_bytes: u64,
    /// How much of the rejects file counts.
    rejects_bytes: u64,
    /// Whether every row was dealt with.
    pub(super) done: bool,
}

impl State {
    /// The beginning.
    pub(super) fn new(source: String, mapping: String) -> Self {
        let (rows, taken, tokens, out_bytes, rejects_bytes) = (0, 0, 0, 0, 0);
        Self { version: VERSION, source, mapping, rows, taken, tokens, out_bytes, rejects_bytes, done: false }
    }

    /// Rows in the rejects file.
    pub(super) fn rejected(&self) -> u64 {
        self.rows.saturating_sub(self.taken)
    }
}

/// The open files. One import at a time has them.
pub(super) struct Journal {
    files: Files,
    out: File,
    rejects: File,
    state: State,
}

impl Journal {
    /// Goes on where the state file stands, or begins if there is none.
    ///
    /// # Errors
    /// [`ImportError::Exists`] rather than overwrite what no state counts, [`ImportError::OtherSource`] for
    /// a state of another CSV or mapping, [`ImportError::State`] for one that does not fit its files,
    /// [`ImportError::Busy`] while another import has them.
    pub(super) fn open(files: Files, begin: State) -> Result<Self, ImportError> {
        let state = match std::fs::read_to_string(&files.state) {
            Ok(text) => {
                let damaged = |_| ImportError::State { path: files.state.clone() };
                let state: State = serde_json::from_str(&text).map_err(damaged)?;
                if (&state.source, &state.mapping) != (&begin.source, &begin.mapping) {
                    return Err(ImportError::OtherSource { path: files.state });
                }
                state
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if let Some(path) = [&files.out, &files.rejects].into_iter().find(|path| path.exists()) {
                    return Err(ImportError::Exists { path: path.clone() });
                }
                // Before the files: they are never without a state that counts them.
                replace(&files.state, &begin)?;
                begin
            }
            Err(error) => return Err(ImportError::file(&files.state)(error)),
        };
        if state.version != VERSION {
            return Err(ImportError::State { path: files.state });
        }
        let out = open_at(&files.out, state.out_bytes, &files.state)?;
        let rejects = open_at(&files.rejects, state.rejects_bytes, &files.state)?;
        Ok(Self { files, out, rejects, state })
    }

    /// How far it has come.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Whether nothing has been written yet, not even headings.
    pub(super) fn is_new(&self) -> bool {
        self.state.out_bytes == 0
    }

    /// Appends to both files, then counts it.
    pub(super) fn append(
        &mut self,
        out: &[u8],
        rejects: &[u8],
        count: impl FnOnce(&mut State),
    ) -> Result<(), ImportError> {
        let appended = |file: &mut File, bytes: &[u8]| -> std::io::Result<()> {
            if bytes.is_empty() {
                return Ok(());
            }
            file.write_all(bytes)?;
            file.sync_data()
        };
        appended(&mut self.out, out).map_err(ImportError::file(&self.files.out))?;
        appended(&mut self.rejects, rejects).map_err(ImportError::file(&self.files.rejects))?;
        let mut state = self.state.clone();
        state.out_bytes = state.out_bytes.saturating_add(out.len() as u64);
        state.rejects_bytes = state.rejects_bytes.saturating_add(rejects.len() as u64);
        count(&mut state);
        replace(&self.files.state, &state)?;
        self.state = state;
        Ok(())
    }

    /// What was written before, beside each other: subject ids in the order of rows taken, numbers of rows
    /// rejected.
    pub(super) fn written(&self, subject_at: usize) -> Result<Written, ImportError> {
        let reader = |path: &Path| {
            let file = File::open(path).map_err(ImportError::file(path))?;
            Ok::<_, ImportError>(ReaderBuilder::new().flexible(true).from_reader(file))
        };
        Ok(Written {
            out: reader(&self.files.out)?,
            rejects: reader(&self.files.rejects)?,
            subject_at,
            ahead: None,
        })
    }

    /// Those of `tokens` that stand in rows written before.
    pub(super) fn known(&self, tokens: &HashSet<String>) -> Result<HashSet<String>, ImportError> {
        let path = &self.files.out;
        let file = File::open(path).map_err(ImportError::file(path))?;
        let mut reader = ReaderBuilder::new().from_reader(file);
        let (mut row, mut known) = (ByteRecord::new(), HashSet::new());
        while reader.read_byte_record(&mut row).map_err(|_| self.misfit())? {
            let cells = row.iter().filter_map(|cell| std::str::from_utf8(cell).ok());
            known.extend(cells.filter(|cell| tokens.contains(*cell)).map(str::to_owned));
        }
        Ok(known)
    }

    /// The state and the files do not belong together.
    pub(super) fn misfit(&self) -> ImportError {
        ImportError::State { path: self.files.state.clone() }
    }
}

/// See [`Journal::written`].
pub(super) struct Written {
    out: csv::Reader<File>,
    rejects: csv::Reader<File>,
    subject_at: usize,
    ahead: Option<u64>,
}

impl Written {
    /// The subject of a row written before: `Some(None)` if the row was rejected, `None` if it is not there.
    /// Rows are asked for in order.
    pub(super) fn subject(&mut self, row: u64) -> Option<Option<String>> {
        let mut rejected = false;
        while let Some(number) = self.ahead.take().or_else(|| next_number(&mut self.rejects)) {
            if number > row {
                self.ahead = Some(number);
                break;
            }
            rejected |= number == row;
        }
        if rejected {
            return Some(None);
        }
        let mut cells = ByteRecord::new();
        let read = self.out.read_byte_record(&mut cells).ok()?;
        let subject = cells.get(self.subject_at).and_then(|cell| std::str::from_utf8(cell).ok())?;
        read.then(|| Some(subject.to_owned()))
    }
}

fn next_number(rejects: &mut csv::Reader<File>) -> Option<u64> {
    let mut line = ByteRecord::new();
    let read = rejects.read_byte_record(&mut line).ok()?;
    read.then(|| std::str::from_utf8(line.get(0)?).ok()?.parse().ok())?
}

/// Opens a file for appending at `bytes`, cutting off what lies beyond.
fn open_at(path: &Path, bytes: u64, state: &Path) -> Result<File, ImportError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open.map_err(ImportError::file(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(ImportError::Busy { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(ImportError::file(path)(error)),
    }
    if file.metadata().map_err(ImportError::file(path))?.len() < bytes {
        return Err(ImportError::State { path: state.to_owned() });
    }
    file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(ImportError::file(path))?;
    Ok(file)
}

/// Writes beside the file and renames over it. Losing the rename in a power cut loses nothing: the former
/// state counts less, and what it does not count is asked for again under the same ids.
fn replace(path: &Path, state: &State) -> Result<(), ImportError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        std::fs::rename(&beside, path)
    };
    written().map_err(ImportError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Files {
        Files { out: folder.join("out"), rejects: folder.join("rejects"), state: folder.join("state") }
    }

    fn begin() -> State {
        State::new("source".into(), "mapping".into())
    }

    #[test]
    fn what_the_state_does_not_count_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(files(folder.path()), begin()).unwrap();
        journal.append(b"head\nrow 1\n", b"row,column,reason\n", |state| state.rows = 1).unwrap();
        drop(journal);
        std::fs::write(folder.path().join("out"), "head\nrow 1\nro").unwrap();
        let mut journal = Journal::open(files(folder.path()), begin()).unwrap();
        assert_eq!(journal.state().rows, 1);
        journal.append(b"row 2\n", b"", |state| state.rows = 2).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("out")).unwrap(), "head\nrow 1\nrow 2\n");
    }

    #[test]
    fn nothing_is_overwritten_and_nobody_elses_state_is_used() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out"), "precious").unwrap();
        let open = |begin| Journal::open(files(folder.path()), begin).err();
        assert!(matches!(open(begin()), Some(ImportError::Exists { .. })));
        std::fs::remove_file(folder.path().join("out")).unwrap();
        assert!(open(begin()).is_none());
        let other = State::new("another".into(), "mapping".into());
        assert!(matches!(open(other), Some(ImportError::OtherSource { .. })));
        std::fs::write(folder.path().join("state"), "{}").unwrap();
        assert!(matches!(open(begin()), Some(ImportError::State { .. })));
    }

    #[test]
    fn a_file_shorter_than_the_state_says_is_a_misfit() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(files(folder.path()), begin()).unwrap();
        journal.append(b"head\n", b"", |_| ()).unwrap();
        drop(journal);
        std::fs::write(folder.path().join("out"), "he").unwrap();
        let misfit = Journal::open(files(folder.path()), begin()).err();
        assert!(matches!(misfit, Some(ImportError::State { .. })));
    }

    #[test]
    fn two_imports_do_not_write_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let first = Journal::open(files(folder.path()), begin()).unwrap();
        assert!(matches!(Journal::open(files(folder.path()), begin()), Err(ImportError::Busy { .. })));
        drop(first);
        assert!(Journal::open(files(folder.path()), begin()).is_ok());
    }

    #[test]
    fn rows_written_before_are_told_from_rejected_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(files(folder.path()), begin()).unwrap();
        let rejects = b"row,column,reason\n2,a,malformed\n2,b,malformed\n4,,columns\n";
        journal.append(b"a,subject_id\nx,sub_1\ny,sub_3\nz,\n", rejects, |_| ()).unwrap();
        let mut written = journal.written(1).unwrap();
        let subjects: Vec<_> = (1..=6).map(|row| written.subject(row)).collect();
        let sub = |id: &str| Some(Some(id.to_owned()));
        assert_eq!(subjects, [sub("sub_1"), Some(None), sub("sub_3"), Some(None), sub(""), None]);
        let tokens = HashSet::from(["y".to_owned(), "nobody".to_owned()]);
        assert_eq!(journal.known(&tokens).unwrap(), HashSet::from(["y".to_owned()]));
    }
}
