//! One keyholder, as its owner sees it: what a transport does for the quorum. It decides nothing.

use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_crypto::share::{Dealing, LetterboxAddress};
use cloakroom_store::Answer;

/// What a keyholder knows of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// It has heard of the tree since it started.
    pub known: bool,
    /// The newest owner's number; 0 before the first.
    pub owner: u64,
    /// How long that ownership still holds there.
    pub lease_left: Duration,
    /// The roots of which it has a share.
    pub dealings: Vec<Dealing>,
    /// The newest key commit noted.
    pub noted: Option<CommitPosition>,
    /// Where shares for it are sealed to; another after each of its starts.
    pub letterbox: LetterboxAddress,
}

/// A share on its way to a keyholder.
#[derive(Clone, Debug)]
pub struct Given {
    /// How its root was dealt.
    pub dealing: Dealing,
    /// Its place in that.
    pub place: u8,
    /// Sealed to the keyholder's letterbox.
    pub sealed: Bytes,
}

/// A share on its way from a keyholder.
#[derive(Clone, Debug)]
pub struct Lent {
    /// How its root was dealt.
    pub dealing: Dealing,
    /// Its place in that.
    pub place: u8,
    /// Sealed to the letterbox of whoever asked.
    pub sealed: Bytes,
}

/// Why a keyholder did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Decline {
    /// The caller's number is not the newest that it has seen.
    Replaced,
    /// It does not know that number: it was away when that was granted, or has restarted. Renewing tells it.
    Unknown,
    /// Another's ownership holds.
    Leased,
    /// It started less than a lease ago.
    TooSoon,
    /// It grants no lease so long.
    LeaseTooLong,
    /// It has another root of that id.
    Exists,
    /// It has no such root.
    Absent,
    /// It has no room.
    Full,
    /// It has another letterbox by now.
    OtherLetterbox,
    /// A later call has dropped what this one would bring back.
    TooLate,
    /// It does not talk to this caller. The text is its own.
    Refused(String),
    /// It does not answer.
    Unreachable(String),
}

/// One keyholder. Calls that change something name the owner.
pub trait Keyholder: Send + Sync {
    /// What it is called, the same for as long as it is the same: shares are dealt to names.
    fn name(&self) -> &str;

    /// What it knows of a tree.
    fn look(&self, tree: TreeId) -> Answer<'_, Result<Standing, Decline>>;

    /// Asks for a tree under a number; with `take_over` also where another's ownership holds.
    fn own(
        &self,
        tree: TreeId,
        owner: u64,
        lease: Duration,
        take_over: bool,
    ) -> Answer<'_, Result<(), Decline>>;

    /// Prolongs the ownership, and makes it known where it was not.
    fn renew(
        &self,
        tree: TreeId,
        owner: u64,
        lease: Duration,
        noted: Option<CommitPosition>,
    ) -> Answer<'_, Result<Standing, Decline>>;

    /// Gives the ownership back; with `unused` the number too.
    fn release(&self, tree: TreeId, owner: u64, unused: bool) -> Answer<'_, Result<(), Decline>>;

    /// Gives it a share; one that it has already is a success.
    fn put(&self, tree: TreeId, owner: u64, step: u64, given: Given) -> Answer<'_, Result<(), Decline>>;

    /// Asks for its share, sealed to `letterbox`; `owner` is 0 for whoever does not own the tree.
    fn lend(
        &self,
        tree: TreeId,
        owner: u64,
        root: RootId,
        letterbox: LetterboxAddress,
    ) -> Answer<'_, Result<Lent, Decline>>;

    /// Has it wipe its share, and tells how the root was dealt if it had one.
    fn wipe(
        &self,
        tree: TreeId,
        owner: u64,
        step: u64,
        root: RootId,
    ) -> Answer<'_, Result<Option<Dealing>, Decline>>;

    /// Tells it the newest key commit.
    fn note(&self, tree: TreeId, owner: u64, commit: CommitPosition) -> Answer<'_, Result<(), Decline>>;
}
