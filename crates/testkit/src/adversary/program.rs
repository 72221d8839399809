//! `cloakroom-adversary`: reads journals of the recorder, as whoever stole every disk would, and says what it
//! can read in them.
//!
//! What root holders had in their folders is no loot: that they destroy their roots is assumed. What they have
//! at the journal's end is: these are the roots of the latest epoch; which others it is given, [`Roots`] says.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::fingerprints::Dictionary;
use super::remembered::{Asked, Remembered};
use super::spelled::{Planted, Scan};
use super::{Adversary, Recovered, RootName, StolenRoot};
use crate::recorder::images::Images;
use crate::recorder::journal::{Op, Reader, What};

/// So much of what stands before and behind new bytes is looked at with them: a record may have come in parts.
const AROUND_BYTES: usize = 4_096;
/// Names that are hashed at once.
const DICTIONARY_PART: usize = 250_000;
/// What a root's file begins with: its owner's number.
const OWNER_BYTES: usize = 8;

/// What the adversary is given.
#[derive(Clone, Debug, Default)]
pub struct Loot {
    /// Folders of journals.
    pub journals: Vec<PathBuf>,
    /// Other files: what a broker kept, a core dump.
    pub files: Vec<PathBuf>,
    /// Which roots it is given.
    pub roots: Roots,
    /// A path in the journals: whatever was written below it, every 32 bytes of it are tried as a key.
    pub windows: Option<PathBuf>,
    /// So many bytes of what was written are tried at every offset with every key.
    pub every_offset: usize,
    /// Values that it looks for in clear, one a line.
    pub planted: Option<PathBuf>,
    /// A path in the journals that is none of the loot: what the harness itself writes.
    pub except: Option<PathBuf>,
    /// Paths in the journals that are all of the loot, but for the roots; none: everything is.
    pub only: Vec<PathBuf>,
    /// Names that it guesses: a dictionary, one a line.
    pub dictionary: Option<PathBuf>,
    /// What lay in the vault's memory, written down by `recorder::memory`.
    pub memory: Option<PathBuf>,
    /// Roots by their names, TREE/root-ROOT as in a holder's folder: one of them may lie in memory.
    pub named: Vec<PathBuf>,
    /// What its table of look-ups is asked for, beside the planted values and the dictionary: the field, and
    /// values that are known to live, one a line, by which the table's key is known.
    pub asked: Option<(Asked, PathBuf)>,
}

/// Which roots the adversary is given.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Roots {
    /// Those that are held at the journals' end.
    #[default]
    Held,
    /// These, and then every one that was destroyed, the newest first: the positive control, and at each step the
    /// view of whoever took that epoch's root.
    Every,
    /// None: what is read is read by keys that lie about.
    Nothing,
    /// Only those that were destroyed, the oldest first: what does yesterday's root say about today?
    Destroyed,
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
    /// Planted values that stand there in clear, and how.
    pub in_clear: Vec<String>,
    /// Slots that more than one value names.
    pub shared_slots: usize,
    /// Bytes of memory looked at.
    pub memory_bytes: u64,
    /// Keys of the table of look-ups that lay there.
    pub table_keys: usize,
    /// Planted values and names of the dictionary that the table, or what is left of a search in it, knows.
    pub remembered: Vec<String>,
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
    /// The operation that took its name away.
    pub gone_at: Option<u64>,
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
    let mut taken = Taken::default();
    for (number, journal) in loot.journals.iter().enumerate() {
        taken.journal(&mut adversary, journal, number, loot)?;
    }
    for file in &loot.files {
        let bytes = std::fs::read(file)?;
        adversary.take(&bytes, bytes.len());
        taken.written.push(bytes);
    }
    let mut report = Report::default();
    let mut recovered = vec![];
    for Kept { root, used } in taken.roots_in_order(loot.roots) {
        recovered.extend(adversary.with_root(root));
        report.roots.push(used);
    }
    recovered.extend(adversary.with_derived_keys());
    recovered.extend(adversary.with_windows(&taken.windows));
    if let Some(sample) = taken.written.iter().max_by_key(|bytes| bytes.len().min(loot.every_offset)) {
        adversary.at_every_offset(&sample[..sample.len().min(loot.every_offset)]);
    }
    let names = loot.dictionary.as_deref().map_or_else(|| Ok(vec![]), lines)?;
    if let Some(memory) = &loot.memory {
        let mut remembered = Remembered::default();
        remembered.take(&std::fs::read(memory)?);
        let named: Vec<RootName> = loot.named.iter().filter_map(|path| root_name(path)).collect();
        recovered.extend(adversary.with_memory(&remembered, &named));
        report.memory_bytes = remembered.bytes();
        if let Some((asked, known)) = &loot.asked {
            let keys = remembered.table_keys(asked, &lines(known)?);
            let planted = loot.planted.as_deref().map_or_else(|| Ok(vec![]), lines)?;
            report.table_keys = keys.len();
            report.remembered = keys
                .iter()
                .flat_map(|key| [&planted, &names].map(|names| remembered.found(key, asked, names)))
                .flatten()
                .map(str::to_owned)
                .collect();
        }
    }
    if !names.is_empty() {
        report.guessed = taken.guess(&names, &adversary.system_keys());
    }
    if let Some(planted) = &loot.planted {
        report.in_clear = taken.in_clear(&std::fs::read_to_string(planted)?);
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
        shared_slots: adversary.shared_slots(),
        ..report
    })
}

