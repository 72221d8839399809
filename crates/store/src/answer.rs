//! What a store gives back: at once from a file, later from a server, without a box in the first case.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A result that is there already, or a future of it. Either way it is awaited.
pub enum Answer<'a, T> {
    /// There already; taken by the first poll.
    Now(Option<T>),
    /// Comes from elsewhere.
    Later(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> Answer<'a, T> {
    /// An answer that is there.
    pub fn now(value: T) -> Self {
        Self::Now(Some(value))
    }

    /// An answer that `future` brings.
    pub fn later(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T: Unpin> Future for Answer<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut *self {
            // A future is not polled after it was ready; pending for ever is what misuse gets.
            Answer::Now(value) => value.take().map_or(Poll::Pending, Poll::Ready),
            Answer::Later(future) => future.as_mut().poll(context),
        }
    }
}
