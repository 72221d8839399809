use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What can go wrong on the bus. Carries topics and codes, never keys, headers, values or settings' values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// A setting that librdkafka does not take.
    #[error("Kafka client setting {name} is not accepted")]
    Setting {
        /// The setting's name.
        name: String,
    },
    /// The client could not be made, for instance because a certificate cannot be read.
    #[error("Kafka client could not be made: {reason}")]
    Client {
        /// librdkafka's words.
        reason: String,
    },
    /// The broker did not answer in time. Only where a call does not wait by itself.
    #[error("Kafka broker cannot be reached ({code})")]
    Away {
        /// librdkafka's code.
        code: String,
    },
    /// The broker refuses, and waiting would not change it: no permission, too large, no such topic.
    #[error("Kafka refuses {topic} ({code})")]
    Refused {
        /// The topic, or `-` where it is not about one.
        topic: String,
        /// librdkafka's code.
        code: String,
    },
    /// A controller's name that cannot be part of a topic's name.
    #[error("controller name does not fit a topic: 1 to 100 of a-z, 0-9, - and _")]
    ControllerName,
    /// A record whose key, id or source is empty, whose time is out of range, or whose kind is not that of
    /// its topic. Nothing of the batch has been sent.
    #[error("record for {topic} is malformed: {part}")]
    Malformed {
        /// The topic.
        topic: String,
        /// What of the record.
        part: &'static str,
    },
    /// The embedded broker could not start.
    #[error("embedded broker could not start: {reason}")]
    Embedded {
        /// librdkafka's words or the system's.
        reason: String,
    },
    /// The port file of the embedded broker could not be written.
    #[error("port file could not be written")]
    PortFile(#[source] std::io::Error),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Stopping,
}

impl BusError {
    /// An error of a call that is about no topic in particular.
    pub(crate) fn of(error: &KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, _, name, _) => Self::Setting { name: name.clone() },
            KafkaError::ClientCreation(reason) => Self::Client { reason: reason.clone() },
            KafkaError::Canceled => Self::Stopping,
            KafkaError::AdminOp(code) => Self::of_code(*code),
            other => Self::of_code(other.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        }
    }

    fn of_code(code: RDKafkaErrorCode) -> Self {
        if is_away(code) { Self::Away { code: name(code) } } else { Self::refused("-", code) }
    }

    pub(crate) fn refused(topic: &str, code: RDKafkaErrorCode) -> Self {
        Self::Refused { topic: topic.to_owned(), code: name(code) }
    }
}

fn name(code: RDKafkaErrorCode) -> String {
    format!("{code:?}")
}

fn is_away(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::NetworkException
            | Code::BrokerNotAvailable
    )
}
