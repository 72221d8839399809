//! A downstream's daemon: what all of them share, so that each one's own crate is its own work alone.
//!
//! - [`config`]: the configuration, with the service's own part in it
//! - [`launch()`]: from the command line to the exit code
//! - [`Daemon`]: ports, copies and kit under way
//! - [`Callers`]: who may call
//! - [`status`]: what they are told when something cannot be done

mod arguments;
mod callers;
pub mod config;
mod launch;
mod refusal;

use std::sync::Arc;

use axum::Router;
use cloakroom_client::Client;
use cloakroom_core::clock::SystemClock;
use cloakroom_runtime::health::{self, Condition, Readiness};
use cloakroom_runtime::identity::Identity;
use cloakroom_runtime::serve::Listener;
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry;
use prometheus::Registry;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::Builder;

pub use callers::Callers;
pub use config::{Config, Service};
pub use launch::launch;
pub use refusal::status;

use crate::{Copies, DownstreamError, Forget, Kit, Purge};

/// gRPC's own health service.
const HEALTH: &str = "grpc.health.v1.Health";

/// A daemon that has caught up and can serve.
pub struct Daemon {
    /// The store of copies.
    pub copies: Copies,
    /// The vault, for readers.
    pub vault: Client,
    /// Who may call.
    pub callers: Callers,
    listener: Listener,
    identity: Identity,
    readiness: Readiness,
    serving: Condition,
    kit: JoinHandle<()>,
    watched: Watched,
    shutdown: Shutdown,
}

impl Daemon {
    /// Binds the ports, answers on the one for health (with `more` routes of the service's own), opens the
    /// copies, and catches up with the erasure ledger. `None` if `shutdown` began before.
    ///
    /// # Errors
    /// What is configured and cannot be used, or copies that cannot be opened.
    pub async fn start<S: Service>(
        config: &Config<S>,
        also: Arc<dyn Forget>,
        more: Router,
        metrics: Registry,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, DownstreamError> {
        let callers = Callers::of(&config.callers)?;
        let identity = Identity::follow(config.tls.clone(), shutdown)?;
        let listener = Listener::bind(config.listen, config.limits.clone()).await?;
        let watched = Listener::bind(config.health.listen, config.limits.clone()).await?;
        tracing::info!(listen = %listener.local_address(), health = %watched.local_address(), "ports are bound");
        let readiness = Readiness::new();
        let (erasures, serving) = (readiness.condition("erasures"), readiness.condition("serving"));
        let watched = Watched::serve(watched, health::router(readiness.clone(), metrics).merge(more));

        let copies = Copies::open(&config.data, &config.roots, also).await?;
        let purge: Arc<dyn Purge> = Arc::new(copies.clone());
        let kit = Kit::catch_up(config.kit()?, purge, Arc::new(SystemClock), &erasures, shutdown).await;
        let kit = match kit {
            Ok(Some(kit)) => kit,
            stopped => {
                copies.close().await;
                watched.end().await;
                return stopped.map(|_| None);
            }
        };
        let vault = Client::lazy(&config.vault_endpoint(), Some(telemetry::inject))?;
        Ok(Some(Self {
            copies,
            vault,
            callers,
            listener,
            identity,
            readiness,
            serving,
            kit: tokio::spawn(kit.run(shutdown.clone())),
            watched,
            shutdown: shutdown.clone(),
        }))
    }

    /// Serves `routes`, whose gRPC service is called `name`, until the end: calls are drained, what is being
    /// purged is answered, the copies are closed.
    ///
    /// # Errors
    /// [`DownstreamError::Reflection`]
    pub async fn serve(self, name: &'static str, routes: Routes) -> Result<(), DownstreamError> {
        let (reporter, health) = health_reporter();
        let described = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(cloakroom_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(name)
                .with_service_name(HEALTH)
        };
        let routes = routes
            .add_service(health)
            .add_service(described().build_v1()?)
            .add_service(described().build_v1alpha()?);
        tokio::spawn(report(self.readiness.clone(), name, reporter, self.shutdown.clone()));
        self.serving.met();
        let router = routes.into_axum_router();
        let drained = self.listener.serve_tls(self.identity, router, self.shutdown.clone()).await;
        self.serving.unmet("stopping");
        if drained.connections_cut > 0 {
            tracing::warn!(connections = drained.connections_cut, "connections had to be cut");
        }
        if let Err(error) = self.kit.await {
            tracing::error!(%error, "the kit did not end in order");
        }
        self.copies.close().await;
        self.watched.end().await;
        Ok(())
    }
}

/// The port for health, which lives as long as anything does.
struct Watched {
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl Watched {
    fn serve(listener: Listener, router: Router) -> Self {
        let stop = Shutdown::new();
        let serving = listener.serve_plain(router, stop.clone());
        let task = tokio::spawn(async move {
            let _drained = serving.await; // a watcher's connection is nothing to wait for
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.begin();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the port for health did not end in order");
        }
    }
}

/// Tells gRPC's own health service what `/readyz` tells.
async fn report(readiness: Readiness, name: &'static str, reporter: HealthReporter, shutdown: Shutdown) {
    let mut changes = readiness.changes();
    let mut ready = readiness.is_ready();
    loop {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", name] {
            reporter.set_service_status(service, status).await;
        }
        ready = tokio::select! {
            () = shutdown.begun() => return,
            next = changes.next() => match next {
                Some(ready) => ready,
                None => return,
            },
        };
    }
}
