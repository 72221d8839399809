//! Key backups: a copy of the key tree whose root stays in escrow for a window that the operator chose, and what that
//! means for what is erased meanwhile: it is destroyed, and final when the last root that reaches it is gone.
//!
//! - `file`: what lies in a backup
//! - making and ending them, by the writer; at a start: those whose time ran out while the vault was off
//! - the answer to whoever asks for a value whose key a restored backup lacked

mod file;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use bytes::Bytes;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::{Body, KeyBackupEnded, KeysBackedUp};
use cloakroom_core::ids::{EventNumber, RootId, Slot, SubjectNumber, Subtree};
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_crypto::random;
use cloakroom_keytree::{Fault, Found, HolderError};
use cloakroom_proto::record::v1 as record;
use cloakroom_store::{Log, Records};
use data_encoding::HEXLOWER;

pub use file::{KeyBackupFile, restore, verify};

use crate::house::House;
use crate::keys::{KeysView, Order};
use crate::proposal::Draft;
use crate::writer::Writer;
use crate::{EngineError, codec, projection};

/// Fences that one event makes final.
const FENCES_AT_ONCE: usize = 10_000;

/// A key backup whose root is in escrow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyBackupView {
    /// Names it: the id of its root, in hex.
    pub id: String,
    /// The number of its root.
    pub epoch: u64,
    /// When it was made.
    pub made_unix_ms: UnixMs,
    /// When its root is destroyed.
    pub until_unix_ms: UnixMs,
}

/// How key backups are made.
pub(crate) struct KeyBackups {
    /// How long a root stays in escrow; 0: there are no key backups.
    pub(crate) window_ms: u64,
    /// Where a backup is written before it is handed out.
    pub(crate) folder: PathBuf,
}

/// What the writer knows of a key backup whose root is in escrow.
pub(crate) struct OpenBackup {
    event: EventNumber,
    root: RootId,
    epoch: u64,
    made: UnixMs,
    until: UnixMs,
    /// The latest moment that anybody has seen since: a clock that jumps back does not prolong an escrow.
    seen: UnixMs,
    ends: HashMap<Subtree, u64>,
}

impl OpenBackup {
    /// Whether its root opens what lies in `slot`, closed by event `closed` (none: not yet).
    fn reaches(&self, slot: &Slot, closed: Option<EventNumber>) -> bool {
        let known = self.ends.get(&slot.subtree).is_some_and(|end| slot.index < *end);
        known && closed.is_none_or(|closed| self.event < closed)
    }

    fn is_over(&self) -> bool {
        self.until <= self.seen
    }

    fn view(&self) -> KeyBackupView {
        KeyBackupView {
            id: self.root.to_string(),
            epoch: self.epoch,
            made_unix_ms: self.made,
            until_unix_ms: self.until,
        }
    }
}

/// A closed fence that is not final.
pub(crate) struct NotFinal {
    pub(crate) fence: EventNumber,
    pub(crate) closed: EventNumber,
    pub(crate) slots: Vec<Slot>,
}

/// What the log says of key backups.
#[derive(Default)]
pub(crate) struct Escrowed {
    pub(crate) backups: Vec<OpenBackup>,
    pub(crate) not_final: Vec<NotFinal>,
}

