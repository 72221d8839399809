//! Dropping the ciphertext of what is dead. Of a value stays everything that answers and proofs need: its event
//! without what was sealed, and what the whole event hashed to.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::event::{Body, Event};
use cloakroom_core::ids::{EventNumber, Slot, Subtree};
use cloakroom_core::refusal::CallRefusal;

use crate::house::House;
use crate::{EngineError, codec, projection};

/// What a pruning did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pruned {
    /// Segments written anew.
    pub segments: u64,
    /// Values that lost their ciphertext.
    pub values: u64,
    /// Bytes of disk.
    pub bytes_freed: u64,
}

/// The slots that closed fences condemned: a bit each.
#[derive(Default)]
struct Condemned(HashMap<Subtree, Vec<u64>>);

impl Condemned {
    fn insert(&mut self, slot: Slot) {
        let Ok(word) = usize::try_from(slot.index / 64) else { return };
        let words = self.0.entry(slot.subtree).or_default();
        if words.len() <= word {
            words.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = words.get_mut(word) {
            *word |= 1 << (slot.index % 64);
        }
    }

    fn contains(&self, slot: Slot) -> bool {
        let word = usize::try_from(slot.index / 64).ok();
        let word = self.0.get(&slot.subtree).and_then(|words| words.get(word?));
        word.is_some_and(|word| word & (1 << (slot.index % 64)) != 0)
    }
}

/// The slot of a version of a value whose ciphertext still stands in its event.
fn sealed_slot(body: &Body) -> Option<Slot> {
    match body {
        Body::ValueStored(it) if !it.sealed.is_empty() => Some(it.slot),
        Body::ValueRectified(it) if !it.sealed.is_empty() => Some(it.slot),
        _ => None,
    }
}

/// The slot of a version of a value whose ciphertext was dropped. What is sealed is never empty.
pub(crate) fn pruned_slot(body: &Body) -> Option<Slot> {
    match body {
        Body::ValueStored(it) if it.sealed.is_empty() => Some(it.slot),
        Body::ValueRectified(it) if it.sealed.is_empty() => Some(it.slot),
        _ => None,
    }
}

/// The event without what was sealed.
fn skeleton(mut event: Event) -> Bytes {
    match &mut event.body {
        Body::ValueStored(it) => it.sealed = Bytes::new(),
        Body::ValueRectified(it) => it.sealed = Bytes::new(),
        _ => {}
    }
    codec::encode(&event)
}

impl House {
    /// Drops the ciphertext of dead values from all sealed segments that hold any.
    pub(crate) async fn prune_log(&self, principal: &str) -> Result<Pruned, CallRefusal> {
        if !self.is_admin(principal) {
            return Err(CallRefusal::Forbidden("pruning is the administrators'".to_owned()));
        }
        let pruned = self.prune().await.map_err(|error| error.for_call())?;
        tracing::info!(
            principal,
            segments = pruned.segments,
            values = pruned.values,
            bytes_freed = pruned.bytes_freed,
            "the log was pruned"
        );
        Ok(pruned)
    }

    async fn prune(&self) -> Result<Pruned, EngineError> {
        let condemned = self.condemned().await?;
        let mut pruned = Pruned::default();
        for part in self.log.sealed().await? {
            let first = EventNumber(part.start);
            let shorter = self.skeletons(part, &condemned).await?;
            if shorter.is_empty() {
                continue;
            }
            let values = shorter.len() as u64;
            // Rewrites up to a segment: not on a thread that serves.
            let log = Arc::clone(&self.log);
            let written = tokio::task::spawn_blocking(move || {
                tokio::runtime::Handle::current().block_on(async { log.prune(first, shorter).await })
            });
            let freed = written.await.map_err(|_| EngineError::Stopped)??;
            if freed > 0 {
                pruned.segments = pruned.segments.saturating_add(1);
                pruned.values = pruned.values.saturating_add(values);
                pruned.bytes_freed = pruned.bytes_freed.saturating_add(freed);
            }
        }
        Ok(pruned)
    }

    /// What may be dropped: a slot that is merely dead could have lost its key by accident, one that a closed
    /// fence names was destroyed on purpose.
    async fn condemned(&self) -> Result<Condemned, EngineError> {
        let mut condemned = Condemned::default();
        for fence in projection::all_numbers(&*self.projections, b'x').await? {
            if let Some(event) = self.event(fence).await? {
                event.body.dooms().into_iter().for_each(|slot| condemned.insert(slot));
            }
        }
        Ok(condemned)
    }

    /// The dead values among a segment's events, each without its ciphertext.
    async fn skeletons(
        &self,
        part: Range<u64>,
        condemned: &Condemned,
    ) -> Result<BTreeMap<u64, Bytes>, EngineError> {
        let mut shorter = BTreeMap::new();
        let mut at = part.start;
        while at < part.end {
            let Some((frame, _)) = self.log.frame_of(EventNumber(at)).await? else { break };
            for (number, bytes) in (at..).zip(&frame.events) {
                let event = codec::decode(EventNumber(number), bytes.clone())?;
                if let Some(slot) = sealed_slot(&event.body).filter(|slot| condemned.contains(*slot))
                    && self.tree.with_key(slot, |_| ()).await?.is_none()
                {
                    shorter.insert(number, skeleton(event));
                }
            }
            at = at.saturating_add(frame.events.len().max(1) as u64);
            tokio::task::yield_now().await;
        }
        Ok(shorter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_condemned_alone() {
        let slot = |subtree, index| Slot { subtree: Subtree(subtree), index };
        let mut condemned = Condemned::default();
        for index in [0, 63, 64, 1_000_000] {
            condemned.insert(slot(3, index));
        }
        for index in [0, 63, 64, 1_000_000] {
            assert!(condemned.contains(slot(3, index)));
            assert!(!condemned.contains(slot(3, index + 2)) && !condemned.contains(slot(4, index)));
        }
    }
}
