//! One commit's changes to the pages of a tree, worked out before anything is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use cloakroom_core::ids::{Slot, Subtree};
use cloakroom_core::mutants::Mutant;
use cloakroom_crypto::page::Page;
use cloakroom_crypto::role::{Page as PageRole, Slotted};
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Batch;

use crate::Fault;
use crate::layout::{DIRECTORY, PageAddress, end_key, levels};
use crate::mutants;
use crate::tree::{Shared, above, join};

/// The pages that a commit changes, opened, with the keys they will be sealed under.
pub(crate) struct Edit<'a> {
    shared: &'a Shared,
    ends: HashMap<Subtree, u64>,
    ends_changed: Vec<Subtree>,
    pages: BTreeMap<PageAddress, Draft>,
    anchor: Option<Key<PageRole>>,
    anchor_changed: bool,
}

struct Draft {
    page: Page,
    key: Key<PageRole>,
    dirty: bool,
    /// The page has nothing left and goes.
    gone: bool,
}

/// What an edit comes to.
pub(crate) struct Drawn {
    pub(crate) changes: Batch,
    pub(crate) pages: Vec<(PageAddress, Option<Arc<Page>>)>,
    pub(crate) ends: HashMap<Subtree, u64>,
    pub(crate) anchor: Option<Key<PageRole>>,
    /// The anchor must be wrapped anew.
    pub(crate) anchor_changed: bool,
}

