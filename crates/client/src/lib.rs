//! The Rust client of Cloakroom, for services that hold tokens and for the tools of officers and operators.
//!
//! Not here: anything that needs the vault's own crates; a client is the wire and mutual TLS.
//!
//! - [`Endpoint`], [`channel`]: mutual TLS to one server; certificates are read again at every reconnect
//! - [`Client`]: the services' API, with an answer for each item
//! - [`AdminClient`]: the officer's API
//! - [`Retry`]: again with backoff and jitter, within a deadline, where a repeat changes nothing
//! - [`ClientError`]: unreachable, refused, or a status
//!
//! Values are in none of its errors and in no `Debug`.

mod admin;
mod endpoint;
mod error;
mod retry;
mod vault;

pub use admin::AdminClient;
pub use endpoint::{Endpoint, Outgoing, Wire, channel, channel_lazy};
pub use error::ClientError;
pub use retry::Retry;
pub use vault::{Answer, Client, Refusal, Value};

pub use cloakroom_proto as proto;
