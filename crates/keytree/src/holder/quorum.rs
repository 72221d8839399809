//! The keyholder quorum: a root lies with several keyholders, a share each, in memory only; any `threshold` of them
//! give it back. What is said of a tree besides (who owns it, what was noted) goes by majority.
//!
//! - A root is **made** here, in locked memory, dealt to all keyholders, and put together again for the moment of
//!   each use. It counts as made when as many have their share as are needed and a majority besides, and those
//!   that do not were merely out of reach: they count among the lost until they are given theirs. One that
//!   refuses makes it fail, since its refusal would hold for every root to come.
//! - It is **destroyed** when all but one less than the threshold of those it was dealt to say that they have it no
//!   more. One that is out of reach is told when it is back; until then it has too little to matter.
//! - One that **restarted** has lost all. The owner finds that by renewing and gives it again what it had, the same
//!   shares, for as long as the threshold is met. So losing the others before that loses every key.
//! - **Owning** is a lease from a majority, under a number above all that a majority remembers. Who cannot renew
//!   must stop before the lease ends; a number that was replaced is refused by a majority, whatever its owner
//!   slept through.
//! - **Replacing** a keyholder in the configuration replaces the root: the next batch, which a start is, deals anew.
//!   At most one less than the threshold at a time, or the former root cannot be proved gone.

mod keyholder;
mod shares;

pub use cloakroom_crypto::share::{Dealing, LetterboxAddress};
pub use cloakroom_store::Answer;
pub use keyholder::{Decline, Given, Keyholder, Lent, Standing};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_crypto::role::Page;
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::share::Letterbox;
use cloakroom_crypto::{Key, KeyRef, random};
use futures_util::future::join_all;

use super::{HeldRoot, HolderError, OwnerNumber, RootHolder};

/// Keyholders in one quorum. Which shares go together is found by trying, which this keeps quick.
pub const KEYHOLDERS_MAX: usize = 12;

/// An answer is waited for between these two: a tenth of a lease, so that a call and a renewal fit into a third.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// One that did not answer is given this part of the time until it does.
const IMPATIENCE: u32 = 4;
/// Starts that get in each other's way step back and try again: by then one of them owns.
const OWN_TRIES: u32 = 24;
const OWN_PAUSE_MS: u64 = 20;
/// A keyholder that restarted in the middle of a call is told who we are and asked again.
const TELL_TRIES: u32 = 3;

/// Time since the machine started, also while it slept.
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// One keyholder and what is known of it.
struct Seat {
    keyholder: Arc<dyn Keyholder>,
    silent: AtomicBool,
    letterbox: Mutex<Option<LetterboxAddress>>,
}

/// One tree as this process tends it.
#[derive(Default)]
struct Tended {
    /// The number under which this process was granted the tree; 0 if it was not.
    own: AtomicU64,
    step: AtomicU64,
    noted: Mutex<Option<CommitPosition>>,
    /// Roots that are to be gone, and may not be everywhere yet. Locked through whatever gives or drops shares.
    gone: tokio::sync::Mutex<BTreeSet<RootId>>,
}

impl Tended {
    /// Steps rise over the owner's calls, also from one handle to the next on the same machine.
    fn next_step(&self) -> u64 {
        let now = u64::try_from(boot_time().as_nanos()).unwrap_or(u64::MAX);
        let before = self.step.fetch_max(now, Ordering::AcqRel);
        if before < now { now } else { self.step.fetch_add(1, Ordering::AcqRel).saturating_add(1) }
    }
}

/// Keeps roots with several keyholders.
pub struct QuorumHolder {
    seats: Vec<Seat>,
    threshold: u8,
    lease: Duration,
    patience: Duration,
    letterbox: Letterbox,
    trees: Mutex<HashMap<TreeId, Arc<Tended>>>,
}

/// What every keyholder answered, in their order.
type Answers<T> = Vec<Result<T, Decline>>;

