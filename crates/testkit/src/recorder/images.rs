//! A journal played back in memory: every file's contents, one operation after the other.
//!
//! What was unlinked, cut off or written over can be had by looking before the operation is applied: each
//! [`Change`] says which bytes an operation has put where, and [`Images::contents`] what stands around them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::journal::{FileId, Op, What};

/// `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_PUNCH_HOLE` and `FALLOC_FL_ZERO_RANGE` of `fallocate(2)`.
pub(super) const KEEP_SIZE: u32 = 0x01;
pub(super) const PUNCH_HOLE: u32 = 0x02;
pub(super) const ZERO_RANGE: u32 = 0x10;

/// Every file that a journal has named so far, also those that have no name any more.
#[derive(Debug, Default)]
pub struct Images {
    files: HashMap<FileId, Image>,
    names: HashMap<PathBuf, FileId>,
}

#[derive(Debug, Default)]
struct Image {
    /// Every name it has had; the newest last.
    paths: Vec<PathBuf>,
    contents: Vec<u8>,
}

/// Bytes that an operation has put into a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub file: FileId,
    /// Where in it; empty where a file was only cut.
    pub bytes: Range<usize>,
}

impl Images {
    /// Applies the next operation of the journal; says what it has changed in a file's contents.
    ///
    /// # Panics
    /// If the operation belongs to no journal that begins where these images do.
    pub fn apply(&mut self, op: &Op) -> Option<Change> {
        match &op.what {
            What::Found { file, path, bytes } => {
                self.name(*file, path);
                self.image(*file).contents.clone_from(bytes);
                Some(Change { file: *file, bytes: 0..bytes.len() })
            }
            What::Open { file, path, truncated, .. } => {
                self.name(*file, path);
                if *truncated {
                    self.image(*file).contents.clear();
                }
                truncated.then_some(Change { file: *file, bytes: 0..0 })
            }
            What::Missing { path } | What::Unlink { path, .. } => {
                self.names.remove(path);
                None
            }
            What::Rename { from, to } => {
                self.rename(from, to);
                None
            }
            what => {
                let file = file_of(what)?;
                let bytes = change(&mut self.image(file).contents, what)?;
                Some(Change { file, bytes })
            }
        }
    }

    /// What the file holds now; what it held last, if nothing names it any more.
    pub fn contents(&self, file: FileId) -> Option<&[u8]> {
        self.files.get(&file).map(|image| image.contents.as_slice())
    }

    /// Every name that the file has had, the newest last.
    pub fn paths(&self, file: FileId) -> &[PathBuf] {
        self.files.get(&file).map_or(&[], |image| &image.paths)
    }

    /// Which file has this name now.
    pub fn named(&self, path: &Path) -> Option<FileId> {
        self.names.get(path).copied()
    }

    /// All names in use now, and what they name, in no order.
    pub fn names(&self) -> impl Iterator<Item = (&Path, FileId)> {
        self.names.iter().map(|(path, file)| (path.as_path(), *file))
    }

    /// All files that ever were, in no order.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.keys().copied()
    }

    fn image(&mut self, file: FileId) -> &mut Image {
        self.files.entry(file).or_default()
    }

    fn name(&mut self, file: FileId, path: &Path) {
        self.names.insert(path.to_owned(), file);
        let paths = &mut self.image(file).paths;
        if paths.last().is_none_or(|last| last != path) {
            paths.push(path.to_owned());
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let moved: Vec<_> = self.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let below = path.strip_prefix(from).expect("it starts so");
            let new = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            let file = self.names.remove(&path).expect("it was there");
            self.name(file, &new);
        }
    }
}

/// The file whose contents an operation changes.
pub(super) fn file_of(what: &What) -> Option<FileId> {
    match what {
        What::Write { file, .. } | What::SetLen { file, .. } | What::Allocate { file, .. } => Some(*file),
        What::Open { file, truncated: true, .. } => Some(*file),
        _ => None,
    }
}

/// Does to `contents` what the operation does to its file, and says where bytes are new.
pub(super) fn change(contents: &mut Vec<u8>, what: &What) -> Option<Range<usize>> {
    match what {
        What::Write { offset, bytes, .. } => Some(put(contents, *offset, bytes)),
        What::SetLen { length, .. } => {
            let before = contents.len();
            contents.resize(index(*length), 0);
            Some(before.min(contents.len())..contents.len())
        }
        What::Allocate { offset, length, mode, .. } => {
            let (begin, end) = (index(*offset), index(offset + length));
            if mode & KEEP_SIZE == 0 && contents.len() < end {
                contents.resize(end, 0);
            }
            let end = end.min(contents.len());
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 && begin < end {
                contents[begin..end].fill(0);
            }
            Some(begin.min(end)..end)
        }
        What::Open { truncated: true, .. } => {
            contents.clear();
            Some(0..0)
        }
        _ => None,
    }
}

/// Writes bytes into contents, zeros before them where they lie beyond the end.
pub(super) fn put(contents: &mut Vec<u8>, offset: u64, bytes: &[u8]) -> Range<usize> {
    let begin = index(offset);
    let end = begin + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[begin..end].copy_from_slice(bytes);
    begin..end
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a file that fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(whats: &[What]) -> (Images, Vec<Option<Change>>) {
        let mut images = Images::default();
        let changes = (0..).zip(whats).map(|(at, what)| images.apply(&Op { at, pid: 1, what: what.clone() }));
        let changes = changes.collect();
        (images, changes)
    }

    #[test]
    fn a_file_keeps_its_contents_through_renames_and_after_its_end() {
        let open = |file, path: &str| What::Open {
            file: FileId(file),
            path: path.into(),
            created: true,
            truncated: false,
        };
        let write = |offset, bytes: &[u8]| What::Write { file: FileId(1), offset, bytes: bytes.to_vec() };
        let (images, changes) = played(&[
            open(1, "a/next"),
            write(2, b"xyz"),
            What::Rename { from: "a/next".into(), to: "a/file".into() },
            write(0, b"ab"),
            What::SetLen { file: FileId(1), length: 4 },
            What::Allocate { file: FileId(1), offset: 1, length: 1, mode: PUNCH_HOLE | KEEP_SIZE },
            What::Unlink { file: FileId(1), path: "a/file".into() },
            open(2, "a/file"),
        ]);
        assert_eq!(images.contents(FileId(1)), Some(&b"a\0xy"[..]));
        assert_eq!(images.paths(FileId(1)), [PathBuf::from("a/next"), PathBuf::from("a/file")]);
        assert_eq!(images.named(Path::new("a/file")), Some(FileId(2)));
        assert_eq!(changes[1], Some(Change { file: FileId(1), bytes: 2..5 }));
        assert_eq!(changes[5], Some(Change { file: FileId(1), bytes: 1..2 }));
    }

    #[test]
    fn a_folder_takes_its_files_along() {
        let (images, _) = played(&[
            What::Found { file: FileId(1), path: "a/b/c".into(), bytes: vec![1] },
            What::Rename { from: "a/b".into(), to: "d".into() },
        ]);
        assert_eq!(images.names().collect::<Vec<_>>(), [(Path::new("d/c"), FileId(1))]);
    }
}
