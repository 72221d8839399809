//! The one task that writes: what waits is grouped into one commit, and purges into one batch of the tree.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::Slot;
use cloakroom_core::mutants::Mutant;
use cloakroom_crypto::Key;
use cloakroom_crypto::role::Value;
use cloakroom_keytree::{Fault, TreeWriter};
use cloakroom_proto::record::v1 as record;
use cloakroom_store::embedded::Folder;
use cloakroom_store::{Batch, Records, StoreError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::layout::{self, Counts, Mark};
use super::uses::Uses;
use super::{COPIES, Forget, Reply, RowEdit, slot_of};
use crate::{DownstreamError, Erasure, Purged, Rectified, Token};

/// Changes in one commit: as many as arrive during the one before, up to this.
const GROUP_MAX: usize = 256;
/// The root holder hears of the newest commit at most so often (erasure.md, "Root holders").
const NOTED_EVERY: Duration = Duration::from_secs(1);
/// Pauses between tries to destroy a former root that would not go.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const RECORD_VERSION: u32 = 1;

/// A copy on its way in. Its key exists here alone until the commit.
pub(super) struct NewCopy {
    pub(super) token: Token,
    pub(super) record: Vec<u8>,
    pub(super) counts: Vec<u8>,
    pub(super) key: Key<Value>,
    pub(super) sealed: Bytes,
    pub(super) bits: u64,
    pub(super) seen: u64,
}

pub(super) enum Command {
    Put { copy: NewCopy, reply: Reply<()> },
    Rows { edit: RowsCommand },
    Reached { position: u64, reply: Reply<()> },
    Purge { what: Vec<Erasure>, reply: Reply<Vec<Purged>> },
    Drop { what: Rectified, reply: Reply<()> },
    Close,
}

/// Works on the rows, and gives back what answers its caller once it is known whether they were written.
type RowsCommand = Box<dyn for<'a> FnOnce(&'a mut RowEdit) -> BoxFuture<'a, Answer> + Send>;
type Answer = Box<dyn FnOnce(bool) + Send>;

impl Command {
    pub(super) fn rows<T, E>(edit: E, reply: Reply<T>) -> Self
    where
        T: Send + 'static,
        E: for<'a> FnOnce(&'a mut RowEdit) -> BoxFuture<'a, Result<T, DownstreamError>> + Send + 'static,
    {
        let edit: RowsCommand = Box::new(move |rows: &mut RowEdit| {
            async move {
                let saved = rows.saved();
                let outcome = edit(rows).await;
                if outcome.is_err() {
                    rows.restore(saved);
                }
                answer(reply, outcome)
            }
            .boxed()
        });
        Self::Rows { edit }
    }
}

/// Tells the caller `outcome` if it was written, or that it was not.
fn answer<T: Send + 'static>(reply: Reply<T>, outcome: Result<T, DownstreamError>) -> Answer {
    Box::new(move |written| {
        let outcome = match outcome {
            Ok(_) if !written => Err(DownstreamError::NotWritten),
            outcome => outcome,
        };
        // A caller that has gone away needs no answer: what is written stays written.
        let _gone = reply.send(outcome);
    })
}

pub(super) struct Writer {
    records: Arc<dyn Records>,
    tree: TreeWriter,
    uses: Arc<Uses>,
    also: Arc<dyn Forget>,
    noted: Instant,
    /// Keeps other processes out for as long as this one writes.
    _folder: Option<Folder>,
}

/// What one batch is to destroy, and how its askers are answered.
struct Doom {
    changes: RowEdit,
    slots: Vec<Slot>,
    answers: Vec<Answer>,
}

impl Writer {
    pub(super) fn new(
        records: Arc<dyn Records>,
        tree: TreeWriter,
        uses: Arc<Uses>,
        also: Arc<dyn Forget>,
        folder: Option<Folder>,
    ) -> Self {
        Self { records, tree, uses, also, noted: Instant::now(), _folder: folder }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut closing = false;
        while !closing && let Some(first) = queue.recv().await {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            closing = self.work(group).await;
            if self.noted.elapsed() >= NOTED_EVERY {
                self.note().await;
            }
        }
        self.note().await;
    }

