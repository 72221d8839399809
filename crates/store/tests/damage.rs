//! What a crash, a power cut or a rotten disk leaves of an embedded log, and what the log says to it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // assertions

mod disk;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::files;
use cloakroom_core::ids::EventNumber;
use cloakroom_store::contract::log::Chain;
use cloakroom_store::contract::{Dice, HASHES};
use cloakroom_store::embedded::reading::FrameReader;
use cloakroom_store::embedded::{EmbeddedLog, LogOptions};
use cloakroom_store::faulty::power_cut;
use cloakroom_store::{Log, LogEnd, StoreError};
use proptest::prelude::*;
use tempfile::TempDir;

const HEADER_BYTES: usize = 80;
/// Room for two frames a segment.
const SMALL_BYTES: u64 = 420;

fn open(folder: &Path, segment_bytes: u64) -> EmbeddedLog {
    EmbeddedLog::open(folder, HASHES, LogOptions { segment_bytes, reserve_bytes: 0 }).unwrap()
}

async fn find_end(folder: &Path, durable_number: u64) -> Result<LogEnd, StoreError> {
    open(folder, 64 << 20).find_end(durable_number).await
}

fn is_damage(end: &Result<LogEnd, StoreError>) -> bool {
    matches!(end, Err(StoreError::Damaged { .. }))
}

/// A log of one segment whose frames state these durable numbers.
struct Written {
    folder: TempDir,
    bytes: Vec<u8>,
    /// Where each frame lies.
    frames: Vec<Range<usize>>,
    /// Where the log ends after each frame; first, an empty one.
    ends: Vec<LogEnd>,
    chain: Chain,
}

impl Written {
    async fn new(durable_numbers: &[u64]) -> Written {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), 64 << 20);
        log.find_end(0).await.unwrap();
        log.cut().await.unwrap();
        let mut chain = Chain::default();
        let (mut frames, mut ends, mut from) = (Vec::new(), vec![chain.end()], HEADER_BYTES);
        for number in durable_numbers {
            chain.append(&log, *number, [format!("event under {number}"), "another".to_owned()]).await;
            let to = fs::metadata(segment(folder.path(), 1)).unwrap().len() as usize;
            frames.push(from..to);
            ends.push(chain.end());
            from = to;
        }
        log.sync().await.unwrap();
        let bytes = fs::read(segment(folder.path(), 1)).unwrap();
        Written { folder, bytes, frames, ends, chain }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(segment(self.path(), 1), bytes).unwrap();
    }

    async fn flipped(&self, at: usize, bit: u32, durable_number: u64) -> Result<LogEnd, StoreError> {
        let mut bytes = self.bytes.clone();
        bytes[at] ^= 1 << bit;
        self.write(&bytes);
        find_end(self.path(), durable_number).await
    }
}

fn segment(folder: &Path, first_event: u64) -> PathBuf {
    folder.join(format!("{first_event:020}.log"))
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    let written = Written::new(&[0, 1, 2]).await;
    let last = written.frames[2].clone();
    for cut in last.clone() {
        for fill in [None, Some(0), Some(0xff)] {
            let mut bytes = written.bytes[..cut].to_vec();
            // A file's length can be on disk before its bytes are.
            bytes.extend(fill.map(|fill| vec![fill; last.end - cut]).unwrap_or_default());
            if bytes == written.bytes {
                continue;
            }
            written.write(&bytes);
            assert!(is_damage(&find_end(written.path(), 3).await), "{cut} {fill:?}");
            let log = open(written.path(), 64 << 20);
            assert_eq!(log.find_end(2).await.unwrap(), written.ends[2], "{cut} {fill:?}");
            assert_eq!(log.event(EventNumber(5)).await.unwrap(), None);
            assert_eq!(
                fs::read(segment(written.path(), 1)).unwrap(),
                bytes,
                "nothing changes before the cut"
            );
            log.cut().await.unwrap();
            assert_eq!(fs::read(segment(written.path(), 1)).unwrap(), written.bytes[..last.start]);
        }
    }
    let log = open(written.path(), 64 << 20);
    let end = log.find_end(2).await.unwrap();
    log.cut().await.unwrap();
    let (at, previous_hash) = end.newest.unwrap();
    let mut next = written.chain.next(2, ["after the cut"]);
    next.at.number = at.number + 1;
    next.previous_hash = previous_hash;
    next.first_event = EventNumber(end.events + 1);
    log.append(&next, false).await.unwrap();
    log.sync().await.unwrap();
    drop(log);
    assert_eq!(find_end(written.path(), 3).await.unwrap().events, 5);
}

