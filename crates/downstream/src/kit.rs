//! Everything that a downstream needs besides its own purge: it registers with the vault, catches up with the
//! erasure ledger, then follows Kafka, verifies, purges, answers.
//!
//! - [`Kit::catch_up`], then [`Kit::run`]
//! - `ledger`: what the vault's admin endpoint tells
//! - `line`: the way to Kafka and back
//! - `inbox`: what a record means
//! - `answers`: acks and dead letters
//! - `key_file`: the downstream's own signing key
//! - `metrics`: what is counted

mod answers;
mod inbox;
mod key_file;
mod ledger;
mod line;
mod metrics;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_bus::{BusConfig, BusError, Incoming, Outgoing, Position, Refused, verify};
use cloakroom_client::{AdminClient, ClientError, Endpoint};
use cloakroom_core::clock::Clock;
use cloakroom_crypto::random;
use cloakroom_crypto::sign::SigningKey;
use cloakroom_runtime::health::Condition;
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout, timeout_at};
use tracing::{Instrument, info_span};

use crate::{DownstreamError, Erasure, Purge, PurgeError, Purged};
use inbox::Message;
use ledger::Registration;
use line::Line;
use metrics::Metrics;

/// Records worked on together at most.
const BATCH_MAX: usize = 500;
/// How long records are gathered that arrive together.
const GATHER: Duration = Duration::from_millis(20);
/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A daemon that starts beside the vault, or before its register is applied, is ready soon after.
const LONGEST_PAUSE_AT_START: Duration = Duration::from_secs(1);
/// Whoever forges records must not make every one of them a call to the vault.
const KEYS_ASKED_EVERY: Duration = Duration::from_secs(1);
/// After so long without Kafka taking an answer the vault is asked whether Kafka is elsewhere now.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);
/// How often the lag is measured, and how long the broker may take to say.
const LAG_EVERY: Duration = Duration::from_secs(10);
const LAG_WITHIN: Duration = Duration::from_secs(3);
/// How long an answer under way, and the leave from Kafka, may take once the daemon is to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How a downstream reaches the vault and Kafka.
#[derive(Clone, Debug)]
pub struct KitConfig {
    /// Its id, as the register names it.
    pub downstream: String,
    /// The vault's admin endpoint.
    pub admin: Endpoint,
    /// Kafka, where it is not what the vault says.
    pub kafka: Option<BusConfig>,
    /// The file of its own signing key; made (0600) where it is missing.
    pub key_file: PathBuf,
    /// How often the vault is asked for new controllers and keys ([`REFRESH_MS`]).
    pub refresh_ms: u64,
    /// How often the ledger is replayed while running: what Kafka may have lost ([`REPLAY_MS`]).
    pub replay_ms: u64,
}

/// A controller that was just registered waits so long at most.
pub const REFRESH_MS: u64 = 5_000;
/// Kafka is what tells in time; replaying closes gaps.
pub const REPLAY_MS: u64 = 300_000;

/// The kit at work.
pub struct Kit {
    config: KitConfig,
    admin: AdminClient,
    purge: Arc<dyn Purge>,
    clock: Arc<dyn Clock>,
    key: Arc<SigningKey>,
    metrics: Metrics,
    registration: Registration,
    /// When the vault was last asked for it.
    registered: Instant,
    /// Answers to what was purged by replay, until Kafka has them.
    unanswered: Vec<Outgoing>,
}

