//! Roots in a PKCS#11 token: an HSM, a smart card, or SoftHSM2 in tests.
//!
//! The root never leaves the token; what wraps and unwraps the top page's key is AES-256-GCM inside it, bound to
//! tree and root by the associated data (`cloakroom_crypto::device`). The page key passes the library's memory
//! on its way, which is this process's, not locked.
//!
//! - [`token`]: the token's objects
//! - [`claims`]: one owner, where nothing can compare and swap

mod claims;
mod token;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_crypto::role::Page;
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Answer;
use futures_channel::oneshot;
use rustix::time::{ClockId, clock_gettime};

use self::claims::{Claims, Held};
use self::token::Token;
use super::desk::{self, Desk};
use super::{HeldRoot, HolderError, OwnerNumber, RootHolder, SecretSource};

/// A note's bytes: this version, the start, the number.
const NOTE_VERSION: u8 = 1;
/// How often a start looks whether those who claimed before it are done, in parts of a lease.
const LOOKS: u32 = 20;

/// Which token, and how it is used.
#[derive(Clone, Debug)]
pub struct Pkcs11Options {
    /// The maker's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// Where its user PIN is found.
    pub pin: SecretSource,
    /// How long an ownership holds without being renewed; every start waits as long. 30 s is erasure.md's.
    pub lease: Duration,
    /// How long a call may take before the token counts as unreachable.
    pub answer_within: Duration,
}

/// Keeps roots as keys of a PKCS#11 token.
pub struct Pkcs11Holder(Arc<Inner>);

struct Inner {
    desk: Desk<Token>,
    lease: Duration,
    is_hardware: bool,
    owned: Mutex<HashMap<TreeId, Owned>>,
}

#[derive(Clone, Copy)]
struct Owned {
    held: Held,
    /// When the newest renewal began, by a clock that a suspended machine does not stop.
    renewed: Duration,
}

impl Pkcs11Holder {
    /// Opens the token and logs in. Blocks for at most `answer_within`.
    ///
    /// # Errors
    /// [`HolderError::Unreachable`] where there is no such library or token, [`HolderError::Refused`] for a
    /// wrong PIN and a token that lacks AES-GCM.
    pub fn open(options: Pkcs11Options) -> Result<Self, HolderError> {
        let Pkcs11Options { module, token, pin, lease, answer_within } = options;
        let desk = Desk::start("pkcs11", answer_within, move || Token::open(&module, &token, pin.read()?))?;
        let is_hardware = desk.call_and_wait(|token| Ok(token.is_hardware()))?;
        Ok(Self(Arc::new(Inner { desk, lease, is_hardware, owned: Mutex::default() })))
    }

    /// Takes a tree on a thread of its own: most of it is waiting.
    fn claim(
        &self,
        work: impl FnOnce(&Inner) -> Result<OwnerNumber, HolderError> + Send + 'static,
    ) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        let inner = Arc::clone(&self.0);
        let (tell, told) = oneshot::channel();
        let started = desk::spawn("pkcs11 claim".to_owned(), move || drop(tell.send(work(&inner))));
        Answer::later(async move {
            started?;
            told.await.unwrap_or_else(|_| Err(HolderError::Unreachable("the claim was given up".to_owned())))
        })
    }
}

impl Inner {
    fn own(&self, tree: TreeId) -> Result<OwnerNumber, HolderError> {
        if self.owned().get(&tree).is_some_and(|owned| !self.has_lapsed(owned)) {
            return Err(HolderError::Owned(tree));
        }
        self.let_others_finish(tree)?;
        let (mine, before) = self.desk.call_and_wait(move |token| claims::claim(token, tree, false))?;
        thread::sleep(self.lease);
        let renewed = since_boot();
        self.desk.call_and_wait(move |token| claims::settle(token, tree, mine, &before))?;
        Ok(self.hold(tree, mine, renewed))
    }

    fn take_over(&self, tree: TreeId) -> Result<OwnerNumber, HolderError> {
        let renewed = since_boot();
        let (mine, _) = self.desk.call_and_wait(move |token| claims::claim(token, tree, true))?;
        self.desk.call_and_wait(move |token| claims::enter(token, tree, mine))?;
        Ok(self.hold(tree, mine, renewed))
    }

    /// Whoever claimed first goes first, or two that are started again and again would keep each other out. A
    /// claim that nothing becomes of for longer than a lease is a dead one's.
    fn let_others_finish(&self, tree: TreeId) -> Result<(), HolderError> {
        let look = move |token: &Token| Claims::of(token, tree);
        let waiting = self.desk.call_and_wait(look)?.waiting();
        for _ in 0..LOOKS.saturating_add(LOOKS / 2) {
            if waiting.is_empty() {
                break;
            }
            thread::sleep(self.lease / LOOKS);
            let now = self.desk.call_and_wait(look)?;
            if now.owned_by_one_of(&waiting) {
                return Err(HolderError::Owned(tree));
            }
            if !now.waiting().iter().any(|id| waiting.contains(id)) {
                break;
            }
        }
        Ok(())
    }

    fn hold(&self, tree: TreeId, mine: claims::Claim, renewed: Duration) -> OwnerNumber {
        let owner = OwnerNumber(mine.number);
        self.owned().insert(tree, Owned { held: Held { owner, id: mine.id }, renewed });
        owner
    }