#[tokio::test]
async fn a_flipped_bit_is_damage_where_frames_were_durable_and_the_end_behind() {
    let written = Written::new(&[0, 1, 2, 2, 2]).await;
    for at in 0..written.bytes.len() {
        let bit = at as u32 % 8;
        let frame = written.frames.iter().position(|frame| frame.contains(&at));
        for durable_number in [0, 2, 4] {
            let end = written.flipped(at, bit, durable_number).await;
            match frame {
                // Frames 3 to 5 state that 2 was durable; whichever of them is sound tells.
                Some(frame) if frame as u64 + 1 > durable_number.max(2) => {
                    assert_eq!(end.unwrap(), written.ends[frame], "bit {bit} of byte {at}, {durable_number}");
                }
                // The header's format.
                None if matches!(end, Err(StoreError::Newer { .. })) => assert!((8..12).contains(&at)),
                _ => assert!(is_damage(&end), "bit {bit} of byte {at}, {durable_number}: {end:?}"),
            }
        }
    }
}

#[tokio::test]
async fn of_several_frames_in_flight_any_may_be_lost() {
    let written = Written::new(&[0, 1, 1, 1, 1]).await;
    for lost in 1..5 {
        for kept in [true, false] {
            let mut bytes = written.bytes.clone();
            bytes[written.frames[lost].clone()].fill(0);
            if !kept {
                bytes.truncate(written.frames[lost].end);
            }
            written.write(&bytes);
            assert_eq!(find_end(written.path(), 1).await.unwrap(), written.ends[lost]);
        }
    }
}

#[tokio::test]
async fn a_frame_behind_a_bad_one_tells_that_it_was_durable_whatever_part_is_bad() {
    let written = Written::new(&[0, 1, 2, 2, 4]).await;
    for at in written.frames[3].clone() {
        assert!(is_damage(&written.flipped(at, 3, 0).await), "byte {at}");
    }
    // Without the last frame nobody knows.
    let short = written.frames[3].end;
    for at in written.frames[3].clone() {
        let mut bytes = written.bytes[..short].to_vec();
        bytes[at] ^= 8;
        written.write(&bytes);
        assert_eq!(find_end(written.path(), 0).await.unwrap(), written.ends[3], "byte {at}");
    }
}

#[tokio::test]
async fn a_sound_frame_of_another_chain_ends_the_log() {
    let written = Written::new(&[0, 0]).await;
    let other = {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), 64 << 20);
        log.find_end(0).await.unwrap();
        log.cut().await.unwrap();
        let mut chain = Chain::default();
        chain.append(&log, 0, ["another first", "and its second"]).await;
        let from = fs::metadata(segment(folder.path(), 1)).unwrap().len() as usize;
        chain.append(&log, 0, ["another second"]).await;
        fs::read(segment(folder.path(), 1)).unwrap()[from..].to_vec()
    };
    let mut bytes = written.bytes[..written.frames[1].start].to_vec();
    bytes.extend(other);
    written.write(&bytes);
    assert_eq!(find_end(written.path(), 1).await.unwrap(), written.ends[1]);
    assert!(is_damage(&find_end(written.path(), 2).await));
}

/// A log of many segments; the newest frame is `frames`.
async fn many_segments(frames: u64) -> (TempDir, Chain) {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SMALL_BYTES);
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    for number in 1..=frames {
        chain.append(&log, number - 1, [format!("event {number}"), "another".to_owned()]).await;
        log.sync().await.unwrap();
    }
    assert!(files(folder.path(), "log").len() > 4);
    (folder, chain)
}

