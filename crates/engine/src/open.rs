//! A start, in the order of erasure.md: own, look, find the end, check, mark, one batch, close the fences.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_bus::{Bootstrap, BusConfig, EmbeddedBroker, Signer};
use cloakroom_core::clock::Clock;
use cloakroom_core::event::{Body, Event, KeysRestored, Started, SystemKeyKind, SystemKeyMade};
use cloakroom_core::ids::{CommitPosition, EventNumber, FramePosition, Slot, StartId, Subtree, TreeId};
use cloakroom_crypto::address::AddressKey;
use cloakroom_crypto::sign::{SigningKey, VerifyingKey};
use cloakroom_crypto::{Key, arena, hash, random, role};
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{Fault, GateReason, LogView, RootHolder, Tree, TreeOptions};
use cloakroom_store::embedded::{
    AccessLogOptions, EmbeddedAccessLog, EmbeddedLog, EmbeddedRecords, Folder, LogOptions,
};
use cloakroom_store::{AccessLog, Frame, Hashes, Log, LogEnd, Records, StoreError};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::house::{Disk, House, VALUES_IN_FLIGHT, read_erasure};
use crate::key_backups::{Escrowed, KeyBackups, condemned_since};
use crate::lease::{self, Kept};
use crate::proposal::{BLANK, Draft, NewKey};
use crate::state::{DayKey, NEEDED_KEYS, Seed, State};
use crate::tokens::Ids;
use crate::witness::{self, Witness};
use crate::writer::{Tail, Writer, WriterLimits};
use crate::{BusOptions, Engine, EngineError, Options, access, announce, codec, collect, projection};

/// The format of the data and keys folders.
pub(crate) const FORMAT: u32 = 1;
/// Locked memory besides the cache: value keys under way, pages being edited, the vault's own keys.
const WORKING_BYTES: usize = 4 << 20;
/// For opened pages where nothing else is asked for: the keys of 1.4 million values.
const CACHE_BYTES: usize = 48 << 20;
/// The same within the 8 MiB that most systems let a process lock: the keys of 128,000 values.
const CACHE_BYTES_LEAST: usize = 4 << 20;

/// What operators may ask of the roots at once.
const ORDERS_MAX: usize = 4;

/// What a start came to.
pub enum Opened {
    /// In service.
    Ready(Engine),
    /// The gate is closed: nothing was changed, and the reason says what is missing.
    Gated(GateReason),
}

/// Layers that a test puts over what a vault stands on, each before its first use.
#[doc(hidden)]
pub trait Layers: Send {
    /// Over the log.
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        log
    }

    /// Over the key tree's records.
    fn keys(&mut self, keys: Arc<dyn Records>) -> Arc<dyn Records> {
        keys
    }

    /// Over the projections.
    fn projections(&mut self, projections: Arc<dyn Records>) -> Arc<dyn Records> {
        projections
    }

    /// Over the root holder.
    fn holder(&mut self, holder: Arc<dyn RootHolder>) -> Arc<dyn RootHolder> {
        holder
    }
}

/// None.
impl Layers for () {}

/// The stores of one vault.
struct Stores {
    folders: Vec<Folder>,
    keys: Arc<dyn Records>,
    projections: Arc<dyn Records>,
    log: Arc<dyn Log>,
    access: Arc<dyn AccessLog>,
    holder: Arc<dyn RootHolder>,
    disk: Disk,
}

/// What the log says of itself before anything is changed.
#[derive(Default)]
struct Survey {
    tree: Option<TreeId>,
    starts: Vec<(StartId, u64)>,
    abandoned: Vec<FramePosition>,
    /// The projections stand ahead of the log, do not read, or are another version's.
    rebuild: bool,
}

/// What a start has seen before it changes anything.
pub(crate) struct Looked {
    stores: Stores,
    pub(crate) found: Found,
    kept: Kept,
    pub(crate) end: LogEnd,
    survey: Survey,
}

