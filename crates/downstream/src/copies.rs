//! Copies of personal data that can be purged: each sealed under a random key of its own, in a key tree like
//! the vault's with a root of its own. Purging destroys the keys and replaces the root, so that a deleted row,
//! an old page of the file or last night's backup of it is noise.
//!
//! - [`Copies`]: put, use, purge
//! - `writer`: the one task that changes anything
//! - `uses`: a purge waits for the uses under way
//! - [`RowEdit`]: the application's own rows in the same commits
//! - `layout`: where things lie

mod layout;
mod rows;
mod uses;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloakroom_core::ids::{Slot, StartId, TreeId};
use cloakroom_crypto::role::Value;
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, Plaintext, random};
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{Fault, FileHolder, LogView, RootHolder, Subtree, Tree, TreeOptions};
use cloakroom_proto::record::v1::Copy as CopyRecord;
use cloakroom_store::Records;
use cloakroom_store::embedded::{EmbeddedRecords, Folder};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use layout::{Counts, Scope};
pub use rows::{Forget, NothingElse, RowEdit, Rows, read_row, row_key};

use crate::{DownstreamError, Erasure, Purge, PurgeError, Purged, Rectified, Token};
use uses::Uses;
use writer::{Command, NewCopy, Writer};

/// The format of the data folder.
const FORMAT: u32 = 1;
/// A downstream has no keys of its own in its tree: all slots are copies'.
const COPIES: Subtree = Subtree(0);
/// Changes that wait for the writer; whoever comes then waits for a place.
const QUEUE_MAX: usize = 1024;
/// How long a clean stop may take; only a former root that will not go takes longer.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);
/// The one version of a copy: a rectified value gets a new copy with bits of its own.
const VALUE_VERSION: u32 = 1;

/// The store. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Copies(Arc<House>);

struct House {
    records: Arc<dyn Records>,
    tree: Tree,
    destroy_class: &'static str,
    uses: Arc<Uses>,
    commands: mpsc::Sender<Command>,
    writer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// How many notices about a token had been seen when its value was asked for; see [`Copies::put`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sequence(u64);

impl Copies {
    /// Opens the store in `folder`, with its roots in `roots`; both are made where they are missing. `also` is
    /// what else the application keeps by token.
    ///
    /// # Errors
    /// [`DownstreamError::Store`] if another process has the folder; [`DownstreamError::Tree`] with a closed
    /// gate if the folder is an old copy: its values are noise, so remove it and start with none.
    pub async fn open(folder: &Path, roots: &Path, also: Arc<dyn Forget>) -> Result<Self, DownstreamError> {
        let claimed = Folder::claim(folder, FORMAT)?;
        for warning in claimed.warnings() {
            tracing::warn!("{warning}");
        }
        let records = Arc::new(EmbeddedRecords::open(&claimed.path().join("copies"))?);
        let holder = Arc::new(FileHolder::open(roots)?);
        Self::start(records, holder, also, Some(claimed)).await
    }

    /// The store on other records and another root holder.
    ///
    /// # Errors
    /// As [`Copies::open`].
    pub async fn over(
        records: Arc<dyn Records>,
        holder: Arc<dyn RootHolder>,
        also: Arc<dyn Forget>,
    ) -> Result<Self, DownstreamError> {
        Self::start(records, holder, also, None).await
    }

    async fn start(
        records: Arc<dyn Records>,
        holder: Arc<dyn RootHolder>,
        also: Arc<dyn Forget>,
        folder: Option<Folder>,
    ) -> Result<Self, DownstreamError> {
        let found = Found::look(Arc::clone(&records), holder, TreeOptions::default()).await?;
        if let Err(fault) = found.check(LogView::default()).await {
            if let Fault::Gate(reason) = &fault {
                tracing::error!(
                    %reason,
                    "these copies are an old copy and noise; remove the data folder to start with none: \
                     what is needed is read anew, what was erased is told again"
                );
            }
            return Err(fault.into());
        }
        let mut started = found.start(StartId(random::id16()), None, &[], None).await?;
        if started.root_stays.take().is_some() {
            started.writer.destroy_former().await?;
        }
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let uses = Arc::new(Uses::default());
        let (tree, destroy_class) = (started.writer.tree(), started.writer.destroy_class());
        let writer = Writer::new(Arc::clone(&records), started.writer, Arc::clone(&uses), also, folder);
        let writer = tokio::sync::Mutex::new(Some(tokio::spawn(writer.run(queue))));
        Ok(Self(Arc::new(House { records, tree, destroy_class, uses, commands, writer })))
    }

