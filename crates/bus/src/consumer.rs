//! Receives records, and remembers what was processed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::{Address, BusConfig};
use crate::error::BusError;
use crate::native::{Tracing, client_config, is_embedded};
use crate::record::{Incoming, Position};

/// How long the broker may take to answer about offsets.
const ANSWER: Duration = Duration::from_secs(10);

/// What one consumer group reads: every member gets a share of the partitions, every group gets everything.
///
/// Cooperative: a member that joins or leaves does not stop the others. A group starts at the earliest
/// record that the broker still has, and sees topics that are made later within two seconds.
pub struct Subscription {
    config: BusConfig,
    group: String,
    topics: Vec<String>,
    connection: Option<Connection>,
    connections: u64,
}

struct Connection {
    consumer: Arc<StreamConsumer<Tracing>>,
    address: Address,
}

/// How far a group is behind in a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Records that the group has not committed yet.
    pub records: u64,
}

impl Subscription {
    /// Subscribes `group` to `topics`, which need not exist yet. Connects at the first [`Self::next`].
    pub fn open(config: &BusConfig, group: &str, topics: impl IntoIterator<Item = String>) -> Self {
        let topics = topics.into_iter().collect();
        Self { config: config.clone(), group: group.to_owned(), topics, connection: None, connections: 0 }
    }

    /// Adds topics, for instance of a new controller. Those it has already stay as they are.
    ///
    /// # Errors
    /// [`BusError::Refused`] if a name cannot be a topic's.
    pub fn extend(&mut self, topics: impl IntoIterator<Item = String>) -> Result<(), BusError> {
        for topic in topics {
            if !self.topics.contains(&topic) {
                self.topics.push(topic);
            }
        }
        match &self.connection {
            Some(connection) => subscribe(&connection.consumer, &self.topics),
            None => Ok(()),
        }
    }

    /// The next record. Waits for one, and for a broker that is away. May be dropped and called again: no
    /// record is lost by that. Call it at least once an hour, or the broker gives the partitions to others.
    ///
    /// # Errors
    /// What waiting would not change ([`BusError::Refused`], [`BusError::Setting`], [`BusError::Client`]).
    /// The subscription lives on: it may be called again once the cause is mended.
    pub async fn next(&mut self) -> Result<Incoming, BusError> {
        loop {
            self.connect().await?;
            if let Some(record) = self.receive().await? {
                return Ok(record);
            }
            tracing::info!(target: "kafka", group = self.group, "subscription connects anew");
            self.disconnect();
        }
    }

    /// The next record of this connection; nothing once it is of no more use.
    async fn receive(&self) -> Result<Option<Incoming>, BusError> {
        let Some(connection) = &self.connection else { return Ok(None) };
        // One watch over all errors: a dead broker's come faster than the file is looked at.
        let mut moved = pin!(self.config.bootstrap.moved(&connection.address));
        loop {
            tokio::select! {
                received = connection.consumer.recv() => match received {
                    Ok(message) => return Ok(Some(incoming(&message, self.connections))),
                    Err(error) if is_spent(&error)? => return Ok(None),
                    Err(_) => {}
                },
                () = &mut moved => return Ok(None),
            }
        }
    }

    /// Says that the record at `position`, and every one before it in its partition, has been processed:
    /// the group will not see them again. The broker knows within a quarter of a second, at [`Self::flush`]
    /// and at [`Self::close`]; a crash before that means seeing them again. Says nothing about a partition
    /// that another member has taken over, or of a broker that has been replaced.
    ///
    /// # Errors
    /// [`BusError::Refused`] if the position is not one.
    pub fn commit(&self, position: &Position) -> Result<(), BusError> {
        let Some(connection) = self.connection.as_ref().filter(|_| position.connection == self.connections)
        else {
            return Ok(());
        };
        let mut offsets = TopicPartitionList::with_capacity(1);
        let next = Offset::Offset(position.offset.saturating_add(1));
        let stored = offsets
            .add_partition_offset(&position.topic, position.partition, next)
            .and_then(|()| connection.consumer.store_offsets(&offsets));
        match stored {
            Err(KafkaError::StoreOffset(RDKafkaErrorCode::State | RDKafkaErrorCode::UnknownPartition))
            | Ok(()) => Ok(()),
            Err(error) => Err(BusError::of(&error)),
        }
    }