impl QuorumHolder {
    /// Keeps roots with `keyholders`, of whom any `threshold` give a root back, and owns trees for `lease` at a
    /// time, which none of the keyholders may find too long.
    ///
    /// # Errors
    /// [`HolderError::Refused`] for numbers that make no quorum, or two keyholders of one name.
    pub fn new(
        keyholders: Vec<Arc<dyn Keyholder>>,
        threshold: u8,
        lease: Duration,
    ) -> Result<Self, HolderError> {
        let count = keyholders.len();
        let names: BTreeSet<&str> = keyholders.iter().map(|keyholder| keyholder.name()).collect();
        if threshold == 0 || usize::from(threshold) > count || count > KEYHOLDERS_MAX || lease.is_zero() {
            return Err(HolderError::Refused(format!(
                "{threshold} of {count} keyholders make no quorum; at most {KEYHOLDERS_MAX} can be asked"
            )));
        }
        if names.len() < count {
            return Err(HolderError::Refused("two keyholders have one name".to_owned()));
        }
        let seats = keyholders
            .into_iter()
            .map(|keyholder| Seat { keyholder, silent: AtomicBool::default(), letterbox: Mutex::default() })
            .collect();
        Ok(Self {
            seats,
            threshold,
            lease,
            patience: (lease / 10).clamp(PATIENCE_MIN, PATIENCE_MAX),
            letterbox: Letterbox::new(),
            trees: Mutex::default(),
        })
    }

    fn majority(&self) -> usize {
        self.seats.len() / 2 + 1
    }

    fn tended(&self, tree: TreeId) -> Arc<Tended> {
        Arc::clone(lock(&self.trees).entry(tree).or_default())
    }

    /// The number of this process for a tree; 0 if it does not own it.
    fn own_number(&self, tree: TreeId) -> u64 {
        self.tended(tree).own.load(Ordering::Acquire)
    }

    /// Waits for one answer, for so long as that keyholder deserves.
    async fn asked<T>(
        &self,
        seat: &Seat,
        answer: impl Future<Output = Result<T, Decline>>,
        patient: bool,
    ) -> Result<T, Decline> {
        let silent = seat.silent.load(Ordering::Relaxed) && !patient;
        let patience = if silent { self.patience / IMPATIENCE } else { self.patience };
        let answer = tokio::time::timeout(patience, answer)
            .await
            .unwrap_or_else(|_| Err(Decline::Unreachable("no answer in time".to_owned())));
        let silent = matches!(answer, Err(Decline::Unreachable(_)));
        if seat.silent.swap(silent, Ordering::Relaxed) != silent {
            let keyholder = seat.keyholder.name();
            match &answer {
                Err(Decline::Unreachable(why)) => tracing::warn!(keyholder, why, "a keyholder is silent"),
                _ => tracing::info!(keyholder, "a keyholder is back"),
            }
        }
        answer
    }

    /// Asks all at once.
    async fn ask_all<'a, T, F: Future<Output = Result<T, Decline>>>(
        &'a self,
        patient: bool,
        ask: impl Fn(&'a dyn Keyholder) -> F,
    ) -> Answers<T> {
        join_all(self.seats.iter().map(|seat| self.asked(seat, ask(&*seat.keyholder), patient))).await
    }

    /// What all know of a tree; fails where fewer than a majority say so.
    async fn look_all(&self, tree: TreeId) -> Result<Vec<Option<Standing>>, HolderError> {
        let answers = self.ask_all(false, |keyholder| keyholder.look(tree)).await;
        self.learn_letterboxes(&answers);
        self.by_majority(tree, 0, &answers)?;
        Ok(answers.into_iter().map(Result::ok).collect())
    }

    fn learn_letterboxes(&self, answers: &Answers<Standing>) {
        for (seat, answer) in self.seats.iter().zip(answers) {
            if let Ok(standing) = answer {
                *lock(&seat.letterbox) = Some(standing.letterbox);
            }
        }
    }

