//! How the vault stands, and whether its log is what it should be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakroom_bus::topics;
use cloakroom_core::ids::{EventNumber, StartId};
use cloakroom_core::merkle::{self, Growing};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_crypto::{arena, hash};
use cloakroom_store::{Frame, FrameHash, Log};
use data_encoding::{BASE64, HEXLOWER};

use crate::access::NamedFiles;
use crate::house::House;
use crate::keys::KeysView;
use crate::prune::pruned_slot;
use crate::{EngineError, codec, projection};

/// How the vault stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct Status {
    pub tree_id: String,
    pub epoch: u64,
    pub root_holder: String,
    pub destroy_class: String,
    /// Former roots that a move left in another holder and that are not proved gone.
    pub roots_left: u64,
    /// The root holder failed to do something and has not done it yet.
    pub holder_troubled: bool,
    pub events: u64,
    /// Events in the log's Merkle tree.
    pub tree_events: u64,
    pub slots: u64,
    pub subtrees: u32,
    pub open_erasures: u64,
    pub overdue_erasures: u64,
    pub stuck_fences: u64,
    /// Key backups whose roots are in escrow.
    pub key_backups: u64,
    /// Closed fences that a root in escrow reaches.
    pub fences_not_final: u64,
    /// Slots that the log names and a restored key backup lacked.
    pub slots_lost: u64,
    pub announce_lag: u64,
    pub kafka_bootstrap: String,
    pub checks: BTreeMap<String, String>,
}

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

/// A broker that says nothing for so long counts as away.
const KAFKA_ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// More problems than this are not listed.
const PROBLEMS_MAX: usize = 100;

fn holder_check(keys: &KeysView) -> String {
    match (keys.left.first(), keys.trouble.as_str()) {
        (_, trouble) if !trouble.is_empty() => trouble.to_owned(),
        (Some(left), _) => format!("a former root in {left} is not proved gone"),
        (None, _) => "ok".to_owned(),
    }
}

impl House {
    /// Figures without names: for metrics and for whoever administers.
    pub(crate) fn figures(&self) -> Status {
        let events = *self.state.events.borrow();
        let memory = arena::status();
        let memory = match memory.locked {
            true => "ok".to_owned(),
            false => "keys may reach swap: memory is not locked".to_owned(),
        };
        let keys = self.state.keys_view();
        let mut checks = BTreeMap::from([
            ("memory-lock".to_owned(), memory),
            ("disk".to_owned(), self.disk_check()),
            ("key-pages".to_owned(), self.key_pages_check()),
            ("keys-replica".to_owned(), self.replica_check(&keys)),
        ]);
        checks.insert("root-holder".to_owned(), holder_check(&keys));
        let open = self.state.open_erasures();
        Status {
            tree_id: self.tree.id().to_string(),
            epoch: self.tree.epoch(),
            root_holder: keys.holder,
            destroy_class: keys.destroy_class,
            roots_left: keys.left.len() as u64,
            holder_troubled: !keys.trouble.is_empty(),
            events,
            tree_events: self.proofs.events(),
            slots: self.tree.slots(),
            subtrees: self.tree.subtrees(),
            open_erasures: open.len() as u64,
            overdue_erasures: open.iter().filter(|erasure| erasure.overdue).count() as u64,
            stuck_fences: self.state.stuck() as u64,
            key_backups: keys.backups.len() as u64,
            fences_not_final: keys.not_final,
            slots_lost: self.tree.lost_slots(),
            announce_lag: events.saturating_sub(self.state.announced.load(Ordering::Acquire)),
            kafka_bootstrap: self.kafka_bootstrap.clone(),
            checks,
        }
    }

    pub(crate) async fn status(&self, principal: &str) -> Result<Status, CallRefusal> {
        self.may_operate(principal)?;
        let mut status = self.figures();
        status.checks.insert("kafka".to_owned(), self.kafka_check().await);
        Ok(status)
    }

    /// The key database lies on one disk.
    fn replica_check(&self, keys: &KeysView) -> String {
        match (self.key_backups.window_ms, keys.backups.is_empty()) {
            (0, true) => "none: with this root holder and no key backup, one dead disk loses every key",
            (_, true) => {
                "none: no key backup has its root in escrow, one dead disk loses every key (cloakroom keys backup create)"
            }
            (_, false) => "ok",
        }
        .to_owned()
    }

    fn key_pages_check(&self) -> String {
        match self.state.stuck() {
            0 => "ok".to_owned(),
            stuck => format!(
                "{stuck} erasures cannot be closed: a page of keys does not open; bring back today's key database whole"
            ),
        }
    }

    fn disk_check(&self) -> String {
        match (self.disk.free_bytes)() {
            Ok(free) if free < self.disk.reserve_bytes.saturating_mul(2) => {
                format!("{free} bytes free: below {} only erasures are written", self.disk.reserve_bytes)
            }
            Ok(_) => "ok".to_owned(),
            Err(error) => error.chain(),
        }
    }

    /// Asks the broker; topics are compared with what they must be.
    async fn kafka_check(&self) -> String {
        let Some(config) = &self.bus else { return "none: nothing is announced".to_owned() };
        let controllers: Vec<String> = self.state.registers().keys().cloned().collect();
        match tokio::time::timeout(KAFKA_ANSWERS_WITHIN, topics::inspect(config, &controllers)).await {
            Err(_) => "does not answer".to_owned(),
            Ok(Err(error)) => EngineError::from(error).chain(),
            Ok(Ok(differences)) if differences.is_empty() => "ok".to_owned(),
            Ok(Ok(differences)) => {
                let told: Vec<String> =
                    differences.iter().map(|(topic, is)| format!("{topic}: {is}")).collect();
                told.join("; ")
            }
        }
    }

    pub(crate) fn may_operate(&self, principal: &str) -> Result<(), CallRefusal> {
        let registers = self.state.registers();
        if self.is_admin(principal) || registers.values().any(|known| self.may_look(principal, known).is_ok())
        {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("this takes a role with a controller".to_owned()))
    }

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
        let mut expected: BTreeMap<Vec<u8>, Option<bytes::Bytes>> = BTreeMap::new();
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
            for (key, value) in projection::changes(&frame, &events, newest_start).changes {
                expected.insert(key, value);
            }
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
            self.compare(expected, end, &mut verdict).await?;
        }
        Ok(verdict)
    }

    async fn compare(
        &self,
        expected: BTreeMap<Vec<u8>, Option<bytes::Bytes>>,
        end: u64,
        verdict: &mut LogVerdict,
    ) -> Result<(), EngineError> {
        let mut differing = vec![];
        for (key, value) in expected {
            // Idempotency records go with their day's key.
            if !key.starts_with(b"i") && self.projections.get(&key).await? != value {
                differing.push(key);
            }
        }
        if *self.state.events.borrow() == end {
            for key in differing {
                let kind = key.first().copied().map_or(' ', char::from);
                verdict.problem(format!("a projection of kind {kind} differs from the log"));
            }
        }
        Ok(())
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
