//! A downstream that sends mail to people whom it knows by token alone: tickets, a newsletter. It reads names
//! and addresses from the vault under its own purposes and keeps them in the kit's copies, so that an erasure
//! reaches them wherever they lie; a mail being sent holds off the purge of its recipient until it is out.
//!
//! Not here: anything of purging, answering and replay, which the kit does.
//!
//! - [`config`]: the relay, the sender, the sink
//! - [`api`](crate::Mail): the gRPC service
//! - `ledger`: what was sent and who subscribed, by token
//! - `message`: a mail as text and HTML
//! - `relay`: SMTP
//! - [`sink`]: for development, an SMTP server that keeps messages in memory

mod api;
pub mod config;
mod error;
mod ledger;
mod message;
mod relay;
pub mod sink;

use std::sync::Arc;

use cloakroom_downstream::daemon::{Config, Daemon};
use cloakroom_proto::mail::v1::mail_service_server::{MailServiceServer, SERVICE_NAME};
use cloakroom_runtime::shutdown::Shutdown;
use prometheus::Registry;
use tonic::service::Routes;

pub use api::Mail;
pub use config::MailConfig;
pub use error::MailError;

use ledger::Subscriptions;
use relay::Relay;
use sink::Sink;

/// Runs the service until `shutdown`, and drains. `metrics` is what `/metrics` shows.
///
/// # Errors
/// What is configured and cannot be used, or copies that cannot be opened.
pub async fn run(config: Config<MailConfig>, metrics: Registry, shutdown: Shutdown) -> Result<(), MailError> {
    let relay = Relay::new(&config.own)?;
    let sink = match config.own.sink {
        Some(address) => Some(Sink::start(address, &shutdown).await?),
        None => None,
    };
    let shown = sink.as_ref().map(Sink::router).unwrap_or_default();
    let started = Daemon::start(&config, Arc::new(Subscriptions), shown, metrics, &shutdown).await?;
    let Some(daemon) = started else { return Ok(()) };
    let mail = Mail::new(&daemon, &config.own, relay);
    Ok(daemon.serve(SERVICE_NAME, Routes::new(MailServiceServer::new(mail))).await?)
}
