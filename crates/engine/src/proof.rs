//! The log as others check it: its Merkle tree (RFC 6962), checkpoints, tiles, proofs.
//!
//! The lowest level of tiles are the leaf hashes that the log keeps beside its events. Of the nodes above, each
//! 256th level-by-level (what the higher tiles hold) is kept with the projections: one of 32 bytes for 256
//! events, in one batch with how far they reach, so that what a crash takes is made again from the leaves. In
//! memory are the right edge, which a start reads from some twenty tiles, and the nodes that proofs asked for last.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes};
use cloakroom_core::certificate::{Inclusion, LogProof};
use cloakroom_core::checkpoint::{Checkpoint, origin};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::merkle::{self, Growing, Hash, Node, Span, Tile};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_crypto::{hash, note};
use cloakroom_store::Batch;
use data_encoding::HEXLOWER;
use tokio::sync::{Mutex, watch};
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::house::House;
use crate::{EngineError, projection};

/// Leaves taken in at once: 128 KiB of hashes.
const AT_ONCE: u64 = 4_096;
/// The tree follows the log at this distance, so that whoever asks waits for little.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Nodes kept in memory: half a mebibyte. Proofs of erasures made together differ in few of them.
const KNOWN_MAX: usize = 8_192;

/// Who follows the log hears of an event within this, or never.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);

/// The tree's right edge, once it was read.
#[derive(Default)]
pub(crate) struct Proofs {
    edge: Mutex<Option<Growing>>,
    /// How many events it is over, for whoever does not wait for the edge.
    events: AtomicU64,
    /// Hashes of perfect subtrees, which no later event changes.
    known: std::sync::Mutex<HashMap<Node, Hash>>,
}

impl Proofs {
    /// Events in the tree; 0 until it was read.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    fn known(&self, node: Node) -> Option<Hash> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    fn learn(&self, node: Node, hash: Hash) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(node, hash);
    }
}

/// Takes durable events into the tree until `stop` says so.
pub(crate) async fn follow(house: std::sync::Arc<House>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(FOLLOW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = tick.tick() => {}
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            grown = house.grown() => if let Err(error) = grown {
                tracing::warn!(error = error.chain(), "the log's Merkle tree waits");
            },
        }
    }
}

impl House {
    /// The tree over all events that are durable now.
    pub(crate) async fn grown(&self) -> Result<Growing, EngineError> {
        let mut kept = self.proofs.edge.lock().await;
        let end = *self.state.events.borrow();
        let mut tree = match kept.take() {
            Some(tree) => tree,
            None => self.stored_tree(end).await?,
        };
        while tree.size() < end {
            let wanted = end.saturating_sub(tree.size()).min(AT_ONCE);
            let first = EventNumber(tree.size().saturating_add(1));
            let leaves = self.log.leaves(first, usize::try_from(wanted).unwrap_or(usize::MAX)).await?;
            if leaves.is_empty() {
                return Err(EngineError::Projection);
            }
            let mut batch = Batch::default();
            for leaf in leaves {
                tree.push(leaf, hash::node, |node, hash| {
                    if node.level.is_multiple_of(Tile::HEIGHT) {
                        batch.put(place(node), hash.to_vec());
                    }
                });
            }
            if !batch.changes.is_empty() {
                let covered = tree.size() - tree.size() % Tile::WIDTH;
                batch.put(projection::TREE, projection::number(covered));
                self.projections.apply(batch).await?;
            }
            tokio::task::yield_now().await;
        }
        self.proofs.events.store(tree.size(), Ordering::Release);
        *kept = Some(tree.clone());
        Ok(tree)
    }

    /// The tree as far as its kept nodes go; an empty one where they are not this log's.
    async fn stored_tree(&self, end: u64) -> Result<Growing, EngineError> {
        let covered = projection::read_number(&*self.projections, projection::TREE).await?.unwrap_or(0);
        if covered > end || !covered.is_multiple_of(Tile::WIDTH) {
            return Ok(Growing::default());
        }
        let peaks = self.hashes(Span { begin: 0, end: covered }).await?;
        Ok(peaks.and_then(|peaks| Growing::from_peaks(covered, peaks)).unwrap_or_default())
    }

    /// The hashes of a span's perfect subtrees; none if one is not there.
    async fn hashes(&self, span: Span) -> Result<Option<Vec<Hash>>, EngineError> {
        let mut hashes = vec![];
        for node in span.nodes() {
            if let Some(hash) = self.proofs.known(node) {
                hashes.push(hash);
                continue;
            }
            let (tile, from) = Tile::of(node);
            let Some(entries) = self.tile(tile).await? else { return Ok(None) };
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let below = entries.get(from..).unwrap_or_default();
            let Some(hash) = merkle::perfect(below, hash::node) else { return Ok(None) };
            self.proofs.learn(node, hash);
            hashes.push(hash);
        }
        Ok(Some(hashes))
    }

    /// A tile's hashes; none if it is not there at this width.
    async fn tile(&self, tile: Tile) -> Result<Option<Vec<Hash>>, EngineError> {
        let width = usize::try_from(tile.width).unwrap_or(usize::MAX);
        let first = tile.index.saturating_mul(Tile::WIDTH);
        if tile.level == 0 {
            let leaves = self.log.leaves(EventNumber(first.saturating_add(1)), width).await?;
            return Ok((leaves.len() == width).then_some(leaves));
        }
        let at = |index| place(Node { level: tile.level.saturating_mul(Tile::HEIGHT), index });
        let prefix = at(0).get(..2).unwrap_or_default().to_vec();
        let after = first.checked_sub(1).map(at);
        let found = self.projections.scan(&prefix, after.as_deref(), width).await?;
        let mut hashes = vec![];
        for (index, (key, hash)) in (first..).zip(&found) {
            match Hash::try_from(hash.as_ref()) {
                Ok(hash) if *key == at(index) => hashes.push(hash),
                _ => return Ok(None),
            }
        }
        Ok((hashes.len() == width).then_some(hashes))
    }

