//! A keyholder: one of several small daemons that together keep the roots of key trees, each a share of every root,
//! in locked memory only. What it is told to forget is gone with the write that wipes it; what it is told to keep
//! is gone with its process. Besides it says who owns a tree, for a time: an owner goes by a majority.
//!
//! Not here: how a root is dealt, put together and given up over several keyholders (`cloakroom_keytree`'s
//! quorum, in the owner's process). A keyholder calls nobody.
//!
//! - [`config`]: what it is told
//! - [`arguments`]: its command line
//! - [`shelf`]: what it keeps and what it answers; pure, time comes from outside
//! - `api`: the gRPC service around it
//!
//! Invariants: nothing is written to disk; a share lies in `cloakroom_crypto`'s locked memory alone, also on its
//! way, where it is sealed; no log line, metric or error holds one; nobody calls who is not configured; after a
//! start no ownership is granted for as long as one could hold.

mod api;
pub mod arguments;
pub mod config;
mod error;
pub mod shelf;

use std::sync::Arc;
use std::time::Duration;

use cloakroom_proto::keyholder::v1::keyholder_service_server::{KeyholderServiceServer, SERVICE_NAME};
use cloakroom_runtime::health::{self, Readiness};
use cloakroom_runtime::identity::Identity;
use cloakroom_runtime::serve::Listener;
use cloakroom_runtime::shutdown::Shutdown;
use prometheus::Registry;
use tonic::service::Routes;
use tonic_health::server::health_reporter;

pub use error::KeyholderError;

use api::Api;
use config::Config;
use shelf::Shelf;

/// A message here is some hundred bytes; with the names of 255 keyholders some ten thousand.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Time since the machine started, also while it slept: a lease ends even for who is not awake.
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Runs the keyholder until `shutdown`, and drains. `metrics` is what `/metrics` shows.
///
/// # Errors
/// What is configured and cannot be used.
pub async fn run(config: Config, metrics: Registry, shutdown: Shutdown) -> Result<(), KeyholderError> {
    let owners = config.owners()?;
    let limits = config.limits()?;
    let identity = Identity::follow(config.tls.clone(), &shutdown)?;
    let listener = Listener::bind(config.listen, config.limits.clone()).await?;
    let watched = Listener::bind(config.health.listen, config.limits.clone()).await?;
    tracing::info!(listen = %listener.local_address(), health = %watched.local_address(), "ports are bound");

    let readiness = Readiness::new();
    let serving = readiness.condition("serving");
    let stop = Shutdown::new();
    let watching =
        tokio::spawn(watched.serve_plain(health::router(readiness, metrics.clone()), stop.clone()));

    let shelf = Shelf::new(limits, boot_time());
    tracing::info!(
        lease_ms = limits.lease.as_millis(),
        "empty after a start: no ownership is granted for as long as a lease"
    );
    let api = KeyholderServiceServer::from_arc(Arc::new(Api::new(shelf, owners, &metrics)?))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (reporter, health) = health_reporter();
    for service in ["", SERVICE_NAME] {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    serving.met();
    let router = Routes::new(api).add_service(health).into_axum_router();
    let drained = listener.serve_tls(identity, router, shutdown).await;
    serving.unmet("stopping");
    if drained.connections_cut > 0 {
        tracing::warn!(connections = drained.connections_cut, "connections had to be cut");
    }
    stop.begin();
    let _ended = watching.await; // a watcher's connection is nothing to wait for
    Ok(())
}
