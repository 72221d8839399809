//! Records by key, in order, changed in atomic batches: the key tree's pages, and the log's projections.

use bytes::Bytes;

use crate::{Answer, StoreError};

/// Changes that are seen whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Key, and its new value or `None` to remove it. A later change of a key wins.
    pub changes: Vec<(Vec<u8>, Option<Bytes>)>,
}

impl Batch {
    /// Sets a record.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes a record.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), None));
    }

    /// Adds all of `other`, later in order.
    pub fn extend(&mut self, other: Batch) {
        self.changes.extend(other.changes);
    }
}

/// A database of records. One task writes, any number read what was committed.
pub trait Records: Send + Sync {
    /// One record.
    fn get(&self, key: &[u8]) -> Answer<'_, Result<Option<Bytes>, StoreError>>;

    /// Up to `limit` records whose keys begin with `prefix` and come after `after`, in the order of keys.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Answer<'_, Result<Vec<(Bytes, Bytes)>, StoreError>>;

    /// Applies all changes at once: readers see them when it answers. After a kill or a power cut all of them are
    /// there, or none; and all after [`Records::sync`]. Whoever applies without one can apply again.
    fn apply(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>>;

    /// Makes everything applied before durable. A failure is fatal.
    fn sync(&self) -> Answer<'_, Result<(), StoreError>>;

    /// [`Records::apply`] and [`Records::sync`] in one.
    fn commit(&self, batch: Batch) -> Answer<'_, Result<(), StoreError>>;
}
