//! From a configuration to a running vault, and to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use cloakroom_core::clock::Clock;
use cloakroom_runtime::health::{self, Condition, Readiness};
use cloakroom_runtime::identity::Identity;
use cloakroom_runtime::serve::{Cores, Drained, Listener, ServeConfig};
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry::Telemetry;
use tokio::task::JoinHandle;
use tonic_health::server::health_reporter;

use crate::config::Config;
use crate::gate::Gate;
use crate::{VaultError, ports};

/// A vault under way.
#[derive(Debug)]
pub struct Running {
    /// Where services call.
    pub vault_address: SocketAddr,
    /// Where officers call.
    pub admin_address: SocketAddr,
    /// Health and metrics.
    pub health_address: SocketAddr,
    task: JoinHandle<Ended>,
}

/// How a vault ended.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// All calls were answered and all that was answered is on disk.
    Drained,
    /// A sync or commit failed, or a part of the vault broke: nothing is known about the disk, the process
    /// must stop at once, and its next start settles it.
    Failed(String),
}

impl Running {
    /// Waits for the end, which `shutdown` or a failure brings.
    pub async fn ended(self) -> Ended {
        match self.task.await {
            Ok(ended) => ended,
            Err(error) => Ended::Failed(error.to_string()),
        }
    }
}

/// Starts a vault: binds its ports, answers on the one for health, opens the engine, serves. Returns when the
/// vault serves, or when its gate is closed: then it lives, is not ready and says why.
///
/// # Errors
/// [`VaultError`] for a configuration, certificate or port that cannot be used, or stores that cannot be opened.
pub async fn start(
    config: Config,
    clock: Arc<dyn Clock>,
    telemetry: &Telemetry,
    shutdown: Shutdown,
) -> Result<Running, VaultError> {
    config.check()?;
    let identity = Identity::follow(config.tls.clone(), &shutdown)?;
    let bound = Bound::to(&config).await?;
    let addresses = bound.addresses();

    let readiness = Readiness::new();
    let condition = readiness.condition("gate");
    let stop = Stop(Shutdown::new());
    let watched = health::router(readiness.clone(), telemetry.registry());
    let health = tokio::spawn(bound.health.serve_plain(watched, stop.0.clone()));

    let gate = Box::pin(Gate::open(config, clock, condition.clone(), shutdown.clone())).await?;
    let (reporter, service) = health_reporter();
    tokio::spawn(ports::report(readiness, reporter, stop.0.clone()));
    let vault = ports::vault(gate.house(), service.clone(), shutdown.clone())?;
    let admin = ports::admin(Arc::clone(&gate), service, shutdown.clone())?;
    let serving = serve([(bound.vault, vault), (bound.admin, admin)], identity, condition, shutdown);
    let task = tokio::spawn(async move {
        let ended = until_the_end(gate, serving).await;
        drop(stop);
        let _ = health.await; // nothing waits for a watcher's connection
        ended
    });
    let [vault_address, admin_address, health_address] = addresses;
    tracing::info!(%vault_address, %admin_address, %health_address, "listening");
    Ok(Running { vault_address, admin_address, health_address, task })
}

/// Whoever has somebody forgotten is told to come again only where nothing goes on at all: most of the wait is for
/// keys that are being destroyed, and all who wait are answered at once.
const ADMIN_WAIT_MS_MAX: u64 = 5_000;

/// Ends what serves health, last of all and also when the start fails.
struct Stop(Shutdown);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.begin();
    }
}

/// All ports at once: one that is taken is found before anything is opened.
struct Bound {
    vault: Listener,
    admin: Listener,
    health: Listener,
}

impl Bound {
    async fn to(config: &Config) -> Result<Self, VaultError> {
        let limits = || config.limits.clone();
        let patient =
            ServeConfig { wait_ms_max: ADMIN_WAIT_MS_MAX.max(config.limits.wait_ms_max), ..limits() };
        Ok(Self {
            vault: Listener::bind(config.listen, limits()).await?.on(Cores::start()?),
            admin: Listener::bind(config.admin.listen, patient).await?,
            health: Listener::bind(config.health.listen, limits()).await?,
        })
    }

    fn addresses(&self) -> [SocketAddr; 3] {
        [&self.vault, &self.admin, &self.health].map(Listener::local_address)
    }
}

/// Serves both ports until `shutdown`, then drains them; from then on the vault is not ready.
async fn serve(ports: [(Listener, Router); 2], identity: Identity, gate: Condition, shutdown: Shutdown) {
    let [vault, admin] =
        ports.map(|(listener, router)| listener.serve_tls(identity.clone(), router, shutdown.clone()));
    let said = async {
        shutdown.begun().await;
        gate.unmet("stopping");
    };
    let (Drained { connections_cut: vault }, Drained { connections_cut: admin }, ()) =
        tokio::join!(vault, admin, said);
    if vault > 0 || admin > 0 {
        tracing::warn!(vault, admin, "connections had to be cut");
    }
}

async fn until_the_end(gate: Arc<Gate>, serving: impl Future<Output = ()>) -> Ended {
    let in_order = async {
        serving.await;
        if let Some(engine) = gate.engine() {
            engine.close().await;
        }
    };
    tokio::select! {
        biased;
        reason = gate.keep() => Ended::Failed(reason),
        () = in_order => Ended::Drained,
    }
}
