//! What a disk may hold after the power went: a journal played onto a disk that loses what was not synced.
//!
//! A sync of a file makes its bytes and length durable, a sync of a folder the names in it; nothing else does,
//! not `sync_file_range` either. What is not durable may be there or not: a write whole, in part at the borders
//! of sectors or pages, or not at all, whatever became of the writes before it. Names of one folder come and go
//! in their order, as journalling file systems keep it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::images::{change, put};
use super::journal::{FileId, Op, What};
use crate::seed::Sequence;

/// What a disk writes as one.
const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 4096;

/// What becomes of things that no sync had reached.
#[derive(Clone, Debug)]
pub enum Loss {
    /// All are gone.
    Everything,
    /// All are there, as after a kill.
    Nothing,
    /// Some are gone and some are torn, as the seed has it.
    Some(Sequence),
}

/// A disk under a recorded program.
#[derive(Debug, Default)]
pub struct Disk {
    files: HashMap<FileId, Contents>,
    folders: HashMap<PathBuf, Names>,
}

#[derive(Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    pending: Vec<(u64, What)>,
}

#[derive(Debug, Default)]
struct Names {
    durable: BTreeMap<OsString, Named>,
    pending: Vec<(u64, Change)>,
}

#[derive(Clone, Copy, Debug)]
enum Named {
    File(FileId),
    Folder,
}

#[derive(Clone, Debug)]
enum Change {
    Put(OsString, Named),
    Take(OsString),
    Move(OsString, OsString),
}

impl Disk {
    /// Applies the next operation of the journal.
    ///
    /// # Panics
    /// If it gives a folder another name, which nothing of ours does.
    pub fn apply(&mut self, op: &Op) {
        match &op.what {
            What::Found { file, path, bytes } => {
                self.files.insert(*file, Contents { durable: bytes.clone(), pending: Vec::new() });
                self.settled(op.at, path, Some(Named::File(*file)));
            }
            What::Missing { path } => self.settled(op.at, path, None),
            What::MakeFolder { path } if op.pid == 0 => {
                self.settled(op.at, path, Some(Named::Folder));
                self.folders.entry(path.clone()).or_default();
            }
            What::MakeFolder { path } => {
                self.change(op.at, path, |name| Change::Put(name, Named::Folder));
                self.folders.insert(path.clone(), Names::default());
            }
            What::RemoveFolder { path } => self.change(op.at, path, Change::Take),
            What::Open { file, path, created, .. } => {
                if *created {
                    self.files.insert(*file, Contents::default());
                    self.change(op.at, path, |name| Change::Put(name, Named::File(*file)));
                }
                self.written(op);
            }
            What::Sync { file, since, .. } => {
                if let Some(contents) = self.files.get_mut(file) {
                    contents.sync(*since);
                }
            }
            What::SyncFolder { path, since } => {
                if let Some(names) = self.folders.get_mut(path) {
                    names.sync(*since);
                }
            }
            What::Rename { from, to } => self.rename(op.at, from, to),
            What::Unlink { path, .. } => self.change(op.at, path, Change::Take),
            _ => self.written(op),
        }
    }

    /// Lays the disk out below `target` as it would be found if the power went now. Files and folders are their
    /// owner's alone, as the vault's are.
    ///
    /// # Errors
    /// Of the file system.
    pub fn cut(&self, loss: &mut Loss, target: &Path) -> io::Result<()> {
        let mut laid = HashMap::new();
        let mut tops: Vec<_> =
            self.folders.keys().filter(|path| self.parent(path).is_none()).cloned().collect();
        tops.sort();
        for top in tops {
            self.lay(&top, loss, target, &mut laid)?;
        }
        Ok(())
    }