    /// Writes one group; true if it was asked to be the last.
    async fn work(&mut self, group: Vec<Command>) -> bool {
        let mut changes = RowEdit::over(&self.records);
        let mut doom = Doom { changes: RowEdit::over(&self.records), slots: vec![], answers: vec![] };
        let (mut keys, mut answers, mut purges, mut closing) = (vec![], vec![], vec![], false);
        for command in group {
            match command {
                Command::Put { copy, reply } => {
                    let outcome = self.admit(copy, &mut changes, &mut keys).await;
                    answers.push(answer(reply, outcome));
                }
                Command::Rows { edit } => answers.push(edit(&mut changes).await),
                Command::Reached { position, reply } => {
                    changes.set(layout::POSITION.to_vec(), Some(number(position)));
                    answers.push(answer(reply, Ok(())));
                }
                Command::Purge { .. } | Command::Drop { .. } => purges.push(command),
                Command::Close => closing = true,
            }
        }
        let written = self.insert(keys, changes).await;
        answers.into_iter().for_each(|answer| answer(written));
        for command in purges {
            match command {
                Command::Purge { what, reply } => self.doom_all(what, reply, &mut doom).await,
                Command::Drop { what, reply } => self.drop_copies(what, reply, &mut doom).await,
                _ => {}
            }
        }
        self.destroy(doom).await;
        closing
    }

    /// Takes a copy in, unless its token was purged or rectified since its value was asked for.
    async fn admit(
        &mut self,
        copy: NewCopy,
        changes: &mut RowEdit,
        keys: &mut Vec<(Slot, Key<Value>)>,
    ) -> Result<(), DownstreamError> {
        let purged =
            self.uses.is_closed(&copy.token) || changes.record(&layout::mark(&copy.token)).await?.is_some();
        if purged && !Mutant::CopyAfterPurge.lives() {
            return Err(DownstreamError::Purged);
        }
        let newest = changes.record(&layout::sequence(&copy.token)).await?;
        if layout::decode_number("sequence", newest)? != copy.seen {
            return Err(DownstreamError::Stale);
        }
        if changes.record(&copy.record).await?.is_some() {
            return Ok(()); // two asked at once: the first one's copy stays
        }
        let slot = self.tree.next_slot(COPIES);
        let kept = record::Copy {
            version: RECORD_VERSION,
            slot: Some(record::Slot { subtree: slot.subtree.0, index: slot.index }),
            sealed: copy.sealed,
            bits: copy.bits,
        };
        count(changes, copy.counts, |counts| counts.copies = counts.copies.saturating_add(1)).await?;
        changes.set(copy.record, Some(kept.encode_to_vec().into()));
        keys.push((slot, copy.key));
        Ok(())
    }

    async fn insert(&mut self, keys: Vec<(Slot, Key<Value>)>, changes: RowEdit) -> bool {
        if keys.is_empty() && changes.is_empty() {
            return true;
        }
        let slots: Vec<_> = keys.iter().map(|(slot, key)| (*slot, key.borrow().for_slot())).collect();
        match self.tree.insert(&slots, changes.into_batch(), None).await {
            Ok(_) => true,
            Err(fault) => not_written(fault),
        }
    }

    async fn doom_all(&mut self, what: Vec<Erasure>, reply: Reply<Vec<Purged>>, doom: &mut Doom) {
        let (saved, slots) = (doom.changes.saved(), doom.slots.len());
        let mut outcomes = Ok(Vec::with_capacity(what.len()));
        for erasure in &what {
            let outcome = self.doom_one(erasure, doom).await;
            match (&mut outcomes, outcome) {
                (Ok(outcomes), Ok(outcome)) => outcomes.push(outcome),
                (_, Err(error)) => {
                    outcomes = Err(error);
                    break;
                }
                (Err(_), _) => break,
            }
        }
        if outcomes.is_err() {
            doom.changes.restore(saved);
            doom.slots.truncate(slots);
        }
        doom.answers.push(answer(reply, outcomes));
    }

    /// Puts the mark, takes the copies out and names their slots, all in the batch to come.
    async fn doom_one(&self, what: &Erasure, doom: &mut Doom) -> Result<Purged, DownstreamError> {
        let mark = layout::mark(&what.token);
        if let Some(bytes) = doom.changes.record(&mark).await? {
            let before: Mark = layout::decode("purge mark", bytes)?;
            let count = if before.purge_id == what.purge_id { before.count } else { 0 };
            return Ok(self.outcome(count, before.epoch));
        }
        let copies = self.take_out(&what.token, doom).await?;
        let rows = self.also.forget(&mut doom.changes, what).await?;
        let count = copies.saturating_add(rows);
        let epoch = self.tree.state().epoch.saturating_add(u64::from(copies > 0));
        let kept = Mark { version: RECORD_VERSION, purge_id: what.purge_id.clone(), count, epoch };
        doom.changes.set(mark, Some(kept.encode_to_vec().into()));
        doom.changes.set(layout::sequence(&what.token), None);
        if count > 0 {
            let key = layout::counts(&what.controller);
            self::count(&mut doom.changes, key, |counts| counts.purged = counts.purged.saturating_add(1))
                .await?;
        }
        Ok(self.outcome(count, epoch))
    }

