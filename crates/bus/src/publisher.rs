//! Sends records, and answers when the broker has them.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_crypto::sign::SigningKey;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use tokio::sync::Mutex;

use crate::config::{Address, BusConfig};
use crate::error::BusError;
use crate::native::{Tracing, client_config};
use crate::record::{Outgoing, Signed};

/// Records and kilobytes that librdkafka holds for a broker that is away or slow. A sender whose records do
/// not fit waits: the log keeps them, not memory.
const QUEUE_RECORDS_MAX: &str = "20000";
const QUEUE_KIB_MAX: &str = "32768";
/// How long to wait before asking a full queue again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(20);

/// Who sends, and the key that says so.
#[derive(Clone)]
pub struct Signer {
    /// The CloudEvents source, for instance `vault` or the downstream's name.
    pub source: String,
    /// The signing key.
    pub key: Arc<SigningKey>,
}

/// Sends signed records.
pub struct Publisher {
    config: BusConfig,
    signer: Signer,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Connection {
    producer: FutureProducer<Tracing>,
    address: Address,
}

/// How an attempt to deliver what is pending ended.
enum Ended {
    Delivered,
    /// The broker has moved or this client is spent: what is still pending goes to a new one.
    Disconnected,
}

impl Publisher {
    /// A publisher for the broker of `config`. Connects when there is something to send, so that nobody
    /// waits for a broker that is away.
    pub fn connect(config: &BusConfig, signer: Signer) -> Self {
        Self { config: config.clone(), signer, connection: Mutex::new(None) }
    }

    /// Sends `records`, in order for each key, and returns when the broker has acknowledged every one.
    /// Waits for a broker that is away, however long; drop the future to give up. What was given up or ended
    /// in an error may or may not have been sent: send it again, under the same ids.
    ///
    /// # Errors
    /// [`BusError::Malformed`], with nothing sent; [`BusError::Refused`] for what waiting would not change;
    /// [`BusError::Setting`] and [`BusError::Client`] for a configuration that cannot work.
    pub async fn publish(&self, records: Vec<Outgoing>) -> Result<(), BusError> {
        let signed = records.into_iter().map(|record| record.sign(&self.signer.source, &self.signer.key));
        let mut pending: Vec<Option<Signed>> =
            signed.map(|record| record.map(Some)).collect::<Result<_, _>>()?;
        loop {
            let connection = self.connection().await?;
            let ended = tokio::select! {
                ended = deliver(&connection.producer, &mut pending) => ended,
                () = self.config.bootstrap.moved(&connection.address) => Ok(Ended::Disconnected),
            };
            if let Ok(Ended::Delivered) = ended {
                return Ok(());
            }
            // Also after a refusal: the rest of the batch goes with the client, and with it what librdkafka
            // remembers, such as that a topic does not exist.
            self.disconnect(connection).await;
            ended?;
        }
    }

    /// Records handed to librdkafka and not yet acknowledged: what a metric shows while a broker is away.
    pub fn in_flight(&self) -> usize {
        let Ok(connection) = self.connection.try_lock() else { return 0 }; // connecting: nothing handed over
        let count = connection.as_ref().map_or(0, |connection| connection.producer.in_flight_count());
        usize::try_from(count).unwrap_or(0)
    }

