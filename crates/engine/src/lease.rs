//! An ownership that its root holder grants for a time: it is renewed for as long as the vault lives, and a vault
//! that could not renew stops reads and writes before it ends. Time is that since the machine started, which goes
//! on while the machine sleeps: who wakes too late finds its ownership ended, before anybody has told it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cloakroom_core::ids::TreeId;
use cloakroom_keytree::holder::quorum::boot_time;
use cloakroom_keytree::{Fault, Found, HolderError, OwnerNumber, RootHolder, TreeOptions};
use cloakroom_store::Records;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::EngineError;

/// Renewed three times in a lease, so that one renewal may be lost; each may take as long as there is to the next.
const RENEWALS: u32 = 3;
/// A renewal that failed is tried again after this part of a lease.
const RETRIES: u32 = 12;
/// This part of a lease is never counted on: two machines' clocks do not run alike.
const MARGIN: u32 = 10;
/// A start that finds another owner waits for a lease and this part more: the owner may have died just after it
/// renewed.
const PATIENCE: u32 = 4;

/// Until when this process owns its tree.
pub(crate) struct Lease {
    /// Nanoseconds since the machine started.
    ends_at: AtomicU64,
    /// What its holder lacked when it was last asked to renew.
    ailment: Mutex<Option<String>>,
}

impl Lease {
    fn until(end: Option<Duration>) -> Self {
        Self { ends_at: AtomicU64::new(end.map_or(u64::MAX, nanos)), ailment: Mutex::default() }
    }

