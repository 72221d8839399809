//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` until it gives something.
///
/// # Panics
/// When `deadline` has passed, saying what was waited for and where.
#[track_caller]
pub fn until<T, F>(deadline: Duration, what: &str, mut condition: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let caller = std::panic::Location::caller();
    async move {
        let given_up = Instant::now() + deadline;
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            assert!(Instant::now() < given_up, "waited {deadline:?} in vain: {what} (at {caller})");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// As [`until`], on the calling thread.
///
/// # Panics
/// When `deadline` has passed.
#[track_caller]
pub fn until_blocking<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let given_up = Instant::now() + deadline;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < given_up, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asks_again_until_it_holds() {
        let mut asked = 0;
        let found = until(Duration::from_secs(5), "three", async || {
            asked += 1;
            (asked == 3).then_some(asked)
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain: never")]
    async fn gives_up_and_says_on_what() {
        until(Duration::ZERO, "never", async || None::<()>).await;
    }
}