    fn by_majority<T>(&self, tree: TreeId, owner: u64, answers: &Answers<T>) -> Result<(), HolderError> {
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        if done >= self.majority() { Ok(()) } else { Err(self.verdict(tree, owner, answers)) }
    }

    /// The one reason out of several that says most.
    fn verdict<T>(&self, tree: TreeId, owner: u64, answers: &Answers<T>) -> HolderError {
        let declines = || answers.iter().filter_map(|answer| answer.as_ref().err());
        let any = |wanted: &[Decline]| declines().any(|decline| wanted.contains(decline));
        if any(&[Decline::Replaced, Decline::Unknown, Decline::TooLate]) {
            return HolderError::Replaced { tree, owner: OwnerNumber(owner) };
        }
        if any(&[Decline::Leased, Decline::TooSoon]) {
            return HolderError::Owned(tree);
        }
        if any(&[Decline::Full]) {
            return HolderError::Full;
        }
        let (mut refusals, mut silences) = (vec![], vec![]);
        for (seat, answer) in self.seats.iter().zip(answers) {
            let name = seat.keyholder.name();
            match answer {
                Err(Decline::Unreachable(why)) => silences.push(format!("{name}: {why}")),
                Err(Decline::Refused(why)) => refusals.push(format!("{name}: {why}")),
                Err(Decline::LeaseTooLong) => refusals.push(format!("{name} grants no lease so long")),
                Err(Decline::Exists) => refusals.push(format!("{name} has such a root already")),
                Err(other) => refusals.push(format!("{name}: {other:?}")),
                Ok(_) => {}
            }
        }
        match refusals.is_empty() {
            true => HolderError::Unreachable(silences.join("; ")),
            false => HolderError::Refused(refusals.join("; ")),
        }
    }

    async fn own_now(&self, tree: TreeId, take_over: bool) -> Result<OwnerNumber, HolderError> {
        for tried in 1..=OWN_TRIES {
            let standings = self.look_all(tree).await?;
            let known: Vec<&Standing> = standings.iter().flatten().filter(|it| it.known).collect();
            if !take_over {
                self.free(tree, &known)?;
                match self.remembered(tree, known.len()) {
                    // Others are at it, and have come as far as one or two: they get the tree or step back.
                    Err(_) if known.iter().any(|it| !it.lease_left.is_zero()) => {
                        pause(tried).await;
                        continue;
                    }
                    remembered => remembered?,
                }
            }
            let number = known.iter().map(|it| newest(it)).max().unwrap_or(0).saturating_add(1);
            let answers =
                self.ask_all(false, |keyholder| keyholder.own(tree, number, self.lease, take_over)).await;
            if answers.iter().filter(|answer| answer.is_ok()).count() >= self.majority() {
                let tended = self.tended(tree);
                tended.own.store(number, Ordering::Release);
                let noted = known.iter().filter_map(|it| it.noted).max_by_key(|noted| noted.number);
                *lock(&tended.noted) = noted;
                return Ok(OwnerNumber(number));
            }
            self.step_back(tree, number, &answers).await;
            let count = |wanted: &[Decline]| {
                answers.iter().filter(|answer| answer.as_ref().is_err_and(|it| wanted.contains(it))).count()
            };
            let answered = answers.iter().filter(|answer| answer.is_ok()).count()
                + count(&[Decline::Leased, Decline::Replaced, Decline::TooSoon]);
            if answered < self.majority() {
                return Err(self.verdict(tree, number, &answers));
            }
            if count(&[Decline::TooSoon]) > self.seats.len() - self.majority() {
                return Err(HolderError::Owned(tree)); // as far as anybody knows
            }
            pause(tried).await;
        }
        Err(HolderError::Owned(tree))
    }