impl Escrowed {
    /// Reads from the log what is open; the clock shows `now`.
    pub(crate) async fn read(
        log: &dyn Log,
        projections: &dyn Records,
        now: UnixMs,
    ) -> Result<Self, EngineError> {
        let event = async |number: EventNumber| {
            let bytes = log.event(number).await?.ok_or(EngineError::Projection)?;
            Ok::<_, EngineError>(codec::decode(number, bytes)?)
        };
        let mut read = Self::default();
        for number in projection::all_numbers(projections, b'g').await? {
            let made = event(number).await?;
            let Body::KeysBackedUp(it) = made.body else { return Err(EngineError::Projection) };
            let seen = projection::latest_since(projections, number).await?.max(now);
            let (ends, (made, until)) = (it.ends.into_iter().collect(), (made.at, it.until));
            let (root, epoch) = (it.root, it.epoch);
            read.backups.push(OpenBackup { event: number, root, epoch, made, until, seen, ends });
        }
        for fence in projection::all_numbers(projections, b'w').await? {
            let closed = projection::read_number(projections, &projection::about(b'x', fence)).await?;
            let closed = EventNumber(closed.ok_or(EngineError::Projection)?);
            read.not_final.push(NotFinal { fence, closed, slots: event(fence).await?.body.dooms() });
        }
        Ok(read)
    }

    /// The roots that a start's batch takes out of escrow: whose time ran out, and those that no event names, since a
    /// backup whose frame was never written counts as little as any other commit without one.
    pub(crate) fn ended(&self, found: &Found) -> Vec<RootId> {
        let lives = |root| self.backups.iter().any(|backup| backup.root == root && !backup.is_over());
        let escrows = found.escrows().iter().map(|escrow| escrow.root);
        escrows.filter(|root| !lives(*root)).collect()
    }

    /// The backup with that root.
    pub(crate) fn event_of(&self, root: RootId) -> Option<EventNumber> {
        self.backups.iter().find(|backup| backup.root == root).map(|backup| backup.event)
    }
}

/// The slots of all fences that were closed after `event`: a backup of before does not know that they are dead.
pub(crate) async fn condemned_since(
    log: &dyn Log,
    projections: &dyn Records,
    event: EventNumber,
) -> Result<Vec<Slot>, EngineError> {
    let mut slots = vec![];
    for (fence, closed) in projection::all(projections, b"x").await? {
        if projection::parse(&closed)? > event.0 {
            let fence = EventNumber(projection::parse(&fence)?);
            let bytes = log.event(fence).await?.ok_or(EngineError::Projection)?;
            slots.extend(codec::decode(fence, bytes)?.body.dooms());
        }
    }
    Ok(slots)
}

/// The root that an id names.
pub(crate) fn root_of(id: &str) -> Option<RootId> {
    RootId::from_slice(&HEXLOWER.decode(id.as_bytes()).ok()?)
}

impl Writer {
    /// When the destruction of `slots` is final; none if no key backup reaches them.
    pub(crate) fn final_at(&self, slots: &[Slot]) -> Option<UnixMs> {
        let reaching = self.escrowed.backups.iter().filter(|backup| {
            slots.iter().any(|slot| backup.reaches(slot, None)) // they are about to be closed
        });
        reaching.map(|backup| backup.until).max()
    }

    /// Escrows that are over end with a batch.
    pub(crate) async fn end_old_backups(&mut self) -> Result<(), EngineError> {
        let now = self.clock.now_unix_ms();
        for backup in &mut self.escrowed.backups {
            backup.seen = backup.seen.max(now);
        }
        let over: Vec<_> = self.escrowed.backups.iter().filter(|backup| backup.is_over()).collect();
        let over: Vec<RootId> = over.into_iter().map(|backup| backup.root).collect();
        if over.is_empty() { Ok(()) } else { self.end_backups(over).await }
    }

    async fn end_backups(&mut self, roots: Vec<RootId>) -> Result<(), EngineError> {
        self.tree.end_escrows(roots);
        self.batch(true).await
    }

    /// Ends a backup before its time, or all of them.
    pub(crate) async fn end_backup(&mut self, root: Option<RootId>) -> Result<Option<String>, EngineError> {
        let named = self.escrowed.backups.iter().map(|backup| backup.root);
        let roots: Vec<_> = named.filter(|known| root.is_none_or(|root| root == *known)).collect();
        if roots.is_empty() {
            return Ok(Some("no such key backup has its root in escrow".to_owned()));
        }
        self.end_backups(roots.clone()).await?;
        let ended = !self.escrowed.backups.iter().any(|backup| roots.contains(&backup.root));
        Ok((!ended).then(|| self.trouble.clone().unwrap_or_default()))
    }

