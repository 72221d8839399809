//! What the log comes to, in records small enough to read at a start. Everything here can be rebuilt.
//!
//! | key | value |
//! | --- | --- |
//! | `p` | events applied |
//! | `v` | the shape of these records: others are rebuilt |
//! | `h` first event of an aggregate | its newest event |
//! | `r` value | its newest rectification |
//! | `k` short token | its value |
//! | `i` day key, key mac | what the request led to |
//! | `c` controller | its newest register |
//! | `d` downstream | its newest registration |
//! | `e` subtree | the first slot that no frame names |
//! | `s` first frame | the start that wrote it |
//! | `b` event | the start id and frame number that a start abandoned |
//! | `y` system key | |
//! | `f` fence | no batch has closed it |
//! | `x` fence | the event that closed it |
//! | `o` fence | downstreams still owe answers |
//! | `a` controller, 0, fence | an erasure |
//! | `u` controller, 0, activity, 0, field | something was stored there |
//! | `g` key backup | its root's id; the root is in escrow |
//! | `w` fence | a key backup reaches it: not final |
//! | `z` fence | the event that made it final |
//! | `q` first entry, hash | the event that names that file of the access log |
//! | `l` hour | the newest event of that hour, by the clock that it was written by |
//! | `n` | events announced (the announcer's own) |
//! | `t` | events that the Merkle tree's kept nodes cover (the tree's own) |
//! | `t` level, index | a node of the Merkle tree, as the tile of that level holds it |

use bytes::Bytes;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::{Body, Event};
use cloakroom_core::ids::{EventNumber, FramePosition, StartId, Subtree};
use cloakroom_store::{Batch, Frame, Records};

use crate::EngineError;

pub(crate) const APPLIED: &[u8] = b"p";
/// Rises with every change of what the records hold or say.
const SHAPE: u64 = 2;
const SHAPED: &[u8] = b"v";
pub(crate) const ANNOUNCED: &[u8] = b"n";
pub(crate) const TREE: &[u8] = b"t";
const HOUR_MS: i64 = 60 * 60 * 1_000;

/// A record's key: its kind, and what it is about.
pub(crate) fn key(kind: u8, about: &[u8]) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend(about);
    key
}

/// A record's key about an event.
pub(crate) fn about(kind: u8, number: EventNumber) -> Vec<u8> {
    key(kind, &number.0.to_be_bytes())
}

/// What a record of kind `h` says: an aggregate and its newest event.
pub(crate) fn head(key: &[u8], value: &[u8]) -> Option<(EventNumber, EventNumber)> {
    let aggregate = parse(key.strip_prefix(b"h")?).ok()?;
    Some((EventNumber(aggregate), EventNumber(parse(value).ok()?)))
}

/// Whether a record comes of the log alone. What idempotency keys led to goes with their day's key, and the
/// announcer and the tree have records of their own.
pub(crate) fn is_replayed(key: &[u8]) -> bool {
    !matches!(key.first(), Some(b'i' | b'n' | b't' | b'v'))
}

/// The key of one erasure in the list of its controller.
pub(crate) fn listed(controller: &str, fence: EventNumber) -> Vec<u8> {
    [&prefix(b'a', controller)[..], &fence.0.to_be_bytes()].concat()
}

/// The key of a sealed file of the access log.
pub(crate) fn access_file(first_entry: u64, hash: &[u8; 32]) -> Vec<u8> {
    [&key(b'q', &first_entry.to_be_bytes())[..], hash].concat()
}

/// The key of what an idempotency key led to, by the day key that hides it.
pub(crate) fn remembered(day_key: EventNumber, mac: &[u8; 32]) -> Vec<u8> {
    [&about(b'i', day_key)[..], mac].concat()
}

/// The prefix of a controller's records of kind `a` or `u`.
pub(crate) fn prefix(kind: u8, controller: &str) -> Vec<u8> {
    [&key(kind, controller.as_bytes())[..], &[0]].concat()
}

/// What a frame changes. `newest_start` is the start of the frame before.
pub(crate) fn changes(frame: &Frame, events: &[Event], newest_start: Option<StartId>) -> Batch {
    let mut batch = Batch::default();
    if newest_start != Some(frame.at.start) {
        batch.put(key(b's', &frame.at.number.to_be_bytes()), frame.at.start.0.to_vec());
    }
    for (subtree, end) in &frame.ends {
        batch.put(key(b'e', &subtree.0.to_be_bytes()), number(*end));
    }
    let mut at = frame.first_event;
    for event in events {
        apply(&mut batch, at, &event.body);
        at = EventNumber(at.0.saturating_add(1));
    }
    let newest = at.0.saturating_sub(1);
    if let Some(event) = events.last() {
        batch.put(key(b'l', &hour(event.at).to_be_bytes()), number(newest));
    }
    batch.put(APPLIED, number(newest));
    batch
}

