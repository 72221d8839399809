//! Which topics there are, and what each must be like.

use std::fmt;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer};

use crate::config::{Address, BusConfig};
use crate::error::BusError;
use crate::native::{Tracing, client_config, is_embedded};

/// The topic of every vault's newest checkpoint.
pub const CHECKPOINT: &str = "cloakroom.checkpoint.v1";
/// The topic of what downstreams could not process.
pub const DEAD_LETTER: &str = "cloakroom.dead-letter.v1";

/// How long a broker may take to answer about topics. Making one takes a second on a loaded machine.
const ANSWER: Duration = Duration::from_secs(15);

/// What a record is. Each kind has topics of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A token has died.
    Purge,
    /// Something about a living token.
    Notice,
    /// A downstream's answer.
    Ack,
    /// The newest state of a vault's log.
    Checkpoint,
    /// What could not be processed.
    DeadLetter,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Purge, Self::Notice, Self::Ack, Self::Checkpoint, Self::DeadLetter];

    /// The CloudEvents type.
    pub fn ce_type(self) -> &'static str {
        match self {
            Self::Purge => "cloakroom.bus.v1.Purge",
            Self::Notice => "cloakroom.bus.v1.Notice",
            Self::Ack => "cloakroom.bus.v1.Ack",
            Self::Checkpoint => "cloakroom.bus.v1.Checkpoint",
            Self::DeadLetter => "cloakroom.bus.v1.DeadLetter",
        }
    }

    /// The kind with this CloudEvents type.
    pub fn from_ce_type(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.ce_type() == text)
    }

    /// The kind that `topic` carries, by its name.
    pub fn of_topic(topic: &str) -> Option<Self> {
        match topic {
            CHECKPOINT => return Some(Self::Checkpoint),
            DEAD_LETTER => return Some(Self::DeadLetter),
            _ => {}
        }
        let (controller, stream) = topic.strip_prefix("cloakroom.")?.split_once('.')?;
        check_controller(controller).ok()?;
        match stream {
            "erasure.v1" => Some(Self::Purge),
            "notice.v1" => Some(Self::Notice),
            "ack.v1" => Some(Self::Ack),
            _ => None,
        }
    }

    /// Whether a record of this kind may name the trace it belongs to. A purge must not: its trace would
    /// tell for ever which tokens belonged to one person.
    pub fn may_be_traced(self) -> bool {
        matches!(self, Self::Notice | Self::Ack)
    }
}

/// The topic of a controller's erasures.
pub fn erasure(controller: &str) -> String {
    format!("cloakroom.{controller}.erasure.v1")
}

/// The topic of a controller's notices.
pub fn notice(controller: &str) -> String {
    format!("cloakroom.{controller}.notice.v1")
}

/// The topic of the answers to a controller's erasures.
pub fn ack(controller: &str) -> String {
    format!("cloakroom.{controller}.ack.v1")
}

/// A topic and what it must be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u16,
    /// Copies of each partition.
    pub replication_factor: u16,
    /// Kafka's settings for it, by name.
    pub settings: Vec<(&'static str, String)>,
}

/// The topics of `controllers` and of the whole vault.
///
/// # Errors
/// [`BusError::ControllerName`].
pub fn wanted(config: &BusConfig, controllers: &[String]) -> Result<Vec<Topic>, BusError> {
    let mut topics = Vec::new();
    for controller in controllers {
        check_controller(controller)?;
        for name in [erasure(controller), notice(controller), ack(controller)] {
            topics.push(topic(config, name, config.partitions, kept_for_a_time(config)));
        }
    }
    let newest_kept = vec![("cleanup.policy", "compact".into())];
    topics.push(topic(config, CHECKPOINT.into(), 1, newest_kept));
    topics.push(topic(config, DEAD_LETTER.into(), 1, kept_for_a_time(config)));
    Ok(topics)
}

fn kept_for_a_time(config: &BusConfig) -> Vec<(&'static str, String)> {
    vec![("cleanup.policy", "delete".into()), ("retention.ms", config.retention_ms.to_string())]
}

