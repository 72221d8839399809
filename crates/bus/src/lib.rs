//! The bus: what the vault tells its downstreams and what they answer, over Kafka.
//!
//! Not here: what a record means (`cloakroom-proto`), when one is sent (`engine`'s announcer) and what
//! happens when one arrives (`downstream`). librdkafka is nowhere but here.
//!
//! - [`config`]: where the broker is and how to reach it
//! - [`topics`]: which topics there are, their policies, making and inspecting them
//! - [`record`]: a signed record with CloudEvents headers, and what is refused
//! - [`publisher`]: sends, and answers when the broker has it
//! - [`consumer`]: receives, and remembers what was processed
//! - [`embedded`]: a broker inside this process, for development
//!
//! Invariants
//! - [`publisher::Publisher::publish`] returns `Ok` only when every record has been acknowledged by the
//!   broker. A broker that is away is waited for; nothing is dropped for age.
//! - What is not signed by a key of the [`record::Keyring`], over topic, key, `ce_*` headers and value,
//!   never becomes a [`record::Verified`].
//! - Delivery is at least once, in order per key. The same `ce_id` is the same record.
//! - No record's key, header or value reaches a log through here.

pub mod config;
pub mod consumer;
pub mod embedded;
mod error;
mod native;
pub mod publisher;
pub mod reading;
pub mod record;
pub mod topics;

pub use config::{Bootstrap, BusConfig, Security};
pub use consumer::{Lag, Subscription};
pub use embedded::EmbeddedBroker;
pub use error::BusError;
pub use publisher::{Publisher, Signer};
pub use reading::read_topic;
pub use record::{Incoming, Keyring, Outgoing, Position, Refused, Signed, Verified, verify};
pub use topics::Kind;