    /// A keyholder that restarted has forgotten. Of those that any majority was made of, enough must be left that
    /// every number and every root is known to one of them.
    fn remembered(&self, tree: TreeId, known: usize) -> Result<(), HolderError> {
        let (count, needed) = (self.seats.len(), self.seats.len() - self.majority() + 1);
        if known == 0 || known >= needed {
            return Ok(());
        }
        Err(HolderError::Unreachable(format!(
            "only {known} of {count} keyholders remember tree {tree}, {needed} must; if no other process owns it, take it over"
        )))
    }

    /// Whether nobody owns the tree by a majority.
    fn free(&self, tree: TreeId, known: &[&Standing]) -> Result<(), HolderError> {
        let mut leases: BTreeMap<u64, usize> = BTreeMap::new();
        for standing in known.iter().filter(|it| !it.lease_left.is_zero()) {
            *leases.entry(standing.owner).or_default() += 1;
        }
        match leases.values().any(|count| *count >= self.majority()) {
            true => Err(HolderError::Owned(tree)),
            false => Ok(()),
        }
    }

    /// Gives back what a start that did not get a majority was granted.
    async fn step_back(&self, tree: TreeId, number: u64, answers: &Answers<()>) {
        let granted = self.seats.iter().zip(answers).filter(|(_, answer)| {
            matches!(answer, Ok(()) | Err(Decline::Unreachable(_))) // who did not answer may have granted
        });
        join_all(
            granted.map(|(seat, _)| self.asked(seat, seat.keyholder.release(tree, number, true), false)),
        )
        .await;
    }

    async fn renew_now(&self, tree: TreeId, owner: u64) -> Result<(), HolderError> {
        let tended = self.tended(tree);
        if owner == 0 || tended.own.load(Ordering::Acquire) != owner {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(owner) });
        }
        let noted = *lock(&tended.noted);
        let answers = self.ask_all(true, |keyholder| keyholder.renew(tree, owner, self.lease, noted)).await;
        self.learn_letterboxes(&answers);
        self.by_majority(tree, owner, &answers)?;
        // A batch under way comes first: what is missing is given at the next renewal.
        if let Ok(mut gone) = tended.gone.try_lock() {
            let standings: Vec<_> = answers.into_iter().map(Result::ok).collect();
            self.mend(tree, owner, &tended, &mut gone, &standings).await;
        }
        Ok(())
    }

    /// Makes this owner known to a keyholder that does not know it. `false` if it is none, or not heard.
    async fn tell(&self, tree: TreeId, owner: u64, seat: &Seat) -> bool {
        let tended = self.tended(tree);
        if tended.own.load(Ordering::Acquire) != owner {
            return false;
        }
        let noted = *lock(&tended.noted);
        match self.asked(seat, seat.keyholder.renew(tree, owner, self.lease, noted), false).await {
            Ok(standing) => {
                *lock(&seat.letterbox) = Some(standing.letterbox);
                true
            }
            Err(_) => false,
        }
    }

    async fn list_now(&self, tree: TreeId) -> Result<Vec<HeldRoot>, HolderError> {
        let standings = self.look_all(tree).await?;
        let roots: BTreeMap<RootId, u64> = standings
            .iter()
            .flatten()
            .flat_map(|standing| standing.dealings.iter().map(|dealing| (dealing.root, dealing.owner)))
            .collect();
        Ok(roots.into_iter().map(|(root, owner)| HeldRoot { root, owner: OwnerNumber(owner) }).collect())
    }

    async fn note_now(&self, tree: TreeId, owner: u64, commit: CommitPosition) -> Result<(), HolderError> {
        if owner == 0 {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(owner) });
        }
        let told = self.seats.iter().map(|seat| async move {
            let ask = || self.asked(seat, seat.keyholder.note(tree, owner, commit), false);
            match ask().await {
                Err(Decline::Unknown) if self.tell(tree, owner, seat).await => ask().await,
                answer => answer,
            }
        });
        let answers: Answers<()> = join_all(told).await;
        self.by_majority(tree, owner, &answers)?;
        let tended = self.tended(tree);
        let mut noted = lock(&tended.noted);
        if noted.is_none_or(|noted| noted.number < commit.number) {
            *noted = Some(commit);
        }
        Ok(())
    }

    async fn noted_now(&self, tree: TreeId) -> Result<Option<CommitPosition>, HolderError> {
        let standings = self.look_all(tree).await?;
        Ok(standings.iter().flatten().filter_map(|it| it.noted).max_by_key(|noted| noted.number))
    }

    async fn release_now(&self, tree: TreeId, owner: u64) -> Result<(), HolderError> {
        let tended = self.tended(tree);
        if tended.own.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(owner) });
        }
        let answers = self.ask_all(false, |keyholder| keyholder.release(tree, owner, false)).await;
        self.by_majority(tree, owner, &answers)
    }

    /// What each keyholder says of a tree, by name.
    pub async fn survey(&self, tree: TreeId) -> Vec<(String, Result<Standing, Decline>)> {
        let answers = self.ask_all(true, |keyholder| keyholder.look(tree)).await;
        self.seats.iter().map(|seat| seat.keyholder.name().to_owned()).zip(answers).collect()
    }
}