async fn reads_all(folder: &Path, chain: &Chain) {
    let log = open(folder, SMALL_BYTES);
    assert_eq!(log.find_end(chain.newest()).await.unwrap(), chain.end());
    log.cut().await.unwrap();
    for (index, event) in chain.events.iter().enumerate() {
        assert_eq!(log.event(EventNumber(index as u64 + 1)).await.unwrap().as_ref(), Some(event));
    }
    let leaves: Vec<_> = chain.events.iter().map(|event| (HASHES.leaf)(event)).collect();
    assert_eq!(log.leaves(EventNumber(1), usize::MAX).await.unwrap(), leaves);
}

#[tokio::test]
async fn tables_are_built_again_where_they_are_missing_torn_or_of_another_segment() {
    let (folder, chain) = many_segments(20).await;
    let tables = files(folder.path(), "index");
    assert_eq!(tables.len() + 1, files(folder.path(), "log").len());
    let whole: Vec<_> = tables.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::remove_file(&tables[0]).unwrap();
    fs::write(&tables[1], &whole[1][..whole[1].len() / 2]).unwrap();
    fs::write(&tables[2], &whole[3]).unwrap();
    let mut flipped = whole[4].clone();
    flipped[40] ^= 1;
    fs::write(&tables[4], flipped).unwrap();
    reads_all(folder.path(), &chain).await;
    let again: Vec<_> = tables.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(again == whole);
}

#[tokio::test]
async fn a_sealed_segment_that_is_missing_short_or_flipped_is_damage() {
    let (folder, chain) = many_segments(20).await;
    let segments = files(folder.path(), "log");
    let newest = chain.newest();
    for path in &segments[..segments.len() - 1] {
        let whole = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(is_damage(&find_end(folder.path(), newest).await), "missing");
        for bytes in [&whole[..whole.len() - 1], &whole[..HEADER_BYTES], &whole[..10], &[]] {
            fs::write(path, bytes).unwrap();
            assert!(is_damage(&find_end(folder.path(), newest).await), "{} bytes", bytes.len());
        }
        let mut flipped = whole.clone();
        flipped[HEADER_BYTES + 50] ^= 1;
        fs::write(path, &flipped).unwrap();
        // The keys lag behind: the header that follows still tells that all this was durable.
        assert!(is_damage(&find_end(folder.path(), 0).await), "flipped");
        fs::write(path, &whole).unwrap();
    }
    reads_all(folder.path(), &chain).await;
}