    fn owned(&self) -> MutexGuard<'_, HashMap<TreeId, Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_lapsed(&self, owned: &Owned) -> bool {
        since_boot().saturating_sub(owned.renewed) >= self.lease
    }

    /// Does `work` for the tree's owner alone.
    fn as_owner<T: Send + 'static>(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        work: impl FnOnce(&Token, Held, bool) -> Result<T, HolderError> + Send + 'static,
    ) -> Answer<'_, Result<T, HolderError>> {
        let Some(owned) = self.owned().get(&tree).copied().filter(|owned| owned.held.owner == owner) else {
            return Answer::now(Err(HolderError::Replaced { tree, owner }));
        };
        let lapsed = self.has_lapsed(&owned);
        self.desk.call(move |token| work(token, owned.held, lapsed))
    }
}

impl RootHolder for Pkcs11Holder {
    fn kind(&self) -> &'static str {
        "pkcs11"
    }

    fn destroy_class(&self) -> &'static str {
        if self.0.is_hardware { "hsm" } else { "overwritten" }
    }

    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        self.claim(move |inner| inner.own(tree))
    }

    fn take_over(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        self.claim(move |inner| inner.take_over(tree))
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.0.lease)
    }

    fn renew(&self, tree: TreeId, owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        let began = since_boot();
        let beat =
            self.0.as_owner(tree, owner, move |token, held, lapsed| claims::beat(token, tree, held, lapsed));
        Answer::later(async move {
            beat.await?;
            if let Some(owned) = self.0.owned().get_mut(&tree).filter(|owned| owned.held.owner == owner) {
                owned.renewed = began;
            }
            Ok(())
        })
    }

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.0.as_owner(tree, owner, move |token, held, lapsed| {
            claims::check(token, tree, held, lapsed)?;
            if token.roots(tree)?.iter().any(|(_, held)| held.root == root) {
                let source = std::io::ErrorKind::AlreadyExists.into();
                return Err(HolderError::Io { what: "making a root", source });
            }
            token.make_root(tree, HeldRoot { root, owner })
        })
    }

    fn wrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        key: KeyRef<'a, Page>,
    ) -> Answer<'a, Result<Bytes, HolderError>> {
        let key = key.to_key();
        self.0.desk.call(move |token| token.wrap(tree, root, &key))
    }

    fn unwrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        anchor: &'a [u8],
    ) -> Answer<'a, Result<Key<Page>, HolderError>> {
        let anchor = anchor.to_vec();
        self.0.desk.call(move |token| token.unwrap(tree, root, &anchor))
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        self.0.as_owner(tree, owner, move |token, held, lapsed| {
            claims::check(token, tree, held, lapsed)?;
            for (object, found) in token.roots(tree)?.into_iter().filter(|(_, found)| found.root == root) {
                // Since the look at the claims a newer owner may have come; its roots are safe all the same.
                if found.owner > owner {
                    return Err(HolderError::Replaced { tree, owner });
                }
                token.remove(object)?;
            }
            Ok(())
        })
    }

    fn list(&self, tree: TreeId) -> Answer<'_, Result<Vec<HeldRoot>, HolderError>> {
        self.0.desk.call(move |token| Ok(token.roots(tree)?.into_iter().map(|(_, held)| held).collect()))
    }

    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>> {
        self.0.as_owner(tree, owner, move |token, held, lapsed| {
            claims::check(token, tree, held, lapsed)?;
            note(token, tree, commit)
        })
    }

    fn noted(&self, tree: TreeId) -> Answer<'_, Result<Option<CommitPosition>, HolderError>> {
        self.0.desk.call(move |token| Ok(noted(token, tree)?.into_iter().map(|(_, commit)| commit).next()))
    }
}

fn note(token: &Token, tree: TreeId, commit: CommitPosition) -> Result<(), HolderError> {
    let bytes = [&[NOTE_VERSION][..], &commit.start.0, &commit.number.to_be_bytes()].concat();
    match noted(token, tree)? {
        None => token.add_data(&note_label(tree), bytes),
        Some((_, before)) if before.number >= commit.number => Ok(()),
        Some((object, _)) => token.replace_data(object, &note_label(tree), bytes),
    }
}

/// The note, with where it lies; the newest, should a process have been killed between two.
fn noted(
    token: &Token,
    tree: TreeId,
) -> Result<Option<(cryptoki::object::ObjectHandle, CommitPosition)>, HolderError> {
    let found = token.data(&note_label(tree))?.into_iter();
    let notes = found.map(|(object, bytes)| {
        let commit = bytes.strip_prefix(&[NOTE_VERSION]).and_then(|rest| {
            let (start, number) = rest.split_first_chunk()?;
            let number = u64::from_be_bytes(number.try_into().ok()?);
            Some(CommitPosition { start: StartId(*start), number })
        });
        commit.map(|commit| (object, commit)).ok_or(HolderError::Damaged("note"))
    });
    let notes: Vec<_> = notes.collect::<Result<_, _>>()?;
    Ok(notes.into_iter().max_by_key(|(_, commit)| commit.number))
}

fn note_label(tree: TreeId) -> String {
    format!("cloakroom note {tree}")
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}
