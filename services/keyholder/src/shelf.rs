//! What a keyholder keeps, and what it answers. Pure but for the shares' memory: time comes from outside, as time
//! since the machine started.
//!
//! Numbers tell who may: each owner of a tree has a number above all before, and whoever calls under a lower one
//! than the newest seen here is refused. A keyholder that has just started has forgotten what it granted, so it
//! grants nothing for as long as a lease; owners that live make themselves known by renewing meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_crypto::share::{Dealing, Letterbox, LetterboxAddress, Share, ShareContext};

/// Trees kept at once; a vault has one, a downstream one.
const TREES_MAX: usize = 1_024;

/// What bounds a keyholder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest ownership granted at once.
    pub lease: Duration,
    /// Shares kept at once.
    pub shares_max: usize,
}

/// Why a keyholder does not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The caller's number is not the newest.
    Replaced,
    /// The caller's number was not granted as far as is known here: by another keyholder, or before a restart of
    /// this one, or never. Renewing makes it known.
    Unknown,
    /// Another's ownership holds.
    Leased,
    /// It started less than a lease ago.
    TooSoon,
    /// It could not wait out so long a lease after a start.
    LeaseTooLong,
    /// There is another root of that id.
    Exists,
    /// There is no such root.
    Absent,
    /// No room.
    Full,
    /// Sealed to another letterbox, or to another place of another root.
    OtherLetterbox,
    /// A later call has dropped what this one would bring back.
    TooLate,
}

/// What a keyholder knows of a tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// It has heard of the tree since it started.
    pub known: bool,
    /// The newest owner's number; 0 before the first.
    pub owner: u64,
    /// How long that ownership still holds.
    pub lease_left: Duration,
    /// The roots of which it has a share.
    pub dealings: Vec<Dealing>,
    /// The newest key commit noted.
    pub noted: Option<CommitPosition>,
}

/// A share on its way in.
#[derive(Debug)]
pub struct Given {
    /// How its root was dealt.
    pub dealing: Dealing,
    /// The share's place in it.
    pub place: u8,
    /// Sealed to this keyholder's letterbox.
    pub sealed: Bytes,
}

/// A share on its way out.
#[derive(PartialEq, Eq, Debug)]
pub struct Lent {
    /// How its root was dealt.
    pub dealing: Dealing,
    /// The share's place in it.
    pub place: u8,
    /// Sealed to whoever asked.
    pub sealed: Bytes,
}

struct Held {
    dealing: Dealing,
    share: Share,
}

#[derive(Clone, Copy)]
struct Lease {
    ends: Duration,
    /// The number before, should this one turn out never to have been used.
    before: u64,
}

#[derive(Default)]
struct Tree {
    owner: u64,
    lease: Option<Lease>,
    /// The newest call that dropped something: puts from before it come too late.
    dropped: (u64, u64),
    noted: Option<CommitPosition>,
    held: BTreeMap<RootId, Held>,
}

impl Tree {
    fn lease_left(&self, now: Duration) -> Duration {
        self.lease.map_or(Duration::ZERO, |lease| lease.ends.saturating_sub(now))
    }

    fn note(&mut self, commit: CommitPosition) {
        if self.noted.is_none_or(|noted| noted.number < commit.number) {
            self.noted = Some(commit);
        }
    }
}

/// All that a keyholder keeps.
pub struct Shelf {
    limits: Limits,
    started: Duration,
    letterbox: Letterbox,
    trees: HashMap<TreeId, Tree>,
    shares: usize,
}