    async fn take_out(&self, token: &Token, doom: &mut Doom) -> Result<u32, DownstreamError> {
        let mut taken = 0_u32;
        for (key, bytes) in doom.changes.records_with(&layout::copies_of(token)).await? {
            let copy: record::Copy = layout::decode("copy", bytes)?;
            doom.slots.push(slot_of(&copy)?);
            if let Some(controller) = layout::controller_of(&key, token) {
                let key = layout::counts(controller);
                count(&mut doom.changes, key, |counts| counts.copies = counts.copies.saturating_sub(1))
                    .await?;
            }
            doom.changes.set(key.to_vec(), None);
            taken = taken.saturating_add(1);
        }
        Ok(taken)
    }

    fn outcome(&self, count: u32, epoch: u64) -> Purged {
        let evidence = format!("epoch {epoch}, {}", self.tree.destroy_class());
        if count > 0 { Purged::Gone { count, evidence } } else { Purged::NothingHeld { evidence } }
    }

    async fn drop_copies(&self, what: Rectified, reply: Reply<()>, doom: &mut Doom) {
        let (saved, slots) = (doom.changes.saved(), doom.slots.len());
        let outcome = self.drop_one(&what, doom).await;
        if outcome.is_err() {
            doom.changes.restore(saved);
            doom.slots.truncate(slots);
        }
        doom.answers.push(answer(reply, outcome));
    }

    async fn drop_one(&self, what: &Rectified, doom: &mut Doom) -> Result<(), DownstreamError> {
        let key = layout::sequence(&what.token);
        let newest = layout::decode_number("sequence", doom.changes.record(&key).await?)?;
        let purged = doom.changes.record(&layout::mark(&what.token)).await?.is_some();
        if purged || what.sequence <= newest {
            return Ok(());
        }
        doom.changes.set(key, Some(number(what.sequence)));
        self.take_out(&what.token, doom).await.map(drop)
    }

    /// Destroys the slots' keys and the former root, and only then answers.
    async fn destroy(&mut self, doom: Doom) {
        let batch = doom.changes.into_batch();
        let written = if doom.slots.is_empty() {
            self.mark_only(batch).await
        } else {
            match self.tree.batch(&doom.slots, batch, None).await {
                Ok(_) => true,
                Err(Fault::RootStays(_)) => {
                    self.until_former_root_is_gone().await;
                    true
                }
                Err(fault) => not_written(fault),
            }
        };
        doom.answers.into_iter().for_each(|answer| answer(written));
    }

    /// Nothing was held: the marks are written, no key dies.
    async fn mark_only(&mut self, batch: Batch) -> bool {
        if batch.changes.is_empty() {
            return true;
        }
        match self.tree.insert(&[], batch, None).await {
            Ok(_) => true,
            Err(fault) => not_written(fault),
        }
    }

    /// The purge counts, but may not be answered before the root that reached its keys is gone.
    async fn until_former_root_is_gone(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            match self.tree.destroy_former().await {
                Ok(()) => return,
                Err(fault) => tracing::error!(
                    error = &fault as &dyn std::error::Error,
                    "a former root will not go; purges wait for it"
                ),
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn note(&mut self) {
        self.noted = Instant::now();
        if let Err(fault) = self.tree.note().await {
            tracing::warn!(
                error = &fault as &dyn std::error::Error,
                "the root holder was not told how far the keys are"
            );
        }
    }
}

async fn count(
    changes: &mut RowEdit,
    key: Vec<u8>,
    change: impl FnOnce(&mut Counts),
) -> Result<(), DownstreamError> {
    let mut counts = match changes.record(&key).await? {
        Some(bytes) => layout::decode("counts", bytes)?,
        None => Counts::default(),
    };
    change(&mut counts);
    changes.set(key, Some(counts.encode_to_vec().into()));
    Ok(())
}

fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Nothing was written and nothing of it counts; or nothing is known about the disk any more.
fn not_written(fault: Fault) -> bool {
    match fault {
        Fault::Store(error) => stop_the_process(&error),
        fault => {
            tracing::error!(error = &fault as &dyn std::error::Error, "a change of copies was not written");
            false
        }
    }
}

/// After a failed write or sync nothing is known about the disk: the next start settles it (erasure.md,
/// "The batch").
fn stop_the_process(error: &StoreError) -> ! {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "writing copies failed: nothing is known about the disk any more, so the process stops"
    );
    std::process::abort()
}
