//! What every verb works with: the log to read, the tree to open, the writer to ask.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use cloakroom_bus::BusConfig;
use cloakroom_core::clock::Clock;
use cloakroom_core::erasure::Erasure;
use cloakroom_core::event::{Body, Event, Shape, ValueStored};
use cloakroom_core::ids::{EventNumber, Slot, SubjectNumber};
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_core::register::Register;
use cloakroom_core::subject::Subject;
use cloakroom_crypto::Plaintext;
use cloakroom_crypto::address::AddressKind;
use cloakroom_crypto::seal::Context;
use cloakroom_keytree::{GateReason, Tree};
use cloakroom_store::{AccessLog, Log, Records};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use crate::EngineError;
use crate::codec;
use crate::durable::Durable;
use crate::key_backups::KeyBackups;
use crate::keys::Asked;
use crate::projection;
use crate::proposal::{Closed, Declined, Draft, Guard, Proposal};
use crate::state::{InForce, State};

/// A stale proposal is made again so many times before the caller is sent away: each time another request
/// for the same subject came first, so some request always gets on.
pub(crate) const TRIES: usize = 64;

/// Values whose keys may be in locked memory before they are in the tree: 1 MiB of keys.
pub(crate) const VALUES_IN_FLIGHT: usize = 32_768;

pub(crate) struct House {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) projections: Arc<dyn Records>,
    pub(crate) access: Arc<dyn AccessLog>,
    pub(crate) tree: Tree,
    pub(crate) proofs: crate::proof::Proofs,
    pub(crate) state: Arc<State>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Gone once the vault stops.
    pub(crate) writer: ArcSwapOption<mpsc::Sender<Proposal>>,
    /// Values that may be on their way in at once: their keys lie in locked memory.
    pub(crate) room: Semaphore,
    pub(crate) admins: Vec<String>,
    pub(crate) kafka_bootstrap: String,
    pub(crate) bus: Option<BusConfig>,
    pub(crate) disk: Disk,
    pub(crate) key_backups: KeyBackups,
    pub(crate) lookup_rate: crate::lookup::Rate,
    /// What operators ask of the writer.
    pub(crate) orders: mpsc::Sender<Asked>,
    /// Why the gate must close although the vault runs.
    pub(crate) gated: watch::Sender<Option<GateReason>>,
}

/// The disk under the log, for those who ask how the vault stands.
pub(crate) struct Disk {
    pub(crate) reserve_bytes: u64,
    pub(crate) free_bytes: Box<dyn Fn() -> Result<u64, EngineError> + Send + Sync>,
}

/// A token that led to its event.
pub(crate) struct Resolved {
    pub(crate) number: EventNumber,
    pub(crate) at: i64,
    pub(crate) stored: ValueStored,
}

/// Where a value's newest version lies.
pub(crate) struct Version {
    pub(crate) slot: Slot,
    pub(crate) sealed: bytes::Bytes,
    pub(crate) bits: u64,
    pub(crate) number: u32,
}

impl House {
    /// The register of a controller that knows `principal`, or that `principal` administers.
    pub(crate) fn register(&self, principal: &str, controller: &str) -> Result<Arc<InForce>, CallRefusal> {
        let known = self
            .state
            .register(controller)
            .filter(|known| known.register.knows(principal) || self.is_admin(principal));
        // Another's controller and none at all look the same.
        known.ok_or_else(|| CallRefusal::Forbidden("the controller is not this principal's".to_owned()))
    }

    pub(crate) fn is_admin(&self, principal: &str) -> bool {
        self.admins.iter().any(|admin| admin == principal)
    }

    pub(crate) fn domain(register: &Register) -> &str {
        register.token_domain().unwrap_or_default()
    }

    pub(crate) async fn event(&self, number: EventNumber) -> Result<Option<Event>, EngineError> {
        let Some(bytes) = self.log.event(number).await? else { return Ok(None) };
        Ok(Some(codec::decode(number, bytes)?))
    }

