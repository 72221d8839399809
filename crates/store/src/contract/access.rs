//! The contract of [`AccessLog`].

use super::{Dice, Place};
use crate::AccessLog;

/// All cases of this module as tests. `$place` makes a fresh [`Place`] of an access log.
#[macro_export]
macro_rules! access_contract {
    ($place:expr) => {
        $crate::contract_cases! { access, $place,
            an_empty_access_log_reads_nothing
            entries_are_read_by_number
            a_kill_takes_no_entry
            a_reopened_access_log_goes_on
        }
    };
}

/// See the name.
pub async fn an_empty_access_log_reads_nothing<P: Place<dyn AccessLog>>(place: P) {
    let log = place.open().await.unwrap();
    assert!(log.read(0, 10).await.unwrap().is_empty());
    assert!(log.read(u64::MAX, 10).await.unwrap().is_empty());
    log.sync().await.unwrap();
}

/// See the name.
pub async fn entries_are_read_by_number<P: Place<dyn AccessLog>>(place: P) {
    let log = place.open().await.unwrap();
    let mut dice = Dice::new(2);
    let mut entries = Vec::new();
    for _ in 0..500 {
        let bytes = dice.below(200) as usize;
        let entry = dice.bytes(bytes);
        log.append(&entry).await.unwrap();
        entries.push(entry);
        assert_eq!(log.read(entries.len() as u64 - 1, 9).await.unwrap(), entries[entries.len() - 1..]);
    }
    for _ in 0..200 {
        let (from, limit) = (dice.below(510), dice.below(300) as usize);
        let expected: Vec<_> = entries.iter().skip(from as usize).take(limit).cloned().collect();
        assert_eq!(log.read(from, limit).await.unwrap(), expected, "{limit} from {from}");
    }
}

/// See the name.
pub async fn a_kill_takes_no_entry<P: Place<dyn AccessLog>>(place: P) {
    let log = place.open().await.unwrap();
    for entry in ["a", "", "c"] {
        log.append(entry.as_bytes()).await.unwrap();
    }
    let survived = place.after_kill().open().await.unwrap();
    assert_eq!(survived.read(0, 9).await.unwrap(), [&b"a"[..], b"", b"c"]);
}

/// See the name.
pub async fn a_reopened_access_log_goes_on<P: Place<dyn AccessLog>>(place: P) {
    for round in 0..40_u8 {
        let log = place.open().await.unwrap();
        log.append(&[round; 20]).await.unwrap();
        log.append(&[round; 30]).await.unwrap();
        log.sync().await.unwrap();
    }
    let log = place.open().await.unwrap();
    let entries = log.read(0, usize::MAX).await.unwrap();
    assert_eq!(entries.len(), 80);
    assert!(entries.iter().enumerate().all(|(index, entry)| entry[0] == (index / 2) as u8));
}
