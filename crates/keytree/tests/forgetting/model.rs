//! A tree, and beside it a plain account of what must open and what must not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::ids::StartId;
use cloakroom_crypto::role::Value;
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, Plaintext, random};
use cloakroom_keytree::LogView;
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{Fault, FileHolder, RootHolder, Slot, Subtree, TreeOptions, TreeWriter};
use cloakroom_store::Batch;

use crate::disk::{Disk, Holder};
use cloakroom_keytree::disclosure::{Trying, plunder};

pub(crate) const CONTEXT: Context<'static> =
    Context { controller: "c", subject_bits: 1, activity: "a", field: "f", bits: 2, value_version: 1 };

/// What became of a key that was put into a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// A frame names it and no fence condemns it.
    Living,
    /// A fence condemns it; the batch is not known to be done.
    Fenced,
    /// A batch has destroyed it, or a start, as no frame named it.
    Dead,
}

struct Attempt {
    slot: Slot,
    sealed: Bytes,
    fate: Fate,
}

pub(crate) struct Vault {
    folder: tempfile::TempDir,
    pub(crate) disk: Arc<Disk>,
    writer: Option<TreeWriter>,
    /// Every key ever offered to the tree, whether or not its commit came through.
    attempts: Vec<Attempt>,
    /// The log: the first slot of each subtree that no frame names.
    log_ends: HashMap<Subtree, u64>,
    subtrees: Vec<Subtree>,
    /// Slots whose key was in a commit that came through.
    taken: BTreeSet<Slot>,
}

impl Vault {
    pub(crate) async fn new() -> Self {
        let mut vault = Self {
            folder: tempfile::tempdir().unwrap(),
            disk: Arc::default(),
            writer: None,
            attempts: vec![],
            log_ends: HashMap::new(),
            subtrees: vec![],
            taken: BTreeSet::new(),
        };
        vault.restart().await;
        vault
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.folder.path().join("roots")
    }

