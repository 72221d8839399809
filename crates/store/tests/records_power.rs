//! Power cuts under the embedded records: of what was written since the last sync any sector may be on disk or
//! not, and what opens then must be all of the old or all of the new.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // assertions

mod disk;

use std::fs;

use crate::disk::copy_all;
use cloakroom_store::contract::Dice;
use cloakroom_store::embedded::EmbeddedRecords;
use cloakroom_store::{Batch, Records};

const SECTOR_BYTES: usize = 512;

/// What each key should hold: the number of the commit that wrote it last.
type Model = Vec<u32>;

/// A commit of its own number to some of the keys.
async fn commit(records: &EmbeddedRecords, model: &mut Model, number: u32, work: &Work, dice: &mut Dice) {
    let mut batch = Batch::default();
    for _ in 0..work.touched {
        let key = dice.below(work.keys) as usize;
        let bytes = 4 + dice.below(work.value_bytes) as usize;
        let mut value = number.to_be_bytes().to_vec();
        value.resize(bytes, number as u8);
        batch.put((key as u64).to_be_bytes(), value);
        model[key] = number;
    }
    records.commit(batch).await.unwrap();
}

/// What each key holds, 0 for nothing.
async fn held(records: &EmbeddedRecords, work: &Work) -> Model {
    let mut held = vec![0; work.keys as usize];
    for (key, value) in records.scan(b"", None, usize::MAX).await.unwrap() {
        let number = u32::from_be_bytes(value[..4].try_into().unwrap());
        assert!(value[4..].iter().all(|byte| *byte == number as u8), "a value of two commits");
        held[u64::from_be_bytes(key[..].try_into().unwrap()) as usize] = number;
    }
    held
}

/// What is written before the power is cut.
struct Work {
    keys: u64,
    touched: u64,
    value_bytes: u64,
    commits: u32,
}

/// `new` with some of its sectors as they were in `old`, and perhaps without its end.
fn torn(old: &[u8], new: &[u8], chance_of_old: u64, dice: &mut Dice) -> Vec<u8> {
    let mut mixed = new.to_vec();
    for (index, sector) in mixed.chunks_mut(SECTOR_BYTES).enumerate() {
        let from = index * SECTOR_BYTES;
        if dice.below(4) < chance_of_old {
            let before = old.get(from..(from + sector.len()).min(old.len())).unwrap_or_default();
            sector.fill(0);
            sector[..before.len()].copy_from_slice(before);
        }
    }
    if chance_of_old > 0 && new.len() > old.len() && dice.below(3) == 0 {
        mixed.truncate(old.len() + dice.below((new.len() - old.len()) as u64) as usize);
    }
    mixed
}

async fn power_cuts(seed: u64, work: Work, cuts: u32) {
    let mut dice = Dice::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let records = EmbeddedRecords::open(folder.path()).unwrap();
    let mut new_model = vec![0; work.keys as usize];
    for number in 1..work.commits {
        commit(&records, &mut new_model, number, &work, &mut dice).await;
    }
    let old_model = new_model.clone();
    let old = fs::read(folder.path().join("db")).unwrap();
    commit(&records, &mut new_model, work.commits, &work, &mut dice).await;
    let new_folder = tempfile::tempdir().unwrap();
    copy_all(folder.path(), new_folder.path());
    let new = fs::read(new_folder.path().join("db")).unwrap();
    let mut seen = [false; 2];
    for cut in 0..cuts {
        let after = tempfile::tempdir().unwrap();
        copy_all(new_folder.path(), after.path());
        // The first cut leaves nothing of the commit and the second all of it, so that both ends are seen.
        let chance_of_old = match cut {
            0 => 4,
            1 => 0,
            _ => dice.below(5),
        };
        fs::write(after.path().join("db"), torn(&old, &new, chance_of_old, &mut dice)).unwrap();
        let survived = EmbeddedRecords::open(after.path()).unwrap();
        let mut model = held(&survived, &work).await;
        assert!(model == old_model || model == new_model, "cut {cut} of seed {seed}");
        seen[usize::from(model == new_model)] = true;
        // And it goes on.
        commit(&survived, &mut model, work.commits + 1, &work, &mut dice).await;
        assert!(held(&survived, &work).await == model);
    }
    assert_eq!(seen, [true; 2], "of seed {seed}: nothing written is the old state, all written the new one");
}

#[tokio::test]
async fn a_small_commit_is_whole_or_not_there() {
    power_cuts(1, Work { keys: 20, touched: 20, value_bytes: 400, commits: 3 }, 40).await;
}

#[tokio::test]
async fn a_large_commit_is_whole_or_not_there() {
    power_cuts(2, Work { keys: 3_000, touched: 3_000, value_bytes: 400, commits: 2 }, 15).await;
}

#[tokio::test]
async fn a_commit_of_pages_in_a_database_that_was_rewritten_often_is_whole_or_not_there() {
    power_cuts(3, Work { keys: 300, touched: 12, value_bytes: 8_000, commits: 400 }, 20).await;
}
