//! The one point at which anything counts.

/// Proof that what it holds is on disk. Only the writer can make one, after the log's sync: so nothing can be
/// answered too early.
#[must_use]
#[derive(Debug)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// For the writer alone, behind `Log::sync`.
    pub(crate) fn after_sync(value: T) -> Self {
        Self(value)
    }

    /// What is on disk.
    pub fn into_inner(self) -> T {
        self.0
    }
}