    /// Copies the roots that are held now aside, as a thief would who came before the batch.
    pub(crate) async fn save_roots(&self, aside: &std::path::Path) {
        let tree = self.writer().tree().id().to_string();
        std::fs::create_dir_all(aside.join(&tree)).unwrap();
        for folder in [aside.to_owned(), aside.join(&tree)] {
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        }
        for entry in std::fs::read_dir(self.roots().join(&tree)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), aside.join(&tree).join(entry.file_name())).unwrap();
        }
    }

    fn writer(&self) -> &TreeWriter {
        self.writer.as_ref().unwrap()
    }

    pub(crate) fn subtree(&mut self, index: usize) -> Subtree {
        if self.subtrees.is_empty() {
            self.new_subtree();
        }
        self.subtrees[index % self.subtrees.len()]
    }

    pub(crate) fn new_subtree(&mut self) {
        let subtree = self.writer.as_mut().unwrap().new_subtree();
        assert!(!self.subtrees.contains(&subtree), "a subtree is handed out twice");
        self.subtrees.push(subtree);
    }

    /// Fills `count` slots; with `named`, a frame says so. False where the power went out.
    pub(crate) async fn insert(&mut self, subtree: Subtree, count: usize, named: bool) -> bool {
        let writer = self.writer.as_mut().unwrap();
        let keys: Vec<(Slot, Key<Value>)> =
            (0..count).map(|_| (writer.next_slot(subtree), Key::random())).collect();
        for (slot, key) in &keys {
            assert!(!self.taken.contains(slot), "{slot:?} is handed out twice");
            let text = Plaintext::from_slice(format!("{slot:?}").as_bytes());
            let sealed = key.borrow().seal(&text, &CONTEXT).unwrap();
            self.attempts.push(Attempt { slot: *slot, sealed, fate: Fate::Dead });
        }
        let slots: Vec<_> = keys.iter().map(|(slot, key)| (*slot, key.borrow().for_slot())).collect();
        if let Err(fault) = writer.insert(&slots, Batch::default(), None).await {
            assert!(self.disk.power.is_out(), "{fault}");
            return false;
        }
        self.taken.extend(keys.iter().map(|(slot, _)| *slot));
        if named {
            let first = self.attempts.len() - count;
            self.attempts[first..].iter_mut().for_each(|attempt| attempt.fate = Fate::Living);
            let end = keys.last().map_or(0, |(slot, _)| slot.index + 1);
            self.log_ends.insert(subtree, end);
        }
        true
    }

    /// Forgets every living slot that `picks` says yes to. False where the power went out.
    pub(crate) async fn forget(&mut self, mut picks: impl FnMut(Slot) -> bool) -> bool {
        let mut doomed = vec![];
        for attempt in &mut self.attempts {
            if attempt.fate == Fate::Living && picks(attempt.slot) {
                attempt.fate = Fate::Fenced;
                doomed.push(attempt.slot);
            }
        }
        match self.writer.as_mut().unwrap().batch(&doomed, Batch::default(), None).await {
            Ok(_) => {
                self.bury();
                true
            }
            Err(fault) => {
                assert!(self.disk.power.is_out(), "{fault}");
                false
            }
        }
    }

    /// Kills the process, gives the power back, and starts as the log says. False where it went out again.
    pub(crate) async fn start(&mut self) -> bool {
        self.writer = None;
        let holder = Holder::open(&self.roots(), Arc::clone(&self.disk.power));
        let found = Found::look(
            self.disk.clone(),
            holder,
            TreeOptions { cache_bytes: 1 << 20, ..TreeOptions::default() },
        )
        .await
        .unwrap();
        found.check(LogView::default()).await.unwrap();
        let fenced: Vec<Slot> = self.with(Fate::Fenced);
        match found.start(StartId(random::id16()), Some(&self.log_ends), &fenced, None).await {
            Ok(started) if started.root_stays.is_none() => {
                self.writer = Some(started.writer);
                self.writer
                    .as_mut()
                    .unwrap()
                    .raise_subtrees(self.subtrees.iter().map(|subtree| subtree.0 + 1));
                self.bury();
                true
            }
            Ok(_) | Err(Fault::Store(_) | Fault::Holder(_)) => {
                assert!(self.disk.power.is_out());
                false
            }
            Err(fault) => panic!("{fault}"),
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.disk.power.restore();
        assert!(self.start().await);
    }

    fn bury(&mut self) {
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.fate == Fate::Fenced) {
            attempt.fate = Fate::Dead;
        }
    }

    fn with(&self, fate: Fate) -> Vec<Slot> {
        self.attempts.iter().filter(|attempt| attempt.fate == fate).map(|attempt| attempt.slot).collect()
    }

    /// What is living opens, what is dead does not, by the tree's own account. Only for a tree in service.
    pub(crate) async fn invariant_living_open_dead_do_not(&self) {
        let tree = self.writer().tree();
        let mut newest: BTreeMap<Slot, &Attempt> = BTreeMap::new();
        for attempt in &self.attempts {
            newest.insert(attempt.slot, attempt);
        }
        for (slot, attempt) in newest {
            let opened = tree
                .with_key(slot, |key| key.for_job::<Value>().open(&attempt.sealed, &CONTEXT).unwrap())
                .await;
            match (attempt.fate, opened) {
                (Fate::Living, Ok(Some(text))) => assert_eq!(text.as_bytes(), format!("{slot:?}").as_bytes()),
                // One that no frame names may live until the next start.
                (Fate::Dead, Ok(Some(_))) => {
                    assert!(slot.index >= self.log_ends.get(&slot.subtree).copied().unwrap_or(0), "{slot:?}");
                }
                (Fate::Dead, Ok(None)) => {}
                (Fate::Dead, Err(Fault::Slot(_))) => assert!(!self.taken.contains(&slot)),
                (fate, opened) => {
                    panic!("{slot:?} is {fate:?}, found {:?}", opened.map(|text| text.is_some()))
                }
            }
        }
    }

    pub(crate) async fn invariant_one_root(&self) {
        let holder = FileHolder::open(&self.roots()).unwrap();
        let held = holder.list(self.writer().tree().id()).await.unwrap();
        let held: Vec<_> = held.into_iter().map(|held| held.root).collect();
        assert_eq!(held, [self.writer().state().root]);
    }

    /// With every byte ever written and the roots in `roots`: the living can be read, and of the dead `dead`.
    /// Right after a start there is nothing that counts for neither.
    pub(crate) async fn recoverable(&self, roots: &std::path::Path, trying: Trying) -> Recoverable {
        let holder = FileHolder::open(roots).unwrap();
        let loot = plunder(&self.disk.ever(), &holder, self.writer().tree().id(), trying).await;
        let reads = |attempt: &&Attempt| loot.reads(attempt.slot, &attempt.sealed, &CONTEXT);
        let of = |fate| self.attempts.iter().filter(move |attempt| attempt.fate == fate);
        Recoverable {
            living_lost: of(Fate::Living)
                .filter(|attempt| !reads(attempt))
                .map(|attempt| attempt.slot)
                .collect(),
            dead_read: of(Fate::Dead).filter(reads).map(|attempt| attempt.slot).collect(),
            pages: loot.pages(),
        }
    }

    /// Nothing is disclosed that is dead, and nothing is lost that lives.
    pub(crate) async fn invariant_the_dead_are_dead(&self, trying: Trying) {
        let found = self.recoverable(&self.roots(), trying).await;
        assert_eq!((found.dead_read, found.living_lost), (vec![], vec![]));
    }
}

pub(crate) struct Recoverable {
    pub(crate) dead_read: Vec<Slot>,
    pub(crate) living_lost: Vec<Slot>,
    pub(crate) pages: usize,
}
