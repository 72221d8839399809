//! The gate: opens the engine, or says what is missing and which command decides. Nothing goes round it by
//! itself; what an administrator decides names the very frame that is missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cloakroom_core::clock::Clock;
use cloakroom_core::ids::FramePosition;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_engine::{Engine, EngineError, GateReason, KeysView, Opened, Options, Replayed, Standing};
use cloakroom_runtime::health::Condition;
use cloakroom_runtime::shutdown::Shutdown;
use tokio::sync::{Mutex, watch};

use crate::config::{Config, RootsConfig};
use crate::house::House;
use crate::{VaultError, measure};

/// Why a vault does not serve that was told to replay a ledger first.
pub(crate) const OWED: &str = "an older log was accepted and the ledger is not replayed yet \
                               (cloakroom restore --replay-from kafka|FILE --yes)";

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
    /// The root holder in force and the former one, which a move changes.
    roots: ArcSwap<(RootsConfig, Option<RootsConfig>)>,
    figures: measure::GateFigures,
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
    /// Accept although what was erased since could be read again.
    pub(crate) without_replay: bool,
}

impl Decision {
    fn replays(&self) -> bool {
        self.from_kafka || !self.lines.is_empty()
    }
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
            roots: ArcSwap::from_pointee((config.roots.clone(), config.former_roots.clone())),
            config,
            clock,
            condition,
            shutdown,
            figures: measure::GateFigures::new(),
        };
        if gate.owes_replay() {
            gate.shut_until_replayed();
            return Ok(Arc::new(gate));
        }
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

    /// Stores and root holders, opened anew: nobody else has them while the gate is closed.
    async fn options(&self) -> Result<Options, VaultError> {
        let (roots, former) = Arc::unwrap_or_clone(self.roots.load_full());
        let mut options = self.config.engine_options(roots.open(&self.config.tls).await?)?;
        if let Some(former) = former {
            match former.open(&self.config.tls).await {
                Ok(holder) => options.former = Some(holder),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the former root holder cannot be opened: what lies there stays");
                }
            }
        }
        Ok(options)
    }

    /// Moves the root to the holder that the configuration names by now.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] where the configuration could not finish a move that a crash cuts short, and with
    /// what the holders say.
    pub(crate) async fn move_keys(&self, principal: &str) -> Result<KeysView, CallRefusal> {
        self.may(principal)?;
        let _turn = self.turn.lock().await;
        let engine = self.house.engine()?;
        let conflict = |error: &VaultError| CallRefusal::Conflict(error.chain());
        let next = self.config.reread().map_err(|error| conflict(&error))?;
        let present = self.roots.load_full();
        if next.roots == present.0 {
            let text = "the configuration names the present root holder: write the new one into [roots] and the \
                        present one into [former_roots]";
            return Err(CallRefusal::Conflict(text.to_owned()));
        }
        if next.former_roots.as_ref() != Some(&present.0) {
            let text = "[former_roots] is not the present root holder: write its settings there, so that a start \
                        after a crash can finish the move";
            return Err(CallRefusal::Conflict(text.to_owned()));
        }
        let holder = next.roots.open(&next.tls).await.map_err(|error| conflict(&error))?;
        next.engine_options(Arc::clone(&holder)).map_err(|error| conflict(&error))?;
        let place = holder.place();
        let moved = engine.move_keys(principal, holder).await;
        // It may have moved although the former root is not gone.
        if moved.is_ok() || engine.keys(principal).await.is_ok_and(|keys| keys.place == place) {
            self.roots.store(Arc::new((next.roots, next.former_roots)));
        }
        moved
    }

    fn serve(&self, engine: Arc<Engine>) {
        let every = Duration::from_millis(self.config.health.gauges_ms);
        let (measured, shutdown) = (Engine::clone(&engine), self.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = measure::follow(measured.clone(), every, shutdown) => {}
                _ = measured.gated() => {}
            }
        });
        self.serving.send_replace(Some(Arc::clone(&engine)));
        self.house.open(engine);
        self.condition.met();
        self.figures.closed(false);
    }

    fn close(&self, reason: &GateReason) {
        let text = advised(reason);
        tracing::error!(reason = text, "the gate is closed: alive, not ready");
        self.condition.unmet(text.clone());
        self.house.shut(text);
        self.figures.closed(true);
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
            (Ok(engine), None) => {
                let replayed = replay(&engine, principal, &decision).await?;
                if !decision.dry_run {
                    self.figures.replayed(replayed.destroyed);
                }
                Ok((false, replayed))
            }
            (Ok(_), Some(_)) => {
                Err(CallRefusal::Conflict("the gate is open: there is nothing to accept".to_owned()))
            }
            (Err(_), _) if decision.dry_run => Ok((false, Replayed::default())),
            (Err(_), None) if self.owes_replay() && decision.replays() => {
                let options = self.options().await.map_err(|error| refused(&error))?;
                let opened = Engine::open(options, Arc::clone(&self.clock)).await;
                self.go_on(opened, principal, &decision).await
            }
            (Err(closed), None) => Err(closed),
            (Err(_), Some(lacking)) => {
                let options = self.options().await.map_err(|error| refused(&error))?;
                let standing = Engine::standing(&options).await.map_err(|error| broken(&error))?;
                if standing.needs_replay() && !decision.replays() && !decision.without_replay {
                    return Err(CallRefusal::Conflict(
                        "what was erased since could be read again: replay the ledger with it".to_owned(),
                    ));
                }
                drop(options);
                if decision.replays() {
                    // From here on no start serves before the replay is done.
                    std::fs::write(self.owed(), "").map_err(|_| not_written())?;
                }
                let options = self.options().await.map_err(|error| refused(&error))?;
                let opened = Engine::open_older(options, Arc::clone(&self.clock), lacking).await;
                tracing::warn!(principal, frame = lacking.number, "an older log is accepted");
                self.go_on(opened, principal, &decision).await
            }
        }
    }

    /// Goes on from the key backup that lies where the keys were.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] where the gate is open, and where what lies there is none, or its root is gone.
    pub(crate) async fn restore_escrowed(&self, principal: &str) -> Result<(KeysView, u64), CallRefusal> {
        self.may(principal)?;
        let _turn = self.turn.lock().await;
        if self.house.engine().is_ok() {
            return Err(CallRefusal::Conflict("the gate is open: there is nothing to restore".to_owned()));
        }
        if self.owes_replay() {
            return Err(CallRefusal::Conflict(OWED.to_owned()));
        }
        let options = self.options().await.map_err(|error| refused(&error))?;
        let opened = Engine::open_escrowed(options, Arc::clone(&self.clock), principal).await;
        let opened = match opened {
            Err(EngineError::BackupRefused(why)) => return Err(CallRefusal::Conflict(why)),
            opened => opened,
        };
        tracing::warn!(principal, "keys are restored from a key backup");
        self.go_on(opened, principal, &Decision::default()).await?;
        let engine = self.house.engine()?;
        let keys = engine.keys(principal).await?;
        Ok((keys, engine.figures().slots_lost))
    }

    async fn go_on(
        &self,
        opened: Result<Opened, EngineError>,
        principal: &str,
        decision: &Decision,
    ) -> Result<(bool, Replayed), CallRefusal> {
        let engine = match opened.map_err(|error| broken(&error))? {
            Opened::Ready(engine) => Arc::new(engine),
            Opened::Gated(reason) => {
                self.close(&reason);
                return Err(CallRefusal::Conflict(format!("the gate stays closed: {}", advised(&reason))));
            }
        };
        let replayed = match replay(&engine, principal, decision).await {
            Ok(replayed) => replayed,
            Err(refusal) => {
                engine.close().await;
                self.shut_until_replayed();
                return Err(refusal);
            }
        };
        if decision.replays() && std::fs::remove_file(self.owed()).is_err() {
            engine.close().await;
            self.shut_until_replayed();
            return Err(not_written());
        }
        self.figures.replayed(replayed.destroyed);
        self.serve(engine);
        Ok((true, replayed))
    }

    /// Lies beside the log while a replay that was decided is not done: what was erased could be read again.
    fn owed(&self) -> PathBuf {
        self.config.data.join("REPLAY-OWED")
    }

    fn owes_replay(&self) -> bool {
        self.owed().exists()
    }

    fn shut_until_replayed(&self) {
        tracing::error!(reason = OWED, "the gate is closed: alive, not ready");
        self.condition.unmet(OWED);
        self.house.shut(OWED);
        self.figures.closed(true);
    }

    fn may(&self, principal: &str) -> Result<(), CallRefusal> {
        if self.config.admins.iter().any(|admin| admin == principal) {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("the gate is for administrators".to_owned()))
    }

    /// Closes the gate of a vault that finds itself behind while it runs; returns when the vault has failed.
    pub(crate) async fn keep(&self) -> String {
        loop {
            let engine = self.served().await;
            let reason = tokio::select! {
                failed = engine.failed() => return failed,
                reason = engine.gated() => reason,
            };
            let _turn = self.turn.lock().await;
            self.close(&reason);
            self.serving.send_replace(None);
            engine.close().await;
        }
    }

    /// Waits for the engine that serves, now or after a decision.
    async fn served(&self) -> Arc<Engine> {
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
        GateReason::Witnessed { .. } => {
            "bring the newest machine, or go on without what is missing and destroy again what was erased since: \
             cloakroom restore --accept-older-log --replay-from kafka|FILE"
        }
        GateReason::KeysBehindHolder { .. } | GateReason::KeysBehindLog { .. } => {
            "bring the newest keys, or go on from these if they are a key backup: cloakroom keys restore-escrowed"
        }
        GateReason::KeysMissing => {
            "bring them, or a key backup: cloakroom keys backup restore, then cloakroom keys restore-escrowed"
        }
        GateReason::RootGone { .. } => "bring the newest keys; no command makes these open",
        _ => "no command goes on with these",
    };
    format!("{reason} ({decides})")
}

fn not_written() -> CallRefusal {
    CallRefusal::Unavailable("the data folder cannot be written".to_owned())
}

fn refused(error: &VaultError) -> CallRefusal {
    tracing::error!(error = error as &dyn std::error::Error, "the stores cannot be looked at");
    CallRefusal::Unavailable("the stores cannot be opened now".to_owned())
}

fn broken(error: &EngineError) -> CallRefusal {
    tracing::error!(error = error.chain(), "the stores cannot be looked at");
    CallRefusal::Unavailable("the stores cannot be opened now".to_owned())
}
