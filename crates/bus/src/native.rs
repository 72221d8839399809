//! Settings every librdkafka client here shares, and its log lines as `tracing` events.

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use crate::config::{Address, Bootstrap, BusConfig, Security};

/// librdkafka's second names of settings that are made here: under these, which of the two holds would be
/// left to chance.
const SECOND_NAMES: [&str; 5] = [
    "metadata.broker.list",
    "request.required.acks",
    "delivery.timeout.ms",
    "message.send.max.retries",
    "auto.commit.enable",
];

pub(crate) fn client_config(config: &BusConfig, address: &Address) -> ClientConfig {
    let mut native = ClientConfig::new();
    for (name, value) in config.extra.iter().filter(|(name, _)| !SECOND_NAMES.contains(&name.as_str())) {
        native.set(name, value);
    }
    native
        .set("bootstrap.servers", &address.servers)
        .set("client.id", &config.client_id)
        // a broker that comes back is found at once: a purge should not wait for the default's 10 s
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "200")
        .set("socket.keepalive.enable", "true")
        .set("log.connection.close", "false");
    if let Security::Tls { ca, cert, key, key_password } = &config.security {
        native
            .set("security.protocol", "ssl")
            .set("ssl.ca.location", ca.to_string_lossy())
            .set("ssl.certificate.location", cert.to_string_lossy())
            .set("ssl.key.location", key.to_string_lossy());
        if let Some(password) = key_password {
            native.set("ssl.key.password", password);
        }
    }
    native
}

/// The embedded broker answers only part of the protocol.
pub(crate) fn is_embedded(config: &BusConfig) -> bool {
    matches!(config.bootstrap, Bootstrap::PortFile(_))
}

/// librdkafka's log lines: addresses, topics, groups and codes, never a record's content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracing;

impl ClientContext for Tracing {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        use RDKafkaLogLevel as Level;
        match level {
            Level::Emerg | Level::Alert | Level::Critical => {
                tracing::error!(target: "kafka", facility, "{line}")
            }
            // "connection refused", five times a second while a broker is away
            Level::Error | Level::Warning => tracing::debug!(target: "kafka", facility, "{line}"),
            Level::Notice | Level::Info | Level::Debug => {
                tracing::trace!(target: "kafka", facility, "{line}")
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", code = ?error.rdkafka_error_code(), "{reason}");
    }
}

impl ConsumerContext for Tracing {}

impl ProducerContext for Tracing {
    type DeliveryOpaque = ();

    /// Only the producer that asks about topics comes here, and it sends nothing.
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
