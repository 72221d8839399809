//! Reading a key, from any task, while one other task writes.
//!
//! Readers take no lock that a commit holds. A reader that meets a page of one commit under a key of
//! another sees that the sequence has moved (odd while a commit is under way) and reads again; only a
//! failure with the sequence at rest is damage.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Buf, Bytes};
use cloakroom_core::ids::TreeId;
use cloakroom_core::ids::{Slot, Subtree};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::role::{Page as PageRole, Slotted};
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Records;

use crate::Fault;
use crate::cache::Cache;
use crate::layout::{DIRECTORY, PageAddress, levels};

/// A tree for readers. Cheap to clone.
#[derive(Clone)]
pub struct Tree(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) tree: TreeId,
    pub(crate) cache: Cache,
    pub(crate) top: RwLock<Top>,
    pub(crate) sequence: AtomicU64,
    pub(crate) epoch: AtomicU64,
}

/// What lies above all pages.
pub(crate) struct Top {
    /// The key of the directory's top page; none before the first commit.
    pub(crate) anchor: Option<Arc<Key<PageRole>>>,
    pub(crate) ends: HashMap<Subtree, u64>,
}

impl Top {
    pub(crate) fn end(&self, subtree: Subtree) -> Option<u64> {
        self.ends.get(&subtree).copied()
    }
}

/// What a walk down the tree came to.
pub(crate) enum Walk<T> {
    Found(T),
    /// A key on the way is gone: all below it is dead.
    Dead,
}

impl Tree {
    /// Hands the key in `slot` to `use_key`; `None` where the slot is dead: it lies below its subtree's end
    /// and has no key, which by itself proves that its value was destroyed.
    ///
    /// # Errors
    /// [`Fault::Slot`] for a slot never handed out; otherwise the database or damage, never "dead".
    pub async fn with_key<T>(
        &self,
        slot: Slot,
        use_key: impl FnOnce(KeyRef<'_, Slotted>) -> T,
    ) -> Result<Option<T>, Fault> {
        let (leaf, place) = PageAddress::of(slot);
        loop {
            let before = self.0.sequence.load(Ordering::Acquire);
            if self.0.end(slot.subtree).is_none_or(|end| slot.index >= end) {
                if self.0.moved_since(before) {
                    std::thread::yield_now();
                    continue;
                }
                return Err(Fault::Slot(slot));
            }
            match self.0.page(leaf).await {
                Ok(Walk::Found(page)) => match page.key::<Slotted>(place) {
                    Some(key) => return Ok(Some(use_key(key))),
                    None if self.0.moved_since(before) => {}
                    None => return Ok(None),
                },
                Ok(Walk::Dead) if !self.0.moved_since(before) => return Ok(None),
                Err(fault) if !self.0.moved_since(before) => return Err(fault),
                Ok(Walk::Dead) | Err(_) => {}
            }
            std::thread::yield_now(); // a commit is under way: it is done in the time of one sync
        }
    }

    /// The first slot of a subtree that was not handed out; `None` for a subtree that does not exist.
    pub fn end(&self, subtree: Subtree) -> Option<u64> {
        self.0.end(subtree)
    }

    /// The tree's name.
    pub fn id(&self) -> TreeId {
        self.0.tree
    }

    /// The number of the current root.
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Slots handed out, over all subtrees.
    pub fn slots(&self) -> u64 {
        let top = self.0.top.read().unwrap_or_else(PoisonError::into_inner);
        top.ends.iter().filter(|(subtree, _)| **subtree != DIRECTORY).map(|(_, end)| end).sum()
    }

    /// Subtrees with a slot in them, the system's included.
    pub fn subtrees(&self) -> u32 {
        let top = self.0.top.read().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(top.ends.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Opened pages in memory.
    pub fn cached_pages(&self) -> usize {
        self.0.cache.pages()
    }
}

impl Shared {
    fn end(&self, subtree: Subtree) -> Option<u64> {
        self.top.read().unwrap_or_else(PoisonError::into_inner).end(subtree)
    }

    fn moved_since(&self, before: u64) -> bool {
        before % 2 == 1 || self.sequence.load(Ordering::Acquire) != before
    }

    /// The opened page at `address`: from the cache, or read and opened under the key its parent holds.
    async fn page(&self, address: PageAddress) -> Result<Walk<Arc<Page>>, Fault> {
        // Up until a page is at hand, then down again: the way up is at most a dozen addresses.
        let mut missing = vec![];
        let mut at = address;
        let mut found = loop {
            match self.cache.find(at) {
                Ok(page) => break Some(page),
                Err(stamp) => missing.push((at, stamp)),
            }
            match self.above(at) {
                Some((parent, _)) => at = parent,
                None => break None,
            }
        };
        while let Some((at, stamp)) = missing.pop() {
            let anchor;
            let key = match (&found, self.above(at)) {
                (Some(parent), Some((_, place))) => match parent.key::<PageRole>(place) {
                    Some(key) => key,
                    None => return Ok(Walk::Dead),
                },
                _ => {
                    let top = self.top.read().unwrap_or_else(PoisonError::into_inner);
                    match &top.anchor {
                        Some(key) => anchor = Arc::clone(key),
                        None => return Ok(Walk::Dead),
                    }
                    drop(top);
                    anchor.borrow()
                }
            };
            let page = Arc::new(self.read(at, key).await?.ok_or(Fault::Missing(at))?);
            self.cache.enter(at, &page, stamp);
            found = Some(page);
        }
        found.map(Walk::Found).ok_or(Fault::Missing(address))
    }

    /// The page above and the place in it; `None` for the top of the directory.
    fn above(&self, address: PageAddress) -> Option<(PageAddress, usize)> {
        let end = self.end(address.subtree).unwrap_or_default();
        above(address, levels(end))
    }

    /// Reads a sealed page and opens it.
    pub(crate) async fn read(
        &self,
        address: PageAddress,
        key: KeyRef<'_, PageRole>,
    ) -> Result<Option<Page>, Fault> {
        let Some(record) = self.records.get(&address.record_key()).await? else { return Ok(None) };
        let (version, sealed) = split(record).ok_or(Fault::Damaged("page"))?;
        key.open_page(&sealed, &self.context(address, version))
            .map(Some)
            .map_err(|error| Fault::Page(address, error))
    }

    pub(crate) fn context(&self, address: PageAddress, version: u64) -> PageContext {
        PageContext {
            tree: self.tree,
            subtree: address.subtree.0,
            level: address.level,
            index: address.index,
            version,
        }
    }
}

/// The page above `address` in a subtree of that many levels: its parent, or for a top page the leaf of the
/// directory; `None` for the top of the directory.
pub(crate) fn above(address: PageAddress, levels: u8) -> Option<(PageAddress, usize)> {
    if address.level.saturating_add(1) < levels {
        return Some(address.parent());
    }
    (address.subtree != DIRECTORY).then(|| PageAddress::of(PageAddress::directory_slot(address.subtree)))
}

/// A page's record: its version, big-endian, and the sealed page.
pub(crate) fn join(version: u64, sealed: &[u8]) -> Bytes {
    [&version.to_be_bytes(), sealed].concat().into()
}

fn split(mut record: Bytes) -> Option<(u64, Bytes)> {
    let version = record.try_get_u64().ok()?;
    Some((version, record))
}