    /// Says what became final, if a batch has taken roots out of escrow and all that must be gone is. Called when it is.
    pub(crate) async fn finalise(&mut self) -> Result<(), EngineError> {
        let state = self.tree.state();
        let (epoch, destroy_class) = (state.epoch, state.destroyed_as());
        let kept: Vec<RootId> = state.escrows.iter().map(|escrow| escrow.root).collect();
        let backups = std::mem::take(&mut self.escrowed.backups);
        let (open, ended): (Vec<_>, Vec<_>) =
            backups.into_iter().partition(|backup| kept.contains(&backup.root));
        self.escrowed.backups = open;
        if ended.is_empty() {
            return Ok(());
        }
        let open = &self.escrowed.backups;
        let (waits, settled): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.escrowed.not_final).into_iter().partition(|it| {
                let reached =
                    |backup: &OpenBackup| it.slots.iter().any(|slot| backup.reaches(slot, Some(it.closed)));
                open.iter().any(reached)
            });
        self.escrowed.not_final = waits;
        let fences: Vec<EventNumber> = settled.into_iter().map(|it| it.fence).collect();
        let backups: Vec<EventNumber> = ended.iter().map(|backup| backup.event).collect();
        let mut parts: Vec<Vec<EventNumber>> = fences.chunks(FENCES_AT_ONCE).map(<[_]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(vec![]);
        }
        let said = |fences| {
            let (backups, destroy_class) = (backups.clone(), destroy_class.clone());
            Draft::of(Body::KeyBackupEnded(KeyBackupEnded { backups, epoch, destroy_class, fences }))
        };
        self.commit_now(parts.into_iter().map(said).collect()).await?;
        tracing::info!(backups = ended.len(), fences = fences.len(), "roots in escrow are destroyed");
        self.tell();
        Ok(())
    }

    /// Makes a key backup: what was fenced is forgotten first, so that no backup knows it.
    pub(crate) async fn back_up(
        &mut self,
        principal: String,
        window_ms: u64,
        into: File,
    ) -> Result<Option<String>, EngineError> {
        self.batch(false).await?;
        if let Some(trouble) = &self.trouble {
            return Ok(Some(trouble.clone()));
        }
        let ends: Vec<(Subtree, u64)> = self.log_ends.iter().map(|(subtree, end)| (*subtree, *end)).collect();
        self.tree.checkpoint(self.durable()).await?;
        let now = self.clock.now_unix_ms();
        let until = now.saturating_add(i64::try_from(window_ms).unwrap_or(i64::MAX));
        let state = self.tree.state();
        let (root, epoch, at) = (state.root, state.epoch, state.at);
        let copy = |id: &[u8; 16]| Bytes::copy_from_slice(id);
        let head = record::KeyBackupHead {
            version: 0, // the file's own
            tree_id: copy(&state.tree.0),
            root_id: copy(&root.0),
            epoch,
            at: Some(record::CommitPosition { start_id: copy(&at.start.0), number: at.number }),
            log: state
                .log
                .map(|log| record::FramePosition { start_id: copy(&log.start.0), number: log.number }),
            made_unix_ms: now,
            until_unix_ms: until,
        };
        let not_written = |error: std::io::Error| format!("the key backup could not be written: {error}");
        let mut writing = match file::Writing::begin(into, head) {
            Ok(writing) => writing,
            Err(error) => return Ok(Some(not_written(error))),
        };
        let log = self.durable();
        let mut take = |key: &[u8], value: &[u8]| writing.record(key, value);
        match self.tree.back_up((now, until), &mut take, log).await {
            Ok(()) => {}
            Err(Fault::RootStays(_)) if self.tree.state().root != root => self.root_stays_after_all(),
            Err(Fault::Backup(error)) => return Ok(Some(not_written(error))),
            Err(fault @ Fault::Holder(HolderError::Replaced { .. })) => return Err(fault.into()),
            Err(fault @ (Fault::Holder(_) | Fault::RootStays(_))) => {
                return Ok(Some(EngineError::from(fault).chain()));
            }
            Err(fault) => return Err(fault.into()),
        }
        let made = KeysBackedUp { root, epoch, at, ends: ends.clone(), until, principal };
        let event = self.commit_now(vec![Draft::of(Body::KeysBackedUp(made))]).await?;
        let event = event.first().copied().ok_or(EngineError::Stopped)?;
        let ends = ends.into_iter().collect();
        self.escrowed.backups.push(OpenBackup { event, root, epoch, made: now, until, seen: now, ends });
        // Without its end the file is no backup; its root goes as if it were one.
        Ok(writing.end().err().map(not_written))
    }

    /// For status and metrics.
    pub(crate) fn backups_view(&self) -> (Vec<KeyBackupView>, u64) {
        let open = self.escrowed.backups.iter().map(OpenBackup::view).collect();
        (open, self.escrowed.not_final.len() as u64)
    }
}