    /// The token's event, if it is one of `controller`'s; NOT_FOUND looks the same for another's, a forged and
    /// a mistyped one.
    pub(crate) async fn resolve(&self, controller: &InForce, token: &str) -> Result<Resolved, Refusal> {
        let nowhere = || Refusal::new(Code::NotFound, "no such token");
        let found = match self.state.ids.read_token(token) {
            Some(found) => Some(found),
            None => {
                self.short_token(token).await.map_err(|error| error.for_item())?.map(|number| (number, 0))
            }
        };
        let (number, bits) = found.ok_or_else(nowhere)?;
        let event = self.event(number).await.map_err(|error| error.for_item())?.ok_or_else(nowhere)?;
        let Body::ValueStored(stored) = event.body else { return Err(nowhere()) };
        let register = &controller.register;
        // One spelling a token: the bits in constant time, then the shape it was given in.
        let same = match stored.shape {
            Shape::Opaque => same_bits(stored.bits, bits) && token.starts_with(AddressKind::Token.prefix()),
            Shape::Email => {
                let domain = token.split_once('@').map(|(_, domain)| domain);
                same_bits(stored.bits, bits) && domain == Some(Self::domain(register))
            }
            Shape::Phone | Shape::Digits | Shape::Uuid => stored.short_token == token,
        };
        if !same || stored.controller != register.controller() {
            return Err(nowhere());
        }
        Ok(Resolved { number, at: event.at, stored })
    }

    async fn short_token(&self, token: &str) -> Result<Option<EventNumber>, EngineError> {
        let key = projection::key(b'k', token.as_bytes());
        Ok(projection::read_number(&*self.projections, &key).await?.map(EventNumber))
    }

    pub(crate) fn token(&self, register: &Register, number: EventNumber, stored: &ValueStored) -> String {
        self.state.ids.token(stored.shape, number, stored.bits, &stored.short_token, Self::domain(register))
    }

    pub(crate) fn subject_id(&self, number: SubjectNumber, bits: u64) -> String {
        self.state.ids.text(AddressKind::Subject, EventNumber(number.0), bits)
    }

    /// The subject behind an id of `controller`'s, with all its chain.
    pub(crate) async fn subject_by_id(
        &self,
        controller: &str,
        id: &str,
    ) -> Result<Option<Subject>, EngineError> {
        let Some((number, bits)) = self.state.ids.read(AddressKind::Subject, id) else { return Ok(None) };
        let Some(event) = self.event(number).await? else { return Ok(None) };
        match &event.body {
            Body::SubjectCreated(it) if it.controller == controller && same_bits(it.bits, bits) => {}
            _ => return Ok(None),
        }
        self.subject(SubjectNumber(number.0)).await.map(Some)
    }

    /// A subject as its chain tells it.
    pub(crate) async fn subject(&self, number: SubjectNumber) -> Result<Subject, EngineError> {
        let mut chain = self.chain(EventNumber(number.0)).await?.into_iter();
        let (first, event) = chain.next().ok_or(EngineError::Projection)?;
        let mut subject = Subject::begin(first, &event.body).ok_or(EngineError::Projection)?;
        for (number, event) in chain {
            subject.apply(number, &event.body);
        }
        Ok(subject)
    }

    /// An erasure or release, open or done; `None` if `fence` is neither.
    pub(crate) async fn fence(&self, fence: EventNumber) -> Result<Option<Erasure>, EngineError> {
        if let Some(open) = self.state.open_erasure(fence) {
            return Ok(Some(open));
        }
        read_erasure(&*self.log, &*self.projections, fence).await
    }

    async fn chain(&self, first: EventNumber) -> Result<Vec<(EventNumber, Event)>, EngineError> {
        read_chain(&*self.log, &*self.projections, first).await
    }

    /// The newest version of a value.
    pub(crate) async fn version(
        &self,
        value: EventNumber,
        stored: &ValueStored,
    ) -> Result<Version, EngineError> {
        let Some(newest) = self.state.rectification(value) else {
            return Ok(Version {
                slot: stored.slot,
                sealed: stored.sealed.clone(),
                bits: stored.bits,
                number: 1,
            });
        };
        match self.event(newest).await?.map(|event| event.body) {
            Some(Body::ValueRectified(it)) => {
                Ok(Version { slot: it.slot, sealed: it.sealed, bits: it.bits, number: it.value_version })
            }
            _ => Err(EngineError::Projection),
        }
    }

    /// Opens a value's newest version. A version that a rectification ended lives on in the next.
    pub(crate) async fn open(&self, value: EventNumber, stored: &ValueStored) -> Result<Plaintext, Refusal> {
        let mut version = self.version(value, stored).await.map_err(|error| error.for_item())?;
        loop {
            match self.open_version(stored, &version).await? {
                Some(text) => return Ok(text),
                None => {
                    let newest = self.version(value, stored).await.map_err(|error| error.for_item())?;
                    if newest.slot == version.slot {
                        return Err(self.dead(stored.subject, version.slot).await);
                    }
                    version = newest;
                }
            }
        }
    }

