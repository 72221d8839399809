//! What happens to shares: dealing, putting together, wiping, giving again what was lost.
//!
//! No root and no share is held across an `.await`: what waits is sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::Key;
use cloakroom_crypto::role::Root;
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::share::{Dealing, Share, ShareContext};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::{
    Answers, Decline, Given, HolderError, Lent, OwnerNumber, QuorumHolder, Seat, Standing, TELL_TRIES,
    Tended, lock,
};

impl QuorumHolder {
    /// Makes a root and deals it. When this fails, whoever has a share is told to wipe it.
    pub(super) async fn create_now(&self, tree: TreeId, owner: u64, root: RootId) -> Result<(), HolderError> {
        if owner == 0 {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(owner) });
        }
        let tended = self.tended(tree);
        let mut gone = tended.gone.lock().await;
        if self.seats.iter().any(|seat| lock(&seat.letterbox).is_none()) {
            self.look_all(tree).await?;
        }
        let mut tried = 0;
        loop {
            tried += 1;
            let step = tended.next_step();
            let given = self.deal(tree, owner, root)?;
            let answers: Answers<()> =
                join_all(self.seats.iter().zip(given).map(|(seat, given)| async move {
                    let given = given.ok_or_else(|| Decline::Unreachable("not yet heard of".to_owned()))?;
                    self.asked(seat, seat.keyholder.put(tree, owner, step, given), false).await
                }))
                .await;
            if self.suffices(&answers) {
                gone.remove(&root);
                return Ok(());
            }
            if answers.contains(&Err(Decline::Exists)) {
                // There is such a root, which must stay: only what this call gave is taken back.
                let given = self.seats.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
                let step = tended.next_step();
                join_all(
                    given.map(|(seat, _)| {
                        self.asked(seat, seat.keyholder.wipe(tree, owner, step, root), false)
                    }),
                )
                .await;
                return Err(self.verdict(tree, owner, &answers));
            }
            let _ = self.wipe_all(tree, owner, root, &tended, &mut gone).await;
            if tried == TELL_TRIES || !self.tell_the_unknowing(tree, owner, &answers).await {
                return Err(self.verdict(tree, owner, &answers));
            }
        }
    }

    /// Enough have a share, and none said no.
    fn suffices(&self, answers: &Answers<()>) -> bool {
        let willing = answers.iter().all(|answer| matches!(answer, Ok(()) | Err(Decline::Unreachable(_))));
        let given = answers.iter().filter(|answer| answer.is_ok()).count();
        willing && given >= self.majority().max(usize::from(self.threshold))
    }

    /// Tells those who do not know this owner, or have another letterbox by now. `false` if that is not what is
    /// wrong.
    async fn tell_the_unknowing(&self, tree: TreeId, owner: u64, answers: &Answers<()>) -> bool {
        let unknowing: Vec<&Seat> = self
            .seats
            .iter()
            .zip(answers)
            .filter(|(_, answer)| matches!(answer, Err(Decline::Unknown | Decline::OtherLetterbox)))
            .map(|(seat, _)| seat)
            .collect();
        let told = join_all(unknowing.iter().map(|seat| self.tell(tree, owner, seat))).await;
        !told.is_empty() && told.into_iter().all(|told| told)
    }

    /// A new root in shares, each sealed to its keyholder; none for who was never heard of.
    fn deal(&self, tree: TreeId, owner: u64, root: RootId) -> Result<Vec<Option<Given>>, HolderError> {
        let key = Key::<Root>::random();
        let count = u8::try_from(self.seats.len()).unwrap_or(u8::MAX);
        let shares = key
            .borrow()
            .deal(self.threshold, count)
            .map_err(|error| HolderError::Refused(error.to_string()))?;
        let dealing = Dealing {
            root,
            owner,
            threshold: self.threshold,
            holders: self.seats.iter().map(|seat| seat.keyholder.name().to_owned()).collect(),
            check: key.borrow().check(&RootContext { tree, root }),
        };
        let given = self.seats.iter().zip(&shares).map(|(seat, share)| {
            let sealed = sealed_to(seat, share, tree, root)?;
            Some(Given { dealing: dealing.clone(), place: share.place(), sealed })
        });
        Ok(given.collect())
    }

    /// The root, for the moment of use.
    ///
    /// # Errors
    /// [`HolderError::NoSuchRoot`] only where so few can have a share that nobody could put it together.
    pub(super) async fn put_together(&self, context: RootContext) -> Result<Key<Root>, HolderError> {
        let (dealing, lent) = self.gather(context).await?;
        self.opened(context, &dealing, &lent)
            .and_then(|shares| {
                let shares: Vec<&Share> = shares.iter().collect();
                Key::combine(&shares, &context, &dealing.check)
            })
            .ok_or(HolderError::Damaged("shares of a root"))
    }

    /// Asks everybody for a share until those that came go together.
    async fn gather(&self, context: RootContext) -> Result<(Dealing, Vec<Lent>), HolderError> {
        let RootContext { tree, root } = context;
        let own = self.own_number(tree);
        let mut coming: FuturesUnordered<_> = self
            .seats
            .iter()
            .map(|seat| async move {
                let lending = seat.keyholder.lend(tree, own, root, self.letterbox.address());
                (seat.keyholder.name(), self.asked(seat, lending, false).await)
            })
            .collect();
        let (mut lent, mut answered, mut answers): (Vec<Lent>, BTreeSet<&str>, Answers<()>) =
            (vec![], BTreeSet::new(), vec![]);
        while let Some((name, answer)) = coming.next().await {
            match answer {
                Ok(share) => {
                    answered.insert(name);
                    lent.push(share);
                    if let Some((dealing, some)) = self.that_go_together(context, &lent) {
                        return Ok((dealing, some));
                    }
                }
                Err(Decline::Absent) => drop(answered.insert(name)),
                Err(decline) => answers.push(Err(decline)),
            }
        }
        if answers.contains(&Err(Decline::Replaced)) {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(own) });
        }
        let dealt: Vec<String> = match lent.first() {
            Some(share) => share.dealing.holders.clone(),
            None => self.seats.iter().map(|seat| seat.keyholder.name().to_owned()).collect(),
        };
        let threshold = lent.first().map_or(self.threshold, |share| share.dealing.threshold);
        let missing: Vec<String> =
            dealt.into_iter().filter(|name| !answered.contains(name.as_str())).collect();
        if lent.len() + missing.len() < usize::from(threshold) {
            return Err(HolderError::NoSuchRoot(root));
        }
        if missing.is_empty() {
            return Err(HolderError::Damaged("shares of a root"));
        }
        let refusals: Vec<String> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                Err(Decline::Refused(why)) => Some(why),
                _ => None,
            })
            .collect();
        let reason = format!("{} of {threshold} shares came; missing: {}", lent.len(), missing.join(", "));
        match refusals.is_empty() {
            true => Err(HolderError::Unreachable(reason)),
            false => Err(HolderError::Refused(format!("{reason} ({})", refusals.join("; ")))),
        }
    }

    /// As many of these as give their root back. One that was changed is left out, whoever has it.
    fn that_go_together(&self, context: RootContext, lent: &[Lent]) -> Option<(Dealing, Vec<Lent>)> {
        let newest = lent.last()?;
        let alike: Vec<&Lent> = lent.iter().filter(|share| share.dealing == newest.dealing).collect();
        let threshold = usize::from(newest.dealing.threshold);
        (0_u32..1 << alike.len().min(super::KEYHOLDERS_MAX))
            .filter(|chosen| chosen.count_ones() as usize == threshold)
            .map(|chosen| -> Vec<Lent> {
                let marked = alike.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
                marked.map(|(_, share)| Lent::clone(share)).collect()
            })
            .find(|some| {
                self.opened(context, &newest.dealing, some).is_some_and(|shares| {
                    let shares: Vec<&Share> = shares.iter().collect();
                    Key::combine(&shares, &context, &newest.dealing.check).is_some()
                })
            })
            .map(|some| (newest.dealing.clone(), some))
    }

    fn opened(&self, context: RootContext, dealing: &Dealing, lent: &[Lent]) -> Option<Vec<Share>> {
        let RootContext { tree, root } = context;
        let open = |share: &Lent| {
            let context = ShareContext { tree, root, place: share.place };
            self.letterbox.open(&share.sealed, &context).ok()
        };
        lent.iter().filter(|share| share.dealing == *dealing).map(open).collect()
    }

    /// Has a root wiped everywhere.
    ///
    /// # Errors
    /// [`HolderError::Unreachable`] with the names of those whose shares would still give it back.
    pub(super) async fn destroy_now(
        &self,
        tree: TreeId,
        owner: u64,
        root: RootId,
    ) -> Result<(), HolderError> {
        if owner == 0 {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(owner) });
        }
        let tended = self.tended(tree);
        let mut gone = tended.gone.lock().await;
        self.wipe_all(tree, owner, root, &tended, &mut gone).await
    }

    async fn wipe_all(
        &self,
        tree: TreeId,
        owner: u64,
        root: RootId,
        tended: &Tended,
        gone: &mut BTreeSet<RootId>,
    ) -> Result<(), HolderError> {
        let step = tended.next_step();
        let answers: Answers<Option<Dealing>> = join_all(self.seats.iter().map(|seat| async move {
            let ask = || self.asked(seat, seat.keyholder.wipe(tree, owner, step, root), false);
            match ask().await {
                Err(Decline::Unknown) if self.tell(tree, owner, seat).await => ask().await,
                answer => answer,
            }
        }))
        .await;
        if answers.iter().any(|answer| matches!(answer, Err(Decline::Replaced | Decline::Unknown))) {
            return Err(HolderError::Replaced { tree, owner: OwnerNumber(owner) });
        }
        let dealing = answers.iter().find_map(|answer| answer.as_ref().ok()?.as_ref());
        let threshold = dealing.map_or(self.threshold, |dealing| dealing.threshold);
        let mut left: BTreeSet<&str> =
            dealing.into_iter().flat_map(|it| &it.holders).map(String::as_str).collect();
        left.extend(self.seats.iter().map(|seat| seat.keyholder.name()));
        for (seat, answer) in self.seats.iter().zip(&answers) {
            if answer.is_ok() {
                left.remove(seat.keyholder.name());
            }
        }
        if left.is_empty() {
            gone.remove(&root);
        } else {
            gone.insert(root);
        }
        if left.len() < usize::from(threshold) {
            return Ok(());
        }
        let why = |name: &str| {
            let at = self.seats.iter().position(|seat| seat.keyholder.name() == name);
            match at.and_then(|at| answers.get(at)) {
                Some(Err(decline)) => format!("{name} ({decline:?})"),
                _ => format!("{name} (no more in the configuration)"),
            }
        };
        let left: Vec<String> = left.into_iter().map(why).collect();
        match self.verdict(tree, owner, &answers) {
            refused @ HolderError::Refused(_) => Err(refused),
            _ => {
                Err(HolderError::Unreachable(format!("root {root} may still be held by {}", left.join(", "))))
            }
        }
    }

    /// Has wiped what is to be gone, and gives again what was lost. What does not succeed is tried at the next
    /// renewal.
    pub(super) async fn mend(
        &self,
        tree: TreeId,
        owner: u64,
        tended: &Tended,
        gone: &mut BTreeSet<RootId>,
        standings: &[Option<Standing>],
    ) {
        for root in gone.clone() {
            let _ = self.wipe_all(tree, owner, root, tended, gone).await;
        }
        let mut dealings: BTreeMap<RootId, &Dealing> = BTreeMap::new();
        for dealing in standings.iter().flatten().flat_map(|standing| &standing.dealings) {
            if !gone.contains(&dealing.root) {
                dealings.insert(dealing.root, dealing);
            }
        }
        for (root, dealing) in dealings {
            let lacking: Vec<(&Seat, u8)> = self
                .seats
                .iter()
                .zip(standings)
                .filter(|(_, standing)| {
                    standing.as_ref().is_some_and(|it| it.dealings.iter().all(|held| held.root != root))
                })
                .filter_map(|(seat, _)| {
                    let at = dealing.holders.iter().position(|name| name == seat.keyholder.name())?;
                    Some((seat, u8::try_from(at + 1).ok()?))
                })
                .collect();
            if !lacking.is_empty() {
                self.refill(RootContext { tree, root }, owner, tended, lacking).await;
            }
        }
    }

    async fn refill(&self, context: RootContext, owner: u64, tended: &Tended, lacking: Vec<(&Seat, u8)>) {
        let RootContext { tree, root } = context;
        // A root that a batch has just destroyed, or one that too few have: nothing to give.
        let Ok((dealing, lent)) = self.gather(context).await else { return };
        if tended.own.load(Ordering::Acquire) != owner {
            return;
        }
        let mut given: Vec<(&Seat, Given)> = vec![];
        {
            let Some(shares) = self.opened(context, &dealing, &lent) else { return };
            let shares: Vec<&Share> = shares.iter().collect();
            for (seat, place) in lacking {
                let Ok(share) = Share::again(&shares, place) else { return };
                let Some(sealed) = sealed_to(seat, &share, tree, root) else { continue };
                given.push((seat, Given { dealing: dealing.clone(), place, sealed }));
            }
        }
        let step = tended.next_step();
        join_all(given.into_iter().map(|(seat, given)| async move {
            let keyholder = seat.keyholder.name();
            match self.asked(seat, seat.keyholder.put(tree, owner, step, given), false).await {
                Ok(()) => tracing::info!(keyholder, %tree, %root, "a keyholder has its share again"),
                Err(decline) => {
                    tracing::warn!(keyholder, %tree, %root, ?decline, "a keyholder lacks its share")
                }
            }
        }))
        .await;
    }
}

fn sealed_to(seat: &Seat, share: &Share, tree: TreeId, root: RootId) -> Option<Bytes> {
    let letterbox = (*lock(&seat.letterbox))?;
    share.seal_to(&letterbox, tree, root).ok()
}
