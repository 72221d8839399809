//! The gate: opens the engine, or says what is missing and which command decides. Nothing goes round it by
//! itself; what an administrator decides names the very frame that is missing.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::clock::Clock;
use cloakroom_core::ids::FramePosition;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_engine::{Engine, EngineError, GateReason, Opened, Options, Replayed, Standing};
use cloakroom_runtime::health::Condition;
use cloakroom_runtime::shutdown::Shutdown;
use tokio::sync::{Mutex, watch};

use crate::config::Config;
use crate::house::House;
use crate::{VaultError, measure};

/// The way into the vault, and whoever keeps it.
pub(crate) struct Gate {
    config: Config,
    clock: Arc<dyn Clock>,
    house: House,
    condition: Condition,
    shutdown: Shutdown,
    /// The engine that serves; the newest one, if any.
    serving: watch::Sender<Option<Arc<Engine>>>,
    /// One decision at a time.
    turn: Mutex<()>,
}

/// What an administrator decides.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Go on with a log that lacks this frame.
    pub(crate) accept: Option<FramePosition>,
    /// Destroy again what Kafka says was erased.
    pub(crate) from_kafka: bool,
    /// Destroy again what these lines of a ledger name.
    pub(crate) lines: Vec<String>,
    /// Count only.
    pub(crate) dry_run: bool,
}

/// How the vault stands, and what can be done.
#[derive(Debug)]
pub(crate) enum GateView {
    /// It serves.
    Open,
    /// It does not.
    Closed(Box<Standing>),
}

