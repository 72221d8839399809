//! The application's own rows, in the database of copies: sums, states, message ids. Nothing personal.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cloakroom_store::{Batch, Records};

use super::layout::{ROWS, mark};
use crate::{DownstreamError, Erasure, Token};

/// Rows read at once while a scan goes on.
const SCANNED_AT_ONCE: usize = 500;

/// What an application keeps about a token besides copies, and forgets in the same commit.
#[async_trait]
pub trait Forget: Send + Sync {
    /// Changes the rows so that nothing leads from the token to a person any more. Returns how many things
    /// it held about it; 0 for nothing. Must be quick: every other change waits.
    async fn forget(&self, rows: &mut RowEdit, what: &Erasure) -> Result<u32, DownstreamError>;
}

/// An application that keeps nothing by token.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingElse;

#[async_trait]
impl Forget for NothingElse {
    async fn forget(&self, _: &mut RowEdit, _: &Erasure) -> Result<u32, DownstreamError> {
        Ok(0)
    }
}

/// The rows as they are committed. Cheap to clone.
#[derive(Clone)]
pub struct Rows(pub(super) Arc<dyn Records>);

impl Rows {
    /// One row.
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DownstreamError> {
        Ok(self.0.get(&row(key)).await?)
    }

    /// Up to `limit` rows whose keys begin with `prefix` and come after `after`, in the order of keys.
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, DownstreamError> {
        let found = self.0.scan(&row(prefix), after.map(row).as_deref(), limit).await?;
        Ok(found.into_iter().map(|(key, value)| (key.slice(ROWS.len()..), value)).collect())
    }
}

/// Changes to rows on their way into one commit: reads see what was changed here before.
pub struct RowEdit {
    records: Arc<dyn Records>,
    changes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl RowEdit {
    pub(super) fn over(records: &Arc<dyn Records>) -> Self {
        Self { records: Arc::clone(records), changes: BTreeMap::new() }
    }

    /// Whether a token was purged: an application that keeps a row by token asks before it does.
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn is_purged(&self, token: &Token) -> Result<bool, DownstreamError> {
        Ok(self.record(&mark(token)).await?.is_some())
    }

    /// One row.
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, DownstreamError> {
        self.record(&row(key)).await
    }

    /// Sets a row.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.set(row(key), Some(value.into()));
    }

    /// Removes a row.
    pub fn remove(&mut self, key: &[u8]) {
        self.set(row(key), None);
    }

    /// All rows whose keys begin with `prefix`, in the order of keys. For a handful.
    ///
    /// # Errors
    /// [`DownstreamError::Store`]
    pub async fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, DownstreamError> {
        let found = self.records_with(&row(prefix)).await?;
        Ok(found.into_iter().map(|(key, value)| (key.slice(ROWS.len()..), value)).collect())
    }

    pub(super) async fn record(&self, key: &[u8]) -> Result<Option<Bytes>, DownstreamError> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => Ok(self.records.get(key).await?),
        }
    }

    pub(super) async fn records_with(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, DownstreamError> {
        let mut found: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        loop {
            let after = found.last_key_value().map(|(key, _)| key.clone());
            let more = self.records.scan(prefix, after.as_deref(), SCANNED_AT_ONCE).await?;
            let last = more.len() < SCANNED_AT_ONCE;
            found.extend(more);
            if last {
                break;
            }
        }
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, change) in
            self.changes.range::<[u8], _>(from).take_while(|(key, _)| key.starts_with(prefix))
        {
            match change {
                Some(value) => found.insert(Bytes::copy_from_slice(key), value.clone()),
                None => found.remove(key.as_slice()),
            };
        }
        Ok(found.into_iter().collect())
    }

    pub(super) fn set(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        self.changes.insert(key, value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What has been changed so far, to go back to with [`RowEdit::restore`].
    pub(super) fn saved(&self) -> BTreeMap<Vec<u8>, Option<Bytes>> {
        self.changes.clone()
    }

    pub(super) fn restore(&mut self, saved: BTreeMap<Vec<u8>, Option<Bytes>>) {
        self.changes = saved;
    }

    pub(super) fn into_batch(self) -> Batch {
        Batch { changes: self.changes.into_iter().collect() }
    }
}

/// A row's key: its kind, and each part behind its length, so that no part can pass for two.
pub fn row_key(kind: u8, parts: &[&str]) -> Vec<u8> {
    let mut key = vec![kind];
    for part in parts {
        key.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        key.extend(part.as_bytes());
    }
    key
}

/// Reads a row that holds a message.
///
/// # Errors
/// [`DownstreamError::Damaged`]
pub fn read_row<M: prost::Message + Default>(row: &[u8]) -> Result<M, DownstreamError> {
    M::decode(row).map_err(|_| DownstreamError::Damaged("row"))
}

fn row(key: &[u8]) -> Vec<u8> {
    [ROWS, key].concat()
}