/// The hour that a moment lies in, counted as moments are.
fn hour(at: UnixMs) -> u64 {
    u64::try_from(at.div_euclid(HOUR_MS)).unwrap_or_default()
}

/// The latest hour in which an event after `event` was written: a clock that jumped back does not take it back.
pub(crate) async fn latest_since(records: &dyn Records, event: EventNumber) -> Result<UnixMs, EngineError> {
    let mut latest = 0;
    for (hour, newest) in all(records, b"l").await? {
        if parse(&newest)? > event.0 {
            latest = latest.max(i64::try_from(parse(&hour)?).unwrap_or_default().saturating_mul(HOUR_MS));
        }
    }
    Ok(latest)
}

fn apply(batch: &mut Batch, at: EventNumber, body: &Body) {
    if let Some((aggregate, _)) = body.chain() {
        batch.put(about(b'h', aggregate), number(at.0));
    }
    if body.is_fence() {
        batch.put(about(b'f', at), Bytes::new());
    }
    match body {
        Body::Started(it) => {
            if let Some(lacking) = it.abandons {
                batch.put(about(b'b', at), [&lacking.start.0[..], &lacking.number.to_be_bytes()].concat());
            }
        }
        Body::SystemKeyMade(_) => batch.put(about(b'y', at), Bytes::new()),
        Body::RegisterApplied(it) => batch.put(key(b'c', it.controller.as_bytes()), number(at.0)),
        Body::DownstreamRegistered(it) => batch.put(key(b'd', it.downstream.as_bytes()), number(at.0)),
        Body::SubjectCreated(_) => batch.put(about(b'h', at), number(at.0)),
        Body::ValueStored(it) => {
            if !it.short_token.is_empty() {
                batch.put(key(b'k', it.short_token.as_bytes()), number(at.0));
            }
            let place =
                [&prefix(b'u', &it.controller)[..], it.activity.as_bytes(), &[0], it.field.as_bytes()]
                    .concat();
            batch.put(place, Bytes::new());
        }
        Body::ValueRectified(it) => batch.put(about(b'r', it.value), number(at.0)),
        Body::RequestRemembered(it) => batch.put(remembered(it.day_key, &it.key_mac), number(at.0)),
        Body::ErasureRequested(it) => {
            batch.put(listed(&it.controller, at), Bytes::new());
            batch.put(about(b'o', at), Bytes::new());
            batch.put(about(b'h', at), number(at.0));
        }
        Body::ValuesReleased(_) => {
            batch.put(about(b'o', at), Bytes::new());
            batch.put(about(b'h', at), number(at.0));
        }
        Body::KeysDestroyed(it) => {
            for fence in &it.fences {
                batch.remove(about(b'f', *fence));
                batch.put(about(b'x', *fence), number(at.0));
            }
            for (fence, _) in &it.later {
                batch.put(about(b'w', *fence), Bytes::new());
            }
        }
        Body::KeysBackedUp(it) => batch.put(about(b'g', at), it.root.0.to_vec()),
        Body::KeyBackupEnded(it) => {
            for backup in &it.backups {
                batch.remove(about(b'g', *backup));
            }
            for fence in &it.fences {
                batch.remove(about(b'w', *fence));
                batch.put(about(b'z', *fence), number(at.0));
            }
        }
        Body::AccessFileSealed(it) => {
            batch.put(access_file(it.first_entry, &it.sha256), number(at.0));
        }
        Body::ErasureCompleted(it) => batch.remove(about(b'o', it.fence)),
        Body::FactRecorded(_)
        | Body::AcksCollected(_)
        | Body::ErasureOverdue { .. }
        | Body::ErasureRedriven { .. }
        | Body::KeysRestored(_) => {}
    }
}