impl Kit {
    /// Registers with the vault and purges what the ledger has that this downstream's database has not seen.
    /// Waits for a vault that is away or does not know this downstream yet, saying so in `condition`; the
    /// condition is met when this returns. `None` if `shutdown` began before.
    ///
    /// # Errors
    /// What waiting would not change: the key file, the endpoint's files.
    pub async fn catch_up(
        config: KitConfig,
        purge: Arc<dyn Purge>,
        clock: Arc<dyn Clock>,
        condition: &Condition,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, DownstreamError> {
        let key = Arc::new(key_file::open_or_make(&config.key_file)?);
        let admin = AdminClient::lazy(&config.admin, Some(telemetry::inject))?;
        let (metrics, registration) = (Metrics::new(), Registration::default());
        let registered = Instant::now();
        let mut kit =
            Self { config, admin, purge, clock, key, metrics, registration, registered, unanswered: vec![] };
        let mut pause = FIRST_PAUSE;
        loop {
            let caught_up = tokio::select! {
                caught_up = kit.catch_up_once(shutdown) => caught_up,
                () = shutdown.begun() => return Ok(None),
            };
            match caught_up {
                Ok(()) => break,
                Err(error) if is_for_good(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not caught up yet");
                    condition.unmet(format!("not caught up with the erasure ledger: {}", chain(&error)));
                }
            }
            pause = pause.min(LONGEST_PAUSE_AT_START);
            if !wait(&mut pause, shutdown).await {
                return Ok(None);
            }
        }
        condition.met();
        tracing::info!(controllers = kit.registration.controllers.len(), "caught up with the erasure ledger");
        Ok(Some(kit))
    }

    async fn catch_up_once(&mut self, shutdown: &Shutdown) -> Result<(), DownstreamError> {
        self.register().await?;
        self.replay(shutdown).await
    }

    /// Follows Kafka until `shutdown`. What is being answered then is answered, or comes again.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut line: Option<Line> = None;
        let mut refresh = ticks(Duration::from_millis(self.config.refresh_ms));
        let mut replay = ticks(Duration::from_millis(self.config.replay_ms));
        let mut lag = ticks(LAG_EVERY);
        while !shutdown.is_begun() {
            self.tune(&mut line).await;
            if let Some(line) = &line {
                self.answer_replayed(line, &shutdown).await;
            }
            tokio::select! {
                () = shutdown.begun() => {}
                _ = refresh.tick() => self.register_again().await,
                _ = replay.tick() => self.replay_again(&shutdown).await,
                _ = lag.tick() => self.measure_lag(line.as_ref()).await,
                received = next(&mut line) => match (received, &mut line) {
                    (Ok(first), Some(line)) => self.take(first, line, &shutdown).await,
                    (Err(error), _) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "Kafka refuses");
                        wait(&mut LONGEST_PAUSE.clone(), &shutdown).await;
                    }
                    (Ok(_), None) => {}
                },
            }
        }
        if let Some(line) = line
            && timeout(DRAIN, line.subscription.close()).await.is_err()
        {
            tracing::warn!("Kafka did not take the leave; it gives the partitions to others by itself");
        }
    }

    /// Opens the line to Kafka, adds new controllers' topics, and goes where the vault says Kafka is now.
    async fn tune(&self, line: &mut Option<Line>) {
        let Some(config) = self.bus_config() else { return };
        let topics = self.registration.topics();
        if topics.is_empty() {
            return;
        }
        if line.as_ref().is_some_and(|line| line.config.bootstrap != config.bootstrap)
            && let Some(former) = line.take()
        {
            tracing::info!("Kafka is elsewhere now");
            tokio::spawn(former.subscription.close()); // nobody may be there any more to take the leave
        }
        match line {
            Some(line) => line.extend(topics),
            None => *line = Some(Line::open(config, &self.config.downstream, Arc::clone(&self.key), topics)),
        }
    }

    fn bus_config(&self) -> Option<BusConfig> {
        self.config.kafka.clone().or_else(|| self.registration.bus_config())
    }

    /// Gathers what arrives together with `first`, works on it, answers, and only then says it is processed.
    async fn take(&mut self, first: Incoming, line: &mut Line, shutdown: &Shutdown) {
        let mut records = vec![first];
        let until = Instant::now() + GATHER;
        while records.len() < BATCH_MAX
            && let Ok(Ok(record)) = timeout_at(until, line.subscription.next()).await
        {
            records.push(record);
        }
        let positions: Vec<Position> = records.iter().map(|record| record.position.clone()).collect();
        let span = info_span!("purge", otel.kind = "consumer", records = records.len());
        let answered = async {
            match self.work(records, shutdown).await {
                Some(answers) => self.publish(line, answers, shutdown).await,
                None => false,
            }
        };
        if !answered.instrument(span).await {
            return; // it comes again: from Kafka, or from the replay of the next start
        }
        for position in &positions {
            if let Err(error) = line.subscription.commit(position) {
                tracing::warn!(error = &error as &dyn std::error::Error, "a position was not taken");
            }
        }
    }

    /// Works on records; gives what is to be published, or `None` if the daemon is to stop first.
    async fn work(&mut self, records: Vec<Incoming>, shutdown: &Shutdown) -> Option<Vec<Outgoing>> {
        let (mut out, mut erasures, mut notices) = (vec![], vec![], vec![]);
        for record in records {
            let position = record.position.clone();
            match self.open(record).await {
                Ok((Message::Purge(erasure), sent)) => erasures.push((erasure, sent, position)),
                Ok((Message::Rectified(notice), _)) => notices.push((notice, position)),
                Ok((Message::Unknown, _)) => {}
                Err(reason) => {
                    self.metrics.refused(reason);
                    tracing::warn!(
                        reason,
                        topic = position.topic,
                        offset = position.offset,
                        "record put aside"
                    );
                    out.extend(self.dead_letter(&position, reason));
                }
            }
        }
        let what: Vec<Erasure> = erasures.iter().map(|(erasure, _, _)| erasure.clone()).collect();
        let verdicts = self.destroy(&what, shutdown).await?;
        for ((erasure, sent, position), verdict) in erasures.into_iter().zip(verdicts) {
            self.metrics.purged(&verdict, self.clock.now_unix_ms().saturating_sub(sent));
            if verdict.is_err() {
                out.extend(self.dead_letter(&position, "refused"));
            }
            out.extend(self.ack(&erasure, &verdict));
        }
        for (notice, position) in notices {
            if !self.drop_copy(&notice, shutdown).await? {
                out.extend(self.dead_letter(&position, "refused"));
            }
        }
        Some(out)
    }

    /// Verifies and reads a record; gives the message and when it was sent. A key that is not known may be
    /// new: the vault is asked once more before the record is refused.
    async fn open(&mut self, record: Incoming) -> Result<(Message, i64), &'static str> {
        let verified = match verify(record.clone(), &self.registration.keyring) {
            Err(Refused::UnknownKey) if self.registered.elapsed() >= KEYS_ASKED_EVERY => {
                self.register_again().await;
                verify(record, &self.registration.keyring)
            }
            verified => verified,
        };
        let verified = verified.map_err(|refused| refused.code())?;
        let (topic, key) = (&verified.position.topic, &verified.key);
        let message = inbox::read(topic, key, verified.value.clone(), &self.registration.controllers)?;
        if let (Message::Rectified(_), Some(trace)) = (&message, &verified.trace) {
            telemetry::continue_from(&tracing::Span::current(), trace);
        }
        Ok((message, verified.time_unix_ms))
    }

    /// Purges until it is done or refused; `None` if the daemon is to stop first.
    async fn destroy(&self, what: &[Erasure], shutdown: &Shutdown) -> Option<Vec<Verdict>> {
        if what.is_empty() {
            return Some(vec![]);
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match self.purge.purge(what).await {
                Ok(purged) if purged.len() == what.len() => {
                    return Some(purged.into_iter().map(Ok).collect());
                }
                Ok(_) => "outcomes-missing".to_owned(),
                Err(PurgeError::Refuse { reason }) if what.len() == 1 => return Some(vec![Err(reason)]),
                Err(PurgeError::Refuse { .. }) => return self.destroy_one_by_one(what, shutdown).await,
                Err(PurgeError::Retry { reason }) => reason,
            };
            self.metrics.retried();
            tracing::warn!(reason, tokens = what.len(), "a purge is tried again");
            if !wait(&mut pause, shutdown).await {
                return None;
            }
        }
    }

    /// One of them is refused: the others must not suffer.
    async fn destroy_one_by_one(&self, what: &[Erasure], shutdown: &Shutdown) -> Option<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(what.len());
        for one in what {
            verdicts.extend(Box::pin(self.destroy(std::slice::from_ref(one), shutdown)).await?);
        }
        Some(verdicts)
    }

    /// False if it was refused for good; `None` if the daemon is to stop first.
    async fn drop_copy(&self, notice: &crate::Rectified, shutdown: &Shutdown) -> Option<bool> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.purge.rectified(notice).await {
                Ok(()) => return Some(true),
                Err(PurgeError::Refuse { .. }) => return Some(false),
                Err(PurgeError::Retry { .. }) => self.metrics.retried(),
            }
            if !wait(&mut pause, shutdown).await {
                return None;
            }
        }
    }

    /// Publishes until Kafka has everything; false if the daemon is to stop first, or Kafka is elsewhere now.
    async fn publish(&mut self, line: &Line, records: Vec<Outgoing>, shutdown: &Shutdown) -> bool {
        if records.is_empty() {
            return true;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let sent = tokio::select! {
                sent = timeout(PUBLISHED_WITHIN, line.publisher.publish(records.clone())) => sent,
                () = drained(shutdown) => return false,
            };
            match sent {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "an answer was not published");
                }
                Err(_) => self.register_again().await,
            }
            self.metrics.retried();
            let moved = self.bus_config().is_none_or(|config| config.bootstrap != line.config.bootstrap);
            if moved || !wait(&mut pause, shutdown).await {
                return false;
            }
        }
    }

    async fn answer_replayed(&mut self, line: &Line, shutdown: &Shutdown) {
        let answers = std::mem::take(&mut self.unanswered);
        if !self.publish(line, answers.clone(), shutdown).await {
            self.unanswered = answers;
        }
    }

    async fn measure_lag(&self, line: Option<&Line>) {
        let Some(line) = line else { return };
        if let Ok(Ok(lags)) = timeout(LAG_WITHIN, line.subscription.lag()).await {
            self.metrics.lag(&lags);
        }
    }
}