    fn lay(
        &self,
        folder: &Path,
        loss: &mut Loss,
        target: &Path,
        laid: &mut HashMap<FileId, Vec<u8>>,
    ) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(target.join(folder))?;
        let Some(names) = self.folders.get(folder) else { return Ok(()) };
        for (name, named) in names.after(loss) {
            let path = folder.join(name);
            match named {
                Named::Folder => self.lay(&path, loss, target, laid)?,
                Named::File(file) => {
                    let Some(contents) = self.files.get(&file) else { continue };
                    let bytes = laid.entry(file).or_insert_with(|| contents.after(loss));
                    let mut options = OpenOptions::new();
                    let mut file = options.write(true).create(true).mode(0o600).open(target.join(path))?;
                    file.write_all(bytes)?;
                }
            }
        }
        Ok(())
    }

    fn parent(&self, path: &Path) -> Option<&Names> {
        self.folders.get(path.parent()?)
    }

    fn change(&mut self, at: u64, path: &Path, change: impl FnOnce(OsString) -> Change) {
        if let (Some(names), Some(name)) = (self.names(path), path.file_name()) {
            names.pending.push((at, change(name.to_owned())));
        }
    }

    /// What was found on the disk, whatever the journal thought.
    fn settled(&mut self, at: u64, path: &Path, named: Option<Named>) {
        let (Some(names), Some(name)) = (self.names(path), path.file_name()) else { return };
        names.sync(at);
        match named {
            Some(named) => drop(names.durable.insert(name.to_owned(), named)),
            None => drop(names.durable.remove(name)),
        }
    }

    fn names(&mut self, path: &Path) -> Option<&mut Names> {
        self.folders.get_mut(path.parent()?)
    }

    fn rename(&mut self, at: u64, from: &Path, to: &Path) {
        assert!(!self.folders.contains_key(from), "a folder got another name: {}", from.display());
        if from.parent() == to.parent() {
            let to = to.file_name().map(OsStr::to_owned).unwrap_or_default();
            return self.change(at, from, |from| Change::Move(from, to));
        }
        let named = from.file_name().and_then(|name| self.names(from)?.now().get(name).copied());
        if let Some(named) = named {
            self.change(at, from, Change::Take);
            self.change(at, to, |to| Change::Put(to, named));
        }
    }

    fn written(&mut self, op: &Op) {
        if let Some(file) = super::images::file_of(&op.what) {
            self.files.entry(file).or_default().pending.push((op.at, op.what.clone()));
        }
    }
}

impl Contents {
    fn sync(&mut self, since: u64) {
        for (at, what) in std::mem::take(&mut self.pending) {
            if at < since {
                change(&mut self.durable, &what);
            } else {
                self.pending.push((at, what));
            }
        }
    }

    fn after(&self, loss: &mut Loss) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let random = match loss {
            Loss::Everything => return bytes,
            Loss::Nothing => {
                for (_, what) in &self.pending {
                    change(&mut bytes, what);
                }
                return bytes;
            }
            Loss::Some(random) => random,
        };
        // Once for a file: none, all, or each by itself.
        let style = random.below(4);
        let block = *random.pick(&[SECTOR_BYTES, PAGE_BYTES]);
        for (_, what) in &self.pending {
            match (style, what) {
                (0, _) => {}
                (1, _) => drop(change(&mut bytes, what)),
                (2, What::Write { offset, bytes: written, .. }) => {
                    tear(&mut bytes, *offset, written, block, random);
                }
                _ if random.below(2) == 0 => drop(change(&mut bytes, what)),
                _ => {}
            }
        }
        bytes
    }
}

/// Applies some blocks of a write.
fn tear(bytes: &mut Vec<u8>, offset: u64, written: &[u8], block: u64, random: &mut Sequence) {
    let mut rest = written;
    let mut at = offset;
    while !rest.is_empty() {
        let room = usize::try_from(block - at % block).expect("a block");
        let (part, after) = rest.split_at(room.min(rest.len()));
        if random.below(2) == 0 {
            put(bytes, at, part);
        }
        at += part.len() as u64;
        rest = after;
    }
}

impl Names {
    fn sync(&mut self, since: u64) {
        for (at, change) in std::mem::take(&mut self.pending) {
            if at < since {
                change.apply(&mut self.durable);
            } else {
                self.pending.push((at, change));
            }
        }
    }

    fn now(&self) -> BTreeMap<OsString, Named> {
        self.after(&mut Loss::Nothing)
    }

    fn after(&self, loss: &mut Loss) -> BTreeMap<OsString, Named> {
        let kept = match loss {
            Loss::Everything => 0,
            Loss::Nothing => self.pending.len() as u64,
            Loss::Some(random) => random.below(self.pending.len() as u64 + 1),
        };
        let mut names = self.durable.clone();
        for (_, (_, change)) in (0..kept).zip(&self.pending) {
            change.apply(&mut names);
        }
        names
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<OsString, Named>) {
        match self {
            Self::Put(name, named) => drop(names.insert(name.clone(), *named)),
            Self::Take(name) => drop(names.remove(name)),
            Self::Move(from, to) => {
                if let Some(named) = names.remove(from) {
                    names.insert(to.clone(), named);
                }
            }
        }
    }
}

