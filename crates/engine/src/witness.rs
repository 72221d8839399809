//! The witness: the checkpoint on Kafka, of which a machine that was rolled back or cloned as a whole knows
//! nothing. Root, keys and log agree there with each other; only somebody outside can tell.

use std::collections::HashSet;
use std::time::Duration;

use cloakroom_bus::{BusConfig, Keyring, read_topic, topics, verify};
use cloakroom_core::event::{Body, SystemKeyKind};
use cloakroom_core::ids::{EventNumber, FramePosition, StartId, TreeId};
use cloakroom_core::start::Starts;
use cloakroom_crypto::sign::VerifyingKey;
use cloakroom_proto::bus::v1 as bus;
use cloakroom_store::Log;

use crate::{EngineError, codec};

/// A start waits so long for the witness; one that answers later is heard before anything is published.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// While the vault runs it looks so often whether another life of it has spoken.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What this vault may be told without being behind.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    tree: TreeId,
    /// Starts whose branch was given up, by name, when an older log was accepted.
    given_up: HashSet<StartId>,
}

impl Witness {
    /// `abandoned` is what starts of this log have given up; `known` are all starts that the keys have seen,
    /// oldest first: what was given up ends with the frame that the keys had recorded last.
    pub(crate) fn new(tree: TreeId, abandoned: &[FramePosition], known: &[(StartId, u64)]) -> Self {
        let mut given_up: HashSet<StartId> = HashSet::new();
        for lacking in abandoned {
            given_up.insert(lacking.start);
            let place = known.iter().position(|(start, _)| *start == lacking.start);
            let before = known.iter().take(place.map_or(0, |place| place.saturating_add(1)));
            given_up.extend(before.map(|(start, _)| *start));
        }
        Self { tree, given_up }
    }

    /// The frame that the witness has seen and this log neither holds nor has given up.
    ///
    /// # Errors
    /// [`EngineError::Bus`] if it cannot be asked.
    pub(crate) async fn ahead(
        &self,
        config: &BusConfig,
        log: &dyn Log,
        keys: &[VerifyingKey],
    ) -> Result<Option<FramePosition>, EngineError> {
        let keyring: Keyring = keys.iter().map(|key| ("announcer".to_owned(), key.clone())).collect();
        let tree = self.tree.to_string();
        let mut seen = None;
        for record in read_topic(config, topics::CHECKPOINT).await? {
            // Another vault's, and what nobody of ours has signed, says nothing about this one.
            let Ok(verified) = verify(record, &keyring) else { continue };
            if verified.key == tree
                && let Ok(checkpoint) = verified.decode::<bus::Checkpoint>()
            {
                seen = Some(checkpoint);
            }
        }
        let Some(seen) = seen else { return Ok(None) };
        let Some(start) = StartId::from_slice(&seen.start_id) else { return Ok(None) };
        let at = FramePosition { start, number: seen.frames };
        let held = match log.frame_of(EventNumber(seen.events)).await? {
            Some((frame, hash)) => frame.at == at && hash[..] == seen.frame_hash[..],
            None => false,
        };
        Ok((!held && !self.given_up.contains(&start)).then_some(at))
    }
}

/// Whether a log with these starts and this newest frame holds a frame.
pub(crate) fn holds(starts: &[(StartId, u64)], newest: u64, at: FramePosition) -> bool {
    Starts(starts).contain(at.start, at.number, newest)
}

/// The keys that this log says its vault signs with; they stand near its beginning.
pub(crate) async fn signing_keys(log: &dyn Log, events: u64) -> Result<Vec<VerifyingKey>, EngineError> {
    let (mut keys, mut at) = (vec![], 1_u64);
    while at <= events && keys.is_empty() {
        let Some((frame, _)) = log.frame_of(EventNumber(at)).await? else { break };
        for (number, bytes) in (frame.first_event.0..).zip(&frame.events) {
            if let Body::SystemKeyMade(made) = codec::decode(EventNumber(number), bytes.clone())?.body
                && made.kind == SystemKeyKind::Signing
            {
                keys.extend(VerifyingKey::from_bytes(&made.verifying_key).ok());
            }
        }
        at = frame.first_event.0.saturating_add(frame.events.len().max(1) as u64);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_the_branch_up_to_the_frame_that_was_named() {
        let start = |id| StartId([id; 16]);
        let known = [(start(1), 1), (start(2), 9), (start(3), 17), (start(4), 25)];
        let given_up = |lacking: FramePosition| Witness::new(TreeId([7; 16]), &[lacking], &known).given_up;
        let third = given_up(FramePosition { start: start(3), number: 80 });
        assert_eq!(third, HashSet::from([start(1), start(2), start(3)]));
        // One that the keys never knew: a life that went on elsewhere.
        let elsewhere = given_up(FramePosition { start: start(9), number: 80 });
        assert_eq!(elsewhere, HashSet::from([start(9)]));
    }
}
