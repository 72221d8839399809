//! Records in memory, for the tests and benchmarks of what stands on the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::records::{Batch, Records};
use crate::{Answer, StoreError};

/// Records that are gone with the process.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<BTreeMap<Vec<u8>, Bytes>>);

impl MemoryRecords {
    /// All of them, to look at or to spoil.
    pub fn all(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Records::apply`], which cannot fail here.
    pub fn change(&self, batch: Batch) {
        let mut records = self.all();
        for (key, value) in batch.changes {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
    }
}

impl Records for MemoryRecords {
    fn get(&self, key: &[u8]) -> Answer<'_, Result<Option<Bytes>, StoreError>> {
        Answer::now(Ok(self.all().get(key).cloned()))
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Answer<'_, Result<Vec<(Bytes, Bytes)>, StoreError>> {
        let records = self.all();
        let found = records
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after))
            .take(limit)
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect();
        Answer::now(Ok(found))
    }

    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.change(batch);
        Answer::now(Ok(()))
    }

    fn sync(&self) -> Answer<'_, Result<(), StoreError>> {
        Answer::now(Ok(()))
    }

    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>> {
        self.apply(batch)
    }
}