    /// The root of the tree over the first `size` events.
    pub(crate) async fn root_at(&self, size: u64) -> Result<Option<Hash>, EngineError> {
        if self.grown().await?.size() < size {
            return Ok(None);
        }
        let hashes = self.hashes(Span { begin: 0, end: size }).await?;
        Ok(hashes.and_then(|hashes| Span::hash(&hashes, hash::node)))
    }

    fn origin(&self) -> String {
        origin(self.tree.id())
    }

    /// What the log says of itself now, signed.
    pub(crate) async fn checkpoint(&self) -> Result<(Checkpoint, String), EngineError> {
        let tree = self.grown().await?;
        let root = tree.root(hash::node).unwrap_or_else(hash::empty);
        let checkpoint = Checkpoint { origin: self.origin(), size: tree.size(), root };
        let signed = note::sign(&checkpoint.text(), &checkpoint.origin, &self.state.signing);
        Ok((checkpoint, signed))
    }

    /// Proves that two events are in the log, as it is when both are durable.
    pub(crate) async fn prove(
        &self,
        fence: EventNumber,
        destroyed: EventNumber,
    ) -> Result<LogProof, EngineError> {
        let mut events = self.state.events.subscribe();
        // The state hears of an event just before whoever follows the log does; a writer that fails in between
        // says no more.
        let durable = events.wait_for(|end| *end >= destroyed.0.max(fence.0));
        let heard = tokio::time::timeout(FOLLOWED_WITHIN, durable).await;
        drop(heard.map_err(|_| EngineError::Stopped)?.map_err(|_| EngineError::Stopped)?);
        let (checkpoint, signed) = self.checkpoint().await?;
        Ok(LogProof {
            fence: self.inclusion(fence, checkpoint.size).await?,
            destroyed: self.inclusion(destroyed, checkpoint.size).await?,
            checkpoint: signed,
        })
    }

    async fn inclusion(&self, event: EventNumber, size: u64) -> Result<Inclusion, EngineError> {
        let index = event.0.saturating_sub(1);
        let leaf = self.log.leaves(event, 1).await?.first().copied().ok_or(EngineError::Projection)?;
        let mut path = vec![];
        for span in merkle::inclusion(index, size).ok_or(EngineError::Projection)? {
            let hashes = self.hashes(span).await?.ok_or(EngineError::Projection)?;
            let hash = Span::hash(&hashes, hash::node).ok_or(EngineError::Projection)?;
            path.push(HEXLOWER.encode(&hash));
        }
        Ok(Inclusion { index, hash: HEXLOWER.encode(&leaf), path })
    }

    pub(crate) async fn log_checkpoint(&self, principal: &str) -> Result<String, CallRefusal> {
        self.may_operate(principal)?;
        self.checkpoint().await.map(|(_, signed)| signed).map_err(|error| error.for_call())
    }

    pub(crate) fn log_keys(&self, principal: &str) -> Result<Vec<String>, CallRefusal> {
        self.may_operate(principal)?;
        let origin = self.origin();
        Ok(self.state.verifying.iter().map(|key| note::verifier_key(&origin, key)).collect())
    }

    pub(crate) async fn log_tile(&self, principal: &str, tile: Tile) -> Result<Bytes, CallRefusal> {
        self.may_operate(principal)?;
        let nowhere = || CallRefusal::NotFound("the log is not that large".to_owned());
        let size = self.grown().await.map_err(|error| error.for_call())?.size();
        tile.widest(size).ok_or_else(nowhere)?;
        let hashes = self.tile(tile).await.map_err(|error| error.for_call())?;
        Ok(hashes.ok_or_else(nowhere)?.concat().into())
    }

    /// The events below a tile's hashes, as C2SP tlog-tiles bundles them: each after its length in 16 bits.
    pub(crate) async fn log_entries(&self, principal: &str, tile: Tile) -> Result<Bytes, CallRefusal> {
        if !self.is_admin(principal) {
            return Err(CallRefusal::Forbidden("events are shown to administrators alone".to_owned()));
        }
        let nowhere = |what: &str| CallRefusal::NotFound(what.to_owned());
        let end = *self.state.events.borrow();
        tile.widest(end).ok_or_else(|| nowhere("the log is not that large"))?;
        let first = tile.index.saturating_mul(Tile::WIDTH).saturating_add(1);
        let kept = self.tile(tile).await.map_err(|error| error.for_call())?.unwrap_or_default();
        let mut bundle = vec![];
        for (number, leaf) in (first..).zip(kept) {
            let event = self.log.event(EventNumber(number)).await;
            let event = event.map_err(|error| EngineError::from(error).for_call())?;
            let event = event.ok_or_else(|| nowhere("the log is not that large"))?;
            if hash::leaf(&event) != leaf {
                return Err(nowhere("an event of this bundle was pruned; its hash is in the tile"));
            }
            let length = u16::try_from(event.len())
                .map_err(|_| nowhere("an event of this bundle is longer than the format can say"))?;
            bundle.put_u16(length);
            bundle.put_slice(&event);
        }
        Ok(bundle.into())
    }
}

/// The record of a node that the higher tiles hold.
fn place(node: Node) -> Vec<u8> {
    let level = u8::try_from(node.level / Tile::HEIGHT).unwrap_or(u8::MAX);
    [&[b't', level][..], &node.index.to_be_bytes()].concat()
}
