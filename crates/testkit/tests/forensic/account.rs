//! What the harness knows of every value: what was asked, and what was answered. The actor writes a line before
//! it asks and one after it has the answer into a file that the recorder watches too, so that each line has its
//! place among everything that happened on the disks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cloakroom_testkit::recorder::images::Images;
use cloakroom_testkit::recorder::journal::{FileId, Op, Reader, What};
use serde::{Deserialize, Serialize};

/// The folder of the account, below the bench's; nothing that the vault writes.
pub(crate) const FOLDER: &str = "account";
const FILE: &str = "lines";

/// One thing that was asked or answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// Another life of the vault begins.
    Life,
    /// Texts are about to be sent.
    Sent(Vec<String>),
    /// They were acknowledged, each with its token.
    Stored(Vec<(String, String)>),
    /// A key backup was made and lies in a file.
    KeysKept,
    /// Texts are about to be forgotten.
    Erasing(Vec<String>),
    /// That is done, copies included.
    Erased(Vec<String>),
    /// What a token gives in the end; nothing if it answers ERASED.
    Final { token: String, text: Option<String> },
}

/// Writes the account, from any task.
pub(crate) struct Pen(Mutex<File>);

impl Pen {
    pub(crate) fn open(bench: &Path) -> Self {
        let folder = bench.join(FOLDER);
        std::fs::create_dir_all(&folder).unwrap();
        let file = OpenOptions::new().create(true).append(true).open(folder.join(FILE)).unwrap();
        Self(Mutex::new(file))
    }

    pub(crate) fn write(&self, line: &Line) {
        let text = format!("{}\n", serde_json::to_string(line).unwrap());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes()).unwrap();
    }
}

/// Every line of earlier lives.
pub(crate) fn lines(bench: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(bench.join(FOLDER).join(FILE)).unwrap_or_default();
    // The last one may have been cut short with its process.
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// What became of a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// In which life it was sent, and when in the journal.
    pub(crate) life: usize,
    pub(crate) sent_at: u64,
    pub(crate) stored: bool,
    /// When it was known to be stored.
    stored_at: u64,
    /// The token that stood for it.
    pub(crate) token: String,
    /// The operation at which it was known to be gone.
    pub(crate) erased_at: Option<u64>,
    /// Read in the end.
    pub(crate) alive_at_last: bool,
}

/// The account of all lives in a journal.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) texts: BTreeMap<String, Fate>,
    /// Tokens that answered at last, and with what.
    pub(crate) at_last: HashMap<String, Option<String>>,
    /// All the log's bytes as they are in the end.
    pub(crate) log: Vec<u8>,
    /// The operations with which lives began, oldest first.
    pub(crate) starts: Vec<u64>,
    /// Files that a start wrote to before it had synced what it found there.
    pub(crate) believed: usize,
    /// The operations at which key backups lay in their files.
    pub(crate) kept: Vec<u64>,
    life: usize,
}

impl Account {
    /// Whether a text's token answers something else by now, or ERASED.
    pub(crate) fn is_dead(&self, text: &str) -> bool {
        let token = self.texts.get(text).filter(|fate| fate.stored).map(|fate| &fate.token);
        let last = token.and_then(|token| self.at_last.get(token));
        last.is_some_and(|last| last.as_deref() != Some(text))
    }

    /// Whether a key backup knows what became of this fate: it was stored before it, and lives or died after it.
    pub(crate) fn is_backed_up(&self, fate: &Fate) -> bool {
        self.kept.iter().any(|kept| {
            let outlives = fate.erased_at.map_or(fate.alive_at_last, |erased_at| *kept < erased_at);
            fate.stored && fate.stored_at < *kept && outlives
        })
    }

    /// The operation with which the last life began.
    pub(crate) fn last_start(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    pub(crate) fn read(journal: &Path) -> Self {
        let (mut images, mut account) = (Images::default(), Self::default());
        let mut unsynced = HashSet::new();
        for op in Reader::open(journal).unwrap() {
            let op = op.unwrap();
            account.watch(&images, &op, &mut unsynced);
            let change = images.apply(&op);
            let What::Write { bytes, .. } = &op.what else { continue };
            let file = change.unwrap().file;
            if images.paths(file).iter().any(|path| path.starts_with(FOLDER)) {
                // A line may have been cut short with its process.
                if let Ok(line) = serde_json::from_slice(bytes) {
                    account.follow(op.at, line);
                }
            }
        }
        let log = images.names().filter(|(path, _)| path.starts_with("data/log"));
        account.log = log.flat_map(|(_, file)| images.contents(file).unwrap().to_vec()).collect();
        account
    }

    /// A start syncs the stores' files that it finds before it writes to them.
    fn watch(&mut self, images: &Images, op: &Op, unsynced: &mut HashSet<FileId>) {
        match &op.what {
            What::Started => {
                self.starts.push(op.at);
                let stores = ["data/log", "keys/tree/db", "copies/data/copies/db"];
                let found =
                    images.names().filter(|(path, _)| stores.iter().any(|store| path.starts_with(store)));
                *unsynced = found.map(|(_, file)| file).collect();
            }
            What::Sync { file, .. } => drop(unsynced.remove(file)),
            What::Write { file, .. } => self.believed += usize::from(unsynced.remove(file)),
            _ => {}
        }
    }

    fn follow(&mut self, at: u64, line: Line) {
        match line {
            Line::Life => self.life += 1,
            Line::Sent(texts) => {
                for text in texts {
                    let fate = Fate { life: self.life, sent_at: at, ..Fate::default() };
                    self.texts.entry(text).or_insert(fate);
                }
            }
            Line::Stored(texts) => {
                for (text, token) in texts {
                    let fate = self.texts.get_mut(&text).unwrap();
                    (fate.stored, fate.stored_at, fate.token) = (true, at, token);
                }
            }
            Line::KeysKept => self.kept.push(at),
            Line::Erasing(_) => {}
            Line::Erased(texts) => {
                for text in texts {
                    self.texts.get_mut(&text).unwrap().erased_at.get_or_insert(at);
                }
            }
            Line::Final { token, text } => {
                if let Some(text) = &text {
                    self.texts.entry(text.clone()).or_default().alive_at_last = true;
                }
                self.at_last.insert(token, text);
            }
        }
    }
}
