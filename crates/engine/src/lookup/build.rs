//! The builder: after a start, and when other fields become look-up fields, it goes through the log and opens the
//! living values of look-up fields, in the background.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use cloakroom_core::event::{Body, ValueStored};
use cloakroom_core::ids::{EventNumber, Slot};
use cloakroom_core::refusal::Code;
use cloakroom_store::Frame;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::normal;
use crate::EngineError;
use crate::codec;
use crate::house::House;

/// A log that could not be read is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// Values opened between two looks at who else waits for a processor.
const AT_ONCE: u64 = 32;

/// Keeps the table whole until the vault stops.
pub(crate) async fn keep(house: Arc<House>, mut stop: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let work = async {
        let mut through = None;
        loop {
            match build(&house, &mut tasks, &mut through).await {
                Ok(()) => house.state.lookups.work.notified().await,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "tokens cannot be looked up yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = work => {}
    }
    tasks.shutdown().await;
}

/// Frames whose values are being opened, one for each processor.
type Tasks = JoinSet<Result<(), EngineError>>;

/// Works until the table is whole. `through`: the generation in which the log has been gone through.
async fn build(house: &Arc<House>, tasks: &mut Tasks, through: &mut Option<u64>) -> Result<(), EngineError> {
    let lookups = &house.state.lookups;
    loop {
        let (generation, missed) = lookups.to_do();
        if *through != Some(generation) {
            walk(house, tasks, generation).await?;
            *through = Some(generation);
        }
        for number in &missed {
            if let Some(event) = house.event(*number).await? {
                enter(house, generation, *number, event.body).await?;
            }
        }
        if lookups.done(generation, missed.len()) {
            tracing::info!(values = lookups.figures().1, "tokens can be looked up");
            return Ok(());
        }
    }
}

/// Goes through the log as far as it is durable now: what comes later the writer enters, or hands to the builder.
async fn walk(house: &Arc<House>, tasks: &mut Tasks, generation: u64) -> Result<(), EngineError> {
    tasks.shutdown().await; // what a walk that failed has left
    let (end, most) = (*house.state.events.borrow(), available_parallelism().map_or(1, NonZero::get));
    let mut at = 1;
    while at <= end && house.state.lookups.generation() == generation {
        let (frame, _) = house.log.frame_of(EventNumber(at)).await?.ok_or(EngineError::Projection)?;
        at = frame.first_event.0.saturating_add(frame.events.len().max(1) as u64);
        if tasks.len() >= most {
            joined(tasks).await?;
        }
        tasks.spawn(enter_frame(Arc::clone(house), generation, frame));
    }
    while !tasks.is_empty() {
        joined(tasks).await?;
    }
    Ok(())
}

/// What the next task that ends came to.
async fn joined(tasks: &mut Tasks) -> Result<(), EngineError> {
    tasks.join_next().await.map_or(Ok(()), |ended| ended.unwrap_or(Err(EngineError::Stopped)))
}

async fn enter_frame(house: Arc<House>, generation: u64, frame: Frame) -> Result<(), EngineError> {
    for (number, bytes) in (frame.first_event.0..).zip(frame.events) {
        let number = EventNumber(number);
        enter(&house, generation, number, codec::decode(number, bytes)?.body).await?;
        if number.0.is_multiple_of(AT_ONCE) {
            // Reading may not have waited for anything.
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn enter(house: &House, generation: u64, number: EventNumber, body: Body) -> Result<(), EngineError> {
    match body {
        Body::ValueStored(stored) => {
            let slot = stored.slot;
            enter_version(house, generation, (number, slot), number, &stored).await;
        }
        Body::ValueRectified(it) => {
            if let Some(Body::ValueStored(stored)) = house.event(it.value).await?.map(|event| event.body) {
                enter_version(house, generation, (number, it.slot), it.value, &stored).await;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Opens the version that event `number` put into `slot`, if it is the newest one of `value`, and enters it.
async fn enter_version(
    house: &House,
    generation: u64,
    (number, slot): (EventNumber, Slot),
    value: EventNumber,
    stored: &ValueStored,
) {
    let state = &house.state;
    let Some(controller) = state.register(&stored.controller) else { return };
    let Some(field) = controller.register.field(&stored.field).filter(|field| field.lookup) else { return };
    let is_newest = || state.rectification(value).unwrap_or(value) == number;
    while is_newest() {
        let epoch = house.tree.epoch();
        let text = match house.open(value, stored).await {
            Ok(text) => text,
            Err(refusal) if refusal.code == Code::Erased => return,
            Err(_) => {
                tracing::warn!(event = number.0, "a value that does not open cannot be looked up");
                return;
            }
        };
        let Some(normal) = normal(field.field_type, &text) else { return };
        let hash = state.lookups.hash(&stored.controller, &stored.activity, &stored.field, &normal);
        // A fence that came and went since was closed by a batch: then it is opened again.
        let lives = || house.tree.epoch() == epoch && !state.is_fenced(slot) && is_newest();
        if state.lookups.enter_opened(generation, number, *hash, lives) {
            return;
        }
    }
}