/// A while by chance, longer with every try.
async fn pause(tried: u32) {
    let longest = OWN_PAUSE_MS * u64::from(tried.max(1));
    tokio::time::sleep(Duration::from_millis(random::u64() % longest)).await;
}

/// The highest number that a keyholder has seen.
fn newest(standing: &Standing) -> u64 {
    standing.dealings.iter().map(|dealing| dealing.owner).fold(standing.owner, u64::max)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RootHolder for QuorumHolder {
    fn kind(&self) -> &'static str {
        "keyholders"
    }

    fn destroy_class(&self) -> &'static str {
        "quorum"
    }

    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        Answer::later(self.own_now(tree, false))
    }

    fn take_over(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        Answer::later(self.own_now(tree, true))
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    fn renew(&self, tree: TreeId, owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        Answer::later(self.renew_now(tree, owner.0))
    }

    fn ailment(&self) -> Option<String> {
        let silent = self.seats.iter().filter(|seat| seat.silent.load(Ordering::Relaxed));
        let silent: Vec<&str> = silent.map(|seat| seat.keyholder.name()).collect();
        let (away, count, threshold) = (silent.len(), self.seats.len(), usize::from(self.threshold));
        let left = count.saturating_sub(away).saturating_sub(threshold);
        (away > 0).then(|| {
            format!(
                "{away} of {count} keyholders did not answer ({}); {left} more may be lost without losing every key",
                silent.join(", ")
            )
        })
    }

    fn release(&self, tree: TreeId, owner: OwnerNumber) -> Answer<'_, Result<(), HolderError>> {
        Answer::later(self.release_now(tree, owner.0))
    }

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        Answer::later(self.create_now(tree, owner.0, root))
    }

    fn wrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        key: KeyRef<'a, Page>,
    ) -> Answer<'a, Result<Bytes, HolderError>> {
        let context = RootContext { tree, root };
        Answer::later(async move { Ok(self.put_together(context).await?.borrow().wrap(&context, key)) })
    }

    fn unwrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        anchor: &'a [u8],
    ) -> Answer<'a, Result<Key<Page>, HolderError>> {
        let context = RootContext { tree, root };
        Answer::later(async move {
            let held = self.put_together(context).await?;
            held.borrow().unwrap(&context, anchor).map_err(|_| HolderError::DoesNotOpen(root))
        })
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        Answer::later(self.destroy_now(tree, owner.0, root))
    }

    fn list(&self, tree: TreeId) -> Answer<'_, Result<Vec<HeldRoot>, HolderError>> {
        Answer::later(self.list_now(tree))
    }

    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>> {
        Answer::later(self.note_now(tree, owner.0, commit))
    }

    fn noted(&self, tree: TreeId) -> Answer<'_, Result<Option<CommitPosition>, HolderError>> {
        Answer::later(self.noted_now(tree))
    }
}
