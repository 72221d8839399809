//! A frame as bytes: `cloakroom.record.v1.Frame`, its events last.
//!
//! Everything but the events goes through the generated type. The events are appended and found by hand, so
//! that their bytes are copied once and their places are known.
//!
//! A frame that was pruned (version 2) holds some of its events shortened. What it and they hashed to as they
//! were written goes with it ([`Original`]): the chain of frames and the tree over events stay as they were.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use cloakroom_core::ids::{CommitPosition, EventNumber, FramePosition, StartId, Subtree};
use cloakroom_proto::record::v1 as wire;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use super::framing;
use crate::log::Frame;
use crate::{FrameHash, StoreError};

/// What is appended.
const FRAME_VERSION: u32 = 1;
/// A frame that was pruned.
const PRUNED_VERSION: u32 = 2;
/// The field that holds an event, and the last one.
const EVENTS_TAG: u32 = 8;
/// That field's key: its tag, and that its length stands before it.
const EVENTS_KEY: u8 = (EVENTS_TAG as u8) << 3 | WireType::LengthDelimited as u8;

/// A frame ready to be written.
pub(super) struct Encoded {
    /// Head and body.
    pub(super) bytes: Vec<u8>,
    /// Where in `bytes` the events begin, in their order.
    pub(super) events_at: Vec<usize>,
}

impl Encoded {
    /// What is hashed.
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(framing::HEAD_BYTES..).unwrap_or_default()
    }
}

/// A frame read back.
pub(super) struct Decoded {
    pub(super) frame: Frame,
    /// Where in the body the events begin.
    pub(super) events_at: Vec<usize>,
    /// Of a frame that was pruned.
    pub(super) original: Option<Original>,
}

/// What a pruned frame was when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Original {
    pub(super) hash: FrameHash,
    /// The leaf hashes of the events that stand there shortened, by their places in the frame.
    pub(super) leaves: BTreeMap<u32, [u8; 32]>,
}

impl Decoded {
    /// The hash of the frame as it was written.
    pub(super) fn hash(&self, body: &[u8], hash: fn(&[u8]) -> FrameHash) -> FrameHash {
        self.original.as_ref().map_or_else(|| hash(body), |original| original.hash)
    }

    /// The leaf hash of the event at `place` as it was written.
    pub(super) fn leaf(&self, place: usize, event: &[u8], leaf: fn(&[u8]) -> [u8; 32]) -> [u8; 32] {
        let kept = self.original.as_ref().and_then(|it| it.leaves.get(&u32::try_from(place).ok()?));
        kept.copied().unwrap_or_else(|| leaf(event))
    }
}

/// How long an event is after which, in `bytes`, come the key and the length of the next: a varint's bytes but its last
/// have the high bit, and a key has not. `None` if that is not what comes.
pub(super) fn event_before_another(bytes: &[u8]) -> Option<usize> {
    let (_, before) = bytes.split_last().filter(|(last, _)| *last & 0x80 == 0)?;
    let length_at = before.iter().rposition(|byte| byte & 0x80 == 0).map(|at| at + 1)?;
    let key_at = length_at.checked_sub(1)?;
    (bytes.get(key_at).copied() == Some(EVENTS_KEY)).then_some(key_at)
}

/// `None` where a frame is too long for its length to be told (4 GiB).
pub(super) fn encode(frame: &Frame) -> Option<Encoded> {
    encode_as(frame, None)
}

/// The same of a frame that stands for another.
pub(super) fn encode_as(frame: &Frame, original: Option<&Original>) -> Option<Encoded> {
    let pruned = |(index, leaf): (&u32, &[u8; 32])| wire::PrunedEvent {
        index: *index,
        leaf_hash: Bytes::copy_from_slice(leaf),
    };
    let before_events = wire::Frame {
        version: if original.is_some() { PRUNED_VERSION } else { FRAME_VERSION },
        at: Some(wire::FramePosition {
            start_id: Bytes::copy_from_slice(&frame.at.start.0),
            number: frame.at.number,
        }),
        previous_hash: Bytes::copy_from_slice(&frame.previous_hash),
        rests_on: Some(wire::CommitPosition {
            start_id: Bytes::copy_from_slice(&frame.rests_on.start.0),
            number: frame.rests_on.number,
        }),
        durable_number: frame.durable_number,
        ends: frame
            .ends
            .iter()
            .map(|(subtree, end)| wire::SubtreeEnd { subtree: subtree.0, end: *end })
            .collect(),
        first_event: frame.first_event.0,
        events: Vec::new(),
        original_hash: original.map(|original| Bytes::copy_from_slice(&original.hash)).unwrap_or_default(),
        pruned: original.into_iter().flat_map(|original| &original.leaves).map(pruned).collect(),
    };
    // Key and length of an event take six bytes at most.
    let events_bytes = frame.events.iter().map(|event| event.len() + 6).sum::<usize>();
    let mut bytes = Vec::with_capacity(framing::HEAD_BYTES + before_events.encoded_len() + events_bytes);
    bytes.extend_from_slice(&[0; framing::HEAD_BYTES]);
    before_events.encode_raw(&mut bytes);
    let mut events_at = Vec::with_capacity(frame.events.len());
    for event in &frame.events {
        encode_key(EVENTS_TAG, WireType::LengthDelimited, &mut bytes);
        encode_varint(event.len() as u64, &mut bytes);
        events_at.push(bytes.len());
        bytes.extend_from_slice(event);
    }
    let (head, body) = bytes.split_at_mut_checked(framing::HEAD_BYTES)?;
    head.copy_from_slice(&framing::head(body)?);
    Some(Encoded { bytes, events_at })
}

