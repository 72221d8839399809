//! Repeats of a request: recognised by the caller's key, compared by opening what it led to.
//!
//! The key itself is kept as an HMAC under a key of the day's, so that nothing computed from what callers send
//! outlives the day after next. A remembered request names events, never values or hashes of them.

use std::sync::{Arc, PoisonError};

use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::{Body, Outcome, RequestRemembered, SystemKeyKind, SystemKeyMade};
use cloakroom_core::ids::{EventNumber, Subtree};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_crypto::Key;

use crate::house::{House, TRIES, declined};
use crate::projection;
use crate::proposal::{BLANK, Declined, Draft, Guard, NewKey};
use crate::state::DayKey;

/// How long a key is remembered.
const REMEMBERED_MS: UnixMs = 24 * 60 * 60 * 1_000;

/// What to commit along with a request so that its repeat is recognised.
pub(crate) struct Memo {
    day_key: EventNumber,
    mac: [u8; 32],
}

impl Memo {
    /// Nothing is remembered under the key, and no later day's key was made under which something could be.
    pub(crate) fn guards(&self) -> [Guard; 2] {
        [Guard::NewestDayKey(self.day_key), Guard::Unremembered { day_key: self.day_key, mac: self.mac }]
    }

    pub(crate) fn draft(&self, verb: &str, controller: &str, activity: &str, items: Vec<Outcome>) -> Draft {
        Draft::of(Body::RequestRemembered(RequestRemembered {
            key_mac: self.mac,
            day_key: self.day_key,
            items,
            verb: verb.to_owned(),
            controller: controller.to_owned(),
            activity: activity.to_owned(),
        }))
    }
}

/// What is known of an idempotency key.
pub(crate) enum Known {
    /// Not seen in the last 24 hours.
    New(Memo),
    /// What it led to, and the event that remembers it.
    Repeat(EventNumber, RequestRemembered),
}

impl House {
    /// Looks up `principal`'s key for `verb`; `None` for an empty one, which asks for nothing to be remembered.
    pub(crate) async fn remembered(
        &self,
        principal: &str,
        verb: &str,
        key: &str,
    ) -> Result<Option<Known>, CallRefusal> {
        if key.is_empty() {
            return Ok(None);
        }
        let newest = self.day_key().await?;
        let keys = crate::state::read(&self.state.day_keys).clone();
        let now = self.clock.now_unix_ms();
        let mac =
            |day: &DayKey| day.key.borrow().mac(&[principal.as_bytes(), verb.as_bytes(), key.as_bytes()]);
        for day in &keys {
            let record = projection::remembered(day.event, &mac(day));
            let found = projection::read_number(&*self.projections, &record)
                .await
                .map_err(|error| error.for_call())?;
            let Some(found) = found else { continue };
            let event = self.event(EventNumber(found)).await.map_err(|error| error.for_call())?;
            if let Some(event) = event
                && now.saturating_sub(event.at) <= REMEMBERED_MS
                && let Body::RequestRemembered(it) = event.body
            {
                return Ok(Some(Known::Repeat(EventNumber(found), it)));
            }
        }
        Ok(Some(Known::New(Memo { day_key: newest.event, mac: mac(&newest) })))
    }

    /// The key of the day: the newest one, while it is younger than 24 hours.
    async fn day_key(&self) -> Result<Arc<DayKey>, CallRefusal> {
        for _ in 0..TRIES {
            let newest = self.state.newest_day_key();
            let day = self.load_day_key(newest).await.map_err(|error| error.for_call())?;
            let now = self.clock.now_unix_ms();
            if let Some(day) = day.filter(|day| (0..REMEMBERED_MS).contains(&now.saturating_sub(day.made_at)))
            {
                return Ok(day);
            }
            match self.make_day_key(newest).await {
                Ok(()) | Err(Declined::Stale) => {}
                Err(reason) => return Err(declined(reason)),
            }
        }
        Err(declined(Declined::Stale))
    }

    /// Makes the key that follows `newest`. Of several that try one succeeds, so that a request and its repeat
    /// never look under different keys. Urgent: an erasure may come with an idempotency key.
    async fn make_day_key(&self, newest: EventNumber) -> Result<(), Declined> {
        let made = SystemKeyMade {
            kind: SystemKeyKind::Idempotency,
            slot: BLANK,
            verifying_key: bytes::Bytes::new(),
        };
        let key = NewKey::Idempotency(Key::random());
        let draft = Draft::with_key(Body::SystemKeyMade(made), Subtree::SYSTEM, key);
        let _event = self.propose(vec![Guard::NewestDayKey(newest)], vec![draft], true).await?.into_inner();
        Ok(())
    }

    /// From memory, or from the tree the first time; `None` once it is dead.
    async fn load_day_key(&self, event: EventNumber) -> Result<Option<Arc<DayKey>>, crate::EngineError> {
        let held = crate::state::read(&self.state.day_keys).iter().find(|day| day.event == event).cloned();
        if held.is_some() {
            return Ok(held);
        }
        let Some(day) = crate::open::read_day_key(&*self.log, &self.tree, event).await? else {
            return Ok(None);
        };
        let mut keys = self.state.day_keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().all(|known| known.event != event) {
            keys.push(Arc::clone(&day));
        }
        Ok(Some(day))
    }
}