/// Locks memory for keys; how much of it opened pages may take.
fn locked_cache(options: &Options) -> Result<usize, EngineError> {
    let reserve = |cache_bytes: usize, allow_unlocked| {
        arena::reserve(cache_bytes.saturating_add(WORKING_BYTES), allow_unlocked).map(|_| cache_bytes)
    };
    match options.cache_bytes {
        0 => {
            let least = |_| reserve(CACHE_BYTES_LEAST, options.allow_unlocked);
            Ok(reserve(CACHE_BYTES, false).or_else(least)?)
        }
        cache_bytes => Ok(reserve(cache_bytes, options.allow_unlocked)?),
    }
}

/// Owns the tree, finds the log's end and reads what the checks need. Nothing is changed.
pub(crate) async fn look(options: &Options, layers: &mut dyn Layers) -> Result<Looked, EngineError> {
    let cache_bytes = locked_cache(options)?;
    let stores = stores(options, layers)?;
    let tree_options = TreeOptions { cache_bytes, take_over: options.take_over };
    let (found, kept) =
        lease::look(&stores.keys, &stores.holder, options.former.as_ref(), tree_options).await?;
    let end = match stores.log.find_end(found.log().map_or(0, |log| log.number)).await {
        Ok(end) => end,
        Err(damaged @ StoreError::Damaged { .. }) => {
            match (found.log(), stores.log.find_end(0).await) {
                // The log ends too early but is whole: it was rolled back, which the checks say better.
                (Some(lacking), Ok(end)) if end.newest.is_none_or(|(at, _)| at.number < lacking.number) => {
                    end
                }
                _ => return Err(damaged.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let survey = survey(&stores, &end).await?;
    Ok(Looked { stores, found, kept, end, survey })
}

impl Looked {
    /// The reason why the gate must stay closed, if there is one. `accepted`: a frame that the log may lack.
    pub(crate) async fn gate(
        &self,
        accepted: Option<FramePosition>,
    ) -> Result<Option<GateReason>, EngineError> {
        let abandoned: Vec<FramePosition> = self.survey.abandoned.iter().copied().chain(accepted).collect();
        let view = LogView {
            tree: self.survey.tree,
            rests_on: self.end.rests_on,
            starts: &self.survey.starts,
            newest: self.newest(),
            abandoned: &abandoned,
        };
        match self.found.check(view).await {
            Ok(()) => Ok(None),
            Err(Fault::Gate(reason)) => Ok(Some(reason)),
            Err(fault) => Err(fault.into()),
        }
    }

    /// The reason why keys that were restored from a backup cannot be gone on from.
    pub(crate) async fn backup_gate(&self) -> Result<Option<GateReason>, EngineError> {
        let view = LogView {
            tree: self.survey.tree,
            rests_on: None,
            starts: &self.survey.starts,
            newest: self.newest(),
            abandoned: &self.survey.abandoned,
        };
        match self.found.check_backup(view).await {
            Ok(()) => Ok(None),
            Err(Fault::Gate(reason)) => Ok(Some(reason)),
            Err(fault) => Err(fault.into()),
        }
    }

    /// What the witness may say without this vault being behind.
    fn witness(&self, accepted: Option<FramePosition>) -> Witness {
        let abandoned: Vec<FramePosition> = self.survey.abandoned.iter().copied().chain(accepted).collect();
        Witness::new(self.found.tree_id(), &abandoned, self.found.starts())
    }

    /// Asks the witness, if it answers in time: the frame that it has seen and this log lacks; whether it answered.
    pub(crate) async fn witnessed(
        &self,
        options: &Options,
        accepted: Option<FramePosition>,
    ) -> Result<(Option<FramePosition>, bool), EngineError> {
        // A broker in this process holds nothing that this process did not say.
        let BusOptions::Kafka(config) = &options.bus else { return Ok((None, true)) };
        let keys = witness::signing_keys(self.log(), self.end.events).await?;
        if keys.is_empty() {
            return Ok((None, true)); // it has never spoken
        }
        let witness = self.witness(accepted);
        match tokio::time::timeout(witness::ANSWERS_WITHIN, witness.ahead(config, self.log(), &keys)).await {
            Ok(Ok(ahead)) => Ok((ahead, true)),
            Ok(Err(error @ EngineError::Bus(_))) => {
                tracing::warn!(error = error.chain(), "the witness does not answer yet");
                Ok((None, false))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tracing::warn!("the witness does not answer yet");
                Ok((None, false))
            }
        }
    }

    fn newest(&self) -> u64 {
        self.end.newest.map_or(0, |(at, _)| at.number)
    }

    /// The log that lies there.
    pub(crate) fn log(&self) -> &dyn Log {
        &*self.stores.log
    }
}

/// Opens the stores and starts, or finds the gate closed. `accepted` names the frame that the keys have recorded
/// and that an older log may lack: what followed that log's end once is given up.
pub(crate) async fn open(
    options: Options,
    clock: Arc<dyn Clock>,
    layers: &mut dyn Layers,
    accepted: Option<FramePosition>,
    restored_by: Option<&str>,
) -> Result<Opened, EngineError> {
    let looked = look(&options, layers).await?;
    let gate = match restored_by {
        None => looked.gate(accepted).await?,
        Some(_) => looked.backup_gate().await?,
    };
    if let Some(reason) = gate {
        return Ok(Opened::Gated(reason));
    }
    let (ahead, heard) = looked.witnessed(&options, accepted).await?;
    if let Some(seen) = ahead {
        return Ok(Opened::Gated(GateReason::Witnessed { seen }));
    }
    let witness = (looked.witness(accepted), heard);
    // Named in the log only where it is what this start gives up.
    let abandons = accepted.filter(|at| !witness::holds(&looked.survey.starts, looked.newest(), *at));
    let Looked { stores, mut found, kept, end, survey } = looked;
    let start = StartId(random::id16());
    stores.log.cut().await?;
    if survey.rebuild {
        tracing::warn!("projections are rebuilt from the log");
        projection::clear(&*stores.projections).await?;
    }
    projection::shape(&*stores.projections).await?;
    if restored_by.is_some() && found.restoring().is_none() {
        catch_up(&*stores.log, &*stores.projections, end.events).await?;
        let escrowed = Escrowed::read(&*stores.log, &*stores.projections, clock.now_unix_ms()).await?;
        if found.root().is_none_or(|root| escrowed.event_of(root).is_none()) {
            let text = "these keys are no key backup whose root is in escrow: no event of the log names it";
            return Err(EngineError::BackupRefused(text.to_owned()));
        }
        let log_ends = projection::log_ends(&*stores.projections).await?;
        found.adopt(start, &log_ends, end.rests_on).await?;
    }
    let rests_on = found.prepare(start).await?;
    let software = env!("CARGO_PKG_VERSION").to_owned();
    let started = Started { start, tree: found.tree_id(), software, owner: found.owner().0, abandons };
    let mut bodies = vec![Body::Started(started)];
    if let Some(root) = found.restoring() {
        let principal = restored_by.unwrap_or_default().to_owned();
        let lacking = found.lost().to_vec();
        bodies.push(Body::KeysRestored(KeysRestored { root, at: rests_on, lacking, principal }));
    }
    let tail = mark(&stores, &end, start, bodies, rests_on, &*clock).await?;
    catch_up(&*stores.log, &*stores.projections, tail.events).await?;
    serve(options, clock, stores, (found, kept), witness, start, tail).await.map(Opened::Ready)
}

fn stores(options: &Options, layers: &mut dyn Layers) -> Result<Stores, EngineError> {
    let data = Folder::claim(&options.data, FORMAT)?;
    let keys = Folder::claim(&options.keys, FORMAT)?;
    for warning in data.warnings().iter().chain(keys.warnings()) {
        tracing::warn!("{warning}");
    }
    let hashes = Hashes { frame: hash::frame, leaf: hash::leaf };
    let log_options =
        LogOptions { reserve_bytes: options.reserve_bytes, segment_bytes: options.segment_bytes };
    let access_folder = options.data.join("access");
    // Reads stop before they would use what erasures need.
    let access_options = AccessLogOptions::default();
    let access_reserve = access_options.reserve_bytes.min(options.reserve_bytes / 2);
    let access_options =
        AccessLogOptions { file_bytes: options.access_file_bytes, reserve_bytes: access_reserve };
    let access = EmbeddedAccessLog::open(&access_folder, hash::sha256, access_options)?;
    let log = Arc::new(EmbeddedLog::open(&options.data.join("log"), hashes, log_options)?);
    let asked = Arc::clone(&log);
    let disk = Disk {
        reserve_bytes: options.reserve_bytes,
        free_bytes: Box::new(move || asked.free_bytes().map_err(EngineError::from)),
    };
    Ok(Stores {
        keys: layers.keys(Arc::new(EmbeddedRecords::open(&options.keys.join("tree"))?)),
        projections: layers.projections(Arc::new(projections(&options.data.join("projections"))?)),
        log: layers.log(log),
        access: Arc::new(access),
        holder: layers.holder(Arc::clone(&options.holder)),
        folders: vec![data, keys],
        disk,
    })
}

/// Projections that cannot be read at all are begun again: the log holds what they say.
fn projections(folder: &Path) -> Result<EmbeddedRecords, EngineError> {
    match EmbeddedRecords::open(folder) {
        Err(StoreError::Damaged { .. }) => {
            tracing::warn!("projections that do not read are removed and rebuilt from the log");
            std::fs::remove_dir_all(folder)
                .map_err(|source| StoreError::Io { what: "removing damaged projections", source })?;
            Ok(EmbeddedRecords::open(folder)?)
        }
        opened => Ok(opened?),
    }
}

/// Reads what the checks need, from projections as far as they go and from the frames behind them.
async fn survey(stores: &Stores, end: &LogEnd) -> Result<Survey, EngineError> {
    let applied = projection::read_number(&*stores.projections, projection::APPLIED).await;
    let kept = projection::log_starts(&*stores.projections).await;
    let abandoned = projection::abandoned(&*stores.projections).await;
    let shaped = matches!(applied, Ok(None)) || projection::has_todays_shape(&*stores.projections).await?;
    let (mut survey, mut at) = match (applied, kept, abandoned) {
        (Err(error @ EngineError::Store(_)), ..) => return Err(error),
        (Ok(applied), Ok(starts), Ok(abandoned))
            if shaped && follows(&*stores.log, end, applied, &starts).await? =>
        {
            (Survey { starts, abandoned, ..Survey::default() }, applied.unwrap_or(0).saturating_add(1))
        }
        _ => (Survey { rebuild: true, ..Survey::default() }, 1),
    };
    while at <= end.events {
        let Some((frame, _)) = stores.log.frame_of(EventNumber(at)).await? else { break };
        if survey.starts.last().is_none_or(|(start, _)| *start != frame.at.start) {
            survey.starts.push((frame.at.start, frame.at.number));
            // A start's first frame begins with its mark.
            if let Some(bytes) = frame.events.first()
                && let Body::Started(started) = codec::decode(frame.first_event, bytes.clone())?.body
            {
                survey.abandoned.extend(started.abandons);
            }
        }
        at = frame.first_event.0.saturating_add(frame.events.len().max(1) as u64);
    }
    // The first event of a log is its first start.
    if let Some(bytes) = stores.log.event(EventNumber(1)).await?
        && let Body::Started(first) = codec::decode(EventNumber(1), bytes)?.body
    {
        survey.tree = Some(first.tree);
    }
    Ok(survey)
}

/// Whether projections that stand at `applied` are this log's: it has that event, at the end of a frame that
/// their newest start wrote. They may have been brought from elsewhere, or the log.
async fn follows(
    log: &dyn Log,
    end: &LogEnd,
    applied: Option<u64>,
    starts: &[(StartId, u64)],
) -> Result<bool, EngineError> {
    let Some(applied) = applied else { return Ok(starts.is_empty()) };
    if applied > end.events {
        return Ok(false);
    }
    let Some((frame, _)) = log.frame_of(EventNumber(applied)).await? else { return Ok(false) };
    let last = frame.first_event.0.saturating_add(frame.events.len() as u64).saturating_sub(1);
    Ok(last == applied && starts.last().is_some_and(|(start, _)| *start == frame.at.start))
}

/// Appends `Started`, durable: from here on no other branch's log fits these keys.
async fn mark(
    stores: &Stores,
    end: &LogEnd,
    start: StartId,
    bodies: Vec<Body>,
    rests_on: CommitPosition,
    clock: &dyn Clock,
) -> Result<Tail, EngineError> {
    let (number, previous_hash) = end.newest.map_or((0, [0; 32]), |(at, hash)| (at.number, hash));
    let frame = Frame {
        at: FramePosition { start, number: number.saturating_add(1) },
        previous_hash,
        rests_on,
        durable_number: number,
        ends: vec![],
        first_event: EventNumber(end.events.saturating_add(1)),
        events: bodies
            .into_iter()
            .map(|body| codec::encode(&Event { at: clock.now_unix_ms(), body }))
            .collect(),
    };
    let events = end.events.saturating_add(frame.events.len() as u64);
    let hash = stores.log.append(&frame, true).await?;
    stores.log.sync().await?;
    Ok(Tail { newest: Some((frame.at, hash)), events })
}

/// Applies to the projections what the log has and they lack.
async fn catch_up(log: &dyn Log, projections: &dyn Records, end: u64) -> Result<(), EngineError> {
    let mut at =
        projection::read_number(projections, projection::APPLIED).await?.unwrap_or(0).saturating_add(1);
    let mut newest_start = projection::log_starts(projections).await?.last().map(|(start, _)| *start);
    while at <= end {
        let (frame, _) = log.frame_of(EventNumber(at)).await?.ok_or(EngineError::Projection)?;
        let mut events = Vec::with_capacity(frame.events.len());
        for (place, bytes) in frame.events.iter().enumerate() {
            let number = EventNumber(frame.first_event.0.saturating_add(place as u64));
            events.push(codec::decode(number, bytes.clone())?);
        }
        projections.apply(projection::changes(&frame, &events, newest_start)).await?;
        newest_start = Some(frame.at.start);
        at = frame.first_event.0.saturating_add(frame.events.len().max(1) as u64);
    }
    Ok(())
}

/// The start's batch, then everything that serves.
async fn serve(
    options: Options,
    clock: Arc<dyn Clock>,
    stores: Stores,
    (mut found, kept): (Found, Kept),
    witness: (Witness, bool),
    start: StartId,
    tail: Tail,
) -> Result<Engine, EngineError> {
    let (log, projections) = (Arc::clone(&stores.log), Arc::clone(&stores.projections));
    let mut fences = vec![];
    for fence in projection::all_numbers(&*projections, b'f').await? {
        let bytes = log.event(fence).await?.ok_or(EngineError::Projection)?;
        fences.push((fence, codec::decode(fence, bytes)?.body.dooms()));
    }
    let fenced: Vec<Slot> = fences.iter().flat_map(|(_, slots)| slots).copied().collect();
    let log_ends = projection::log_ends(&*projections).await?;
    let escrowed = Escrowed::read(&*log, &*projections, clock.now_unix_ms()).await?;
    found.end_escrows(escrowed.ended(&found));
    if let Some(root) = found.restoring() {
        // The newest of those with this root: the start that began the restoring has ended none.
        let made = escrowed.event_of(root).unwrap_or(EventNumber(0));
        found.forget_again(condemned_since(&*log, &*projections, made).await?);
    }
    let started = found.start(start, Some(&log_ends), &fenced, tail.newest.map(|(at, _)| at)).await?;
    let roots_gone = started.root_stays.is_none();
    let mut tree = started.writer;
    let registers = applied_registers(&*log, &*projections).await?;
    tree.raise_subtrees(registers.iter().map(|(_, event)| match &event.body {
        Body::RegisterApplied(it) => it.subtree.0.saturating_add(1),
        _ => 0,
    }));

    let reader = tree.tree();
    let keys = make_system_keys(&stores, tree, &clock, tail, &log_ends).await?;
    let (tree, tail, log_ends, system) = keys;
    let state = Arc::new(State::new(seed(&stores, &reader, system, tail.events).await?));
    for (number, event) in registers {
        state.apply(number, &event)?;
    }
    for (_, number) in projection::all(&*projections, b"d").await? {
        let number = EventNumber(projection::parse(&number)?);
        let bytes = log.event(number).await?.ok_or(EngineError::Projection)?;
        state.apply(number, &codec::decode(number, bytes)?)?;
    }
    let limits = WriterLimits {
        commit_events_max: options.commit_events_max,
        erase_batch: Duration::from_millis(options.erase_batch_ms),
    };
    let mut writer = Writer::new(
        Arc::clone(&log),
        Arc::clone(&projections),
        tree,
        Arc::clone(&state),
        Arc::clone(&clock),
        limits,
        tail,
        log_ends,
    );
    writer.escrowed = escrowed;
    writer.moved = kept.moved.clone();
    state.fence(fenced);
    writer.close_old_fences(fences, roots_gone).await?;
    drop(state.lease.set(Arc::clone(&kept.lease)));
    start_tasks(options, clock, stores, state, reader, (writer, kept), witness)
}

#[allow(clippy::too_many_arguments)] // the last step of a start, called once
fn start_tasks(
    options: Options,
    clock: Arc<dyn Clock>,
    stores: Stores,
    state: Arc<State>,
    tree: Tree,
    (writer, kept): (Writer, Kept),
    witness: (Witness, bool),
) -> Result<Engine, EngineError> {
    let (broker, bus) = bus(&options)?;
    let (queue, proposals) = mpsc::channel(options.queue_max.max(1));
    let (orders, asked) = mpsc::channel(ORDERS_MAX);
    let house = Arc::new(House {
        log: stores.log,
        projections: stores.projections,
        access: stores.access,
        tree,
        proofs: crate::proof::Proofs::default(),
        state,
        clock,
        writer: arc_swap::ArcSwapOption::from_pointee(queue),
        room: Semaphore::new(VALUES_IN_FLIGHT),
        admins: options.admins.clone(),
        kafka_bootstrap: match (&broker, &bus) {
            (Some(broker), _) => broker.address().to_owned(),
            (None, Some(BusConfig { bootstrap: Bootstrap::Address(address), .. })) => address.clone(),
            _ => String::new(),
        },
        bus: bus.clone(),
        disk: stores.disk,
        key_backups: KeyBackups { window_ms: options.key_backup_window_ms, folder: options.keys.clone() },
        lookup_rate: crate::lookup::Rate::new(options.lookup_per_second, options.lookup_burst),
        orders,
        gated: watch::channel(None).0,
    });
    let signer = Signer { source: options.source.clone(), key: Arc::clone(&house.state.signing) };
    let (stop, stopped) = watch::channel(false);
    let (failed, failure) = (kept.failed.clone(), kept.failed.subscribe());
    kept.in_service();
    let runtime = tokio::runtime::Handle::current();
    // Writes block: the writer has a thread of its own, so that no request waits behind a sync it did not ask for.
    let thread = std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(writer.run(proposals, asked))));
            let reason = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.chain(),
                Err(_) => "the writer panicked".to_owned(),
            };
            tracing::error!(reason, "the writer stops: nothing is known about the disk");
            failed.send_replace(Some(reason));
        })
        .map_err(|source| StoreError::Io { what: "starting the writer", source })?;
    let mut tasks = vec![
        tokio::spawn(access::sync(Arc::clone(&house.access), options.access_sync_ms, stopped.clone())),
        tokio::spawn(access::name_files(Arc::clone(&house), options.access_sync_ms, stopped.clone())),
        tokio::spawn(collect::sweep(Arc::clone(&house), stopped.clone())),
        tokio::spawn(crate::proof::follow(Arc::clone(&house), stopped.clone())),
        tokio::spawn(crate::lookup::keep(Arc::clone(&house), stopped.clone())),
    ];
    if let Some(config) = bus {
        tasks.push(tokio::spawn(announce::run(
            Arc::clone(&house),
            config.clone(),
            signer.clone(),
            // A broker in this process holds nothing that this process did not say.
            matches!(options.bus, BusOptions::Kafka(_)).then_some(witness),
            stopped.clone(),
        )));
        tasks.push(tokio::spawn(collect::run(Arc::clone(&house), config, stopped)));
    }
    Ok(Engine::new(house, signer, stop, failure, (thread, kept), tasks, broker, stores.folders))
}