    async fn open_version(
        &self,
        stored: &ValueStored,
        version: &Version,
    ) -> Result<Option<Plaintext>, Refusal> {
        let context = context(stored, version);
        let open = || self.tree.with_key(version.slot, |key| key.for_job().open(&version.sealed, &context));
        match unfenced(|| self.tree.epoch(), || self.state.is_fenced(version.slot), open).await {
            // Who no longer owns the tree does not know what was erased since.
            Some(Ok(Some(Ok(_)))) if !self.state.is_owner() => Err(EngineError::LeaseEnded.for_item()),
            Some(Ok(Some(Ok(text)))) => Ok(Some(text)),
            Some(Ok(Some(Err(_)))) => Err(Refusal::new(Code::KeyUnavailable, "the record does not open")),
            Some(Ok(None)) | None => Ok(None),
            Some(Err(fault)) => Err(EngineError::from(fault).for_item()),
        }
    }

    /// Asks the writer to commit; `Err(Declined::Stale)` means that the proposal must be made again.
    pub(crate) async fn propose(
        &self,
        guards: Vec<Guard>,
        drafts: Vec<Draft>,
        urgent: bool,
    ) -> Result<Durable<Vec<EventNumber>>, Declined> {
        let (written, answer) = oneshot::channel();
        self.send(Proposal { guards, drafts, urgent, written, closed: None }).await?;
        answer.await.unwrap_or(Err(Declined::Stopped))
    }

    /// The same for fences; answers when a batch has closed them too.
    pub(crate) async fn propose_fence(
        &self,
        guards: Vec<Guard>,
        drafts: Vec<Draft>,
    ) -> Result<(Durable<Vec<EventNumber>>, oneshot::Receiver<Closed>), Declined> {
        let (written, answer) = oneshot::channel();
        let (closed, closing) = oneshot::channel();
        self.send(Proposal { guards, drafts, urgent: true, written, closed: Some(closed) }).await?;
        let numbers = answer.await.unwrap_or(Err(Declined::Stopped))?;
        Ok((numbers, closing))
    }

    /// Room in locked memory for the keys of `values` new values, held until it is dropped.
    pub(crate) async fn room_for(&self, values: usize) -> Result<SemaphorePermit<'_>, Declined> {
        let values = u32::try_from(values.min(VALUES_IN_FLIGHT)).unwrap_or(u32::MAX);
        self.room.acquire_many(values).await.map_err(|_| Declined::Stopped)
    }

    async fn send(&self, proposal: Proposal) -> Result<(), Declined> {
        let Some(writer) = self.writer.load_full() else { return Err(Declined::Stopped) };
        // What forgets waits for its place; everything else is told at once that there is none.
        if proposal.urgent {
            return writer.send(proposal).await.map_err(|_| Declined::Stopped);
        }
        writer.try_send(proposal).map_err(|refused| match refused {
            TrySendError::Full(_) => Declined::Busy,
            TrySendError::Closed(_) => Declined::Stopped,
        })
    }

    /// Why a fence was not closed for whoever waited.
    pub(crate) fn unclosed(&self) -> Declined {
        let runs = self.writer.load().as_ref().is_some_and(|writer| !writer.is_closed());
        if runs && self.state.stuck() > 0 { Declined::Stuck } else { Declined::Stopped }
    }

    /// Lets the writer come to its end once what waits for it is done.
    pub(crate) fn stop_writing(&self) {
        self.writer.store(None);
    }
}

/// What `open` gives, if no fence stood before it or behind it; `None` for what is fenced. A fence that came while
/// the key was in hand may even have been closed and taken away again: not without a batch, after which the slot
/// tells by itself, so where the epoch has changed it is asked again.
async fn unfenced<T, F: Future<Output = T>>(
    epoch: impl Fn() -> u64,
    is_fenced: impl Fn() -> bool,
    mut open: impl FnMut() -> F,
) -> Option<T> {
    loop {
        let before = epoch();
        if is_fenced() {
            return None;
        }
        let opened = open().await;
        if is_fenced() {
            return None;
        }
        if epoch() == before {
            return Some(opened);
        }
    }
}

