//! What downstreams answer becomes events; when nobody owes anything, the certificate is signed.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_bus::{BusConfig, Incoming, Keyring, Position, Subscription, Verified, topics, verify};
use cloakroom_core::event::{Ack, Body};
use cloakroom_core::ids::EventNumber;
use cloakroom_crypto::sign::VerifyingKey;
use cloakroom_proto::bus::v1 as bus;
use cloakroom_store::StoreError;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use crate::EngineError;
use crate::codec;
use crate::house::{House, TRIES};
use crate::proposal::Declined;

/// What the vault's own group begins with. The tree's id follows: it has one member, since one vault owns the log,
/// and two vaults on one Kafka take no answers from each other.
const GROUP_PREFIX: &str = "cloakroom.vault.";
/// Answers that are there are taken in together, up to this many.
const AT_ONCE: usize = 1_000;
/// Erasures whose answers are made events at once: enough for one commit, and no more of the writer's queue.
const ERASURES_AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(500);
/// Evidence and reasons are codes; what is longer is cut.
const CODE_MAX: usize = 256;

/// Collects until `stop` says so.
pub(crate) async fn run(house: Arc<House>, config: BusConfig, mut stop: watch::Receiver<bool>) {
    let mut subscription = Subscription::open(&config, &format!("{GROUP_PREFIX}{}", house.tree.id()), []);
    tokio::select! {
        () = follow(&house, &mut subscription) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    subscription.close().await;
}

async fn follow(house: &House, subscription: &mut Subscription) {
    let mut events = house.state.events.subscribe();
    loop {
        let wanted: Vec<String> =
            house.state.registers().keys().map(|controller| topics::ack(controller)).collect();
        let none = wanted.is_empty();
        if let Err(error) = subscription.extend(wanted) {
            tracing::error!(%error, "answers cannot be subscribed to");
        }
        if none {
            // Nobody's answers to wait for until a register comes.
            if events.changed().await.is_err() {
                return;
            }
            continue;
        }
        let first = tokio::select! {
            first = subscription.next() => first,
            _ = events.changed() => continue,
        };
        match first {
            Ok(first) => {
                let mut records = vec![first];
                while records.len() < AT_ONCE
                    && let Ok(Ok(next)) =
                        tokio::time::timeout(Duration::from_millis(1), subscription.next()).await
                {
                    records.push(next);
                }
                take_in(house, subscription, records).await;
            }
            Err(error) => {
                tracing::warn!(%error, "collecting waits");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Takes answers in; their offsets are committed once the events are durable. Waits for a log that cannot be read or
/// written now: nothing may be read past them, for an offset that is committed later would cover theirs.
async fn take_in(house: &House, subscription: &Subscription, records: Vec<Incoming>) {
    let positions: Vec<Position> = records.iter().map(|record| record.position.clone()).collect();
    let keyring = keyring(house);
    let mut by_fence: BTreeMap<EventNumber, Vec<Ack>> = BTreeMap::new();
    for record in records {
        match verify(record, &keyring) {
            Ok(verified) => {
                if let Some((fence, ack)) = read(house, &verified).await {
                    by_fence.entry(fence).or_default().push(ack);
                } else {
                    tracing::warn!(signer = verified.signer, "an answer that fits no purge is refused");
                }
            }
            Err(refused) => tracing::warn!(code = refused.code(), "an answer is refused"),
        }
    }
    while let Err(reason) = collect_all(house, by_fence.clone()).await {
        tracing::warn!(?reason, "answers wait for the writer");
        tokio::time::sleep(PAUSE).await;
    }
    for position in &positions {
        if let Err(error) = subscription.commit(position) {
            tracing::warn!(%error, "an offset is not committed");
        }
    }
}

/// At once, so that one commit of the log holds the events of many erasures.
async fn collect_all(house: &House, by_fence: BTreeMap<EventNumber, Vec<Ack>>) -> Result<(), Declined> {
    stream::iter(by_fence)
        .map(|(fence, acks)| collect(house, fence, acks))
        .buffer_unordered(ERASURES_AT_ONCE)
        .fold(Ok(()), |all, one| ready(all.and(one)))
        .await
}

fn keyring(house: &House) -> Keyring {
    let known = house.state.downstreams();
    known
        .iter()
        .filter_map(|(downstream, told)| {
            Some((downstream.clone(), VerifyingKey::from_bytes(&told.verifying_key).ok()?))
        })
        .collect()
}

/// The fence and the answer, if the record is what it says: signed by the downstream it names, about a purge
/// and its token, on the topic of the controller whose it is.
async fn read(house: &House, verified: &Verified) -> Option<(EventNumber, Ack)> {
    let ack: bus::Ack = verified.decode().ok()?;
    let (fence, value_index) = house.state.ids.read_purge(&ack.purge_id)?;
    let erasure = when_read(|| house.fence(fence)).await?;
    let value = *erasure.values.get(usize::try_from(value_index).ok()?)?;
    let Body::ValueStored(stored) = when_read(|| house.event(value)).await?.body else { return None };
    let controller = house.state.register(&erasure.controller)?;
    let fits = ack.downstream == verified.signer
        && verified.position.topic == topics::ack(&erasure.controller)
        && ack.token == house.token(&controller.register, value, &stored);
    if !fits {
        return None;
    }
    let code = |text: String| text.chars().filter(|letter| !letter.is_control()).take(CODE_MAX).collect();
    let ack = Ack {
        value_index,
        downstream: ack.downstream,
        status: codec::status_of(u32::try_from(ack.status).ok()?)?,
        purged_count: ack.purged_count,
        evidence: code(ack.evidence),
        reason: code(ack.reason),
        until: ack.until_unix_ms,
        at: ack.at_unix_ms,
    };
    Some((fence, ack))
}

/// What it gives, asked again and again while the disk fails. What is damaged stays so: the answer fits nothing.
async fn when_read<T, F>(mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<Option<T>, EngineError>>,
{
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(EngineError::Store(error @ (StoreError::Io { .. } | StoreError::Database { .. }))) => {
                tracing::warn!(%error, "answers wait for the disk");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::error!(error = error.chain(), "what an answer is about cannot be read");
                return None;
            }
        }
    }
}

/// Makes events of what is news, and completes the erasure when nobody owes an answer.
async fn collect(house: &House, fence: EventNumber, acks: Vec<Ack>) -> Result<(), Declined> {
    for _ in 0..TRIES {
        let Some(erasure) = house.state.open_erasure(fence) else { return Ok(()) }; // completed before
        let Some(news) = erasure.decide_acks(acks.clone()) else { return Ok(()) };
        match house.propose_on(&erasure, Body::AcksCollected(news)).await {
            Ok(()) => {
                // The answers are durable: what cannot be completed now, the sweep tries again.
                if let Err(reason) = settle(house, fence).await {
                    tracing::warn!(?reason, "an erasure waits for the writer");
                }
                return Ok(());
            }
            Err(Declined::Stale) => {}
            Err(reason) => return Err(reason),
        }
    }
    Err(Declined::Stale)
}

/// Completes an erasure that nobody owes an answer for, and says when one is overdue.
pub(crate) async fn settle(house: &House, fence: EventNumber) -> Result<(), Declined> {
    for _ in 0..TRIES {
        let Some(erasure) = house.state.open_erasure(fence) else { return Ok(()) };
        let step = match erasure.decide_overdue(house.clock.now_unix_ms()) {
            Some(overdue) => house.propose_on(&erasure, overdue).await,
            None if erasure.decide_completion().is_some() => house.complete(&erasure).await,
            None => return Ok(()),
        };
        if let Err(reason @ (Declined::Full | Declined::Busy | Declined::Stopped)) = step {
            return Err(reason);
        }
    }
    Err(Declined::Stale)
}

/// Looks after open erasures whose last answer came before their keys were gone, that nobody must answer, or
/// whose deadline passes.
pub(crate) async fn sweep(house: Arc<House>, mut stop: watch::Receiver<bool>) {
    let mut changes = house.state.erasure_changes.subscribe();
    loop {
        for erasure in house.state.open_erasures() {
            if *stop.borrow() {
                return;
            }
            let due = erasure.decide_completion().is_some()
                || erasure.decide_overdue(house.clock.now_unix_ms()).is_some();
            if due && let Err(reason) = settle(&house, erasure.fence).await {
                tracing::warn!(?reason, "an erasure waits for the writer");
            }
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