fn bus(options: &Options) -> Result<(Option<EmbeddedBroker>, Option<BusConfig>), EngineError> {
    match &options.bus {
        BusOptions::Off => Ok((None, None)),
        BusOptions::Kafka(config) => Ok((None, Some(config.clone()))),
        BusOptions::Embedded => {
            let port_file = options.data.join("kafka.port");
            let broker = EmbeddedBroker::start(&port_file)?;
            Ok((Some(broker), Some(BusConfig::plaintext(Bootstrap::PortFile(port_file)))))
        }
    }
}

async fn applied_registers(
    log: &dyn Log,
    projections: &dyn Records,
) -> Result<Vec<(EventNumber, Event)>, EngineError> {
    let mut registers = vec![];
    for (_, number) in projection::all(projections, b"c").await? {
        let number = EventNumber(projection::parse(&number)?);
        let bytes = log.event(number).await?.ok_or(EngineError::Projection)?;
        registers.push((number, codec::decode(number, bytes)?));
    }
    Ok(registers)
}

/// The events of the keys of the vault's own, oldest first.
type SystemKeys = Vec<(EventNumber, i64, SystemKeyMade)>;

async fn system_keys(log: &dyn Log, projections: &dyn Records) -> Result<SystemKeys, EngineError> {
    let mut keys = vec![];
    for number in projection::all_numbers(projections, b'y').await? {
        let bytes = log.event(number).await?.ok_or(EngineError::Projection)?;
        let event = codec::decode(number, bytes)?;
        if let Body::SystemKeyMade(made) = event.body {
            keys.push((number, event.at, made));
        }
    }
    Ok(keys)
}