/// What a value is sealed under, besides its key.
pub(crate) fn context<'a>(stored: &'a ValueStored, version: &Version) -> Context<'a> {
    Context {
        controller: &stored.controller,
        subject_bits: stored.subject_bits,
        activity: &stored.activity,
        field: &stored.field,
        bits: version.bits,
        value_version: version.number,
    }
}

/// All events of an aggregate, the first one first.
pub(crate) async fn read_chain(
    log: &dyn Log,
    projections: &dyn Records,
    first: EventNumber,
) -> Result<Vec<(EventNumber, Event)>, EngineError> {
    let head = projection::read_number(projections, &projection::about(b'h', first)).await?;
    let mut at = EventNumber(head.ok_or(EngineError::Projection)?);
    let mut chain = vec![];
    loop {
        let bytes = log.event(at).await?.ok_or(EngineError::Projection)?;
        let event = codec::decode(at, bytes)?;
        let before =
            if at == first { None } else { event.body.chain().filter(|(aggregate, _)| *aggregate == first) };
        chain.push((at, event));
        match before {
            _ if at == first => break,
            // Backwards only, so that a damaged chain ends.
            Some((_, previous)) if previous < at => at = previous,
            _ => return Err(EngineError::Projection),
        }
    }
    chain.reverse();
    Ok(chain)
}

/// An erasure or release as the log tells it.
pub(crate) async fn read_erasure(
    log: &dyn Log,
    projections: &dyn Records,
    fence: EventNumber,
) -> Result<Option<Erasure>, EngineError> {
    let Some(bytes) = log.event(fence).await? else { return Ok(None) };
    let Some(mut erasure) = Erasure::begin(fence, &codec::decode(fence, bytes)?) else { return Ok(None) };
    let closed =
        projection::read_number(projections, &projection::about(b'x', fence)).await?.map(EventNumber);
    if let Some(closed) = closed
        && let Some(bytes) = log.event(closed).await?
    {
        erasure.apply(closed, &codec::decode(closed, bytes)?);
    }
    let settled = projection::read_number(projections, &projection::about(b'z', fence)).await?;
    if let Some(settled) = settled.map(EventNumber)
        && let Some(bytes) = log.event(settled).await?
    {
        erasure.apply(settled, &codec::decode(settled, bytes)?);
    }
    for (number, event) in read_chain(log, projections, fence).await?.into_iter().skip(1) {
        erasure.apply(number, &event);
    }
    Ok(Some(erasure))
}

/// What a caller is told when the writer does not commit.
pub(crate) fn declined(reason: Declined) -> CallRefusal {
    match reason {
        Declined::Stale => {
            CallRefusal::Unavailable("too many requests for the same subject at once; try again".to_owned())
        }
        Declined::Busy => {
            CallRefusal::Exhausted("more writes wait than the vault takes; try again later".to_owned())
        }
        Declined::Stuck => CallRefusal::Unavailable(
            "the values answer ERASED, but a page of keys cannot be opened, so this stays open: see doctor"
                .to_owned(),
        ),
        Declined::Full => CallRefusal::Exhausted("the vault's disk is nearly full".to_owned()),
        Declined::Stopped => CallRefusal::Unavailable("the vault is stopping".to_owned()),
    }
}

/// In constant time: a wrong guess learns nothing from how long it took.
fn same_bits(one: u64, other: u64) -> bool {
    std::hint::black_box(one ^ other) == 0
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_fence_that_comes_and_goes_while_the_key_is_in_hand_is_noticed() {
        let (epoch, fenced, looks) = (Cell::new(7), Cell::new(false), Cell::new(0));
        let open = async |during: &dyn Fn()| {
            looks.set(looks.get() + 1);
            let living = epoch.get() == 7;
            during();
            living
        };
        let whole_erasure = || epoch.set(8);
        let found = unfenced(|| epoch.get(), || fenced.get(), || open(&whole_erasure)).await;
        assert_eq!(
            (found, looks.get()),
            (Some(false), 2),
            "what was opened before the batch is not given out"
        );
        let fence = || fenced.set(true);
        assert_eq!(unfenced(|| epoch.get(), || fenced.get(), || open(&fence)).await, None);
        assert_eq!(unfenced(|| epoch.get(), || fenced.get(), || open(&|| ())).await, None);
        assert_eq!(looks.get(), 3, "behind a fence nothing is opened");
        fenced.set(false);
        assert_eq!(unfenced(|| epoch.get(), || fenced.get(), || open(&|| ())).await, Some(false));
    }
}