impl House {
    /// Makes a key backup; its bytes stand at the start of the file, which has no name.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] where no window is configured, and with what the root holder says.
    pub(crate) async fn back_up_keys(&self, principal: &str) -> Result<(KeyBackupView, File), CallRefusal> {
        if !self.is_admin(principal) {
            return Err(CallRefusal::Forbidden("key backups are for administrators".to_owned()));
        }
        let window_ms = self.key_backups.window_ms;
        if window_ms == 0 {
            let text = "no key backups are configured (key_backups.window_ms is 0): with one, what is erased could be \
                        read for that long";
            return Err(CallRefusal::Conflict(text.to_owned()));
        }
        let failed = |error: std::io::Error| {
            CallRefusal::Conflict(format!("the keys folder has no room for a key backup: {error}"))
        };
        let file = self.nameless().map_err(failed)?;
        let into = file.try_clone().map_err(failed)?;
        let order = Order::BackUp { principal: principal.to_owned(), window_ms, into };
        let view = self.order(principal, order).await?;
        let made = view.backups.last().cloned();
        Ok((made.ok_or_else(|| CallRefusal::Conflict("the key backup was ended already".to_owned()))?, file))
    }

    /// Ends a key backup before its time; without an `id` all of them.
    ///
    /// # Errors
    /// [`CallRefusal::Conflict`] where none such is open, and with what the root holder says.
    pub(crate) async fn end_key_backup(&self, principal: &str, id: &str) -> Result<KeysView, CallRefusal> {
        let invalid = || CallRefusal::Invalid("id: not a key backup's".to_owned());
        let root = if id.is_empty() { None } else { Some(root_of(id).ok_or_else(invalid)?) };
        self.order(principal, Order::EndBackup(root)).await
    }

    /// A file that goes with its last user: what is written there is sealed pages.
    fn nameless(&self) -> std::io::Result<File> {
        let path = self.key_backups.folder.join(format!("backup-{}", HEXLOWER.encode(&random::id16())));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    /// What a dead slot means: forgotten on purpose, or its key lost with a disk, since the key backup that was
    /// restored is older than it and no fence had condemned it.
    pub(crate) async fn dead(&self, subject: SubjectNumber, slot: Slot) -> Refusal {
        let erased = Refusal::new(Code::Erased, "the value was erased");
        if !self.tree.is_lost(slot) {
            return erased;
        }
        match self.subject(subject).await {
            Ok(subject) if subject.values.values().any(|value| value.living && value.slot == slot) => {
                let text = "the value's key was lost: the key backup that was restored is older than it";
                Refusal::new(Code::KeyUnavailable, text)
            }
            Ok(_) => erased,
            Err(error) => error.for_item(),
        }
    }
}
