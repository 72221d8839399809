//! Telling the others: reads the log behind a durable cursor and publishes what downstreams must know.
//!
//! The log is the outbox. At least once; the same event always has the same ids; a broker that is away holds
//! up nothing but this task.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakroom_bus::{BusConfig, Outgoing, Publisher, Signer, topics};
use cloakroom_core::erasure::Erasure;
use cloakroom_core::event::{Body, Event};
use cloakroom_core::ids::EventNumber;
use cloakroom_crypto::random;
use cloakroom_keytree::GateReason;
use cloakroom_proto::bus::v1 as bus;
use cloakroom_store::Batch;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::house::House;
use crate::projection;
use crate::witness::{LOOK_EVERY, Witness};
use crate::{EngineError, codec};

const VERSION: u32 = 1;
/// Records on their way at once; what they took a cursor to is remembered when all of them arrived.
const AT_ONCE: usize = 2_000;
/// A broker that is away, or refuses, is asked again after this long.
const PAUSE: Duration = Duration::from_millis(500);
/// Checkpoints are this far apart, while the log grows.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Announces until `stop` says so.
pub(crate) async fn run(
    house: Arc<House>,
    config: BusConfig,
    signer: Signer,
    witness: Option<(Witness, bool)>,
    mut stop: watch::Receiver<bool>,
) {
    let publisher = Publisher::connect(&config, signer);
    let (witness, heard) = witness.map_or((None, true), |(witness, heard)| (Some(witness), heard));
    let announcer = Announcer { house, config, publisher, witness, heard };
    tokio::select! {
        () = announcer.follow() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

struct Announcer {
    house: Arc<House>,
    config: BusConfig,
    publisher: Publisher,
    /// None where nobody outside could know more.
    witness: Option<Witness>,
    /// The start's checks have heard it.
    heard: bool,
}

impl Announcer {
    async fn follow(&self) {
        let mut events = self.house.state.events.subscribe();
        let mut known_controllers = None; // the vault's own topics are made before its first controller comes
        let mut checkpoint = interval(CHECKPOINT_EVERY);
        checkpoint.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut witnessed = 0;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.tick().await; // the first comes at once
        while !self.heard && !self.hear().await {
            tokio::time::sleep(PAUSE).await;
        }
        // What the broker may have lost: every open erasure is published again.
        let mut again: Vec<EventNumber> = self
            .house
            .state
            .open_erasures()
            .iter()
            .filter(|erasure| erasure.destroyed.is_some())
            .map(|erasure| erasure.fence)
            .collect();
        loop {
            match self.step(&mut known_controllers, &mut again).await {
                Ok(()) => tokio::select! {
                    changed = events.changed() => if changed.is_err() { return },
                    _ = checkpoint.tick() => self.witness(&mut witnessed).await,
                    _ = look.tick() => drop(self.hear().await),
                },
                Err(error) => {
                    tracing::warn!(error = error.chain(), "announcing waits");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn step(&self, known: &mut Option<usize>, again: &mut Vec<EventNumber>) -> Result<(), EngineError> {
        let controllers: Vec<String> = self.house.state.registers().keys().cloned().collect();
        if *known != Some(controllers.len()) {
            topics::ensure(&self.config, &controllers).await?;
            *known = Some(controllers.len());
        }
        while let Some(fence) = again.last() {
            if let Some(erasure) = self.house.state.open_erasure(*fence) {
                self.publisher.publish(purges(&self.house, &erasure).await?).await?;
            }
            again.pop();
        }
        let end = *self.house.state.events.borrow();
        let mut at = self.house.state.announced.load(Ordering::Acquire);
        while at < end {
            let mut pending = vec![];
            while at < end && pending.len() < AT_ONCE {
                // A frame at once: most of it says nothing to anybody.
                let done = at;
                let next = EventNumber(done.saturating_add(1));
                let (frame, _) = self.house.log.frame_of(next).await?.ok_or(EngineError::Projection)?;
                for (number, bytes) in
                    (frame.first_event.0..).zip(frame.events).filter(|(number, _)| *number > done)
                {
                    let event = codec::decode(EventNumber(number), bytes)?;
                    pending.extend(records(&self.house, EventNumber(number), &event, None).await?);
                    at = number;
                }
                // Reading may not have waited for anything, and whoever calls has the right of way.
                tokio::task::yield_now().await;
            }
            if !pending.is_empty() {
                self.publisher.publish(pending).await?;
            }
            self.remember(at).await?;
        }
        Ok(())
    }

    /// Asks the witness; whether it answered. One that has seen more closes the gate, and nothing further is
    /// published.
    async fn hear(&self) -> bool {
        let Some(witness) = &self.witness else { return true };
        match witness.ahead(&self.config, &*self.house.log, &self.house.state.verifying).await {
            Ok(None) => true,
            Ok(Some(seen)) => {
                self.house.gated.send_replace(Some(GateReason::Witnessed { seen }));
                std::future::pending().await
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "the witness does not answer");
                false
            }
        }
    }

    async fn witness(&self, witnessed: &mut u64) {
        let end = *self.house.state.events.borrow();
        if end == *witnessed {
            return;
        }
        match self.checkpoint(end).await {
            Ok(()) => *witnessed = end,
            Err(error) => tracing::warn!(error = error.chain(), "the checkpoint waits"),
        }
    }

    async fn remember(&self, at: u64) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        batch.put(projection::ANNOUNCED, projection::number(at));
        self.house.projections.apply(batch).await?;
        self.house.state.announced.store(at, Ordering::Release);
        self.house.state.traces.announced(EventNumber(at));
        self.house.state.erasure_changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// The witness: what this log holds, for a start that finds less.
    async fn checkpoint(&self, end: u64) -> Result<(), EngineError> {
        let Some((frame, hash)) = self.house.log.frame_of(EventNumber(end)).await? else { return Ok(()) };
        let last_fence = projection::all_numbers(&*self.house.projections, b'f').await?;
        let checkpoint = bus::Checkpoint {
            version: VERSION,
            tree_id: self.house.tree.id().to_string(),
            start_id: bytes::Bytes::copy_from_slice(&frame.at.start.0),
            frames: frame.at.number,
            events: end,
            frame_hash: bytes::Bytes::copy_from_slice(&hash),
            last_fence: last_fence.last().map_or(0, |fence| fence.0),
            at_unix_ms: self.house.clock.now_unix_ms(),
            signed: self.house.checkpoint().await?.1,
        };
        let tree = self.house.tree.id().to_string();
        let id = format!("{tree}-{end}");
        let record =
            Outgoing::new(topics::CHECKPOINT.to_owned(), tree, id, checkpoint.at_unix_ms, &checkpoint)?;
        Ok(self.publisher.publish(vec![record]).await?)
    }
}

/// What is published about `event`: purges where it closes a fence, a notice where a value changed.
/// `controllers` limits it to theirs.
pub(crate) async fn records(
    house: &House,
    number: EventNumber,
    event: &Event,
    controllers: Option<&[String]>,
) -> Result<Vec<Outgoing>, EngineError> {
    let serves = |controller: &String| controllers.is_none_or(|controllers| controllers.contains(controller));
    let mut records = vec![];
    match &event.body {
        Body::KeysDestroyed(closed) => {
            for fence in &closed.fences {
                if let Some(erasure) = house.fence(*fence).await?
                    && serves(&erasure.controller)
                {
                    records.extend(purges(house, &erasure).await?);
                }
            }
        }
        Body::ErasureRedriven { fence, .. } => {
            if let Some(erasure) = house.fence(*fence).await?
                && serves(&erasure.controller)
            {
                records.extend(purges(house, &erasure).await?);
            }
        }
        Body::ValueRectified(rectified) => {
            let Some(Body::ValueStored(stored)) = house.event(rectified.value).await?.map(|event| event.body)
            else {
                return Ok(records);
            };
            let Some(controller) = house.state.register(&stored.controller) else { return Ok(records) };
            if serves(&stored.controller) {
                let token = house.token(&controller.register, rectified.value, &stored);
                let notice = bus::Notice {
                    version: VERSION,
                    kind: bus::NoticeKind::Rectified.into(),
                    token: token.clone(),
                    sequence: number.0,
                };
                let id = format!("{token}-{}", rectified.value_version);
                let topic = topics::notice(&stored.controller);
                let mut record = Outgoing::new(topic, token, id, event.at, &notice)?;
                record.trace = house.state.traces.of(number);
                records.push(record);
            }
        }
        _ => {}
    }
    Ok(records)
}

/// One record for each value of an erasure, in an order that tells nothing.
async fn purges(house: &House, erasure: &Erasure) -> Result<Vec<Outgoing>, EngineError> {
    let Some(controller) = house.state.register(&erasure.controller) else { return Ok(vec![]) };
    let mut records = vec![];
    for (index, value) in erasure.values.iter().enumerate() {
        let Some(Body::ValueStored(stored)) = house.event(*value).await?.map(|event| event.body) else {
            continue;
        };
        let token = house.token(&controller.register, *value, &stored);
        let index = u32::try_from(index).map_err(|_| EngineError::Projection)?;
        let purge = bus::Purge {
            version: VERSION,
            purge_id: house.state.ids.purge(erasure.fence, index),
            token: token.clone(),
            field: stored.field,
            activity: stored.activity,
            deadline_unix_ms: erasure.deadline,
        };
        let at = erasure.destroyed.as_ref().map_or(erasure.requested_at, |destroyed| destroyed.at);
        let id = purge.purge_id.clone();
        records.push((
            random::u64(),
            Outgoing::new(topics::erasure(&erasure.controller), token, id, at, &purge)?,
        ));
    }
    records.sort_by_key(|(order, _)| *order);
    Ok(records.into_iter().map(|(_, record)| record).collect())
}