/// Makes the keys that a new vault lacks, by the same writer that serves later.
async fn make_system_keys(
    stores: &Stores,
    tree: cloakroom_keytree::TreeWriter,
    clock: &Arc<dyn Clock>,
    tail: Tail,
    log_ends: &HashMap<Subtree, u64>,
) -> Result<(cloakroom_keytree::TreeWriter, Tail, HashMap<Subtree, u64>, SystemKeys), EngineError> {
    let known = system_keys(&*stores.log, &*stores.projections).await?;
    let missing: Vec<SystemKeyKind> =
        NEEDED_KEYS.into_iter().filter(|kind| !known.iter().any(|(_, _, made)| made.kind == *kind)).collect();
    if missing.is_empty() {
        return Ok((tree, tail, log_ends.clone(), known));
    }
    let drafts = missing.into_iter().map(|kind| {
        let (key, verifying_key) = match kind {
            SystemKeyKind::Address => (NewKey::Address(Key::random()), bytes::Bytes::new()),
            SystemKeyKind::Idempotency => (NewKey::Idempotency(Key::random()), bytes::Bytes::new()),
            SystemKeyKind::Signing => {
                let seed = Key::<role::Signing>::random();
                let verifying = SigningKey::from_seed(seed.borrow()).verifying_key().as_bytes().to_vec();
                (NewKey::Signing(seed), verifying.into())
            }
        };
        let made = SystemKeyMade { kind, slot: BLANK, verifying_key };
        Draft::with_key(Body::SystemKeyMade(made), Subtree::SYSTEM, key)
    });
    // Nobody is served yet: the state that this writer works on is a stand-in without registers.
    let stand_in = Arc::new(State::new(stand_in()));
    let limits = WriterLimits { commit_events_max: usize::MAX, erase_batch: Duration::ZERO };
    let mut writer = Writer::new(
        Arc::clone(&stores.log),
        Arc::clone(&stores.projections),
        tree,
        stand_in,
        Arc::clone(clock),
        limits,
        tail,
        log_ends.clone(),
    );
    writer.commit_now(drafts.collect()).await?;
    let known = system_keys(&*stores.log, &*stores.projections).await?;
    let (tree, tail, log_ends) = writer.into_parts();
    Ok((tree, tail, log_ends, known))
}

