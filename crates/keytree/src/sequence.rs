//! Something that happens again and again, and whether it is happening now.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Counts up when something begins and when it ends: odd while it is under way.
#[derive(Default)]
pub(crate) struct Sequence {
    count: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

/// It is under way until this is dropped, however its maker ends.
pub(crate) struct UnderWay<'a>(&'a Sequence);

impl Sequence {
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.count.fetch_add(1, Ordering::AcqRel);
        UnderWay(self)
    }

    pub(crate) fn now(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether it was under way at any time since the count was `before`.
    pub(crate) fn moved_since(&self, before: u64) -> bool {
        !before.is_multiple_of(2) || self.now() != before
    }

    /// Waits for it to end, if it is under way.
    pub(crate) async fn at_rest(&self) {
        poll_fn(|context| {
            let mut waiting = self.waiting();
            // Looked at under the lock that its end takes after it has counted: no wake is missed.
            if self.now().is_multiple_of(2) {
                return Poll::Ready(());
            }
            waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        let waiting = std::mem::take(&mut *self.0.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_goes_on_when_it_ends() {
        let sequence = Arc::new(Sequence::default());
        sequence.at_rest().await;
        let before = sequence.now();
        let under_way = sequence.begin();
        assert!(sequence.moved_since(before) && sequence.moved_since(sequence.now()));
        let waiter = tokio::spawn({
            let sequence = Arc::clone(&sequence);
            async move { sequence.at_rest().await }
        });
        while sequence.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!waiter.is_finished());
        drop(under_way);
        waiter.await.unwrap();
        assert!(sequence.moved_since(before) && !sequence.moved_since(sequence.now()));
    }
}