/// The frame that `body` encodes; none if it encodes none.
///
/// # Errors
/// [`StoreError::Newer`] if a newer version wrote it.
pub(super) fn decode(body: &Bytes) -> Result<Option<Decoded>, StoreError> {
    let Some(events_from) = events_from(body) else { return Ok(None) };
    let Ok(wire) = wire::Frame::decode(body.slice(..events_from)) else { return Ok(None) };
    if wire.version > PRUNED_VERSION {
        return Err(StoreError::Newer {
            what: "a frame of the log",
            found: wire.version,
            known: PRUNED_VERSION,
        });
    }
    Ok(events(body, events_from).and_then(|(events, events_at)| {
        let original = original(&wire, events.len())?;
        let frame = from_wire(wire, events)?;
        Some(Decoded { frame, events_at, original })
    }))
}

/// What a pruned frame keeps of what it was, none for another; `None` where it says too little or too much.
fn original(wire: &wire::Frame, events: usize) -> Option<Option<Original>> {
    if wire.version != PRUNED_VERSION {
        return (wire.original_hash.is_empty() && wire.pruned.is_empty()).then_some(None);
    }
    let mut leaves = BTreeMap::new();
    for pruned in &wire.pruned {
        let leaf = <[u8; 32]>::try_from(&pruned.leaf_hash[..]).ok()?;
        if pruned.index as usize >= events || leaves.insert(pruned.index, leaf).is_some() {
            return None;
        }
    }
    Some(Some(Original { hash: FrameHash::try_from(&wire.original_hash[..]).ok()?, leaves }))
}

/// Where the first event's key stands, or the end.
fn events_from(body: &Bytes) -> Option<usize> {
    let mut rest = &body[..];
    while rest.has_remaining() {
        let at = body.len() - rest.len();
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        if tag == EVENTS_TAG {
            return Some(at);
        }
        skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
    }
    Some(body.len())
}

fn events(body: &Bytes, from: usize) -> Option<(Vec<Bytes>, Vec<usize>)> {
    let (mut events, mut events_at) = (Vec::new(), Vec::new());
    let mut rest = body.get(from..)?;
    while rest.has_remaining() {
        let (EVENTS_TAG, WireType::LengthDelimited) = decode_key(&mut rest).ok()? else { return None };
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let event = rest.get(..length)?;
        events_at.push(body.len() - rest.len());
        events.push(body.slice_ref(event));
        rest.advance(length);
    }
    Some((events, events_at))
}

fn from_wire(wire: wire::Frame, events: Vec<Bytes>) -> Option<Frame> {
    let (at, rests_on) = (wire.at?, wire.rests_on?);
    Some(Frame {
        at: FramePosition { start: StartId::from_slice(&at.start_id)?, number: at.number },
        previous_hash: FrameHash::try_from(&wire.previous_hash[..]).ok()?,
        rests_on: CommitPosition { start: StartId::from_slice(&rests_on.start_id)?, number: rests_on.number },
        durable_number: wire.durable_number,
        ends: wire.ends.iter().map(|end| (Subtree(end.subtree), end.end)).collect(),
        first_event: EventNumber(wire.first_event),
        events,
    })
}