#[tokio::test]
async fn an_event_that_has_rotted_since_the_start_is_not_given_out() {
    let (folder, chain) = many_segments(20).await;
    let path = &files(folder.path(), "log")[1];
    let mut bytes = fs::read(path).unwrap();
    let needle = b"event 4";
    let at = bytes.windows(needle.len()).position(|part| part == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    let log = open(folder.path(), SMALL_BYTES);
    log.find_end(chain.newest()).await.unwrap();
    assert!(matches!(log.event(EventNumber(7)).await, Err(StoreError::Damaged { .. })));
    assert!(matches!(log.frame_of(EventNumber(7)).await, Err(StoreError::Damaged { .. })));
    assert_eq!(log.event(EventNumber(1)).await.unwrap().unwrap(), "event 1");
}

#[tokio::test]
async fn a_last_segment_that_never_got_its_header_or_a_frame_is_no_damage() {
    let (folder, chain) = many_segments(9).await;
    let last = files(folder.path(), "log").pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let first_event: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let frames_before = (first_event - 1) / 2;
    for bytes in [0, 1, HEADER_BYTES - 1, HEADER_BYTES] {
        fs::write(&last, &whole[..bytes]).unwrap();
        assert!(is_damage(&find_end(folder.path(), frames_before + 1).await), "{bytes} bytes");
        let log = open(folder.path(), SMALL_BYTES);
        let end = log.find_end(frames_before).await.unwrap();
        assert_eq!((end.events, end.newest.unwrap().0.number), (first_event - 1, frames_before));
        log.cut().await.unwrap();
        let mut next = chain.next(0, ["on"]);
        (next.at.number, next.previous_hash) = (frames_before + 1, end.newest.unwrap().1);
        next.first_event = EventNumber(first_event);
        log.append(&next, false).await.unwrap();
        log.sync().await.unwrap();
        drop(log);
        assert_eq!(find_end(folder.path(), frames_before + 1).await.unwrap().events, first_event);
    }
    // With frames behind it a bad header is no torn one.
    let mut flipped = whole.clone();
    flipped[30] ^= 1;
    fs::write(&last, flipped).unwrap();
    assert!(is_damage(&find_end(folder.path(), 0).await));
}

#[tokio::test]
async fn where_the_last_segment_has_no_header_a_frame_may_still_fit_into_the_one_before() {
    let (folder, mut chain) = many_segments(9).await;
    let last = files(folder.path(), "log").pop().unwrap();
    let first_event: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    fs::write(&last, []).unwrap();
    let frames_before = (first_event - 1) / 2;
    let log = open(folder.path(), 64 << 20);
    let end = log.find_end(frames_before).await.unwrap();
    log.cut().await.unwrap();
    chain = chain.rewound_to(&end);
    chain.append(&log, frames_before, ["a start's"]).await;
    log.sync().await.unwrap();
    drop(log);
    assert!(!last.exists());
    assert_eq!(find_end(folder.path(), chain.newest()).await.unwrap(), chain.end());
}

#[tokio::test]
async fn a_newer_format_is_refused_in_words() {
    let written = Written::new(&[0]).await;
    let mut bytes = written.bytes.clone();
    bytes[8] = 3;
    written.write(&bytes);
    let end = find_end(written.path(), 0).await;
    assert!(matches!(end, Err(StoreError::Newer { found: 3, known: 2, .. })), "{end:?}");
}

#[tokio::test]
async fn the_bytes_of_a_segment_are_these() {
    let written = Written::new(&[0]).await;
    let hex: String = written.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            // "CLOAKLOG", format, first event, first frame
            "434c4f414b4c4f47010000000100000000000000",
            "0100000000000000",
            // the segment before: first event, bytes, its last frame's hash; checksum
            "00000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "d6c815d9",
            // length, checksum; version, position
            "7d000000a3327cc6",
            "0801",
            "12140a10070707070707070707070707070707071001",
            // previous hash, key commit rested on
            "1a200000000000000000000000000000000000000000000000000000000000000000",
            "22140a10080808080808080808080808080808081065",
            // the ends of two subtrees, first event, events
            "32021001",
            "320d080310ffffffffffffffffff01",
            "3801",
            "420d6576656e7420756e6465722030",
            "4207616e6f74686572",
        )
    );
}

#[tokio::test]
async fn a_hundred_thousand_events_are_read_back_at_random() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), 1 << 20);
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    let event = |number: usize| format!("{number:>width$}", width = 40 + number % 60);
    for frame in 0..1_000 {
        chain.append(&log, 0, (0..100).map(|index| event(frame * 100 + index + 1))).await;
    }
    log.sync().await.unwrap();
    drop(log);
    let log = open(folder.path(), 1 << 20);
    assert_eq!(log.find_end(1_000).await.unwrap(), chain.end());
    let mut dice = Dice::new(4);
    for _ in 0..20_000 {
        let number = dice.below(100_000) as usize + 1;
        assert_eq!(log.event(EventNumber(number as u64)).await.unwrap().unwrap(), event(number));
    }
}

#[test]
fn readers_see_whole_events_while_one_writes_and_one_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(open(folder.path(), 20_000));
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime().block_on(async {
        log.find_end(0).await.unwrap();
        log.cut().await.unwrap();
    });
    let done = std::sync::atomic::AtomicBool::new(false);
    let running = || !done.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (log, runtime) = (&log, runtime());
            scope.spawn(move || {
                let mut dice = Dice::new(reader);
                let mut newest = 0;
                runtime.block_on(async {
                    while running() {
                        // What was there once stays, and what comes next comes whole.
                        while let Some(event) = log.event(EventNumber(newest + 1)).await.unwrap() {
                            newest += 1;
                            assert_eq!(event, format!("event {newest}"));
                        }
                        let number = dice.below(newest + 1);
                        let found = log.event(EventNumber(number)).await.unwrap();
                        assert_eq!(found.is_some(), number > 0);
                    }
                });
            });
        }
        scope.spawn(|| {
            runtime().block_on(async {
                while running() {
                    log.sync().await.unwrap();
                }
            });
        });
        runtime().block_on(async {
            let mut chain = Chain::default();
            for frame in 0..1_000_u64 {
                chain.append(&*log, 0, (1..=3).map(|index| format!("event {}", frame * 3 + index))).await;
            }
            log.sync().await.unwrap();
            assert_eq!(log.find_end(1_000).await.unwrap(), chain.end());
        });
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

