//! The vault as its daemon sees it: one handle, a method a verb.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use cloakroom_bus::{BusConfig, EmbeddedBroker, Signer};
use cloakroom_core::clock::{Clock, UnixMs};
use cloakroom_core::ids::FramePosition;
use cloakroom_core::merkle::Tile;
use cloakroom_core::refusal::{CallRefusal, Refusal};
use cloakroom_crypto::{Plaintext, jws};
use cloakroom_keytree::RootHolder;
use cloakroom_store::embedded::{AccessLogOptions, Folder, LogOptions};
use tokio::sync::watch;

use crate::downstreams::{self, DownstreamInfo, Registered, Registration, Replay};
use crate::house::House;
use crate::keys::{KeysView, Order};
use crate::lease::Kept;
use crate::ledger::{Export, Replayed};
use crate::{
    AppliedRegister, Description, DetokenizeRequest, EngineError, ErasureFilter, ErasureRequest, ErasureView,
    Fact, GateReason, KeyBackupView, LogVerdict, LookupRequest, Matches, Opened, Preview, Pruned, Standing,
    Status, TokenizeRequest, Tokenized, Who, open, restore,
};

/// How a vault runs.
#[derive(Clone)]
pub struct Options {
    /// Events and projections: ciphertext only.
    pub data: PathBuf,
    /// The key tree: never in a data backup.
    pub keys: PathBuf,
    /// Who keeps the roots.
    pub holder: Arc<dyn RootHolder>,
    /// Who kept them before: the root moves from there at a start, and what a move left there is destroyed.
    pub former: Option<Arc<dyn RootHolder>>,
    /// Take the tree from an owner that is known to be dead, without waiting for its lease.
    pub take_over: bool,
    /// Opened pages in locked memory; 0 for 48 MiB, or 4 where the system does not let so much be locked.
    pub cache_bytes: usize,
    /// Start although memory cannot be locked: for development.
    pub allow_unlocked: bool,
    /// What must stay free on the disk for starts, fences and batches.
    pub reserve_bytes: u64,
    /// A segment of the log that would grow beyond this gets a successor.
    pub segment_bytes: u64,
    /// How often the access log is synced.
    pub access_sync_ms: u64,
    /// A file of the access log that would grow beyond this gets a successor, and an event names it.
    pub access_file_bytes: u64,
    /// For how long fences are gathered while there is other work.
    pub erase_batch_ms: u64,
    /// Proposals that may wait for the writer.
    pub queue_max: usize,
    /// Events in one frame.
    pub commit_events_max: usize,
    /// Look-ups that each principal may make a second, over time.
    pub lookup_per_second: u32,
    /// And at once.
    pub lookup_burst: u32,
    /// How long the root of a key backup stays in escrow; 0: there are no key backups.
    pub key_backup_window_ms: u64,
    /// Principals that may everything at the admin endpoint.
    pub admins: Vec<String>,
    /// What announcements say they come from.
    pub source: String,
    /// Where they go.
    pub bus: BusOptions,
}

/// Where announcements go.
#[derive(Clone, Debug)]
pub enum BusOptions {
    /// Nowhere: for tests of everything else.
    Off,
    /// To a broker in this process, for development; its address stands in `kafka.port` in the data folder.
    Embedded,
    /// To Apache Kafka.
    Kafka(BusConfig),
}

impl Options {
    /// The defaults, data and keys below one folder.
    pub fn in_folder(folder: impl Into<PathBuf>, holder: Arc<dyn RootHolder>) -> Self {
        let folder = folder.into();
        Self {
            data: folder.join("data"),
            keys: folder.join("keys"),
            holder,
            former: None,
            take_over: false,
            // Some 2,000 opened pages: 128,000 values without a miss, within the memory lock most systems grant.
            cache_bytes: 4 << 20,
            allow_unlocked: false,
            reserve_bytes: 256 << 20,
            segment_bytes: LogOptions::default().segment_bytes,
            access_sync_ms: 100,
            access_file_bytes: AccessLogOptions::default().file_bytes,
            erase_batch_ms: 50,
            queue_max: 1_024,
            commit_events_max: 4_096,
            lookup_per_second: 10,
            lookup_burst: 100,
            key_backup_window_ms: 0,
            admins: vec![],
            source: "cloakroom".to_owned(),
            bus: BusOptions::Off,
        }
    }
}

/// A vault in service. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    house: Arc<House>,
    signer: Signer,
    stop: watch::Sender<bool>,
    failure: watch::Receiver<Option<String>>,
    owned: Arc<Mutex<Option<Owned>>>,
}

/// What ends with the vault, in this order.
struct Owned {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    thread: JoinHandle<()>,
    kept: Kept,
    _broker: Option<EmbeddedBroker>,
    _folders: Vec<Folder>,
}

