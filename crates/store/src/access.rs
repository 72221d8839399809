//! The access log: who read what. Written apart from the events, before the answer is given.

use crate::{Answer, StoreError};

/// An append-only log of encoded entries.
pub trait AccessLog: Send + Sync {
    /// Hands an entry to the system: it survives a kill of this process when the call returns.
    ///
    /// # Errors
    /// [`StoreError::Full`] before anything is written; any other is fatal.
    fn append(&self, entry: &[u8]) -> Answer<'_, Result<(), StoreError>>;

    /// Makes all entries durable; called every `access.sync_ms`.
    fn sync(&self) -> Answer<'_, Result<(), StoreError>>;

    /// Up to `limit` entries from entry number `from` (counted from 0) on.
    fn read(&self, from: u64, limit: usize) -> Answer<'_, Result<Vec<Vec<u8>>, StoreError>>;
}