/// What a power cut makes of bytes that were not synced.
fn tear(mut bytes: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    if dice.below(2) == 0 {
        let kept = dice.below(bytes.len() as u64 + 1) as usize;
        bytes.truncate(kept);
    }
    for _ in 0..dice.below(3) {
        let from = dice.below(bytes.len() as u64 + 1) as usize;
        let to = (from + dice.below(200) as usize).min(bytes.len());
        bytes[from..to].fill(0);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_takes_nothing_synced_and_leaves_a_log_that_goes_on(
        seed in any::<u64>(), segment_bytes in 300_u64..4_000
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut dice = Dice::new(seed);
            let mut folder = tempfile::tempdir().unwrap();
            let mut chain = Chain::default();
            let mut durable_number = 0;
            for _ in 0..4 {
                let log = open(folder.path(), segment_bytes);
                let end = log.find_end(durable_number).await.unwrap();
                log.cut().await.unwrap();
                chain = chain.rewound_to(&end);
                // What survived is durable now, synced or not.
                durable_number = chain.newest();
                for _ in 0..dice.below(30) {
                    let events: Vec<_> = (0..dice.below(4)).map(|_| dice.bytes(60)).collect();
                    chain.append(&log, durable_number, events).await;
                    if dice.below(5) == 0 {
                        log.sync().await.unwrap();
                        durable_number = chain.newest();
                    }
                }
                let after = tempfile::tempdir().unwrap();
                power_cut(&log, after.path(), |bytes| tear(bytes, &mut dice)).unwrap();
                folder = after;
            }
            let log = open(folder.path(), segment_bytes);
            let end = log.find_end(durable_number).await.unwrap();
            for number in 1..=end.events {
                let event = log.event(EventNumber(number)).await.unwrap();
                assert_eq!(event.as_ref(), chain.events.get(number as usize - 1));
            }
        });
    }
}

#[tokio::test]
async fn a_pruned_segment_that_is_cut_or_flipped_is_damage_and_a_draft_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SMALL_BYTES);
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    for number in 0..4 {
        chain.append(&log, number, ["a".repeat(200), format!("another {number}")]).await;
    }
    log.sync().await.unwrap();
    let shorter = std::collections::BTreeMap::from([(1, bytes::Bytes::new())]);
    assert!(log.prune(EventNumber(1), shorter).await.unwrap() > 0);
    drop(log);
    let path = segment(folder.path(), 1);
    let whole = fs::read(&path).unwrap();
    fs::write(path.with_extension("pruning"), &whole[..50]).unwrap();
    // Nothing but the header after it vouches for what is in it: every frame is read.
    assert_eq!(find_end(folder.path(), 0).await.unwrap(), chain.end());
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(is_damage(&find_end(folder.path(), 0).await), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        let end = find_end(folder.path(), 0).await;
        assert!(end.is_err(), "flipped at {at}");
    }
    fs::write(&path, &whole).unwrap();
    let log = open(folder.path(), SMALL_BYTES);
    log.find_end(4).await.unwrap();
    assert!(path.with_extension("pruning").exists());
    log.cut().await.unwrap();
    assert!(!path.with_extension("pruning").exists());
}

