//! A downstream that attributes sales to affiliates: what each has earned, and by whom, as far as that is still
//! known. Buyers are tokens; an affiliate sees them masked, read from the vault under its own purpose. An
//! erasure keeps every sum and loses the person.
//!
//! Not here: anything of purging, answering and replay, which the kit does.
//!
//! - [`config`]: the commission and the purpose
//! - [`api`](crate::Affiliate): the gRPC service
//! - `ledger`: conversions and sums
//! - `commission`: what a sale earns

mod api;
mod commission;
pub mod config;
mod error;
mod ledger;

use std::sync::Arc;

use axum::Router;
use cloakroom_downstream::daemon::{Config, Daemon};
use cloakroom_proto::affiliate::v1::affiliate_service_server::{AffiliateServiceServer, SERVICE_NAME};
use cloakroom_runtime::shutdown::Shutdown;
use prometheus::Registry;
use tonic::service::Routes;

pub use api::Affiliate;
pub use config::AffiliateConfig;
pub use error::AffiliateError;

use ledger::Conversions;

/// Runs the service until `shutdown`, and drains. `metrics` is what `/metrics` shows.
///
/// # Errors
/// What is configured and cannot be used, or copies that cannot be opened.
pub async fn run(
    config: Config<AffiliateConfig>,
    metrics: Registry,
    shutdown: Shutdown,
) -> Result<(), AffiliateError> {
    config.own.check()?;
    let started = Daemon::start(&config, Arc::new(Conversions), Router::new(), metrics, &shutdown).await?;
    let Some(daemon) = started else { return Ok(()) };
    let affiliate = Affiliate::new(&daemon, &config.own);
    Ok(daemon.serve(SERVICE_NAME, Routes::new(AffiliateServiceServer::new(affiliate))).await?)
}
