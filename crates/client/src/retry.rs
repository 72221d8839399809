//! Again, with backoff and jitter, within a deadline, where a repeat changes nothing.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::ClientError;

/// How long a call may take altogether, and how it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// From the first try to the last answer, a year at most. It travels with the call: the server gives up by
    /// then too.
    pub deadline: Duration,
    /// The pause after the first failed try; each one after is twice as long.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// What a clock and a header can hold, whatever is asked for.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whether a repeat changes nothing more than the first try did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    Safe,
    Unsafe,
}

impl Retry {
    /// Calls until an answer, a refusal that stays one, or the deadline.
    pub(crate) async fn run<Q, A, F, W>(
        &self,
        address: &str,
        repeat: Repeat,
        request: Q,
        mut call: F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: FnMut(Request<Q>) -> W,
        W: Future<Output = Result<Response<A>, Status>>,
    {
        let end = Instant::now() + self.deadline.min(DEADLINE_MAX);
        let mut pause = self.first_pause;
        loop {
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(end.saturating_duration_since(Instant::now()));
            let status = match timeout_at(end, call(attempt)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            let error = ClientError::of_status(address, status);
            let Some(asked) = again(&error).filter(|_| repeat == Repeat::Safe) else { return Err(error) };
            // Behind the time asked for too: all who were refused together were told the same one.
            let wait = asked.saturating_add(jittered(pause));
            if wait >= end.saturating_duration_since(Instant::now()) {
                return Err(error);
            }
            sleep(wait).await;
            pause = pause.saturating_mul(2).min(self.longest_pause);
        }
    }
}

/// Whether another try may succeed, and how long the server asked to be left alone. RESOURCE_EXHAUSTED
/// without a time is about the request itself (too large an answer): the same one will never do.
fn again(error: &ClientError) -> Option<Duration> {
    match error {
        ClientError::Unreachable { .. } => Some(Duration::ZERO),
        ClientError::Status(status) => {
            let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
            match status.code() {
                Code::Unavailable => Some(asked.unwrap_or_default()),
                Code::ResourceExhausted => asked,
                _ => None,
            }
        }
        _ => None,
    }
}

/// Between half of `pause` and all of it, so that clients which failed together do not return together.
/// Spread, not secrecy: the standard library's hash keys are random enough.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1024;
    let random = u32::try_from(random).unwrap_or(1024);
    (pause / 2).saturating_add(pause / 2 * random / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tonic_types::ErrorDetails;

    async fn tried(repeat: Repeat, statuses: &[Status]) -> (u32, Result<(), ClientError>) {
        let tries = Cell::new(0_u32);
        let outcome = Retry::default()
            .run("vault:1", repeat, (), |_| {
                let status = statuses.get(usize::try_from(tries.get()).unwrap());
                tries.set(tries.get() + 1);
                std::future::ready(status.map_or(Ok(Response::new(())), |status| Err(status.clone())))
            })
            .await;
        (tries.get(), outcome)
    }

    fn busy_for(asked: Duration) -> Status {
        let details = ErrorDetails::with_retry_info(Some(asked));
        Status::with_error_details(Code::ResourceExhausted, "", details)
    }

    fn busy() -> Status {
        busy_for(Duration::from_secs(1))
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_where_a_repeat_is_safe() {
        let begun = Instant::now();
        let (tries, outcome) = tried(Repeat::Safe, &[Status::unavailable(""), busy()]).await;
        assert!(outcome.is_ok());
        assert_eq!(tries, 3);
        assert!(begun.elapsed() >= Duration::from_millis(1050), "waited as long as the server asked");
        let (tries, outcome) = tried(Repeat::Unsafe, &[Status::unavailable("")]).await;
        assert_eq!((tries, outcome.unwrap_err().code()), (1, Some(Code::Unavailable)));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_were_told_the_same_time_do_not_come_back_together() {
        let mut waits = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let begun = Instant::now();
            assert!(tried(Repeat::Safe, &[busy()]).await.1.is_ok());
            assert!(begun.elapsed() >= Duration::from_secs(1));
            waits.insert(begun.elapsed());
        }
        assert!(waits.len() > 5, "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn times_beyond_all_measure_are_no_panic() {
        let (tries, outcome) = tried(Repeat::Safe, &[busy_for(Duration::from_secs(u64::MAX / 2))]).await;
        assert_eq!((tries, outcome.unwrap_err().code()), (1, Some(Code::ResourceExhausted)));
        let patient = Retry { deadline: Duration::MAX, ..Retry::default() };
        let answered =
            patient.run("vault:1", Repeat::Safe, (), |_| std::future::ready(Ok(Response::new(())))).await;
        assert!(answered.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_is_not_tried_again() {
        for status in
            [Status::permission_denied(""), Status::resource_exhausted("too large"), Status::internal("")]
        {
            let code = status.code();
            let (tries, outcome) = tried(Repeat::Safe, &[status]).await;
            assert_eq!((tries, outcome.unwrap_err().code()), (1, Some(code)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_bounds_all_tries_together() {
        let begun = Instant::now();
        let (tries, outcome) = tried(Repeat::Safe, &vec![Status::unavailable("away"); 1000]).await;
        assert_eq!(outcome.unwrap_err().exit_code(), 3);
        assert!((5..40).contains(&tries), "{tries}");
        assert!(begun.elapsed() <= Retry::default().deadline);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(100));
            assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&pause), "{pause:?}");
        }
    }
}
