//! Opened pages in locked memory, bounded in bytes.
//!
//! A page enters only if no commit has changed it since its reader looked at the database: each commit
//! bumps the stamp of the pages it changes, and stamps are compared under the lock that guards the entry.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloakroom_crypto::page::Page;
use foldhash::fast::FixedState;

use crate::layout::PageAddress;

const SHARDS: usize = 32;
const STAMPS: usize = 256;
/// What an opened page costs: 64 keys, and its share of the map.
const PAGE_BYTES: usize = 64 * 32 + 96;

pub(crate) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    pages_per_shard: usize,
}

struct Shard {
    /// Addresses are the tree's own: nobody outside can choose some that collide.
    pages: HashMap<PageAddress, Entry, FixedState>,
    /// Second chance: a page used since it was last looked at goes round once more.
    round: VecDeque<PageAddress>,
    stamps: [u64; STAMPS],
}

struct Entry {
    page: Arc<Page>,
    used: bool,
}

/// What a reader saw before it read the database.
#[derive(Clone, Copy)]
pub(crate) struct Stamp(u64);

impl Cache {
    pub(crate) fn new(bytes: usize) -> Self {
        let shard = || {
            let pages = HashMap::with_hasher(FixedState::with_seed(0));
            Mutex::new(Shard { pages, round: VecDeque::new(), stamps: [0; STAMPS] })
        };
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            pages_per_shard: (bytes / PAGE_BYTES / SHARDS).max(2),
        }
    }

    /// The page if it is here, else the stamp to enter it with.
    pub(crate) fn find(&self, address: PageAddress) -> Result<Arc<Page>, Stamp> {
        let (mut shard, stamp) = self.shard(address);
        match shard.pages.get_mut(&address) {
            Some(entry) => {
                entry.used = true;
                Ok(Arc::clone(&entry.page))
            }
            None => Err(Stamp(shard.stamps.get(stamp).copied().unwrap_or_default())),
        }
    }

    /// Keeps a page that was read from the database, unless a commit has changed it since `stamp`.
    pub(crate) fn enter(&self, address: PageAddress, page: &Arc<Page>, seen: Stamp) {
        let (mut shard, stamp) = self.shard(address);
        if shard.stamps.get(stamp) == Some(&seen.0) {
            shard.keep(address, Arc::clone(page), self.pages_per_shard);
        }
    }

    /// Puts what a commit wrote in place of what was here; returns the page that went.
    pub(crate) fn replace(&self, address: PageAddress, page: Option<Arc<Page>>) -> Option<Arc<Page>> {
        let (mut shard, stamp) = self.shard(address);
        if let Some(stamp) = shard.stamps.get_mut(stamp) {
            *stamp = stamp.wrapping_add(1);
        }
        let former = shard.pages.get_mut(&address).map(|entry| Arc::clone(&entry.page));
        match page {
            Some(page) => shard.keep(address, page, self.pages_per_shard),
            None => {
                shard.pages.remove(&address);
            }
        }
        former
    }

    /// How many pages are kept.
    pub(crate) fn pages(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).pages.len()).sum()
    }

    #[allow(clippy::indexing_slicing)] // both indices are taken modulo the length
    fn shard(&self, address: PageAddress) -> (MutexGuard<'_, Shard>, usize) {
        // Another seed than the maps', or those of one shard would be full of near-collisions.
        let hash = FixedState::with_seed(1).hash_one(address) as usize;
        (lock(&self.shards[hash % SHARDS]), (hash / SHARDS) % STAMPS)
    }
}

impl Shard {
    fn keep(&mut self, address: PageAddress, page: Arc<Page>, most: usize) {
        if let Some(entry) = self.pages.get_mut(&address) {
            entry.page = page;
            return;
        }
        while self.pages.len() >= most {
            let Some(oldest) = self.round.pop_front() else { break };
            match self.pages.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.round.push_back(oldest);
                }
                Some(_) => {
                    self.pages.remove(&oldest);
                }
                None => {}
            }
        }
        self.round.push_back(address);
        self.pages.insert(address, Entry { page, used: false });
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A panic while the lock is held leaves at worst a page too few.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use cloakroom_core::ids::Subtree;

    use super::*;

    fn address(index: u64) -> PageAddress {
        PageAddress { subtree: Subtree(1), level: 0, index }
    }

    fn page() -> Arc<Page> {
        Arc::new(Page::empty())
    }

    #[test]
    fn a_page_changed_since_it_was_read_does_not_enter() {
        let cache = Cache::new(1 << 20);
        let Err(stamp) = cache.find(address(1)) else { panic!("nothing is here yet") };
        cache.replace(address(1), None);
        cache.enter(address(1), &page(), stamp);
        assert!(cache.find(address(1)).is_err(), "a commit came between");

        let Err(stamp) = cache.find(address(1)) else { panic!("still nothing") };
        cache.enter(address(1), &page(), stamp);
        assert!(cache.find(address(1)).is_ok());
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let cache = Cache::new(64 * PAGE_BYTES);
        for index in 0..10_000 {
            let Err(stamp) = cache.find(address(index)) else { panic!("each is new") };
            cache.enter(address(index), &page(), stamp);
        }
        assert!(cache.pages() <= 64 + SHARDS, "{} pages", cache.pages());
    }
}