/// Everything below a folder, by its path in it: for tests that compare.
///
/// # Errors
/// Of the file system.
pub fn files_below(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(below) = entry.path().strip_prefix(folder) {
                all.insert(below.to_owned(), fs::read(entry.path())?);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(1);

    fn disk(whats: Vec<What>) -> Disk {
        let mut disk = Disk::default();
        let top = Op { at: 0, pid: 0, what: What::MakeFolder { path: "a".into() } };
        disk.apply(&top);
        (1..).zip(whats).for_each(|(at, what)| disk.apply(&Op { at, pid: 9, what }));
        disk
    }

    fn open(path: &str) -> What {
        What::Open { file: FILE, path: path.into(), created: true, truncated: false }
    }

    fn write(offset: u64, bytes: &[u8]) -> What {
        What::Write { file: FILE, offset, bytes: bytes.to_vec() }
    }

    fn sync(since: u64) -> What {
        What::Sync { file: FILE, since, data_only: true }
    }

    fn sync_folder(since: u64) -> What {
        What::SyncFolder { path: "a".into(), since }
    }

    fn left(disk: &Disk, mut loss: Loss) -> Vec<(String, Vec<u8>)> {
        let target = tempfile::tempdir().unwrap();
        disk.cut(&mut loss, target.path()).unwrap();
        let files = files_below(&target.path().join("a")).unwrap();
        files.into_iter().map(|(path, bytes)| (path.display().to_string(), bytes)).collect()
    }

    #[test]
    fn bytes_need_a_sync_that_began_after_them_and_names_one_of_the_folder() {
        let nameless = disk(vec![open("a/x"), write(0, b"abc"), sync(3)]);
        assert_eq!(left(&nameless, Loss::Everything), []);
        let whole = disk(vec![open("a/x"), write(0, b"abc"), sync(3), sync_folder(4), write(0, b"XY")]);
        assert_eq!(left(&whole, Loss::Everything), [("x".to_owned(), b"abc".to_vec())]);
        assert_eq!(left(&whole, Loss::Nothing), [("x".to_owned(), b"XYc".to_vec())]);
        let overtaken = disk(vec![open("a/x"), sync_folder(2), write(0, b"abc"), sync(3)]);
        assert_eq!(left(&overtaken, Loss::Everything), [("x".to_owned(), vec![])]);
        let ranged =
            disk(vec![open("a/x"), sync_folder(2), write(0, b"abc"), What::SyncRange { file: FILE }]);
        assert_eq!(left(&ranged, Loss::Everything), [("x".to_owned(), vec![])]);
    }

    #[test]
    fn an_unlink_that_no_sync_reached_gives_back_what_the_file_held_last() {
        let unlinked = disk(vec![
            open("a/x"),
            write(0, b"secret"),
            sync(3),
            sync_folder(4),
            write(0, b"noise!"),
            sync(6),
            What::Unlink { file: FILE, path: "a/x".into() },
        ]);
        assert_eq!(left(&unlinked, Loss::Everything), [("x".to_owned(), b"noise!".to_vec())]);
        assert_eq!(left(&unlinked, Loss::Nothing), []);
    }

    #[test]
    fn a_rename_is_done_or_not_and_a_torn_write_is_torn_at_a_border() {
        let renamed = disk(vec![
            open("a/x"),
            sync_folder(2),
            write(100, &[7; 2000]),
            What::Rename { from: "a/x".into(), to: "a/y".into() },
        ]);
        let (mut names, mut torn) = ([0; 2], 0);
        for seed in 0..200 {
            let left = left(&renamed, Loss::Some(Sequence::of(seed)));
            assert_eq!(left.len(), 1);
            names[usize::from(left[0].0 == "y")] += 1;
            let bytes = &left[0].1;
            torn += u32::from(bytes.contains(&7) && bytes.iter().filter(|byte| **byte == 7).count() < 2000);
            let changes = (101..bytes.len()).filter(|at| bytes[*at] != bytes[at - 1]);
            assert!(changes.into_iter().all(|at| at % 512 == 0));
        }
        assert!(names.iter().all(|times| *times > 20) && torn > 10, "{names:?} {torn}");
    }

    #[test]
    fn what_a_start_finds_is_durable() {
        let mut disk = disk(vec![open("a/x"), write(0, b"abc")]);
        let found = What::Found { file: FileId(2), path: "a/x".into(), bytes: b"other".to_vec() };
        disk.apply(&Op { at: 9, pid: 0, what: found });
        assert_eq!(left(&disk, Loss::Everything), [("x".to_owned(), b"other".to_vec())]);
        disk.apply(&Op { at: 10, pid: 0, what: What::Missing { path: "a/x".into() } });
        assert_eq!(left(&disk, Loss::Nothing), []);
    }
}
