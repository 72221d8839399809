//! Where one of our pages or records can begin, in any bytes whatever: everything sealed begins with a header
//! of two bytes, and what it is bound to stands around it.

use std::collections::{HashMap, HashSet};

use cloakroom_proto::record::v1 as record;
use prost::Message;
use prost::encoding::encode_varint;

use super::cipher::{Context, HEADER, PAGE_BYTES_MAX, VALUE_OVERHEAD};

/// So far before a sealed value its record begins, at the most: ids of 64 bytes at their longest.
const RECORD_BYTES: usize = 400;
/// So much decides whether two places hold the same: header, salt, first block of the cipher.
const TELLING_BYTES: usize = 2 + 32 + 16;

/// Everything that may be sealed, each once however often it was written.
#[derive(Default)]
pub(super) struct Places {
    /// By version and first bytes: whatever was seen behind them, as a page torn here may be whole there.
    pub(super) pages: HashMap<(u64, [u8; TELLING_BYTES]), HashSet<Vec<u8>>>,
    /// Sealed values, and all that they may be bound to.
    pub(super) values: HashMap<Vec<u8>, HashSet<Context>>,
    /// By slot: the first bytes of every sealed value that names it.
    pub(super) slots: HashMap<(u32, u64), HashSet<Vec<u8>>>,
    /// Sealed in a rectification, which names its subject alone: bits and version are its own.
    rectified: HashMap<Vec<u8>, HashSet<(u64, u64, u32)>>,
    /// By subject: what its values are bound to.
    subjects: HashMap<u64, HashSet<Context>>,
}

impl Places {
    /// Takes in everything that begins in `bytes`.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(HEADER.len()).position(|two| two == HEADER) {
            at += found;
            self.take_at(bytes, at);
            at += 1;
        }
    }

    fn take_at(&mut self, bytes: &[u8], at: usize) {
        let here = &bytes[at..];
        let version = at.checked_sub(8).and_then(|before| bytes[before..].first_chunk());
        let version = version.copied().map_or(0, u64::from_be_bytes);
        if let Some(first) = here.first_chunk() {
            let ends = here.len().min(PAGE_BYTES_MAX);
            self.pages.entry((version, *first)).or_default().insert(here[..ends].to_vec());
        }
        for bucket in (5..18).map(|power| 1_usize << power) {
            let length = VALUE_OVERHEAD + bucket;
            if length > here.len() {
                break;
            }
            let mut before = vec![];
            encode_varint(length as u64, &mut before);
            let Some(start) = at.checked_sub(before.len() + 1) else { continue };
            if bytes[start + 1..at] == before[..] {
                self.take_value(bytes, start, at, length);
            }
        }
    }

    /// A field of bytes as long as a sealed value: in which record does it stand?
    fn take_value(&mut self, bytes: &[u8], key_at: usize, at: usize, length: usize) {
        let sealed = &bytes[at..at + length];
        let begins = key_at.saturating_sub(RECORD_BYTES)..key_at;
        // One more field of eight bytes may follow.
        let ends = [at + length + 9, at + length];
        let ends = ends.into_iter().filter(|end| *end <= bytes.len());
        let messages = ends.flat_map(|end| begins.clone().map(move |begin| begin..end));
        match bytes[key_at] {
            0x52 => {
                for message in messages.filter(|message| bytes[message.start] == 0x0a) {
                    if let Ok(stored) = record::ValueStored::decode(&bytes[message])
                        && stored.sealed == sealed
                        && !(stored.controller.is_empty() || stored.field.is_empty())
                    {
                        if let Some(slot) = stored.slot {
                            let named = self.slots.entry((slot.subtree, slot.index)).or_default();
                            named.insert(sealed[..TELLING_BYTES].to_vec());
                        }
                        let context = Context {
                            controller: stored.controller,
                            subject_bits: stored.subject_bits,
                            activity: stored.activity,
                            field: stored.field,
                            bits: stored.bits,
                            version: 1,
                        };
                        self.subjects.entry(stored.subject).or_default().insert(context.clone());
                        self.values.entry(sealed.to_vec()).or_default().insert(context);
                    }
                }
            }
            0x3a => {
                for message in messages.filter(|message| bytes[message.start] == 0x08) {
                    if let Ok(rectified) = record::ValueRectified::decode(&bytes[message])
                        && rectified.sealed == sealed
                        && rectified.slot.is_some()
                    {
                        let named = (rectified.subject, rectified.bits, rectified.value_version);
                        self.rectified.entry(sealed.to_vec()).or_default().insert(named);
                    }
                }
            }
            0x1a => {
                for message in messages.filter(|message| bytes[message.start] == 0x08) {
                    let before = &bytes[..message.start];
                    if let Ok(copy) = record::Copy::decode(&bytes[message])
                        && copy.sealed == sealed
                        && copy.slot.is_some()
                    {
                        let contexts = self.values.entry(sealed.to_vec()).or_default();
                        contexts.extend(scope_before(before, copy.bits));
                    }
                }
            }
            _ => {}
        }
    }

    /// Binds what rectifications sealed to every field of their subject.
    pub(super) fn bind_rectified(&mut self) {
        for (sealed, named) in self.rectified.drain() {
            let bound = named.into_iter().flat_map(|(subject, bits, version)| {
                let fields = self.subjects.get(&subject).into_iter().flatten();
                fields.map(move |field| Context { bits, version, ..field.clone() }).collect::<Vec<_>>()
            });
            self.values.entry(sealed).or_default().extend(bound);
        }
    }
}

/// A copy's record stands behind its key: token, controller, purpose, each after its length, big-endian.
fn scope_before(before: &[u8], bits: u64) -> Vec<Context> {
    let near = &before[before.len().saturating_sub(RECORD_BYTES)..];
    let text = |from: usize| {
        let length = u32::from_be_bytes(*near.get(from..)?.first_chunk()?) as usize;
        let text = std::str::from_utf8(near.get(from + 4..)?.get(..length)?).ok()?;
        (1..=80).contains(&text.len()).then(|| (text.to_owned(), from + 4 + length))
    };
    let scope = |from: usize| {
        let (field, next) = text(from)?;
        let (controller, next) = text(next)?;
        let (activity, _) = text(next)?;
        Some(Context { controller, subject_bits: 0, activity, field, bits, version: 1 })
    };
    (0..near.len()).filter_map(scope).collect()
}