    /// Waits until the broker knows what was committed.
    ///
    /// # Errors
    /// [`BusError::Away`], or what the broker says.
    pub async fn flush(&self) -> Result<(), BusError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let consumer = Arc::clone(&connection.consumer);
        tokio::task::spawn_blocking(move || match consumer.commit_consumer_state(CommitMode::Sync) {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
            Err(error) => Err(BusError::of(&error)),
        })
        .await
        .map_err(|_| BusError::Stopping)?
    }

    /// How far the group is behind, for each partition that this member has. Asks the broker.
    ///
    /// # Errors
    /// [`BusError::Away`], or what the broker says.
    pub async fn lag(&self) -> Result<Vec<Lag>, BusError> {
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        let consumer = Arc::clone(&connection.consumer);
        tokio::task::spawn_blocking(move || lag(&consumer).map_err(|error| BusError::of(&error)))
            .await
            .map_err(|_| BusError::Stopping)?
    }

    /// Leaves the group, after a last word to the broker on what was committed.
    pub async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            // leaving blocks; a panic in there would be librdkafka's
            drop(tokio::task::spawn_blocking(move || drop(connection)).await);
        }
    }

    async fn connect(&mut self) -> Result<(), BusError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let address = self.config.bootstrap.resolve().await;
        let consumer: StreamConsumer<Tracing> = client_config(&self.config, &address)
            .set("group.id", &self.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false") // only what was processed is stored
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "250")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1500")
            .set("max.poll.interval.ms", "3600000") // a vendor may take its time
            .set("topic.metadata.refresh.interval.ms", "2000") // topics made later
            .set("allow.auto.create.topics", "false")
            // The embedded broker answers a fetch only when this is over, Kafka when there is something.
            .set("fetch.wait.max.ms", if is_embedded(&self.config) { "50" } else { "500" })
            .set("queued.max.messages.kbytes", "16384")
            .create_with_context(Tracing)
            .map_err(|error| BusError::of(&error))?;
        subscribe(&consumer, &self.topics)?;
        self.connections = self.connections.saturating_add(1);
        self.connection = Some(Connection { consumer: Arc::new(consumer), address });
        Ok(())
    }

    fn disconnect(&mut self) {
        if let Some(spent) = self.connection.take() {
            drop(tokio::task::spawn_blocking(move || drop(spent)));
        }
    }
}

fn subscribe(consumer: &StreamConsumer<Tracing>, topics: &[String]) -> Result<(), BusError> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&names).map_err(|error| BusError::of(&error))
}

pub(crate) fn incoming(message: &BorrowedMessage<'_>, connection: u64) -> Incoming {
    let headers = message.headers().map(|headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap_or_default())))
            .collect()
    });
    Incoming {
        position: Position {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            connection,
        },
        key: message.key().map(Bytes::copy_from_slice),
        headers: headers.unwrap_or_default(),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}

/// An error in the stream: whether a new consumer is needed, or this one goes on by itself.
fn is_spent(error: &KafkaError) -> Result<bool, BusError> {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Ok(true),
        Some(Code::Fatal) => Ok(true),
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed,
        ) => Err(BusError::of(error)),
        code => {
            tracing::debug!(target: "kafka", ?code, "subscription waits");
            Ok(false)
        }
    }
}

fn lag(consumer: &StreamConsumer<Tracing>) -> Result<Vec<Lag>, KafkaError> {
    let committed = consumer.committed_offsets(consumer.assignment()?, ANSWER)?;
    let mut lags = Vec::with_capacity(committed.count());
    for element in committed.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let (first, end) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
        let next = match element.offset() {
            Offset::Offset(next) => next.max(first),
            _ => first,
        };
        let records = u64::try_from(end.saturating_sub(next)).unwrap_or(0);
        lags.push(Lag { topic: topic.to_owned(), partition, records });
    }
    Ok(lags)
}