pub(crate) fn number(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Reads a record that holds a number.
pub(crate) async fn read_number(records: &dyn Records, key: &[u8]) -> Result<Option<u64>, EngineError> {
    let Some(value) = records.get(key).await? else { return Ok(None) };
    parse(&value).map(Some)
}

/// All records of one kind: what each is about, and its value.
pub(crate) async fn all(records: &dyn Records, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    const AT_ONCE: usize = 1_000;
    let mut found: Vec<(Bytes, Bytes)> = vec![];
    let mut after: Option<Bytes> = None;
    loop {
        let more = records.scan(prefix, after.as_deref(), AT_ONCE).await?;
        let whole = more.len() < AT_ONCE;
        after = more.last().map(|(key, _)| key.clone());
        found.extend(more.into_iter().map(|(key, value)| (key.slice(prefix.len()..), value)));
        if whole {
            return Ok(found);
        }
    }
}

/// The numbers that all records of one kind are about.
pub(crate) async fn all_numbers(records: &dyn Records, kind: u8) -> Result<Vec<EventNumber>, EngineError> {
    all(records, &[kind]).await?.iter().map(|(about, _)| parse(about).map(EventNumber)).collect()
}

/// The log's ends by subtree.
pub(crate) async fn log_ends(
    records: &dyn Records,
) -> Result<std::collections::HashMap<Subtree, u64>, EngineError> {
    let mut ends = std::collections::HashMap::new();
    for (subtree, end) in all(records, b"e").await? {
        let subtree =
            subtree.as_ref().try_into().map(u32::from_be_bytes).map_err(|_| EngineError::Projection)?;
        ends.insert(Subtree(subtree), parse(&end)?);
    }
    Ok(ends)
}

/// The log's starts, oldest first, with the first frame of each.
pub(crate) async fn log_starts(records: &dyn Records) -> Result<Vec<(StartId, u64)>, EngineError> {
    let read = |(first, start): &(Bytes, Bytes)| {
        Ok((StartId::from_slice(start).ok_or(EngineError::Projection)?, parse(first)?))
    };
    all(records, b"s").await?.iter().map(read).collect()
}

/// What starts that accepted an older log have abandoned.
pub(crate) async fn abandoned(records: &dyn Records) -> Result<Vec<FramePosition>, EngineError> {
    let read = |(_, value): &(Bytes, Bytes)| {
        let (start, number) = value.split_first_chunk::<16>()?;
        Some(FramePosition { start: StartId(*start), number: parse(number).ok()? })
    };
    all(records, b"b").await?.iter().map(|found| read(found).ok_or(EngineError::Projection)).collect()
}

pub(crate) fn parse(bytes: &[u8]) -> Result<u64, EngineError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| EngineError::Projection)
}

/// Removes every record: what does not go with its log, or does not read, is rebuilt. Until all are gone they
/// stand ahead of every log, so that a start after a crash in between does not believe what is left.
pub(crate) async fn clear(records: &dyn Records) -> Result<(), EngineError> {
    let mut ahead = Batch::default();
    ahead.put(APPLIED, number(u64::MAX));
    records.commit(ahead).await?;
    let mut after: Option<Bytes> = None;
    loop {
        let found = records.scan(&[], after.as_deref(), 10_000).await?;
        let Some((last, _)) = found.last() else { break };
        after = Some(last.clone());
        let mut batch = Batch::default();
        for (key, _) in found.iter().filter(|(key, _)| key != APPLIED) {
            batch.remove(key.to_vec());
        }
        records.apply(batch).await?;
    }
    let mut done = Batch::default();
    done.remove(APPLIED);
    Ok(records.commit(done).await?)
}

/// Whether the records are as this version writes them.
pub(crate) async fn has_todays_shape(records: &dyn Records) -> Result<bool, EngineError> {
    Ok(records.get(SHAPED).await?.as_deref() == Some(&number(SHAPE)[..]))
}

/// Says so, before the first of them is written.
pub(crate) async fn shape(records: &dyn Records) -> Result<(), EngineError> {
    let mut shaped = Batch::default();
    shaped.put(SHAPED, number(SHAPE));
    Ok(records.apply(shaped).await?)
}

#[cfg(test)]
mod tests {
    use cloakroom_core::ids::{CommitPosition, FramePosition};
    use cloakroom_store::embedded::EmbeddedRecords;

    use super::*;

    /// Applies a frame of one event that was written at `at`.
    async fn written(records: &dyn Records, event: u64, at: UnixMs) {
        let start = StartId([1; 16]);
        let frame = Frame {
            at: FramePosition { start, number: event },
            previous_hash: [0; 32],
            rests_on: CommitPosition { start, number: 1 },
            durable_number: 0,
            ends: vec![],
            first_event: EventNumber(event),
            events: vec![Bytes::new()],
        };
        let body = Body::ErasureOverdue { fence: EventNumber(1), previous: EventNumber(1) };
        records.apply(changes(&frame, &[Event { at, body }], Some(start))).await.unwrap();
    }

    #[tokio::test]
    async fn a_clock_that_jumped_back_takes_no_hour_back() {
        let folder = tempfile::tempdir().unwrap();
        let records = EmbeddedRecords::open(folder.path()).unwrap();
        for (event, hour) in [(1, 90), (2, 10), (3, 40), (4, 11)] {
            written(&records, event, hour * HOUR_MS + 5).await;
        }
        let since = async |event| latest_since(&records, EventNumber(event)).await.unwrap() / HOUR_MS;
        assert_eq!(since(0).await, 90);
        assert_eq!(since(1).await, 40, "what was written before says nothing");
        assert_eq!(since(3).await, 11);
        assert_eq!(since(4).await, 0);
    }
}