    /// The id of the tree that the copies' keys hang in.
    pub fn tree_id(&self) -> TreeId {
        self.0.tree.id()
    }

    /// What a purge here is worth: its root holder's class.
    pub fn destroy_class(&self) -> &'static str {
        self.0.destroy_class
    }

    /// Where a token stands now. Take it before the value is asked for, hand it to [`Copies::put`].
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn sequence(&self, token: &Token) -> Result<Sequence, DownstreamError> {
        let found = self.0.records.get(&layout::sequence(token)).await?;
        layout::decode_number("sequence", found).map(Sequence)
    }

    /// Keeps a copy of a value, durably. One that is here already stays.
    ///
    /// # Errors
    /// [`DownstreamError::Purged`] if the token was purged meanwhile, and [`DownstreamError::Stale`] if it was
    /// rectified since `seen`: the value is not kept.
    pub async fn put(
        &self,
        token: &Token,
        of: Scope<'_>,
        text: &Plaintext,
        seen: Sequence,
    ) -> Result<(), DownstreamError> {
        let key = Key::<Value>::random();
        let bits = random::u64();
        let sealed = key.borrow().seal(text, &context(token, of, bits))?;
        let copy = NewCopy {
            token: token.clone(),
            record: layout::copy(token, of),
            counts: layout::counts(of.controller),
            key,
            sealed,
            bits,
            seen: seen.0,
        };
        self.ask(|reply| Command::Put { copy, reply }).await
    }

    /// Begins to use a token: a purge of it waits until the guard is dropped, so keep it no longer than the
    /// work takes, and give that work a deadline.
    ///
    /// # Errors
    /// [`DownstreamError::Purged`]
    pub async fn hold(&self, token: &Token) -> Result<CopyGuard, DownstreamError> {
        if !self.0.uses.enter(token) {
            return Err(DownstreamError::Purged);
        }
        let guard = CopyGuard { copies: self.clone(), token: token.clone() };
        match self.0.records.get(&layout::mark(token)).await? {
            Some(_) => Err(DownstreamError::Purged),
            None => Ok(guard),
        }
    }

    /// Hands the copy to `use_text` while a purge waits; `None` where there is none.
    ///
    /// # Errors
    /// [`DownstreamError::Purged`]; otherwise the database or damage, never "none".
    pub async fn with_copy<T>(
        &self,
        token: &Token,
        of: Scope<'_>,
        use_text: impl FnOnce(&Plaintext) -> T,
    ) -> Result<Option<T>, DownstreamError> {
        let guard = self.hold(token).await?;
        Ok(guard.text(of).await?.map(|text| use_text(&text)))
    }

    /// The application's rows, as committed.
    pub fn rows(&self) -> Rows {
        Rows(Arc::clone(&self.0.records))
    }

    /// Changes rows, one edit at a time, durably: what `edit` reads is what nobody else changes meanwhile. If it
    /// gives an error nothing of it is written.
    ///
    /// # Errors
    /// What `edit` says, [`DownstreamError::NotWritten`], [`DownstreamError::Closed`].
    pub async fn edit_rows<T, E>(&self, edit: E) -> Result<T, DownstreamError>
    where
        T: Send + 'static,
        E: for<'a> FnOnce(&'a mut RowEdit) -> BoxFuture<'a, Result<T, DownstreamError>> + Send + 'static,
    {
        self.ask(|reply| Command::rows(edit, reply)).await
    }

    /// What is counted for a controller.
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn counts(&self, controller: &str) -> Result<Counts, DownstreamError> {
        match self.0.records.get(&layout::counts(controller)).await? {
            Some(bytes) => layout::decode("counts", bytes),
            None => Ok(Counts::default()),
        }
    }

    /// Stops the writer after what is queued, and tells the root holder how far the tree went. What is asked
    /// for afterwards is answered [`DownstreamError::Closed`]. The files are free when the last clone is gone.
    pub async fn close(&self) {
        let writer = self.0.writer.lock().await.take();
        let Some(writer) = writer else { return };
        let stop = writer.abort_handle();
        let ended = async {
            let asked = self.0.commands.send(Command::Close).await.is_ok();
            asked & writer.await.is_ok()
        };
        match tokio::time::timeout(CLOSED_WITHIN, ended).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the writer of copies had ended before it was asked to"),
            Err(_) => {
                stop.abort();
                tracing::warn!(
                    "the writer of copies did not end in time; the next start settles what it left"
                );
            }
        }
    }

    async fn destroy(&self, what: &[Erasure]) -> Result<Vec<Purged>, DownstreamError> {
        let tokens: Vec<Token> = what.iter().map(|erasure| erasure.token.clone()).collect();
        // A purge that is given up here leaves its tokens closed: it comes again, and till then nobody may
        // use what the vault has fenced.
        self.0.uses.close(&tokens).await;
        let what = what.to_vec();
        let purged = self.ask(|reply| Command::Purge { what, reply }).await?;
        self.0.uses.marked(&tokens);
        Ok(purged)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, DownstreamError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).await.map_err(|_| DownstreamError::Closed)?;
        answer.await.map_err(|_| DownstreamError::Closed)?
    }
}

