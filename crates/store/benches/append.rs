//! What a group commit costs beside its sync: encoding, hashing, checking and writing one frame.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![allow(missing_docs, reason = "divan's own")]

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, EventNumber, FramePosition, StartId, Subtree};
use cloakroom_store::embedded::{EmbeddedLog, LogOptions};
use cloakroom_store::{Frame, Hashes, Log as _};
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// Of an event with a value of the smallest bucket.
const EVENT_BYTES: usize = 200;
const START: StartId = StartId([7; 16]);

/// Of no use but here: SHA-256 is measured elsewhere, and as fast for everybody.
const HASHES: Hashes = Hashes { frame: |_| [0; 32], leaf: |_| [0; 32] };

#[divan::bench(args = [1, 32, 1024])]
fn append(bencher: Bencher<'_, '_>, events: u64) {
    let folder = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(&folder.path().join("log"), HASHES, LogOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        log.find_end(0).await.unwrap();
        log.cut().await.unwrap();
    });
    let event = Bytes::from(vec![b'e'; EVENT_BYTES]);
    let (mut number, mut first_event, mut previous_hash) = (1, 1, [0; 32]);
    bencher.counter(ItemsCount::new(events)).bench_local(|| {
        let frame = Frame {
            at: FramePosition { start: START, number },
            previous_hash,
            rests_on: CommitPosition { start: START, number },
            durable_number: number.saturating_sub(1),
            ends: vec![(Subtree(1), first_event)],
            first_event: EventNumber(first_event),
            events: (0..events).map(|_| event.clone()).collect(),
        };
        previous_hash = runtime.block_on(async { log.append(&frame, false).await }).unwrap();
        number += 1;
        first_event += events;
    });
}