    async fn connection(&self) -> Result<Arc<Connection>, BusError> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref() {
            return Ok(Arc::clone(connection));
        }
        let address = self.config.bootstrap.resolve().await;
        let producer = producer_config(&self.config, &address)
            .create_with_context(Tracing)
            .map_err(|error| BusError::of(&error))?;
        let connection = Arc::new(Connection { producer, address });
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Lets go of `spent`, unless another sender already did.
    async fn disconnect(&self, spent: Arc<Connection>) {
        let mut current = self.connection.lock().await;
        if current.as_ref().is_some_and(|connection| Arc::ptr_eq(connection, &spent)) {
            tracing::info!(target: "kafka", "publisher connects anew");
            current.take();
        }
        drop(tokio::task::spawn_blocking(move || drop(spent))); // the last holder waits for librdkafka
    }
}

fn producer_config(config: &BusConfig, address: &Address) -> ClientConfig {
    let mut native = client_config(config, address);
    native
        .set("enable.idempotence", "true") // order kept across retries
        .set("acks", "all")
        .set("retries", i32::MAX.to_string())
        .set("message.timeout.ms", "0") // none: a broker that is away for a day loses nothing
        .set("partitioner", "murmur2_random") // as every other Kafka client spreads keys
        .set("topic.metadata.propagation.max.ms", "10000") // then a topic that nobody made is refused
        .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX)
        .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX)
        .set("allow.auto.create.topics", "false"); // they would have the broker's policy, not ours
    native
}

/// Hands over what is pending and takes off it what the broker acknowledges.
async fn deliver(
    producer: &FutureProducer<Tracing>,
    pending: &mut [Option<Signed>],
) -> Result<Ended, BusError> {
    let mut reports: Vec<Option<DeliveryFuture>> = Vec::with_capacity(pending.len());
    for record in pending.iter() {
        let report = match record {
            None => None,
            Some(record) => match enqueue(producer, record).await {
                Ok(report) => Some(report),
                Err(code) => return triage(code, &record.topic),
            },
        };
        reports.push(report);
    }
    for (record, report) in pending.iter_mut().zip(reports) {
        let (Some(signed), Some(report)) = (record.as_ref(), report) else { continue };
        match report.await {
            Ok(Ok(_)) => *record = None,
            Ok(Err((error, _))) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                return triage(code, &signed.topic);
            }
            Err(_) => return Ok(Ended::Disconnected),
        }
    }
    Ok(Ended::Delivered)
}

async fn enqueue(
    producer: &FutureProducer<Tracing>,
    record: &Signed,
) -> Result<DeliveryFuture, RDKafkaErrorCode> {
    let headers = record
        .headers
        .iter()
        .fold(OwnedHeaders::new_with_capacity(record.headers.len()), |all, (key, value)| {
            all.insert(Header { key, value: Some(value.as_ref()) })
        });
    let mut message = FutureRecord::to(&record.topic)
        .key(record.key.as_bytes())
        .payload(record.value.as_ref())
        .headers(headers);
    loop {
        match producer.send_result(message) {
            Ok(report) => return Ok(report),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                message = refused;
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
            Err((error, _)) => return Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        }
    }
}

/// A failed record: either this client is spent (librdkafka gave up its sequence, or was purged), and a new
/// one carries on, or the broker will never take the record.
fn triage(code: RDKafkaErrorCode, topic: &str) -> Result<Ended, BusError> {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fatal
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::MessageTimedOut => {
            tracing::warn!(target: "kafka", topic, ?code, "producer is replaced");
            Ok(Ended::Disconnected)
        }
        _ => Err(BusError::refused(topic, code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bootstrap;

    #[test]
    fn no_further_setting_undoes_what_is_promised_under_either_of_its_names() {
        let kept = [
            ("bootstrap.servers", "metadata.broker.list", "kafka:9092"),
            ("acks", "request.required.acks", "all"),
            ("message.timeout.ms", "delivery.timeout.ms", "0"),
            ("retries", "message.send.max.retries", "2147483647"),
        ];
        let mut config = BusConfig::plaintext(Bootstrap::Address("kafka:9092".into()));
        config.extra.insert("linger.ms".into(), "7".into());
        for (name, other, _) in kept {
            config.extra.extend([(name.into(), "1".into()), (other.into(), "1".into())]);
        }
        let address = Address { servers: "kafka:9092".into(), start: String::new() };
        let native = producer_config(&config, &address);
        for (name, other, value) in kept {
            assert_eq!((native.get(name), native.get(other)), (Some(value), None), "{name}");
        }
        assert_eq!(native.get("linger.ms"), Some("7"));
        native.create_native_config().expect("librdkafka takes every one of them");
    }
}