fn lines(file: &Path) -> io::Result<Vec<String>> {
    Ok(std::fs::read_to_string(file)?.lines().map(str::to_owned).collect())
}

fn read(recovered: Recovered) -> Read {
    let text = String::from_utf8_lossy(&recovered.text).into_owned();
    Read { text, sealed: HEXLOWER.encode(&recovered.sealed), roots_before: recovered.roots_before }
}

/// What was taken out of journals and files, besides what the adversary has got.
#[derive(Default)]
struct Taken {
    roots: Vec<Kept>,
    written: Vec<Vec<u8>>,
    windows: Vec<u8>,
}

impl Taken {
    /// Plays a journal: gives every change, with what stands around it, to the adversary, and keeps the roots
    /// apart.
    fn journal(
        &mut self,
        adversary: &mut Adversary,
        journal: &Path,
        number: usize,
        loot: &Loot,
    ) -> io::Result<()> {
        let mut images = Images::default();
        let mut known: HashMap<[u8; 16], Kept> = HashMap::new();
        for op in Reader::open(journal)? {
            let op: Op = op?;
            if let What::Unlink { path, .. } | What::Missing { path } = &op.what
                && let Some(kept) = root_name(path).and_then(|(_, root)| known.get_mut(&root))
            {
                kept.used.gone_at.get_or_insert(op.at);
            }
            let Some(change) = images.apply(&op) else { continue };
            let contents = images.contents(change.file).unwrap_or_default();
            let paths = images.paths(change.file);
            if paths.iter().any(|path| is_of_a_holder(path)) {
                if let Some(root) = paths.iter().find_map(|path| root_in(path, contents)) {
                    let tree = HEXLOWER.encode(&root.tree);
                    let used = UsedRoot { journal: number, tree, made_at: op.at, gone_at: None };
                    known.entry(root.root).or_insert(Kept { root, used });
                }
                continue;
            }
            let below = |folder: &PathBuf| paths.iter().any(|path| path.starts_with(folder));
            let left_out = loot.except.as_ref().is_some_and(below)
                || !(loot.only.is_empty() || loot.only.iter().any(below));
            if let What::Write { .. } | What::Found { .. } = op.what
                && !left_out
            {
                let before = change.bytes.start.saturating_sub(AROUND_BYTES);
                let after = contents.len().min(change.bytes.end + AROUND_BYTES);
                // Something may begin before the new bytes and end in them.
                adversary.take(&contents[before..after], change.bytes.len());
                if loot.windows.as_ref().is_some_and(below) {
                    self.windows.extend_from_slice(&contents[change.bytes.clone()]);
                }
                self.written.push(contents[change.bytes].to_vec());
            }
        }
        for (path, _) in images.names() {
            if let Some(kept) = root_name(path).and_then(|(_, root)| known.get_mut(&root)) {
                kept.used.gone_at = None; // a restored folder brought it back
            }
        }
        self.roots.extend(known.into_values());
        Ok(())
    }

    fn roots_in_order(&mut self, which: Roots) -> Vec<Kept> {
        let mut roots = std::mem::take(&mut self.roots);
        roots.sort_by_key(|kept| (kept.used.gone_at.is_some(), std::cmp::Reverse(kept.used.made_at)));
        match which {
            Roots::Held => roots.retain(|kept| kept.used.gone_at.is_none()),
            Roots::Every => {}
            Roots::Nothing => roots.clear(),
            Roots::Destroyed => {
                roots.retain(|kept| kept.used.gone_at.is_some());
                roots.reverse();
            }
        }
        roots
    }

    /// Names of which a hash was written. The dictionary is looked up in parts, as all its hashes at once would
    /// fill the memory.
    fn guess(&self, names: &[String], keys: &[[u8; 32]]) -> Vec<String> {
        let mut guessed = BTreeSet::new();
        for names in names.chunks(DICTIONARY_PART) {
            let dictionary = Dictionary::new(names.to_vec(), keys);
            let found = self.written.iter().flat_map(|bytes| dictionary.find(bytes));
            guessed.extend(found.map(str::to_owned));
        }
        guessed.into_iter().collect()
    }

    fn in_clear(&self, planted: &str) -> Vec<String> {
        let planted: Vec<Planted> = planted
            .lines()
            .map(|value| Planted { what: value.to_owned(), value: value.to_owned() })
            .collect();
        let scan = Scan::of(&planted);
        let found: BTreeSet<String> = self.written.iter().flat_map(|bytes| scan.in_bytes(bytes)).collect();
        found.into_iter().collect()
    }
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