fn stand_in() -> Seed {
    let seed = Key::<role::Signing>::random();
    Seed {
        ids: Ids::new(AddressKey::new(Key::random().borrow())),
        signing: Arc::new(SigningKey::from_seed(seed.borrow())),
        verifying: vec![],
        day_keys: vec![],
        newest_day_key: EventNumber(0),
        rectified: HashMap::new(),
        open: BTreeMap::new(),
        events: 0,
        announced: 0,
    }
}

async fn seed(stores: &Stores, tree: &Tree, keys: SystemKeys, events: u64) -> Result<Seed, EngineError> {
    let (log, projections) = (&*stores.log, &*stores.projections);
    let (mut ids, mut signing, mut verifying, mut day_keys) = (None, None, vec![], vec![]);
    let mut newest_day_key = EventNumber(0);
    for (number, _, made) in &keys {
        match made.kind {
            SystemKeyKind::Address => {
                ids = tree.with_key(made.slot, |key| AddressKey::new(key.for_job())).await?.map(Ids::new);
            }
            SystemKeyKind::Signing => {
                signing = tree.with_key(made.slot, |key| SigningKey::from_seed(key.for_job())).await?;
                verifying.extend(VerifyingKey::from_bytes(&made.verifying_key).ok());
            }
            SystemKeyKind::Idempotency => {
                day_keys.extend(read_day_key(log, tree, *number).await?);
                newest_day_key = newest_day_key.max(*number);
            }
        }
    }
    let mut rectified = HashMap::new();
    for (value, newest) in projection::all(projections, b"r").await? {
        rectified.insert(EventNumber(projection::parse(&value)?), EventNumber(projection::parse(&newest)?));
    }
    let mut open = BTreeMap::new();
    for fence in projection::all_numbers(projections, b'o').await? {
        open.extend(read_erasure(log, projections, fence).await?.map(|erasure| (fence, erasure)));
    }
    let announced = projection::read_number(projections, projection::ANNOUNCED).await?.unwrap_or(0);
    Ok(Seed {
        ids: ids.ok_or(EngineError::SystemKey)?,
        signing: Arc::new(signing.ok_or(EngineError::SystemKey)?),
        verifying,
        day_keys,
        newest_day_key,
        rectified,
        open,
        events,
        // Projections that were rebuilt may be behind a cursor that was not.
        announced: announced.min(events),
    })
}

/// A day's key, if it still lives.
pub(crate) async fn read_day_key(
    log: &dyn Log,
    tree: &Tree,
    event: EventNumber,
) -> Result<Option<Arc<DayKey>>, EngineError> {
    let Some(bytes) = log.event(event).await? else { return Ok(None) };
    let read = codec::decode(event, bytes)?;
    let Body::SystemKeyMade(made) = read.body else { return Ok(None) };
    let key = tree.with_key(made.slot, |key| key.for_job::<role::Idempotency>().to_key()).await?;
    Ok(key.map(|key| Arc::new(DayKey { event, made_at: read.at, slot: made.slot, key })))
}
