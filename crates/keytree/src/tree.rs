//! Reading a key, from any task, while one other task writes.
//!
//! Readers take no lock that a commit holds. What a commit changes is in the database first, then in memory
//! ("shown"). A reader that finds no key while memory changes looks again. One that meets a page of one
//! commit under a key of another cannot open it; it waits for the commit to end and looks again: only what
//! does not open with no commit under way is damage.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Buf, Bytes};
use cloakroom_core::ids::TreeId;
use cloakroom_core::ids::{Slot, SlotRange, Subtree};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::role::{Page as PageRole, Slotted};
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Records;

use crate::Fault;
use crate::cache::Cache;
use crate::layout::{DIRECTORY, PageAddress, levels};
use crate::sequence::Sequence;

/// A page that does not open is looked at again after so many commits before it counts as damaged: what is
/// said then, that nothing is known, is right however many more there are.
const LOOKS: usize = 64;

/// A tree for readers. Cheap to clone.
#[derive(Clone)]
pub struct Tree(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) records: Arc<dyn Records>,
    pub(crate) tree: TreeId,
    pub(crate) cache: Cache,
    pub(crate) top: RwLock<Top>,
    /// Commits.
    pub(crate) commits: Sequence,
    /// The end of each, when memory takes over what the database has.
    pub(crate) shown: Sequence,
    pub(crate) epoch: AtomicU64,
    /// Slots that a restored key backup lacked.
    pub(crate) lost: RwLock<Vec<SlotRange>>,
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
        if slot.subtree == DIRECTORY {
            return Err(Fault::Slot(slot));
        }
        let (leaf, place) = PageAddress::of(slot);
        let mut looks = 0;
        loop {
            let (committed, shown) = (self.0.commits.now(), self.0.shown.now());
            let found = match self.0.end(slot.subtree) {
                Some(end) if slot.index < end => self.0.page(leaf).await,
                _ => Err(Fault::Slot(slot)),
            };
            match found {
                Ok(Walk::Found(page)) => match page.key::<Slotted>(place) {
                    Some(key) => return Ok(Some(use_key(key))),
                    None if self.0.shown.moved_since(shown) => {}
                    None => return Ok(None),
                },
                Ok(Walk::Dead) if !self.0.shown.moved_since(shown) => return Ok(None),
                Ok(Walk::Dead) => {}
                Err(fault) if looks == LOOKS || !self.0.commits.moved_since(committed) => return Err(fault),
                Err(_) => looks = looks.saturating_add(1),
            }
            self.0.commits.at_rest().await;
        }
    }

    /// The first slot of a subtree that was not handed out; `None` for a subtree that does not exist.
    pub fn end(&self, subtree: Subtree) -> Option<u64> {
        self.0.end(subtree)
    }

    /// Whether a slot that is dead lost its key with the disk that the keys lay on, and not to a batch: the key
    /// backup that was restored is older than it. Whether it was condemned besides, the log tells.
    pub fn is_lost(&self, slot: Slot) -> bool {
        let lost = self.0.lost.read().unwrap_or_else(PoisonError::into_inner);
        lost.iter().any(|range| range.contains(slot))
    }

    /// How many slots a restored key backup lacked.
    pub fn lost_slots(&self) -> u64 {
        let lost = self.0.lost.read().unwrap_or_else(PoisonError::into_inner);
        lost.iter().fold(0, |sum, range| sum.saturating_add(range.slots()))
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

    /// The opened page at `address`: from the cache, or read and opened under the key its parent holds.
    async fn page(&self, address: PageAddress) -> Result<Walk<Arc<Page>>, Fault> {
        // Up until a page is at hand: at most a dozen addresses. All that must be waited for comes first, so
        // that no key is in hand meanwhile.
        let mut missing = vec![];
        let (mut at, levels) = (address, levels(self.end(address.subtree).unwrap_or_default()));
        let mut found = loop {
            let stamp = match self.cache.find(at) {
                Ok(page) => break Some(page),
                Err(stamp) => stamp,
            };
            let record = self.records.get(&at.record_key()).await?;
            let above = match at.subtree {
                DIRECTORY => self.above(at),
                _ => above(at, levels),
            };
            missing.push((at, stamp, record, above.map(|(_, place)| place)));
            match above {
                Some((parent, _)) => at = parent,
                None => break None,
            }
        };
        // Down again.
        while let Some((at, stamp, record, place)) = missing.pop() {
            let anchor;
            let key = match (&found, place) {
                (Some(parent), Some(place)) => parent.key::<PageRole>(place),
                _ => {
                    anchor = self.top.read().unwrap_or_else(PoisonError::into_inner).anchor.clone();
                    anchor.as_ref().map(|key| key.borrow())
                }
            };
            let Some(key) = key else { return Ok(Walk::Dead) };
            let page = self.open(at, key, record)?.ok_or(Fault::Missing(at))?;
            let page = Arc::new(page);
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
        let record = self.records.get(&address.record_key()).await?;
        self.open(address, key, record)
    }

    fn open(
        &self,
        address: PageAddress,
        key: KeyRef<'_, PageRole>,
        record: Option<Bytes>,
    ) -> Result<Option<Page>, Fault> {
        let Some(record) = record else { return Ok(None) };
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
