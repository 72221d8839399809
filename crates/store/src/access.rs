//! The access log: who read what. Written apart from the events, before the answer is given.

use crate::{Answer, StoreError};

/// A file of the access log that is full and synced: it never changes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedFile {
    /// The number of its first entry.
    pub first_entry: u64,
    /// How many it holds.
    pub entries: u64,
    /// What all its bytes hashed to when it was sealed.
    pub hash: [u8; 32],
}

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

    /// The sealed files that this process knows of, in the order in which it came to know them, without the first
    /// `known`. One that is full is sealed by one of the next [`AccessLog::sync`]s.
    fn sealed(&self, known: usize) -> Answer<'_, Result<Vec<SealedFile>, StoreError>>;

    /// What the file that begins with entry `first_entry` hashes to now; none if there is no such file.
    fn hash_now(&self, first_entry: u64) -> Answer<'_, Result<Option<[u8; 32]>, StoreError>>;
}