type Reply<T> = oneshot::Sender<Result<T, DownstreamError>>;

#[async_trait]
impl Purge for Copies {
    async fn purge(&self, what: &[Erasure]) -> Result<Vec<Purged>, PurgeError> {
        self.destroy(what).await.map_err(to_be_tried_again)
    }

    async fn rectified(&self, what: &Rectified) -> Result<(), PurgeError> {
        let what = what.clone();
        self.ask(|reply| Command::Drop { what, reply }).await.map_err(to_be_tried_again)
    }

    fn copies_tree(&self) -> Option<TreeId> {
        Some(self.tree_id())
    }

    fn destroy_class(&self) -> String {
        Copies::destroy_class(self).to_owned()
    }

    async fn position(&self) -> Result<u64, PurgeError> {
        let found = async { Ok(self.0.records.get(layout::POSITION).await?) };
        let found = found.await.and_then(|found| layout::decode_number("position", found));
        found.map_err(to_be_tried_again)
    }

    async fn reached(&self, position: u64) -> Result<(), PurgeError> {
        self.ask(|reply| Command::Reached { position, reply }).await.map_err(to_be_tried_again)
    }
}

fn to_be_tried_again(error: DownstreamError) -> PurgeError {
    tracing::warn!(error = &error as &dyn std::error::Error, "the store of copies did not answer");
    PurgeError::retry(match error {
        DownstreamError::Closed => "closed",
        DownstreamError::NotWritten => "not-written",
        _ => "store",
    })
}

/// A use of a token under way: a purge waits for it.
pub struct CopyGuard {
    copies: Copies,
    token: Token,
}

impl CopyGuard {
    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The copy for this purpose, if one is kept.
    ///
    /// # Errors
    /// The database or damage, never "none".
    pub async fn text(&self, of: Scope<'_>) -> Result<Option<Plaintext>, DownstreamError> {
        let house = &self.copies.0;
        let mut dead: Option<Slot> = None;
        loop {
            let Some(bytes) = house.records.get(&layout::copy(&self.token, of)).await? else {
                return Ok(None);
            };
            let copy: CopyRecord = layout::decode("copy", bytes)?;
            let slot = slot_of(&copy)?;
            if dead == Some(slot) {
                return Err(DownstreamError::Damaged("copy: its key is gone"));
            }
            let context = context(&self.token, of, copy.bits);
            let open =
                |key: cloakroom_crypto::KeyRef<'_, _>| key.for_job::<Value>().open(&copy.sealed, &context);
            match house.tree.with_key(slot, open).await? {
                Some(opened) => return Ok(Some(opened?)),
                None => dead = Some(slot), // dropped between the two looks, as a rectified one is: look again
            }
        }
    }
}

impl Drop for CopyGuard {
    fn drop(&mut self) {
        self.copies.0.uses.leave(&self.token);
    }
}

fn slot_of(copy: &CopyRecord) -> Result<Slot, DownstreamError> {
    let slot = copy.slot.as_ref().ok_or(DownstreamError::Damaged("copy"))?;
    Ok(Slot { subtree: Subtree(slot.subtree), index: slot.index })
}

/// What a copy is bound to. The token stands where a stored value has its field: a copy put in another
/// token's place does not open.
fn context<'a>(token: &'a Token, of: Scope<'a>, bits: u64) -> Context<'a> {
    Context {
        controller: of.controller,
        subject_bits: 0, // a downstream knows no subjects
        activity: of.purpose,
        field: token.as_str(),
        bits,
        value_version: VALUE_VERSION,
    }
}