/// The highest `durable_number` stated by any sound frame in `bytes`, wherever in them it begins: what lies
/// behind a bad frame has no known beginnings.
pub(super) fn durable_number_stated_in(bytes: &[u8]) -> u64 {
    // A body begins with its version and the key of its position.
    const BODY_BEGINS: [u8; 3] = [0x08, FRAME_VERSION as u8, 0x12];
    let mut highest = 0;
    for (at, begins) in bytes.windows(BODY_BEGINS.len()).enumerate() {
        if begins != BODY_BEGINS {
            continue;
        }
        let block =
            at.checked_sub(framing::HEAD_BYTES).and_then(|from| bytes.get(from..)).and_then(framing::parse);
        if let Some(Ok(Some(found))) = block.map(|body| decode(&Bytes::copy_from_slice(body)))
            && found.frame.durable_number < found.frame.at.number
        {
            highest = highest.max(found.frame.durable_number);
        }
    }
    highest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let position = (any::<[u8; 16]>(), any::<u64>());
        let events = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..6);
        let ends = proptest::collection::vec((any::<u32>(), any::<u64>()), 0..4);
        (position, any::<[u8; 32]>(), position, any::<u64>(), ends, any::<u64>(), events).prop_map(
            |(at, previous_hash, rests_on, durable_number, ends, first_event, events)| Frame {
                at: FramePosition { start: StartId(at.0), number: at.1 },
                previous_hash,
                rests_on: CommitPosition { start: StartId(rests_on.0), number: rests_on.1 },
                durable_number,
                ends: ends.into_iter().map(|(subtree, end)| (Subtree(subtree), end)).collect(),
                first_event: EventNumber(first_event),
                events: events.into_iter().map(Bytes::from).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_and_is_what_the_generated_type_reads(frame in any_frame()) {
            let encoded = encode(&frame).unwrap();
            let body = Bytes::copy_from_slice(encoded.body());
            let decoded = decode(&body).unwrap().unwrap();
            prop_assert_eq!(&decoded.frame, &frame);
            for (event, places) in frame.events.iter().zip(encoded.events_at.windows(2)) {
                let until_next = &encoded.bytes[places[0]..places[1]];
                prop_assert_eq!(event_before_another(until_next), Some(event.len()));
            }
            for ((event, in_file), in_body) in frame.events.iter().zip(encoded.events_at).zip(decoded.events_at) {
                prop_assert_eq!(&encoded.bytes[in_file..in_file + event.len()], &event[..]);
                prop_assert_eq!(in_file, in_body + framing::HEAD_BYTES);
            }
            let generated = wire::Frame::decode(body.clone()).unwrap();
            prop_assert_eq!(&generated.events, &frame.events);
            prop_assert_eq!(generated.encode_to_vec(), &body[..]);
        }

        #[test]
        fn a_pruned_frame_comes_back_with_what_it_was(
            frame in any_frame(),
            hash in any::<[u8; 32]>(),
            leaves in proptest::collection::btree_map(0_u32..6, any::<[u8; 32]>(), 0..6),
        ) {
            let original = Original { hash, leaves };
            let encoded = encode_as(&frame, Some(&original)).unwrap();
            let body = Bytes::copy_from_slice(encoded.body());
            let decoded = decode(&body).unwrap();
            let fits = original.leaves.keys().all(|place| (*place as usize) < frame.events.len());
            prop_assert_eq!(decoded.is_some(), fits);
            if let Some(decoded) = decoded {
                prop_assert_eq!(&decoded.frame, &frame);
                prop_assert_eq!(decoded.hash(&body, |_| [0; 32]), hash);
                for (place, event) in frame.events.iter().enumerate() {
                    let kept = original.leaves.get(&(place as u32)).copied().unwrap_or([9; 32]);
                    prop_assert_eq!(decoded.leaf(place, event, |_| [9; 32]), kept);
                }
                prop_assert_eq!(decoded.original, Some(original));
            }
        }

        #[test]
        fn noise_is_no_frame_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&Bytes::from(noise));
        }

        #[test]
        fn what_a_frame_states_is_found_at_any_place(frame in any_frame(), before in 0_usize..50) {
            let mut bytes = vec![0x08; before];
            bytes.extend_from_slice(&encode(&frame).unwrap().bytes);
            let stated = if frame.durable_number < frame.at.number { frame.durable_number } else { 0 };
            prop_assert_eq!(durable_number_stated_in(&bytes), stated);
        }
    }

    #[test]
    fn an_event_ends_where_the_next_one_s_key_and_length_begin() {
        let followed_by = |length: &[u8]| [&b"event"[..], &[EVENTS_KEY], length].concat();
        for length in [&[0x00][..], &[0x7f], &[0x80, 0x01], &[0xff, 0xff, 0x03]] {
            assert_eq!(event_before_another(&followed_by(length)), Some(5), "{length:?}");
        }
        for no_head in [&b""[..], b"e", b"event", &[0x80, 0x01], &[EVENTS_KEY, 0x80]] {
            assert_eq!(event_before_another(no_head), None, "{no_head:?}");
        }
    }

    #[test]
    fn a_newer_frame_is_told_from_a_bad_one() {
        let newer = wire::Frame { version: 3, ..Default::default() }.encode_to_vec();
        assert!(matches!(decode(&newer.into()), Err(StoreError::Newer { found: 3, known: 2, .. })));
    }
}
