//! The access log: every read and every refusal, handed to the system before the answer. Each of its files that is
//! full is named in the log with its hash, so that the log's own proofs cover who read what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::event::{AccessFileSealed, Body};
use cloakroom_core::ids::EventNumber;
use cloakroom_core::refusal::{CallRefusal, Code};
use cloakroom_proto::record::v1 as record;
use cloakroom_store::AccessLog;
use prost::Message;
use tokio::sync::watch;

use crate::house::House;
use crate::proposal::Draft;
use crate::{EngineError, projection};

const VERSION: u32 = 1;
/// Files that one proposal names: after a restore there may be many.
const NAMED_AT_ONCE: usize = 1_000;

/// One call that reads.
pub(crate) struct Reads<'a> {
    pub(crate) principal: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) controller: &'a str,
    pub(crate) purpose: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) masked: bool,
    pub(crate) trace: [u8; 16],
    pub(crate) items: Vec<Read>,
}

/// One token of it.
pub(crate) struct Read {
    /// What the token led to.
    pub(crate) value: Option<EventNumber>,
    /// Why it was refused; none if it was given.
    pub(crate) outcome: Option<Code>,
    pub(crate) field: String,
}

impl Read {
    pub(crate) fn nowhere(code: Code) -> Self {
        Self { value: None, outcome: Some(code), field: String::new() }
    }
}

impl House {
    /// # Errors
    /// A read that cannot be recorded is not answered.
    pub(crate) async fn record(&self, reads: Reads<'_>) -> Result<(), CallRefusal> {
        let item = |read: Read| record::AccessItem {
            value: read.value.map_or(0, |number| number.0),
            outcome: read.outcome.map_or(0, |code| code as u32),
            field: read.field,
        };
        let entry = record::Access {
            version: VERSION,
            at_unix_ms: self.clock.now_unix_ms(),
            principal: reads.principal.to_owned(),
            verb: reads.verb.to_owned(),
            controller: reads.controller.to_owned(),
            purpose: reads.purpose.to_owned(),
            reason: reads.reason.to_owned(),
            trace_id: Bytes::copy_from_slice(&reads.trace),
            items: reads.items.into_iter().map(item).collect(),
            masked: reads.masked,
        };
        self.access.append(&entry.encode_to_vec()).await.map_err(|error| EngineError::from(error).for_call())
    }
}

/// Syncs the access log every so often, until `stop` says so. A sync seals a file that is full.
pub(crate) async fn sync(access: Arc<dyn AccessLog>, every_ms: u64, mut stop: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(Duration::from_millis(every_ms.max(1)));
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = tick.tick() => {}
        }
        let access = Arc::clone(&access);
        let synced = tokio::task::spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(async { access.sync().await })
        });
        if let Ok(Err(error)) = synced.await {
            tracing::error!(%error, "the access log could not be synced");
        }
    }
    drop(access.sync().await);
}

/// Looks every so often for sealed files that no event names, and names them, until `stop` says so. What a crash
/// leaves without its event is found by the next start's.
pub(crate) async fn name_files(house: Arc<House>, every_ms: u64, mut stop: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(Duration::from_millis(every_ms.max(1)));
    let mut known = 0;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = tick.tick() => {}
        }
        match house.name_sealed(known).await {
            Ok(now) => known = now,
            Err(error) => {
                tracing::warn!(
                    error = error.chain(),
                    "the log does not name the files of the access log yet"
                );
            }
        }
    }
}

impl House {
    /// Names the sealed files behind the first `known`; answers with how many are done with now.
    async fn name_sealed(&self, known: usize) -> Result<usize, EngineError> {
        let mut sealed = self.access.sealed(known).await?;
        sealed.truncate(NAMED_AT_ONCE);
        let mut drafts = vec![];
        for file in &sealed {
            let named = projection::access_file(file.first_entry, &file.hash);
            if self.projections.get(&named).await?.is_none() {
                let (first_entry, entries, sha256) = (file.first_entry, file.entries, file.hash);
                let sealed = AccessFileSealed { first_entry, entries, sha256 };
                drafts.push(Draft::of(Body::AccessFileSealed(sealed)));
            }
        }
        // A full disk, or a vault that stops: they are found again.
        if !drafts.is_empty() && self.propose(vec![], drafts, false).await.is_err() {
            return Ok(known);
        }
        Ok(known.saturating_add(sealed.len()))
    }

    /// What differs between the access log and what the log says of its files.
    pub(crate) async fn compare_access(&self, named: &NamedFiles) -> Result<Vec<String>, EngineError> {
        let mut now = BTreeMap::new();
        for first_entry in named.first_entries() {
            let access = Arc::clone(&self.access);
            let hash = tokio::task::spawn_blocking(move || {
                tokio::runtime::Handle::current().block_on(async { access.hash_now(first_entry).await })
            });
            let hash = hash.await.map_err(|_| EngineError::Stopped)??;
            now.extend(hash.map(|hash| (first_entry, hash)));
        }
        Ok(named.problems(&now))
    }
}

/// The files of the access log that events name.
#[derive(Default)]
pub(crate) struct NamedFiles(Vec<(EventNumber, AccessFileSealed)>);

impl NamedFiles {
    /// Takes in what event `number` says.
    pub(crate) fn read(&mut self, number: EventNumber, body: &Body) {
        if let Body::AccessFileSealed(it) = body {
            self.0.push((number, *it));
        }
    }

    /// The files, by the numbers of their first entries.
    pub(crate) fn first_entries(&self) -> BTreeSet<u64> {
        self.0.iter().map(|(_, it)| it.first_entry).collect()
    }

    /// What is wrong with the files, which hash to `now`, by the numbers of their first entries.
    pub(crate) fn problems(&self, now: &BTreeMap<u64, [u8; 32]>) -> Vec<String> {
        let problem = |(number, it): &(EventNumber, AccessFileSealed)| {
            let last = it.first_entry.saturating_add(it.entries).saturating_sub(1);
            let what = match now.get(&it.first_entry) {
                Some(hash) if *hash == it.sha256 => return None,
                Some(_) => "is not as it was sealed",
                None => "is missing",
            };
            let (first, event) = (it.first_entry, number.0);
            Some(format!(
                "the access log's file of entries {first} to {last} {what} (event {event} names it)"
            ))
        };
        self.0.iter().filter_map(problem).collect()
    }
}