#[tokio::test]
async fn a_log_whose_last_file_was_pruned_goes_on_in_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), SMALL_BYTES);
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    for number in 0..2 {
        chain.append(&log, number, ["a".repeat(200 + number as usize)]).await;
    }
    while log.sealed().await.unwrap().is_empty() {
        chain.append(&log, 0, ["more"]).await;
    }
    let second = log.sealed().await.unwrap()[0].end;
    log.sync().await.unwrap();
    let shorter = std::collections::BTreeMap::from([(1, bytes::Bytes::new())]);
    assert!(log.prune(EventNumber(1), shorter).await.unwrap() > 0);
    drop(log);
    // As a restored older copy of the folder has it.
    fs::remove_file(segment(folder.path(), second)).unwrap();
    let whole = fs::read(segment(folder.path(), 1)).unwrap();
    fs::write(segment(folder.path(), 1), [&whole[..], b"torn"].concat()).unwrap();
    assert!(is_damage(&find_end(folder.path(), 0).await));
    fs::write(segment(folder.path(), 1), &whole).unwrap();
    let log = open(folder.path(), 64 << 20);
    let found = log.find_end(0).await.unwrap();
    assert!(found.events > 0 && found.events < chain.end().events);
    log.cut().await.unwrap();
    let mut chain = chain.rewound_to(&found);
    chain.append(&log, 0, ["behind it"]).await;
    log.sync().await.unwrap();
    drop(log);
    assert_eq!(find_end(folder.path(), 0).await.unwrap(), chain.end());
    assert_eq!(files(folder.path(), "log").len(), 2);
}

#[tokio::test]
async fn a_pruned_file_that_was_restored_to_an_earlier_end_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), 2_000);
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    while log.sealed().await.unwrap().is_empty() {
        chain.append(&log, 0, ["a".repeat(200)]).await;
    }
    let second = log.sealed().await.unwrap()[0].end;
    log.sync().await.unwrap();
    log.prune(EventNumber(1), std::collections::BTreeMap::from([(1, bytes::Bytes::new())])).await.unwrap();
    drop(log);
    fs::remove_file(segment(folder.path(), second)).unwrap();
    let path = segment(folder.path(), 1);
    // Without its last frame, which was not shortened.
    let file = fs::File::open(&path).unwrap();
    let mut reader = FrameReader::open(&file, HASHES.frame).unwrap().unwrap();
    let mut ends = vec![];
    while reader.next_frame().unwrap().is_some() {
        ends.push(reader.bytes());
    }
    assert!(reader.as_before().bytes > reader.bytes(), "as long as it was");
    let earlier = ends[ends.len() - 2];
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(earlier).unwrap();
    for _ in 0..2 {
        let log = open(folder.path(), 2_000);
        let end = log.find_end(0).await.unwrap();
        log.cut().await.unwrap();
        chain = chain.rewound_to(&end);
        chain.append(&log, 0, ["behind it"]).await;
        log.sync().await.unwrap();
        drop(log);
        assert_eq!(find_end(folder.path(), 0).await.unwrap(), chain.end());
    }
}

#[tokio::test]
async fn the_bytes_of_a_pruned_segment_are_these() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), 1);
    log.find_end(0).await.unwrap();
    log.cut().await.unwrap();
    let mut chain = Chain::default();
    for number in 0..2 {
        chain.append(&log, number, ["dead ".repeat(30), "alive".to_owned()]).await;
    }
    let shorter = std::collections::BTreeMap::from([(1, bytes::Bytes::from_static(b"dead"))]);
    log.prune(EventNumber(1), shorter).await.unwrap();
    let bytes = fs::read(segment(folder.path(), 1)).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            // "CLOAKLOG", format, first event, first frame; nothing before it; checksum
            "434c4f414b4c4f47020000000100000000000000",
            "0100000000000000",
            "00000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "9ba43efd",
            // length, checksum; the segment's length before, and now
            "1000000006022b75",
            "5d010000000000002801000000000000",
            // length, checksum; version, position, previous hash, key commit rested on
            "b8000000e8f96b0b",
            "0802",
            "12140a10070707070707070707070707070707071001",
            "1a200000000000000000000000000000000000000000000000000000000000000000",
            "22140a10080808080808080808080808080808081065",
            // ends, first event
            "32021001",
            "320d080310ffffffffffffffffff01",
            "3801",
            // what the frame hashed to; of its first event the leaf hash
            "4a20300ea4a30124f8b5525a1c8f63704099f4a6d4fac58c88ec96f26cd6a7d830c0",
            "5222122066139a0ad3616e640cf672d7b98486b943afa7b4f6dd53da294a4f699c38bb07",
            // "dead", "alive"
            "420464656164",
            "4205616c697665",
        )
    );
}
