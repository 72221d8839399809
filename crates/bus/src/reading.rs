//! Reads a topic from what the broker still has to where it ends now, outside any group.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::BusConfig;
use crate::consumer::incoming;
use crate::error::BusError;
use crate::native::{Tracing, client_config};
use crate::record::Incoming;

/// How long the broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long nothing may come while something is missing.
const SILENT_MAX: Duration = Duration::from_secs(15);

/// Everything that `topic` holds now, partition by partition; nothing if there is no such topic.
///
/// # Errors
/// [`BusError::Away`] if the broker does not answer, or falls silent; what it refuses.
pub async fn read_topic(config: &BusConfig, topic: &str) -> Result<Vec<Incoming>, BusError> {
    let address = config.bootstrap.resolve().await;
    let consumer: BaseConsumer<Tracing> = client_config(config, &address)
        .set("group.id", "cloakroom.reading") // asked for, never joined
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "50")
        .create_with_context(Tracing)
        .map_err(|error| BusError::of(&error))?;
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || read(&consumer, &topic).map_err(|error| BusError::of(&error)))
        .await
        .map_err(|_| BusError::Stopping)?
}

fn read(consumer: &BaseConsumer<Tracing>, topic: &str) -> Result<Vec<Incoming>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let mut found = vec![];
    let partitions =
        metadata.topics().iter().filter(|known| known.name() == topic && known.error().is_none());
    for partition in partitions.flat_map(|known| known.partitions()) {
        let (first, end) = consumer.fetch_watermarks(topic, partition.id(), ANSWER)?;
        if first >= end {
            continue;
        }
        let mut wanted = TopicPartitionList::with_capacity(1);
        wanted.add_partition_offset(topic, partition.id(), Offset::Offset(first))?;
        consumer.assign(&wanted)?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let record = incoming(&message, 0);
                    let last = record.position.offset.saturating_add(1) >= end;
                    found.push(record);
                    if last {
                        break;
                    }
                }
                // A compacted topic may end in offsets that hold nothing any more.
                None if consumer
                    .position()?
                    .find_partition(topic, partition.id())
                    .is_some_and(|at| matches!(at.offset(), Offset::Offset(next) if next >= end)) =>
                {
                    break;
                }
                Some(Err(error)) if heard.elapsed() > SILENT_MAX => return Err(error),
                None if heard.elapsed() > SILENT_MAX => {
                    return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                }
                Some(Err(_)) | None => {}
            }
        }
    }
    Ok(found)
}