fn topic(
    config: &BusConfig,
    name: String,
    partitions: u16,
    mut settings: Vec<(&'static str, String)>,
) -> Topic {
    let copies = config.replication_factor;
    // With three copies one may be away. With fewer none can be spared without either stopping or losing.
    let in_sync = if copies >= 3 { copies.saturating_sub(1) } else { 1 };
    settings.push(("min.insync.replicas", in_sync.to_string()));
    settings.push(("unclean.leader.election.enable", "false".into()));
    Topic { name, partitions, replication_factor: copies, settings }
}

/// A controller's name stands between the dots of a topic's name.
fn check_controller(name: &str) -> Result<(), BusError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if (1..=100).contains(&name.len()) && name.bytes().all(fits) {
        Ok(())
    } else {
        Err(BusError::ControllerName)
    }
}

/// Makes the topics of `controllers` and of the whole vault where they do not exist, and returns the names
/// of those it made. Existing ones stay as they are: see [`inspect`].
///
/// The embedded broker makes topics itself when asked for them, with four partitions and no settings.
///
/// # Errors
/// [`BusError::Away`] if the broker does not answer: the caller asks again. [`BusError::Refused`] if this
/// client may not make topics.
pub async fn ensure(config: &BusConfig, controllers: &[String]) -> Result<Vec<String>, BusError> {
    let wanted = wanted(config, controllers)?;
    let address = config.bootstrap.resolve().await;
    if is_embedded(config) {
        return blocking(config, address, move |client| {
            let known = existing(client)?;
            let mut made = Vec::new();
            for topic in wanted.into_iter().filter(|topic| !known.iter().any(|(name, _)| *name == topic.name))
            {
                client.fetch_metadata(Some(&topic.name), ANSWER).map_err(|error| BusError::of(&error))?;
                made.push(topic.name);
            }
            Ok(made)
        })
        .await;
    }
    let new: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|topic| NewTopic {
            name: &topic.name,
            num_partitions: topic.partitions.into(),
            replication: TopicReplication::Fixed(topic.replication_factor.into()),
            config: topic.settings.iter().map(|(name, value)| (*name, value.as_str())).collect(),
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let answers =
        admin(config, &address)?.create_topics(&new, &options).await.map_err(|error| BusError::of(&error))?;
    let mut made = Vec::new();
    for answer in answers {
        match answer {
            Ok(name) => made.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(BusError::refused(&name, code)),
        }
    }
    Ok(made)
}

/// How a topic differs from what it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// It does not exist.
    Missing,
    /// It has another number of partitions.
    Partitions {
        /// What it has.
        is: usize,
        /// What the configuration says.
        wanted: u16,
    },
    /// One of its settings differs.
    Setting {
        /// Kafka's name of the setting.
        name: &'static str,
        /// What it has; nothing if the broker does not say.
        is: Option<String>,
        /// What it must be.
        wanted: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Partitions { is, wanted } => write!(f, "{is} partitions, not {wanted}"),
            Self::Setting { name, is, wanted } => {
                write!(f, "{name} is {}, not {wanted}", is.as_deref().unwrap_or("not told"))
            }
        }
    }
}

/// Compares the topics that exist with what they must be: for `doctor`. Empty when all is well. Of the
/// embedded broker's topics only their existence is checked: it has no settings.
///
/// # Errors
/// [`BusError::Away`]; [`BusError::Refused`] if this client may not read settings.
pub async fn inspect(
    config: &BusConfig,
    controllers: &[String],
) -> Result<Vec<(String, Difference)>, BusError> {
    let wanted = wanted(config, controllers)?;
    let address = config.bootstrap.resolve().await;
    let known = blocking(config, address.clone(), existing).await?;
    let mut found = Vec::new();
    let mut present = Vec::new();
    for topic in &wanted {
        match known.iter().find(|(name, _)| *name == topic.name) {
            None => found.push((topic.name.clone(), Difference::Missing)),
            Some((_, is)) if !is_embedded(config) => {
                present.push(topic);
                if *is != usize::from(topic.partitions) {
                    let differs = Difference::Partitions { is: *is, wanted: topic.partitions };
                    found.push((topic.name.clone(), differs));
                }
            }
            Some(_) => {}
        }
    }
    if !present.is_empty() {
        let names: Vec<ResourceSpecifier<'_>> =
            present.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let answers = admin(config, &address)?
            .describe_configs(&names, &options)
            .await
            .map_err(|error| BusError::of(&error))?;
        for (topic, answer) in present.iter().zip(answers) {
            let resource = answer.map_err(|code| BusError::refused(&topic.name, code))?;
            for (name, wanted) in &topic.settings {
                let is = resource.get(name).and_then(|entry| entry.value.clone());
                if is.as_ref() != Some(wanted) {
                    let differs = Difference::Setting { name, is, wanted: wanted.clone() };
                    found.push((topic.name.clone(), differs));
                }
            }
        }
    }
    Ok(found)
}

