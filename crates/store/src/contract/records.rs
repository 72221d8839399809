//! The contract of [`Records`].

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Dice, Place};
use crate::records::{Batch, Records};

/// All cases of this module as tests. `$place` makes a fresh [`Place`] of records.
#[macro_export]
macro_rules! records_contract {
    ($place:expr) => {
        $crate::contract_cases! { records, $place,
            nothing_is_found_where_nothing_was_put
            the_last_change_of_a_key_wins
            a_scan_goes_through_a_prefix_in_order
            keys_and_values_of_any_size_come_back
            what_was_applied_survives_a_kill_whole_or_not_at_all
            what_was_committed_survives_reopening
            a_large_batch_is_seen_whole
            records_behave_like_a_sorted_map
        }
    };
}

async fn all(records: &dyn Records) -> Vec<(Bytes, Bytes)> {
    records.scan(b"", None, usize::MAX).await.unwrap()
}

fn batch<'a>(changes: impl IntoIterator<Item = (&'a str, Option<&'static str>)>) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.remove(key),
        }
    }
    batch
}

/// See the name.
pub async fn nothing_is_found_where_nothing_was_put<P: Place<dyn Records>>(place: P) {
    let records = place.open().await.unwrap();
    assert_eq!(records.get(b"key").await.unwrap(), None);
    assert!(all(&*records).await.is_empty());
    records.apply(Batch::default()).await.unwrap();
    records.commit(batch([("absent", None)])).await.unwrap();
    records.sync().await.unwrap();
    assert!(all(&*records).await.is_empty());
}

/// See the name.
pub async fn the_last_change_of_a_key_wins<P: Place<dyn Records>>(place: P) {
    let records = place.open().await.unwrap();
    let mut changes = batch([("a", Some("1")), ("a", Some("2")), ("b", Some("1")), ("b", None), ("c", None)]);
    changes.extend(batch([("c", Some("3"))]));
    records.apply(changes).await.unwrap();
    assert_eq!(records.get(b"a").await.unwrap().unwrap(), "2");
    assert_eq!(records.get(b"b").await.unwrap(), None);
    assert_eq!(records.get(b"c").await.unwrap().unwrap(), "3");
    records.apply(batch([("a", None), ("c", Some("4"))])).await.unwrap();
    assert_eq!(all(&*records).await, [(Bytes::from("c"), Bytes::from("4"))]);
}

/// See the name.
pub async fn a_scan_goes_through_a_prefix_in_order<P: Place<dyn Records>>(place: P) {
    let records = place.open().await.unwrap();
    let mut changes = Batch::default();
    for key in [&b"p2"[..], b"p10", b"p1", b"o", b"q", b"p", b"\xff", b"\xff\xff", b"\x00"] {
        changes.put(key, key.to_vec());
    }
    records.commit(changes).await.unwrap();
    for (prefix, after, limit, expected) in [
        (&b"p"[..], None, 9, vec![&b"p"[..], b"p1", b"p10", b"p2"]),
        (b"p", None, 2, vec![b"p", b"p1"]),
        (b"p", Some(&b"p1"[..]), 9, vec![b"p10", b"p2"]),
        (b"p", Some(b"p11"), 9, vec![b"p2"]),
        (b"p", Some(b"a"), 1, vec![b"p"]),
        (b"p", Some(b"z"), 9, vec![]),
        (b"p1", None, 9, vec![b"p1", b"p10"]),
        (b"\xff", None, 9, vec![b"\xff", b"\xff\xff"]),
        (b"", Some(b"p2"), 9, vec![b"q", b"\xff", b"\xff\xff"]),
        (b"", None, 1, vec![b"\x00"]),
        (b"p", None, 0, vec![]),
    ] {
        let found = records.scan(prefix, after, limit).await.unwrap();
        assert!(found.iter().all(|(key, value)| key == value));
        let keys: Vec<_> = found.iter().map(|(key, _)| &key[..]).collect();
        assert_eq!(keys, expected, "{prefix:?} {after:?} {limit}");
    }
}

/// See the name.
pub async fn keys_and_values_of_any_size_come_back<P: Place<dyn Records>>(place: P) {
    let mut dice = Dice::new(5);
    let values: Vec<_> = [0, 1, 5_000, 200_000, 1 << 20].into_iter().map(|bytes| dice.bytes(bytes)).collect();
    let records = place.open().await.unwrap();
    for (index, value) in values.iter().enumerate() {
        let mut batch = Batch::default();
        batch.put(vec![b'k'; 1 + index * 50], value.clone());
        records.commit(batch).await.unwrap();
    }
    drop(records);
    let records = place.open().await.unwrap();
    for (index, value) in values.iter().enumerate() {
        let found = records.get(&vec![b'k'; 1 + index * 50]).await.unwrap();
        assert!(found.as_ref().is_some_and(|found| found == value), "{} bytes", value.len());
    }
}

/// See the name.
pub async fn what_was_applied_survives_a_kill_whole_or_not_at_all<P: Place<dyn Records>>(place: P) {
    let records = place.open().await.unwrap();
    records.apply(batch([("a", Some("1")), ("b", Some("1"))])).await.unwrap();
    records.sync().await.unwrap();
    let synced = all(&*records).await;
    records.apply(batch([("b", None), ("c", Some("2"))])).await.unwrap();
    let survived = all(&*place.after_kill().open().await.unwrap()).await;
    assert!(survived == synced || survived == all(&*records).await, "{survived:?}");
}

/// See the name.
pub async fn what_was_committed_survives_reopening<P: Place<dyn Records>>(place: P) {
    for round in 0..5_u8 {
        let records = place.open().await.unwrap();
        assert_eq!(all(&*records).await.len(), usize::from(round));
        let mut batch = Batch::default();
        batch.put([round], vec![round; 3]);
        records.commit(batch).await.unwrap();
    }
    let records = place.open().await.unwrap();
    assert_eq!(records.get(&[4]).await.unwrap().unwrap(), &[4; 3][..]);
}

/// See the name.
pub async fn a_large_batch_is_seen_whole<P: Place<dyn Records>>(place: P) {
    let records = place.open().await.unwrap();
    for version in [1_u8, 2] {
        let mut batch = Batch::default();
        for number in 0..3_000_u32 {
            batch.put(number.to_be_bytes(), vec![version; 300]);
        }
        records.commit(batch).await.unwrap();
    }
    let survived = place.after_kill().open().await.unwrap();
    let found = all(&*survived).await;
    assert_eq!(found.len(), 3_000);
    assert!(found.iter().all(|(_, value)| value == &[2; 300][..]));
}

/// See the name.
pub async fn records_behave_like_a_sorted_map<P: Place<dyn Records>>(place: P) {
    let mut dice = Dice::new(11);
    let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
    let mut records = place.open().await.unwrap();
    for round in 0..300 {
        let mut batch = Batch::default();
        for _ in 0..dice.below(20) {
            let key = dice.below(60).to_be_bytes()[6..].to_vec();
            if dice.below(3) == 0 {
                model.remove(&key);
                batch.remove(key);
            } else {
                let bytes = dice.below(100) as usize;
                let value = dice.bytes(bytes);
                model.insert(key.clone(), value.clone());
                batch.put(key, value);
            }
        }
        records.apply(batch).await.unwrap();
        if round % 100 == 99 {
            records.sync().await.unwrap();
            drop(records);
            records = place.open().await.unwrap();
        }
        let found = all(&*records).await;
        assert!(
            found
                .iter()
                .map(|(key, value)| (&key[..], &value[..]))
                .eq(model.iter().map(|(key, value)| (&key[..], &value[..])))
        );
    }
}
