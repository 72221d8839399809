//! The whole log read again, and what was made of it held against it: the Merkle tree, the projections, the files
//! of the access log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cloakroom_core::ids::{EventNumber, StartId};
use cloakroom_core::merkle::{self, Growing};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_crypto::hash;
use cloakroom_store::{Batch, Frame, FrameHash, Log};
use data_encoding::{BASE64, HEXLOWER};

use crate::access::NamedFiles;
use crate::house::House;
use crate::prune::pruned_slot;
use crate::{EngineError, codec, projection};

/// What a replay of the whole log found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogVerdict {
    /// Events read.
    pub events: u64,
    /// Frames read.
    pub frames: u64,
    /// SHA-256 over all leaf hashes in order, in hex.
    pub digest: String,
    /// The root of the Merkle tree (RFC 6962) over the events read, in base64.
    pub root: String,
    /// Values among them whose ciphertext was pruned: their hashes are as kept, no more can be said.
    pub pruned: u64,
    /// None if all is well.
    pub problems: Vec<String>,
}

/// More problems than this are not listed.
const PROBLEMS_MAX: usize = 100;

impl House {
    /// Reads every frame: numbers, hashes, leaves, events, chains, and the projections against a replay; and every
    /// file of the access log that an event names.
    pub(crate) async fn verify_log(&self, principal: &str) -> Result<LogVerdict, CallRefusal> {
        self.may_operate(principal)?;
        self.replay_all().await.map_err(|error| error.for_call())
    }

    async fn replay_all(&self) -> Result<LogVerdict, EngineError> {
        let end = *self.state.events.borrow();
        let mut verdict = LogVerdict::default();
        let (mut leaves, mut tree) = (hash::Sum::default(), Growing::default());
        let mut access_files = NamedFiles::default();
        let mut expected = Expected::default();
        let (mut at, mut previous, mut newest_start) = (1_u64, [0; 32], None::<StartId>);
        let read = |at| tokio::spawn(hashed(Arc::clone(&self.log), EventNumber(at)));
        let mut ahead = read(at);
        while at <= end {
            let Some((frame, frame_hash, hashes)) = ahead.await.map_err(|_| EngineError::Stopped)?? else {
                verdict.problem(format!("event {at} is missing"));
                break;
            };
            ahead = read(frame.first_event.0.saturating_add(frame.events.len().max(1) as u64));
            verdict.frames = verdict.frames.saturating_add(1);
            if frame.previous_hash != previous
                || frame.at.number != verdict.frames
                || frame.first_event.0 != at
            {
                verdict.problem(format!("frame {} does not follow the one before", frame.at.number));
            }
            let kept = self.log.leaves(frame.first_event, frame.events.len()).await?;
            let mut events = vec![];
            for (place, bytes) in frame.events.iter().enumerate() {
                let number = EventNumber(at.saturating_add(place as u64));
                let kept = kept.get(place).copied().unwrap_or_default();
                let mut leaf = hashes.get(place).copied().unwrap_or_default();
                match codec::decode(number, bytes.clone()) {
                    Ok(event) => {
                        if let Some(slot) = pruned_slot(&event.body) {
                            leaf = kept;
                            verdict.pruned = verdict.pruned.saturating_add(1);
                            if self.tree.with_key(slot, |_| ()).await?.is_some() {
                                verdict.problem(format!("event {} was pruned and its key lives", number.0));
                            }
                        }
                        access_files.read(number, &event.body);
                        events.push(event);
                    }
                    Err(error) => verdict.problem(error.to_string()),
                }
                if kept != leaf {
                    verdict.problem(format!("event {} does not have the leaf hash that was kept", number.0));
                }
                leaves.add(&leaf);
                tree.push(leaf, hash::node, |_, _| ());
            }
            expected.apply(projection::changes(&frame, &events, newest_start));
            verdict.events = verdict.events.saturating_add(frame.events.len() as u64);
            at = at.saturating_add(frame.events.len().max(1) as u64);
            previous = frame_hash;
            newest_start = Some(frame.at.start);
        }
        verdict.digest = HEXLOWER.encode(&leaves.finish());
        let root = tree.root(hash::node).unwrap_or_else(hash::empty);
        verdict.root = BASE64.encode(&root);
        if self.root_at(tree.size()).await? != Some(root) {
            verdict.problem("the Merkle tree that is served is not that of the events".to_owned());
        }
        self.compare_access(&access_files).await?.into_iter().for_each(|problem| verdict.problem(problem));
        // A log that grew meanwhile has newer projections: only a log at rest can be compared.
        if *self.state.events.borrow() == end {
            let differing = self.compare(expected).await?;
            if *self.state.events.borrow() == end {
                differing.into_iter().for_each(|(kind, number)| {
                    verdict.problem(format!("{number} projections of kind {kind} differ from the log"));
                });
            }
        }
        Ok(verdict)
    }

    /// How many projections of which kind are not there, are other than the log says, or should not be there.
    async fn compare(&self, mut expected: Expected) -> Result<BTreeMap<char, u64>, EngineError> {
        const AT_ONCE: usize = 1_000;
        let mut differing = BTreeMap::new();
        let mut after: Option<Bytes> = None;
        loop {
            let found = self.projections.scan(&[], after.as_deref(), AT_ONCE).await?;
            for (key, value) in &found {
                if projection::is_replayed(key) && !expected.take(key, value) {
                    differ(&mut differing, key);
                }
            }
            match found.last() {
                Some((last, _)) if found.len() == AT_ONCE => after = Some(last.clone()),
                _ => break,
            }
        }
        expected.keys().for_each(|key| differ(&mut differing, &key));
        Ok(differing)
    }
}

fn differ(differing: &mut BTreeMap<char, u64>, key: &[u8]) {
    let kind = key.first().copied().map_or(' ', char::from);
    let number = differing.entry(kind).or_default();
    *number = number.saturating_add(1);
}

/// The projections that a replay leads to.
#[derive(Default)]
struct Expected {
    /// The newest events of aggregates: as many as people, so in few bytes.
    heads: BTreeMap<EventNumber, EventNumber>,
    others: BTreeMap<Vec<u8>, Bytes>,
}

impl Expected {
    fn apply(&mut self, batch: Batch) {
        for (key, value) in batch.changes {
            let Some(value) = value else {
                self.others.remove(&key);
                continue;
            };
            match projection::head(&key, &value) {
                Some((aggregate, newest)) => drop(self.heads.insert(aggregate, newest)),
                None if projection::is_replayed(&key) => drop(self.others.insert(key, value)),
                None => {}
            }
        }
    }

    /// Whether a record is to be so; what remains in the end is missing.
    fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        match projection::head(key, value) {
            Some((aggregate, newest)) => self.heads.remove(&aggregate) == Some(newest),
            None => self.others.remove(key).is_some_and(|expected| expected == value),
        }
    }

    fn keys(self) -> impl Iterator<Item = Vec<u8>> {
        let heads = self.heads.into_keys().map(|aggregate| projection::about(b'h', aggregate));
        heads.chain(self.others.into_keys())
    }
}

/// The frame of an event with its hash, and the hashes of its events.
async fn hashed(
    log: Arc<dyn Log>,
    number: EventNumber,
) -> Result<Option<(Frame, FrameHash, Vec<merkle::Hash>)>, EngineError> {
    let Some((frame, frame_hash)) = log.frame_of(number).await? else { return Ok(None) };
    let hashes = frame.events.iter().map(|event| hash::leaf(event)).collect();
    Ok(Some((frame, frame_hash, hashes)))
}

impl LogVerdict {
    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}