/// Topics' names and their number of partitions.
fn existing(client: &Client<impl rdkafka::ClientContext>) -> Result<Vec<(String, usize)>, BusError> {
    let metadata = client.fetch_metadata(None, ANSWER).map_err(|error| BusError::of(&error))?;
    Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
}

fn admin(config: &BusConfig, address: &Address) -> Result<AdminClient<Tracing>, BusError> {
    client_config(config, address)
        .set_log_level(RDKafkaLogLevel::Warning)
        .create_with_context(Tracing)
        .map_err(|error| BusError::of(&error))
}

/// Asks with a producer, for which alone the embedded broker makes topics, off the runtime's threads.
async fn blocking<T: Send + 'static>(
    config: &BusConfig,
    address: Address,
    ask: impl FnOnce(&Client<Tracing>) -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    let native = client_config(config, &address);
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer<Tracing> =
            native.create_with_context(Tracing).map_err(|error| BusError::of(&error))?;
        ask(producer.client())
    })
    .await
    .map_err(|_| BusError::Stopping)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bootstrap;

    fn config(replication_factor: u16) -> BusConfig {
        let bootstrap = Bootstrap::Address("127.0.0.1:1".into());
        BusConfig { replication_factor, retention_ms: 77, partitions: 6, ..BusConfig::plaintext(bootstrap) }
    }

    #[test]
    fn every_kind_has_its_topic_and_type() {
        let topics = [
            (erasure("acme"), Kind::Purge),
            (notice("acme"), Kind::Notice),
            (ack("acme"), Kind::Ack),
            (CHECKPOINT.into(), Kind::Checkpoint),
            (DEAD_LETTER.into(), Kind::DeadLetter),
        ];
        for (topic, kind) in topics {
            assert_eq!(Kind::of_topic(&topic), Some(kind), "{topic}");
            assert_eq!(Kind::from_ce_type(kind.ce_type()), Some(kind));
        }
        for other in
            ["cloakroom.acme.erasure.v2", "acme.erasure.v1", "cloakroom..ack.v1", "cloakroom.a.b.ack.v1"]
        {
            assert_eq!(Kind::of_topic(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_checkpoint_is_compacted_and_the_rest_is_kept() {
        for topic in wanted(&config(1), &["acme".into(), "globex".into()]).unwrap() {
            let setting = |name| {
                topic.settings.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
            };
            if topic.name == CHECKPOINT {
                assert_eq!((setting("cleanup.policy"), setting("retention.ms")), (Some("compact"), None));
            } else {
                assert_eq!(
                    (setting("cleanup.policy"), setting("retention.ms")),
                    (Some("delete"), Some("77"))
                );
            }
            let own = topic.name.contains("acme") || topic.name.contains("globex");
            assert_eq!(topic.partitions, if own { 6 } else { 1 }, "{}", topic.name);
        }
    }

    #[test]
    fn one_of_three_copies_may_be_away() {
        for (copies, in_sync) in [(1, "1"), (2, "1"), (3, "2"), (5, "4")] {
            for topic in wanted(&config(copies), &[]).unwrap() {
                assert!(topic.settings.contains(&("min.insync.replicas", in_sync.into())), "{copies} copies");
            }
        }
    }

    #[test]
    fn a_controller_cannot_reach_into_another_ones_topics() {
        for name in ["", "a.erasure.v1.b", "A", "a/b", "ä", &"a".repeat(101)] {
            assert!(
                matches!(wanted(&config(1), &[name.to_owned()]), Err(BusError::ControllerName)),
                "{name}"
            );
        }
    }
}