impl Engine {
    /// Opens the stores below `options` and starts; a closed gate is no error, but nothing is served.
    ///
    /// # Errors
    /// What the disk, another process or the memory lock refuse.
    pub async fn open(options: Options, clock: Arc<dyn Clock>) -> Result<Opened, EngineError> {
        open::open(options, clock, &mut (), None, None).await
    }

    /// [`Engine::open`] on an older log: `lacking` is the newest frame that the keys have recorded and this log
    /// lacks ([`GateReason::LogBehindKeys`]). What followed this log's end once is given up: its keys die in
    /// this start's batch, for good. Changes nothing where the keys have recorded another frame.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_older(
        options: Options,
        clock: Arc<dyn Clock>,
        lacking: FramePosition,
    ) -> Result<Opened, EngineError> {
        open::open(options, clock, &mut (), Some(lacking), None).await
    }

    /// [`Engine::open`] on keys that were restored from a key backup whose root is in escrow: goes on above every key
    /// commit that the holder and the log know, says in the log what the backup lacks, and forgets again what was
    /// forgotten since. All escrows end with it. Gated where the keys are no such backup.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_escrowed(
        options: Options,
        clock: Arc<dyn Clock>,
        principal: &str,
    ) -> Result<Opened, EngineError> {
        open::open(options, clock, &mut (), None, Some(principal)).await
    }

    /// What the stores below `options` lack, and what it would cost to go on with them. Nothing is changed.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn standing(options: &Options) -> Result<Standing, EngineError> {
        restore::standing(options).await
    }

    /// [`Engine::open`] with layers over what it stands on: for tests of faults.
    ///
    /// # Errors
    /// As [`Engine::open`].
    #[doc(hidden)]
    pub async fn open_over(
        options: Options,
        clock: Arc<dyn Clock>,
        layers: &mut dyn open::Layers,
    ) -> Result<Opened, EngineError> {
        open::open(options, clock, layers, None, None).await
    }

    #[allow(clippy::too_many_arguments)] // made in one place, at the end of a start
    pub(crate) fn new(
        house: Arc<House>,
        signer: Signer,
        stop: watch::Sender<bool>,
        failure: watch::Receiver<Option<String>>,
        (thread, kept): (JoinHandle<()>, Kept),
        tasks: Vec<tokio::task::JoinHandle<()>>,
        broker: Option<EmbeddedBroker>,
        folders: Vec<Folder>,
    ) -> Self {
        let owned = Owned { tasks, thread, kept, _broker: broker, _folders: folders };
        Self { house, signer, stop, failure, owned: Arc::new(Mutex::new(Some(owned))) }
    }

    /// Stops cleanly: bus tasks first, then the writer, which closes what is fenced, records the log's position
    /// and tells the root holder. Later writes are refused.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(owned) = owned else { return };
        for task in owned.tasks {
            drop(task.await);
        }
        self.house.stop_writing();
        drop(tokio::task::spawn_blocking(move || owned.thread.join()).await);
        owned.kept.release().await;
    }

    /// Returns when something failed after which nothing is known about the disk: the process must end.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The writer ended without a failure: a clean stop.
            None => std::future::pending().await,
        }
    }

    /// Returns when this vault finds, while it runs, that another life of it went on: close the gate.
    pub async fn gated(&self) -> GateReason {
        let mut gated = self.house.gated.subscribe();
        let reason = gated.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Takes values in, gives tokens out; an answer for each item, in their order.
    ///
    /// # Errors
    /// What concerns the whole call; an item's own fault is its own answer.
    pub async fn tokenize(
        &self,
        principal: &str,
        request: TokenizeRequest,
    ) -> Result<Vec<Result<Tokenized, Refusal>>, CallRefusal> {
        self.house.tokenize(principal, request).await
    }

    /// Gives values for tokens.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub async fn detokenize(
        &self,
        principal: &str,
        request: DetokenizeRequest,
    ) -> Result<Vec<Result<Plaintext, Refusal>>, CallRefusal> {
        self.house.detokenize(principal, request).await
    }

    /// Tells about tokens without their values.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub async fn describe(
        &self,
        principal: &str,
        controller: &str,
        tokens: &[String],
    ) -> Result<Vec<Result<Description, Refusal>>, CallRefusal> {
        self.house.describe(principal, controller, tokens).await
    }

    /// Finds tokens by value, for fields that the register marks for it.
    ///
    /// # Errors
    /// As [`Engine::tokenize`]; [`CallRefusal::Unavailable`] until all values were read after a start,
    /// [`CallRefusal::Exhausted`] beyond the principal's rate.
    pub async fn lookup(
        &self,
        principal: &str,
        request: LookupRequest,
    ) -> Result<Vec<Result<Matches, Refusal>>, CallRefusal> {
        self.house.lookup(principal, request).await
    }

    /// Whether tokens can be found by value yet, and how many values are in the table.
    pub fn lookup_figures(&self) -> (bool, u64) {
        self.house.state.lookups.figures()
    }

    /// Puts new values behind tokens; answers with their versions once the former values are destroyed.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub async fn rectify(
        &self,
        principal: &str,
        controller: &str,
        items: Vec<(String, Plaintext)>,
    ) -> Result<Vec<Result<u32, Refusal>>, CallRefusal> {
        self.house.rectify(principal, controller, items).await
    }

    /// Forgets single tokens; answers with the epoch once their values are destroyed.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub async fn release(
        &self,
        principal: &str,
        controller: &str,
        tokens: Vec<String>,
    ) -> Result<Vec<Result<u64, Refusal>>, CallRefusal> {
        self.house.release(principal, controller, tokens).await
    }

    /// Records a fact that retention counts from.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub async fn record_fact(&self, principal: &str, fact: Fact) -> Result<(), CallRefusal> {
        self.house.record_fact(principal, fact).await
    }

    /// Forgets a person, wholly or under some activities. Returns when every former root is destroyed, with the
    /// salt that opens the certificate's commitment (empty on a repeat: it is kept nowhere).
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn request_erasure(
        &self,
        principal: &str,
        request: ErasureRequest,
    ) -> Result<(ErasureView, String), CallRefusal> {
        self.house.request_erasure(principal, request).await
    }

    /// What an erasure would destroy.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn preview_erasure(
        &self,
        principal: &str,
        controller: &str,
        who: Who,
        activities: &[String],
        reason: &str,
    ) -> Result<Preview, CallRefusal> {
        self.house.preview_erasure(principal, controller, who, activities, reason).await
    }

    /// Where an erasure stands.
    ///
    /// # Errors
    /// NOT_FOUND, also for another controller's.
    pub async fn erasure(&self, principal: &str, erasure_id: &str) -> Result<ErasureView, CallRefusal> {
        Ok(self.house.view(&self.house.erasure_by_id(principal, erasure_id).await?))
    }

    /// A page of a controller's erasures, oldest first, and the token of the next page.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn erasures(
        &self,
        principal: &str,
        controller: &str,
        filter: ErasureFilter,
        page_size: usize,
        page_token: &str,
    ) -> Result<(Vec<ErasureView>, String), CallRefusal> {
        self.house.erasures(principal, controller, filter, page_size, page_token).await
    }

    /// Counts changes of erasures: whoever watches one looks again after each.
    pub fn erasure_changes(&self) -> watch::Receiver<u64> {
        self.house.state.erasure_changes.subscribe()
    }

    /// Announces an erasure again.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn redrive(&self, principal: &str, erasure_id: &str) -> Result<ErasureView, CallRefusal> {
        self.house.redrive(principal, erasure_id).await
    }

    /// The certificate, a compact JWS.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] while somebody owes an answer.
    pub async fn certificate(&self, principal: &str, erasure_id: &str) -> Result<String, CallRefusal> {
        self.house.certificate(principal, erasure_id).await
    }

    /// A downstream makes itself known.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn register_downstream(
        &self,
        principal: &str,
        registration: Registration,
    ) -> Result<Registered, CallRefusal> {
        self.house.register_downstream(principal, registration).await
    }

    /// A controller's downstreams.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn downstreams(
        &self,
        principal: &str,
        controller: &str,
    ) -> Result<Vec<DownstreamInfo>, CallRefusal> {
        self.house.downstream_list(principal, controller)
    }

    /// The erasure ledger from event `since` on, as signed records.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn replay_erasures(
        &self,
        principal: &str,
        downstream: &str,
        since: u64,
    ) -> Result<Replay, CallRefusal> {
        downstreams::replay(&self.house, self.signer.clone(), principal, downstream, since)
    }

    /// The erasure ledger from event `since` on, for whoever keeps it outside: a signed line a fence.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] to all but administrators.
    pub fn export_ledger(&self, principal: &str, since: u64) -> Result<Export, CallRefusal> {
        Export::begin(&self.house, principal, since)
    }

    /// Destroys again what a ledger's lines name and this vault, restored, has alive; with `dry_run` only counts.
    ///
    /// # Errors
    /// [`CallRefusal::Invalid`] for a line that this vault did not sign, with nothing done.
    pub async fn replay_ledger(
        &self,
        principal: &str,
        lines: &[String],
        dry_run: bool,
    ) -> Result<Replayed, CallRefusal> {
        self.house.replay_ledger(principal, lines, dry_run).await
    }

    /// The same from the purges that Kafka still holds.
    ///
    /// # Errors
    /// [`CallRefusal::Unavailable`] without Kafka.
    pub async fn replay_kafka(&self, principal: &str, dry_run: bool) -> Result<Replayed, CallRefusal> {
        self.house.replay_kafka(principal, dry_run).await
    }

    /// Applies a controller's register, or shows with `dry_run` what would change.
    ///
    /// # Errors
    /// A register that does not parse, or that would strand what is stored.
    pub async fn apply_register(
        &self,
        principal: &str,
        toml: &str,
        dry_run: bool,
    ) -> Result<AppliedRegister, CallRefusal> {
        self.house.apply_register(principal, toml, dry_run).await
    }

    /// A register's text, version and time.
    ///
    /// # Errors
    /// Whatever is wrong with the request.
    pub async fn register(
        &self,
        principal: &str,
        controller: &str,
    ) -> Result<(String, u32, UnixMs), CallRefusal> {
        self.house.register_text(principal, controller)
    }

    /// The public keys that certificates and announcements are signed with.
    pub fn jwks(&self) -> String {
        jws::jwks(&self.house.state.verifying)
    }

    /// How the vault stands.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] without a role.
    pub async fn status(&self, principal: &str) -> Result<Status, CallRefusal> {
        self.house.status(principal).await
    }

    /// The same for metrics, which ask as nobody.
    pub fn figures(&self) -> Status {
        self.house.figures()
    }

    /// What the log says of itself now: a signed note (C2SP tlog-checkpoint).
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] without a role.
    pub async fn log_checkpoint(&self, principal: &str) -> Result<String, CallRefusal> {
        self.house.log_checkpoint(principal).await
    }

    /// The keys that have signed checkpoints, newest last, as verifiers of signed notes are given them.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] without a role.
    pub fn log_keys(&self, principal: &str) -> Result<Vec<String>, CallRefusal> {
        self.house.log_keys(principal)
    }

    /// A tile of the log's Merkle tree (C2SP tlog-tiles): its hashes, 32 bytes each.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] without a role, [`CallRefusal::NotFound`] beyond the log's end.
    pub async fn log_tile(&self, principal: &str, tile: Tile) -> Result<Bytes, CallRefusal> {
        self.house.log_tile(principal, tile).await
    }

    /// The events whose hashes a tile of the lowest level holds, as an entry bundle (C2SP tlog-tiles).
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] to all but administrators; [`CallRefusal::NotFound`] beyond the log's end, and
    /// where one of the events was pruned or is longer than a bundle can say.
    pub async fn log_entries(&self, principal: &str, tile: Tile) -> Result<Bytes, CallRefusal> {
        self.house.log_entries(principal, tile).await
    }

    /// Drops the ciphertext of dead values from the log. Every hash and proof, and every answer, stays.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] to all but administrators.
    pub async fn prune_log(&self, principal: &str) -> Result<Pruned, CallRefusal> {
        self.house.prune_log(principal).await
    }

    /// How the keys stand with their root holder.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] without a role; [`CallRefusal::Conflict`] with what the holder says.
    pub async fn keys(&self, principal: &str) -> Result<KeysView, CallRefusal> {
        self.house.order(principal, Order::Tell).await
    }

    /// Replaces the root now, as every batch does; returns when the former one is destroyed and probed.
    ///
    /// # Errors
    /// As [`Engine::keys`]; for administrators.
    pub async fn rotate_keys(&self, principal: &str) -> Result<KeysView, CallRefusal> {
        self.house.order(principal, Order::Rotate).await
    }

    /// Moves the root to another holder; returns when the former one is destroyed and probed.
    ///
    /// # Errors
    /// As [`Engine::keys`]; for administrators. The refusal says whether the root has moved nonetheless.
    pub async fn move_keys(
        &self,
        principal: &str,
        holder: Arc<dyn RootHolder>,
    ) -> Result<KeysView, CallRefusal> {
        self.house.move_keys(principal, holder).await
    }

    /// Makes a key backup, whose root stays in escrow for the configured window. Its bytes stand in a file without a
    /// name, from its start.
    ///
    /// # Errors
    /// As [`Engine::keys`]; for administrators. [`CallRefusal::Conflict`] where no window is configured.
    pub async fn back_up_keys(&self, principal: &str) -> Result<(KeyBackupView, std::fs::File), CallRefusal> {
        self.house.back_up_keys(principal).await
    }

    /// Ends the escrow of a key backup before its time; without an `id` all of them.
    ///
    /// # Errors
    /// As [`Engine::keys`]; for administrators.
    pub async fn end_key_backup(&self, principal: &str, id: &str) -> Result<KeysView, CallRefusal> {
        self.house.end_key_backup(principal, id).await
    }

    /// Replays the whole log and compares.
    ///
    /// # Errors
    /// [`CallRefusal::Forbidden`] without a role.
    pub async fn verify_log(&self, principal: &str) -> Result<LogVerdict, CallRefusal> {
        self.house.verify_log(principal).await
    }
}