    /// What is wrong with whoever grants it, for people to read, while reads and writes go on.
    pub(crate) fn ailment(&self) -> Option<String> {
        self.ailment.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ails(&self, ailment: Option<String>) {
        *self.ailment.lock().unwrap_or_else(PoisonError::into_inner) = ailment;
    }

    /// Whether it does now. To be asked after a value was opened and before its answer, and before a write.
    pub(crate) fn holds(&self) -> bool {
        let end = self.ends_at.load(Ordering::Acquire);
        end == u64::MAX || nanos(boot_time()) < end
    }

    fn left(&self) -> Duration {
        Duration::from_nanos(self.ends_at.load(Ordering::Acquire)).saturating_sub(boot_time())
    }

    /// Where another holder grants it: whatever the former one granted says nothing any more.
    fn begin_anew(&self, end: Option<Duration>) {
        self.ends_at.store(end.map_or(u64::MAX, nanos), Ordering::Release);
    }

    fn prolong(&self, end: Duration) {
        self.ends_at.fetch_max(nanos(end), Ordering::AcqRel);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn not_renewed(why: &str) -> String {
    format!("the ownership of the keys is not renewed; the vault stops when it ends: {why}")
}

/// When an ownership asked for at `asked` ends, for its owner.
fn end(asked: Duration, lease: Duration) -> Duration {
    asked.saturating_add(lease).saturating_sub(lease / MARGIN)
}

/// An ownership under way. Dropped before the vault is in service, it is given back.
pub(crate) struct Kept {
    /// Until when it holds.
    pub(crate) lease: Arc<Lease>,
    /// Why the vault must stop: set when the ownership could not be kept.
    pub(crate) failed: watch::Sender<Option<String>>,
    in_service: Arc<AtomicBool>,
    /// Takes another holder's ownership into its care, where the tree has moved.
    pub(crate) moved: watch::Sender<Option<Held>>,
    renewing: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// An ownership in another holder than before.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) holder: Arc<dyn RootHolder>,
    pub(crate) owner: OwnerNumber,
    /// When it was asked for, since the machine started.
    pub(crate) asked: Duration,
}

impl Kept {
    fn begin(
        holder: Arc<dyn RootHolder>,
        tree: TreeId,
        owner: OwnerNumber,
        asked: Duration,
        term: Option<Duration>,
    ) -> Self {
        let lease = Arc::new(Lease::until(term.map(|term| end(asked, term))));
        let failed = watch::Sender::new(None);
        let in_service = Arc::new(AtomicBool::new(false));
        let (moved, heard) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let holder = term.map(|_| holder);
        let renewal = Renewal { holder, tree, owner, term, lease: Arc::clone(&lease), moved: heard };
        let task = run(renewal, failed.clone(), Arc::clone(&in_service), stopped);
        Self { lease, failed, in_service, moved, renewing: Some((stop, tokio::spawn(task))) }
    }

    /// From here on there is a writer: only [`Kept::release`], after its end, gives the ownership back.
    pub(crate) fn in_service(&self) {
        self.in_service.store(true, Ordering::Release);
    }

    /// Gives the ownership back: the next start need not wait.
    pub(crate) async fn release(mut self) {
        if let Some((stop, task)) = self.renewing.take() {
            let _ended = stop.send(()); // the task ended by itself where nobody listens
            drop(task.await);
        }
    }
}

/// Owns the tree and reads where it stands, as [`Found::look`]; waits where a former owner's lease may still run.
pub(crate) async fn look(
    records: &Arc<dyn Records>,
    holder: &Arc<dyn RootHolder>,
    former: Option<&Arc<dyn RootHolder>>,
    options: TreeOptions,
) -> Result<(Found, Kept), EngineError> {
    let (term, began) = (holder.lease(), Instant::now());
    let mut told = false;
    loop {
        let asked = boot_time();
        let looked = Found::look_moving(Arc::clone(records), Arc::clone(holder), former.cloned(), options);
        let error = match looked.await {
            Ok(found) => {
                // A holder that makes a start wait for a lease answers when that long has passed.
                let asked = match term {
                    Some(term) if boot_time().saturating_sub(asked) > term / RENEWALS => {
                        let renewing = boot_time();
                        holder.renew(found.tree_id(), found.owner()).await.map_err(Fault::from)?;
                        renewing
                    }
                    _ => asked,
                };
                let kept = Kept::begin(Arc::clone(holder), found.tree_id(), found.owner(), asked, term);
                return Ok((found, kept));
            }
            Err(error) => error,
        };
        match (term, &error) {
            // Holders that start with this machine may come later than this process.
            (Some(term), Fault::Holder(HolderError::Owned(_) | HolderError::Unreachable(_)))
                if began.elapsed() < term + term / PATIENCE =>
            {
                if !std::mem::replace(&mut told, true) {
                    let reason = EngineError::from(error).chain();
                    tracing::warn!(reason, "the tree is not free: waiting for as long as a lease");
                }
                tokio::time::sleep(term / RETRIES / 4).await;
            }
            _ => return Err(error.into()),
        }
    }
}

struct Renewal {
    /// None without a term: nothing is to be renewed, and whoever drops it last ends the ownership.
    holder: Option<Arc<dyn RootHolder>>,
    tree: TreeId,
    owner: OwnerNumber,
    /// None where the ownership ends with the process.
    term: Option<Duration>,
    lease: Arc<Lease>,
    moved: watch::Receiver<Option<Held>>,
}

async fn run(
    mut renewal: Renewal,
    failed: watch::Sender<Option<String>>,
    in_service: Arc<AtomicBool>,
    stopped: oneshot::Receiver<()>,
) {
    let told = tokio::select! {
        told = stopped => Ok(told),
        reason = renewal.until_it_fails() => Err(reason),
    };
    let Renewal { holder, tree, owner, .. } = &renewal;
    match told {
        Ok(told) => {
            let give_back = told.is_ok() || !in_service.load(Ordering::Acquire);
            if let Some(holder) = holder.as_ref().filter(|_| give_back)
                && let Err(error) = holder.release(*tree, *owner).await
            {
                tracing::warn!(%error, "the tree was not given back: the next start waits for its lease to end");
            }
        }
        Err(reason) => {
            tracing::error!(reason, "the ownership of the key tree is lost: reads and writes stop");
            failed.send_replace(Some(reason));
        }
    }
}

impl Renewal {
    async fn until_it_fails(&mut self) -> String {
        let mut pause = self.term.map(|term| term / RENEWALS);
        loop {
            let left = self.lease.left();
            let until_due = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause.min(left)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.moved.changed() => {
                    self.follow();
                    pause = self.term.map(|term| term / RENEWALS);
                    continue;
                }
                () = until_due => {}
            }
            let (Some(term), Some(holder)) = (self.term, &self.holder) else { continue };
            if !self.lease.holds() {
                return "the ownership of the key tree could not be renewed in time".to_owned();
            }
            let asked = boot_time();
            let renewed = holder.renew(self.tree, self.owner);
            let answer = tokio::time::timeout(term / RENEWALS, renewed).await;
            // What came after the end came too late: another may own the tree, whatever the answer says.
            if !self.lease.holds() {
                continue;
            }
            pause = Some(term / RENEWALS);
            match answer {
                Ok(Ok(())) => {
                    self.lease.prolong(end(asked, term));
                    self.lease.ails(holder.ailment());
                }
                // The tree has just moved: nobody needs this ownership any more.
                Ok(Err(HolderError::Replaced { .. })) if self.moved.has_changed().unwrap_or_default() => {}
                Ok(Err(error @ HolderError::Replaced { .. })) => return error.to_string(),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the ownership of the key tree was not renewed");
                    self.lease.ails(Some(not_renewed(&error.to_string())));
                    pause = Some(term / RETRIES);
                }
                Err(_) => {
                    tracing::warn!("the root holder did not answer in time to renew");
                    self.lease.ails(Some(not_renewed("the root holder did not answer in time")));
                }
            }
        }
    }

    /// Takes over what the tree has moved to.
    fn follow(&mut self) {
        let Some(held) = self.moved.borrow_and_update().clone() else { return };
        self.term = held.holder.lease();
        self.lease.begin_anew(self.term.map(|term| end(held.asked, term)));
        self.lease.ails(None);
        (self.holder, self.owner) = (self.term.map(|_| held.holder), held.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ownership_ends_by_itself_and_only_ever_later() {
        let now = boot_time();
        assert!(Lease::until(None).holds());
        assert!(!Lease::until(Some(now)).holds());
        let lease = Lease::until(Some(now + Duration::from_secs(100)));
        assert!(lease.holds() && lease.left() > Duration::from_secs(90));
        lease.prolong(now);
        assert!(lease.holds(), "an answer that comes late takes nothing back");
        assert_eq!(end(now, Duration::from_secs(30)), now + Duration::from_secs(27));
    }
}