impl Shelf {
    /// An empty one, at `now`.
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self { limits, started: now, letterbox: Letterbox::new(), trees: HashMap::new(), shares: 0 }
    }

    /// Where shares for this keyholder are to be sealed to.
    pub fn letterbox(&self) -> LetterboxAddress {
        self.letterbox.address()
    }

    /// Shares kept now.
    pub fn shares(&self) -> usize {
        self.shares
    }

    /// Trees known now.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// How long no ownership is granted yet.
    pub fn silence_left(&self, now: Duration) -> Duration {
        self.started.saturating_add(self.limits.lease).saturating_sub(now)
    }

    /// What is known of a tree.
    pub fn look(&self, now: Duration, tree: TreeId) -> Standing {
        self.trees.get(&tree).map_or_else(Standing::default, |tree| Standing {
            known: true,
            owner: tree.owner,
            lease_left: tree.lease_left(now),
            dealings: tree.held.values().map(|held| held.dealing.clone()).collect(),
            noted: tree.noted,
        })
    }

    /// The tree, for its owner alone.
    fn owned(&mut self, tree: TreeId, owner: u64) -> Result<&mut Tree, Refusal> {
        match self.trees.get_mut(&tree) {
            Some(kept) if kept.owner == owner => Ok(kept),
            Some(kept) if kept.owner > owner => Err(Refusal::Replaced),
            _ => Err(Refusal::Unknown),
        }
    }

    fn tree(&mut self, tree: TreeId) -> Result<&mut Tree, Refusal> {
        if self.trees.len() >= TREES_MAX && !self.trees.contains_key(&tree) {
            return Err(Refusal::Full);
        }
        Ok(self.trees.entry(tree).or_default())
    }

    /// Grants a tree under a new number. `take_over`: also where another's ownership holds or may hold.
    ///
    /// # Errors
    /// [`Refusal::Leased`], [`Refusal::TooSoon`], [`Refusal::Replaced`], [`Refusal::LeaseTooLong`],
    /// [`Refusal::Full`]
    pub fn own(
        &mut self,
        now: Duration,
        tree: TreeId,
        owner: u64,
        lease: Duration,
        take_over: bool,
    ) -> Result<(), Refusal> {
        let standing = self.trees.get(&tree);
        if lease > self.limits.lease {
            return Err(Refusal::LeaseTooLong);
        }
        if !take_over && standing.is_some_and(|tree| !tree.lease_left(now).is_zero()) {
            return Err(Refusal::Leased);
        }
        if owner <= standing.map_or(0, |tree| tree.owner) {
            return Err(Refusal::Replaced);
        }
        if !take_over && !self.silence_left(now).is_zero() {
            return Err(Refusal::TooSoon);
        }
        let tree = self.tree(tree)?;
        tree.lease = Some(Lease { ends: now.saturating_add(lease), before: tree.owner });
        tree.owner = owner;
        Ok(())
    }

    /// Prolongs an ownership; one that was granted while this keyholder was away makes itself known so.
    ///
    /// # Errors
    /// [`Refusal::Replaced`], [`Refusal::LeaseTooLong`], [`Refusal::Full`]
    pub fn renew(
        &mut self,
        now: Duration,
        tree: TreeId,
        owner: u64,
        lease: Duration,
        noted: Option<CommitPosition>,
    ) -> Result<Standing, Refusal> {
        if lease > self.limits.lease {
            return Err(Refusal::LeaseTooLong);
        }
        if self.trees.get(&tree).is_some_and(|kept| kept.owner > owner) {
            return Err(Refusal::Replaced);
        }
        let kept = self.tree(tree)?;
        kept.owner = owner;
        kept.lease = Some(Lease { ends: now.saturating_add(lease), before: owner });
        noted.into_iter().for_each(|commit| kept.note(commit));
        Ok(self.look(now, tree))
    }

    /// Takes an ownership back; with `unused` its number too, which its owner then never uses.
    ///
    /// # Errors
    /// [`Refusal::Replaced`]
    pub fn release(&mut self, tree: TreeId, owner: u64, unused: bool) -> Result<(), Refusal> {
        let Some(kept) = self.trees.get_mut(&tree) else { return Ok(()) };
        if owner != kept.owner {
            return if owner < kept.owner { Err(Refusal::Replaced) } else { Ok(()) };
        }
        if let Some(lease) = kept.lease.take()
            && unused
        {
            kept.owner = lease.before;
            if kept.owner == 0 && kept.held.is_empty() {
                self.trees.remove(&tree);
            }
        }
        Ok(())
    }

    /// Takes a share in; one that is there already is a success.
    ///
    /// # Errors
    /// [`Refusal::Replaced`], [`Refusal::Unknown`], [`Refusal::TooLate`], [`Refusal::Exists`], [`Refusal::Full`],
    /// [`Refusal::OtherLetterbox`]
    pub fn put(&mut self, tree: TreeId, owner: u64, step: u64, given: Given) -> Result<(), Refusal> {
        let root = given.dealing.root;
        let full = self.shares >= self.limits.shares_max;
        let kept = self.owned(tree, owner)?;
        if (owner, step) < kept.dropped {
            return Err(Refusal::TooLate);
        }
        match kept.held.get(&root) {
            Some(held) if held.dealing == given.dealing => return Ok(()), // the same dealing
            Some(_) => return Err(Refusal::Exists),
            None if full => return Err(Refusal::Full),
            None => {}
        }
        let context = ShareContext { tree, root, place: given.place };
        let share = self.letterbox.open(&given.sealed, &context).map_err(|_| Refusal::OtherLetterbox)?;
        let held = Held { dealing: given.dealing, share };
        self.owned(tree, owner)?.held.insert(root, held);
        self.shares = self.shares.saturating_add(1);
        Ok(())
    }

    /// Lends a share, sealed to `letterbox`; `owner` is 0 for whoever does not own the tree.
    ///
    /// # Errors
    /// [`Refusal::Replaced`], [`Refusal::Absent`], [`Refusal::OtherLetterbox`] for what is none.
    pub fn get(
        &self,
        tree: TreeId,
        owner: u64,
        root: RootId,
        letterbox: &LetterboxAddress,
    ) -> Result<Lent, Refusal> {
        let kept = self.trees.get(&tree).ok_or(Refusal::Absent)?;
        if owner != 0 && owner < kept.owner {
            return Err(Refusal::Replaced);
        }
        let held = kept.held.get(&root).ok_or(Refusal::Absent)?;
        let sealed = held.share.seal_to(letterbox, tree, root).map_err(|_| Refusal::OtherLetterbox)?;
        Ok(Lent { dealing: held.dealing.clone(), place: held.share.place(), sealed })
    }

    /// Wipes a share, and tells how its root was dealt if there was one. None such is a success: it can no more
    /// come back by a call from before this one.
    ///
    /// # Errors
    /// [`Refusal::Replaced`], [`Refusal::Unknown`]
    pub fn drop_share(
        &mut self,
        tree: TreeId,
        owner: u64,
        step: u64,
        root: RootId,
    ) -> Result<Option<Dealing>, Refusal> {
        let kept = self.owned(tree, owner)?;
        kept.dropped = kept.dropped.max((owner, step));
        let held = kept.held.remove(&root);
        self.shares = self.shares.saturating_sub(usize::from(held.is_some()));
        Ok(held.map(|held| held.dealing))
    }

    /// Remembers the newest key commit.
    ///
    /// # Errors
    /// [`Refusal::Replaced`], [`Refusal::Unknown`]
    pub fn note(&mut self, tree: TreeId, owner: u64, commit: CommitPosition) -> Result<(), Refusal> {
        self.owned(tree, owner)?.note(commit);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