impl<'a> Edit<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        let top = shared.top.read().unwrap_or_else(PoisonError::into_inner);
        let anchor = top.anchor.as_ref().map(|key| key.borrow().to_key());
        Self {
            shared,
            ends: top.ends.clone(),
            ends_changed: vec![],
            pages: BTreeMap::new(),
            anchor,
            anchor_changed: false,
        }
    }

    /// Puts keys into slots. They must lie behind their subtree's end, which moves past them, each behind the one
    /// before.
    pub(crate) async fn fill(&mut self, slots: &[(Slot, KeyRef<'_, Slotted>)]) -> Result<(), Fault> {
        for of_leaf in
            slots.chunk_by(|(one, _), (next, _)| PageAddress::of(*one).0 == PageAddress::of(*next).0)
        {
            let (Some((first, _)), Some((last, _))) = (of_leaf.first(), of_leaf.last()) else { continue };
            let end = self.end(first.subtree);
            let in_order = of_leaf.is_sorted_by(|(one, _), (next, _)| one.index < next.index);
            if !in_order || (first.index < end && !Mutant::SlotsHandedOutAgain.lives()) {
                return Err(Fault::Slot(*first));
            }
            self.raise(first.subtree, last.index.saturating_add(1)).await?;
            let (leaf, _) = PageAddress::of(*first);
            self.make(leaf).await?;
            let draft = self.draft(leaf)?;
            for (slot, key) in of_leaf {
                draft.page.set(PageAddress::of(*slot).1, *key);
            }
        }
        Ok(())
    }

    /// Takes keys out of their slots; dead ones stay dead. Gives those of `may_stay` that it could not get at, since
    /// a page on the way does not open.
    pub(crate) async fn empty(
        &mut self,
        slots: impl IntoIterator<Item = Slot>,
        may_stay: &[Slot],
    ) -> Result<Vec<Slot>, Fault> {
        let mut unreached = vec![];
        for slot in slots {
            let (leaf, place) = PageAddress::of(slot);
            match self.find(leaf).await {
                Ok(true) => {
                    let draft = self.draft(leaf)?;
                    draft.page.remove(place);
                    draft.dirty = true;
                }
                Ok(false) => {}
                Err(Fault::Page(..) | Fault::Missing(_) | Fault::Damaged(_)) if may_stay.contains(&slot) => {
                    unreached.push(slot);
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(unreached)
    }

    /// Gives a fresh key to every page that was changed, to every page on the way to the end of each subtree in
    /// `ends`, and to all pages above them. Pages left without keys go.
    pub(crate) async fn rekey(&mut self, ends: &[Subtree]) -> Result<(), Fault> {
        for subtree in ends {
            self.touch_path_to(Slot { subtree: *subtree, index: self.end(*subtree) }).await?;
        }
        let mut above_changed = vec![];
        for (address, draft) in &self.pages {
            if draft.dirty {
                above_changed.push(*address);
            }
        }
        for address in above_changed {
            self.touch_above(address).await?;
        }
        self.draw_keys()
    }

    /// Raises the end of a subtree to `end`; levels grow above the former top.
    pub(crate) async fn raise(&mut self, subtree: Subtree, end: u64) -> Result<(), Fault> {
        let before = self.end(subtree);
        if end <= before {
            return Ok(());
        }
        let (from, to) = (levels(before), levels(end));
        // The former top hangs below its new parents; its key moves down from the directory.
        let former = if from == to { None } else { self.take_top_key(subtree, from).await? };
        self.ends.insert(subtree, end);
        if !self.ends_changed.contains(&subtree) {
            self.ends_changed.push(subtree);
        }
        let Some(former) = former else { return Ok(()) };
        let former_top = PageAddress::top(subtree, from);
        let (parent, place) = former_top.parent();
        self.make(parent).await?;
        self.draft(parent)?.page.set(place, former.borrow());
        Ok(())
    }

    /// Seals what has changed, as commit `version`.
    pub(crate) fn draw(self, version: u64) -> Drawn {
        let mut changes = Batch::default();
        let mut pages = vec![];
        for (address, draft) in self.pages {
            if draft.gone {
                changes.remove(address.record_key());
                pages.push((address, None));
            } else if draft.dirty {
                let sealed =
                    draft.key.borrow().seal_page(&draft.page, &self.shared.context(address, version));
                changes.put(address.record_key(), join(version, &sealed));
                pages.push((address, Some(Arc::new(draft.page))));
            }
        }
        for subtree in self.ends_changed {
            let end = self.ends.get(&subtree).copied().unwrap_or_default();
            changes.put(end_key(subtree), end.to_be_bytes().to_vec());
        }
        Drawn { changes, pages, ends: self.ends, anchor: self.anchor, anchor_changed: self.anchor_changed }
    }

    fn end(&self, subtree: Subtree) -> u64 {
        self.ends.get(&subtree).copied().unwrap_or_default()
    }

    fn above(&self, address: PageAddress) -> Option<(PageAddress, usize)> {
        above(address, levels(self.end(address.subtree)))
    }

    fn draft(&mut self, address: PageAddress) -> Result<&mut Draft, Fault> {
        self.pages.get_mut(&address).ok_or(Fault::Missing(address))
    }

    /// The addresses from `address` up to the directory's top.
    fn way_up(&self, address: PageAddress) -> Vec<PageAddress> {
        std::iter::successors(Some(address), |at| self.above(*at).map(|(above, _)| above)).collect()
    }

    /// Brings a page and all above it into the edit; false where it is not there.
    async fn find(&mut self, address: PageAddress) -> Result<bool, Fault> {
        for at in self.way_up(address).into_iter().rev() {
            if self.pages.contains_key(&at) {
                continue;
            }
            let key = match self.above(at) {
                Some((parent, place)) => self.draft(parent)?.page.key::<PageRole>(place).map(KeyRef::to_key),
                None => self.anchor.as_ref().map(|key| key.borrow().to_key()),
            };
            let Some(key) = key else { return Ok(false) };
            let page = self.shared.read(at, key.borrow()).await?.ok_or(Fault::Missing(at))?;
            self.pages.insert(at, Draft { page, key, dirty: false, gone: false });
        }
        Ok(true)
    }

    /// Brings a page into the edit to be changed, made new below new parents where it is not there.
    async fn make(&mut self, address: PageAddress) -> Result<(), Fault> {
        if self.find(address).await? {
            self.draft(address)?.dirty = true;
            return Ok(());
        }
        for at in self.way_up(address).into_iter().rev() {
            if self.find(at).await? {
                continue;
            }
            let key = Key::random();
            match self.above(at) {
                Some((parent, place)) => {
                    let parent = self.draft(parent)?;
                    parent.page.set(place, key.borrow());
                    parent.dirty = true;
                }
                None => {
                    self.anchor = Some(key.borrow().to_key());
                    self.anchor_changed = true;
                }
            }
            let page = Page::empty();
            self.pages.insert(at, Draft { page, key, dirty: true, gone: false });
        }
        Ok(())
    }

    /// The key of a subtree's top page, taken from where it hangs now; `None` where there is none yet.
    async fn take_top_key(&mut self, subtree: Subtree, levels: u8) -> Result<Option<Key<PageRole>>, Fault> {
        let top = PageAddress::top(subtree, levels);
        if !self.find(top).await? {
            return Ok(None);
        }
        let key = self.draft(top)?.key.borrow().to_key();
        match self.above(top) {
            Some((leaf, place)) => {
                let leaf = self.draft(leaf)?;
                leaf.page.remove(place);
                leaf.dirty = true;
            }
            None => {
                self.anchor = None;
                self.anchor_changed = true;
            }
        }
        Ok(Some(key))
    }

    /// Marks every page that is there on the way from the directory's top to `slot`.
    async fn touch_path_to(&mut self, slot: Slot) -> Result<(), Fault> {
        let levels = levels(self.end(slot.subtree));
        let top = PageAddress::top(slot.subtree, levels);
        let (leaf, _) = PageAddress::of(slot);
        let mut way = vec![leaf];
        while let Some(last) = way.last().filter(|last| last.level < top.level) {
            way.push(last.parent().0);
        }
        for at in way.into_iter().rev() {
            // A full subtree's end lies beyond its top: what comes next hangs in the directory.
            let inside = at.level < top.level || at.index == 0;
            if inside && self.find(at).await? {
                self.draft(at)?.dirty = true;
            } else if !inside {
                break;
            }
        }
        if self.find(top).await? {
            self.draft(top)?.dirty = true;
        }
        Ok(())
    }

    async fn touch_above(&mut self, address: PageAddress) -> Result<(), Fault> {
        for at in self.way_up(address) {
            self.find(at).await?;
            self.draft(at)?.dirty = true;
        }
        Ok(())
    }

    /// Fresh keys for all drafts, children before parents, so that a page that became empty goes with its key.
    fn draw_keys(&mut self) -> Result<(), Fault> {
        let mut addresses: Vec<PageAddress> =
            self.pages.iter().filter(|(_, draft)| draft.dirty).map(|(address, _)| *address).collect();
        // Leaves first, the directory last.
        addresses.sort_by_key(|at| (at.subtree == DIRECTORY, at.level, at.index));
        for at in addresses {
            let parent = self.above(at);
            let draft = self.draft(at)?;
            let key = if draft.page.is_empty() && parent.is_some() {
                draft.gone = true;
                None
            } else {
                let kept = Mutant::LevelNotRekeyed.lives() && at.level == 0 && at.subtree != DIRECTORY;
                let key = if kept { draft.key.borrow().to_key() } else { Key::random() };
                let key = if Mutant::PageKeysUsedAgain.lives() { mutants::used_again(at, key) } else { key };
                draft.key = key.borrow().to_key();
                Some(key)
            };
            match (parent, key) {
                (Some((parent, place)), Some(key)) => self.draft(parent)?.page.set(place, key.borrow()),
                (Some((parent, place)), None) => self.draft(parent)?.page.remove(place),
                (None, key) => {
                    self.anchor = key;
                    self.anchor_changed = true;
                }
            }
        }
        Ok(())
    }
}