impl Gate {
    /// Starts the engine or finds the gate closed.
    ///
    /// # Errors
    /// [`VaultError`] for stores that cannot be opened.
    pub(crate) async fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        condition: Condition,
        shutdown: Shutdown,
    ) -> Result<Arc<Self>, VaultError> {
        let gate = Self {
            house: House::gated("starting"),
            serving: watch::channel(None).0,
            turn: Mutex::new(()),
            config,
            clock,
            condition,
            shutdown,
        };
        match Engine::open(gate.options().await?, Arc::clone(&gate.clock)).await? {
            Opened::Ready(engine) => gate.serve(Arc::new(engine)),
            Opened::Gated(reason) => gate.close(&reason),
        }
        Ok(Arc::new(gate))
    }

    /// What calls ask.
    pub(crate) fn house(&self) -> House {
        self.house.clone()
    }

    /// Stores and root holder, opened anew: nobody else has them while the gate is closed.
    async fn options(&self) -> Result<Options, VaultError> {
        self.config.engine_options(self.config.roots.open(&self.config.tls).await?)
    }

    fn serve(&self, engine: Arc<Engine>) {
        let every = Duration::from_millis(self.config.health.gauges_ms);
        tokio::spawn(measure::follow(Engine::clone(&engine), every, self.shutdown.clone()));
        self.serving.send_replace(Some(Arc::clone(&engine)));
        self.house.open(engine);
        self.condition.met();
    }

    fn close(&self, reason: &GateReason) {
        let text = advised(reason);
        tracing::error!(reason = text, "the gate stays closed: alive, not ready, nothing was changed");
        self.condition.unmet(text.clone());
        self.house.shut(text);
    }

    /// How data, keys and root holder stand to each other.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] to all but administrators.
    pub(crate) async fn standing(&self, principal: &str) -> Result<GateView, CallRefusal> {
        self.may(principal)?;
        let _turn = self.turn.lock().await;
        if self.house.engine().is_ok() {
            return Ok(GateView::Open);
        }
        let options = self.options().await.map_err(|error| refused(&error))?;
        Ok(GateView::Closed(Box::new(Engine::standing(&options).await.map_err(|error| broken(&error))?)))
    }

    /// Does what was decided. While the gate is closed nothing is shown before all of it is done.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] where the decision is not about how things stand.
    pub(crate) async fn decide(
        &self,
        principal: &str,
        decision: Decision,
    ) -> Result<(bool, Replayed), CallRefusal> {
        self.may(principal)?;
        let _turn = self.turn.lock().await;
        match (self.house.engine(), decision.accept) {
            (Ok(engine), None) => Ok((false, replay(&engine, principal, &decision).await?)),
            (Ok(_), Some(_)) => {
                Err(CallRefusal::Conflict("the gate is open: there is nothing to accept".to_owned()))
            }
            (Err(closed), None) => Err(closed),
            (Err(_), Some(_)) if decision.dry_run => Ok((false, Replayed::default())),
            (Err(_), Some(lacking)) => {
                let options = self.options().await.map_err(|error| refused(&error))?;
                let opened = Engine::open_older(options, Arc::clone(&self.clock), lacking).await;
                match opened.map_err(|error| broken(&error))? {
                    Opened::Gated(reason) => {
                        self.close(&reason);
                        Err(CallRefusal::Conflict(format!("the gate stays closed: {}", advised(&reason))))
                    }
                    Opened::Ready(engine) => {
                        tracing::warn!(principal, frame = lacking.number, "an older log was accepted");
                        self.replay_and_serve(Arc::new(engine), principal, &decision).await
                    }
                }
            }
        }
    }

    async fn replay_and_serve(
        &self,
        engine: Arc<Engine>,
        principal: &str,
        decision: &Decision,
    ) -> Result<(bool, Replayed), CallRefusal> {
        match replay(&engine, principal, decision).await {
            Ok(replayed) => {
                self.serve(engine);
                Ok((true, replayed))
            }
            Err(refusal) => {
                engine.close().await;
                let why = "the older log was accepted, but the ledger was not replayed: stop the vault, start it \
                           again, and replay the ledger (cloakroom restore --replay-from)";
                self.condition.unmet(why);
                self.house.shut(why);
                Err(refusal)
            }
        }
    }

    fn may(&self, principal: &str) -> Result<(), CallRefusal> {
        if self.config.admins.iter().any(|admin| admin == principal) {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("the gate is for administrators".to_owned()))
    }

    /// Waits for the engine that serves, now or after a decision.
    pub(crate) async fn served(&self) -> Arc<Engine> {
        let mut serving = self.serving.subscribe();
        let engine = serving.wait_for(Option::is_some).await.ok().and_then(|engine| engine.clone());
        match engine {
            Some(engine) => engine,
            None => std::future::pending().await, // the gate lives as long as whoever asks
        }
    }

    /// The engine that serves, if one does.
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        self.serving.borrow().clone()
    }
}

async fn replay(engine: &Engine, principal: &str, decision: &Decision) -> Result<Replayed, CallRefusal> {
    match (decision.from_kafka, decision.lines.is_empty()) {
        (true, true) => engine.replay_kafka(principal, decision.dry_run).await,
        (false, false) => engine.replay_ledger(principal, &decision.lines, decision.dry_run).await,
        (false, true) => Ok(Replayed::default()),
        (true, false) => {
            Err(CallRefusal::Invalid("replay from Kafka or from lines, one at a time".to_owned()))
        }
    }
}

/// The reason, and which command decides.
pub(crate) fn advised(reason: &GateReason) -> String {
    let decides = match reason {
        GateReason::LogBehindKeys { .. } => {
            "bring the newest data, or go on without what is missing: cloakroom restore --accept-older-log"
        }
        GateReason::KeysBehindHolder { .. } | GateReason::RootGone { .. } => {
            "bring the newest keys; no command makes these open"
        }
        _ => "no command goes on with these",
    };
    format!("{reason} ({decides})")
}

fn refused(error: &VaultError) -> CallRefusal {
    tracing::error!(error = error as &dyn std::error::Error, "the stores cannot be looked at");
    CallRefusal::Unavailable("the stores cannot be opened now".to_owned())
}

fn broken(error: &EngineError) -> CallRefusal {
    tracing::error!(error = error.chain(), "the stores cannot be looked at");
    CallRefusal::Unavailable("the stores cannot be opened now".to_owned())
}