/// A purge's outcome, or the code it was refused with.
type Verdict = Result<Purged, String>;

async fn next(line: &mut Option<Line>) -> Result<Incoming, BusError> {
    match line {
        Some(line) => line.subscription.next().await,
        None => std::future::pending().await,
    }
}

/// Ticks from one `period` on.
fn ticks(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits between half of `pause` and all of it, and doubles it; false if the daemon is to stop.
async fn wait(pause: &mut Duration, shutdown: &Shutdown) -> bool {
    let spread = u32::try_from(random::u64() % 1024).unwrap_or_default();
    let jittered = (*pause / 2).saturating_add(*pause / 2 * spread / 1024);
    *pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    tokio::select! {
        () = tokio::time::sleep(jittered) => true,
        () = shutdown.begun() => false,
    }
}

async fn drained(shutdown: &Shutdown) {
    shutdown.begun().await;
    tokio::time::sleep(DRAIN).await;
}

/// What happened and why, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Whether waiting would change nothing: what is configured is wrong.
fn is_for_good(error: &DownstreamError) -> bool {
    matches!(
        error,
        DownstreamError::Vault(
            ClientError::Endpoint { .. } | ClientError::File { .. } | ClientError::Identity { .. }
        ) | DownstreamError::KeyFile { .. }
            | DownstreamError::Runtime(_)
    )
}
