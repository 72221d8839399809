//! `cloakroom-adversary`: reads journals of the recorder, as whoever stole every disk would, and says what it
//! can read in them.
//!
//! What root holders had in their folders is no loot: that they destroy their roots is assumed. What they have
//! at the journal's end is: these are the roots of the latest epoch. With `--with-destroyed` every root they
//! ever had is given back, the newest first: the positive control, and at each step the view of whoever took
//! that epoch's root.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::fingerprints::Dictionary;
use super::{Adversary, Recovered, StolenRoot};
use crate::recorder::images::Images;
use crate::recorder::journal::{Op, Reader, What};

/// So much of what stands before and behind new bytes is looked at with them: a record may have come in parts.
const AROUND_BYTES: usize = 4_096;
/// What a root's file begins with: its owner's number.
const OWNER_BYTES: usize = 8;

/// What the adversary is given.
#[derive(Clone, Debug, Default)]
pub struct Loot {
    /// Folders of journals.
    pub journals: Vec<PathBuf>,
    /// Other files: what a broker kept, a core dump.
    pub files: Vec<PathBuf>,
    /// Gives destroyed roots back too.
    pub with_destroyed: bool,
    /// Takes every 32 bytes for a key, and every offset for a place. For small samples.
    pub every_offset: bool,
    /// Names that it guesses: a dictionary, one a line.
    pub dictionary: Option<PathBuf>,
}

/// What the adversary says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Bytes looked at.
    pub bytes: u64,
    /// Places where something sealed may begin, each content once.
    pub places: u64,
    /// Sealed values found.
    pub values: u64,
    /// Pages opened.
    pub pages: u64,
    /// Keys made.
    pub keys: u64,
    /// Tries.
    pub tries: u64,
    /// The roots in the order in which they were used.
    pub roots: Vec<UsedRoot>,
    /// What could be read.
    pub recovered: Vec<Read>,
    /// Names of the dictionary of which a hash was found.
    pub guessed: Vec<String>,
}

/// A root that was used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsedRoot {
    /// Which journal it came from.
    pub journal: usize,
    /// Its tree, in hexadecimal.
    pub tree: String,
    /// The operation that made it.
    pub made_at: u64,
    /// Its holder still had it at the end.
    pub current: bool,
}

/// A value that was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Read {
    /// What it says.
    pub text: String,
    /// As it was sealed, in hexadecimal.
    pub sealed: String,
    /// How many roots had been used before the one that it took.
    pub roots_before: usize,
}

/// A root that a journal tells of.
struct Kept {
    root: StolenRoot,
    used: UsedRoot,
}

/// Does what the adversary does.
///
/// # Errors
/// Of the file system, and of journals that are none.
pub fn run(loot: &Loot) -> io::Result<Report> {
    let mut adversary = Adversary::default();
    let mut dictionary_reads = vec![];
    let mut roots = vec![];
    for (number, journal) in loot.journals.iter().enumerate() {
        let pieces = take_journal(&mut adversary, journal, number, &mut roots)?;
        dictionary_reads.extend(pieces);
    }
    for file in &loot.files {
        let bytes = std::fs::read(file)?;
        adversary.take(&bytes, bytes.len());
        dictionary_reads.push(bytes);
    }
    roots.sort_by_key(|kept| (!kept.used.current, std::cmp::Reverse(kept.used.made_at)));
    let mut report = Report::default();
    let mut recovered = vec![];
    for Kept { root, used } in roots {
        if used.current || loot.with_destroyed {
            recovered.extend(adversary.with_root(root));
            report.roots.push(used);
        }
    }
    if loot.every_offset {
        for bytes in &dictionary_reads {
            recovered.extend(adversary.with_windows(bytes));
            adversary.at_every_offset(bytes);
        }
    }
    if let Some(names) = &loot.dictionary {
        let names = std::fs::read_to_string(names)?.lines().map(str::to_owned).collect();
        let dictionary = Dictionary::new(names, &adversary.system_keys());
        let mut guessed: Vec<String> =
            dictionary_reads.iter().flat_map(|bytes| dictionary.find(bytes)).map(str::to_owned).collect();
        guessed.sort_unstable();
        guessed.dedup();
        report.guessed = guessed;
    }
    let effort = adversary.effort();
    Ok(Report {
        bytes: effort.bytes,
        places: effort.places,
        values: effort.values,
        pages: effort.pages,
        keys: effort.keys,
        tries: effort.tries,
        recovered: recovered.into_iter().map(read).collect(),
        ..report
    })
}

fn read(recovered: Recovered) -> Read {
    let text = String::from_utf8_lossy(&recovered.text).into_owned();
    Read { text, sealed: HEXLOWER.encode(&recovered.sealed), roots_before: recovered.roots_before }
}

/// Plays a journal: gives every change, with what stands around it, to the adversary, and keeps the roots apart.
/// Returns what was written.
fn take_journal(
    adversary: &mut Adversary,
    journal: &Path,
    number: usize,
    roots: &mut Vec<Kept>,
) -> io::Result<Vec<Vec<u8>>> {
    let (mut images, mut written) = (Images::default(), vec![]);
    let mut known: HashMap<[u8; 16], Kept> = HashMap::new();
    for op in Reader::open(journal)? {
        let op: Op = op?;
        let Some(change) = images.apply(&op) else { continue };
        let contents = images.contents(change.file).unwrap_or_default();
        let paths = images.paths(change.file);
        if paths.iter().any(|path| is_of_a_holder(path)) {
            if let Some(root) = paths.iter().find_map(|path| root_in(path, contents)) {
                let tree = HEXLOWER.encode(&root.tree);
                let used = UsedRoot { journal: number, tree, made_at: op.at, current: false };
                known.entry(root.root).or_insert(Kept { root, used });
            }
            continue;
        }
        if let What::Write { .. } | What::Found { .. } = op.what {
            let before = change.bytes.start.saturating_sub(AROUND_BYTES);
            let after = contents.len().min(change.bytes.end + AROUND_BYTES);
            adversary.take(&contents[before..after], change.bytes.len());
            written.push(contents[change.bytes].to_vec());
        }
    }
    for (path, _) in images.names() {
        if let Some((_, root)) = root_name(path)
            && let Some(kept) = known.get_mut(&root)
        {
            kept.used.current = true;
        }
    }
    roots.extend(known.into_values());
    Ok(written)
}

/// Holders keep a folder for each tree, named by its id.
fn is_of_a_holder(path: &Path) -> bool {
    path.parent().is_some_and(|folder| tree_name(folder).is_some())
}

fn root_in(path: &Path, contents: &[u8]) -> Option<StolenRoot> {
    let (tree, root) = root_name(path)?;
    let secret = contents.get(OWNER_BYTES..)?.try_into().ok()?;
    Some(StolenRoot { tree, root, secret })
}

fn root_name(path: &Path) -> Option<([u8; 16], [u8; 16])> {
    let name = path.file_name()?.to_str()?.strip_prefix("root-")?;
    Some((tree_name(path.parent()?)?, parse_id(name)?))
}

fn tree_name(folder: &Path) -> Option<[u8; 16]> {
    parse_id(folder.file_name()?.to_str()?)
}

fn parse_id(hex: &str) -> Option<[u8; 16]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}
