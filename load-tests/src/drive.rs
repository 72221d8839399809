//! Sends calls and takes the time.
//!
//! Closed: so many workers, each sends its next call when the last is answered; gives the best rate. Open:
//! calls are due at fixed times whatever the server does, and a call's latency counts from when it was due,
//! not from when a worker was free to send it. So a server that stalls is charged for every call that had to
//! wait, not for the few that were under way (known as coordinated omission).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Code;

use crate::error::LoadError;
use crate::people::Draw;

/// What a worker does over and over.
pub(crate) trait Work: Send + Sync + 'static {
    /// Values or people in one call.
    fn items(&self) -> u64;

    /// One call over connection `connection`, its answer checked. RESOURCE_EXHAUSTED is no failure: too many came.
    fn call(&self, connection: usize, draw: &mut Draw) -> impl Future<Output = Result<(), LoadError>> + Send;
}

/// When calls are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as a worker is free.
    Closed,
    /// So many calls a second.
    Open(f64),
}

/// When it is enough.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After warming up, for so long.
    Time(Duration),
    /// After so many calls, without warming up.
    Calls(u64),
}

/// How hard, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Workers: the most calls under way at once.
    pub(crate) in_flight: usize,
    pub(crate) pace: Pace,
    pub(crate) until: Until,
}

/// The share of the measured time that goes before it as warm-up.
const WARM_UP: f64 = 0.2;
/// The pacer sleeps no shorter: calls due within it are sent together.
const PACE_STEP: Duration = Duration::from_micros(100);
/// How long a refused caller of a closed load stays away: as long as the vault asks for.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// A latency above it counts as it.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// Workers beyond so many share a tally: its histograms take half a megabyte.
const TALLIES_MAX: usize = 32;

/// What was measured.
pub(crate) struct Figures {
    /// All calls, those that do not count too.
    pub(crate) sent: u64,
    /// Answered calls that count.
    pub(crate) calls: u64,
    /// Their items.
    pub(crate) items: u64,
    /// How long was counted.
    pub(crate) seconds: f64,
    /// Microseconds from when a call was due (closed: sent) to when its answer was checked.
    pub(crate) latency: Histogram<u64>,
    /// Microseconds from when a call was due to when it was sent: the generator's own lateness.
    pub(crate) late: Histogram<u64>,
    /// Microseconds from when a call was sent to when it was refused, of those that count.
    pub(crate) refused: Histogram<u64>,
}

impl Figures {
    /// Items a second.
    pub(crate) fn rate(&self) -> f64 {
        self.items as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Items of all calls, those that do not count too.
    pub(crate) fn all_items(&self) -> f64 {
        self.sent as f64 * self.items as f64 / (self.calls as f64).max(1.0)
    }

    /// Takes in what a later part of the same load measured.
    pub(crate) fn add(&mut self, part: &Self) -> Result<(), LoadError> {
        self.sent = self.sent.saturating_add(part.sent);
        self.calls = self.calls.saturating_add(part.calls);
        self.items = self.items.saturating_add(part.items);
        self.seconds += part.seconds;
        merged(&mut self.latency, &part.latency)?;
        merged(&mut self.late, &part.late)?;
        merged(&mut self.refused, &part.refused)
    }

    /// Calls sent away, of a hundred.
    pub(crate) fn refused_percent(&self) -> f64 {
        let refused = self.refused.len() as f64;
        100.0 * refused / (refused + self.calls as f64).max(1.0)
    }

    /// Milliseconds that a share `quantile` of all calls stayed within.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The same of the generator's lateness.
    pub(crate) fn late_ms(&self, quantile: f64) -> f64 {
        self.late.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Drives `work` and gathers what all workers saw. The first wrong answer or refused call ends it.
///
/// # Errors
/// The first error of any call.
pub(crate) async fn drive<W: Work>(work: &Arc<W>, load: Load, seed: u64) -> Result<Figures, LoadError> {
    let gate = Arc::new(Gate::open(load));
    let pacer = gate.pacer()?;
    let tallies: Result<Vec<_>, LoadError> = (0..load.in_flight.clamp(1, TALLIES_MAX))
        .map(|_| Tally::new().map(|tally| Arc::new(Mutex::new(tally))))
        .collect();
    let tallies = tallies?;
    let mut workers = JoinSet::new();
    for (number, tally) in (0..load.in_flight).zip(tallies.iter().cycle()) {
        let draw = Draw(seed.wrapping_add(number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        workers.spawn(worker(Arc::clone(work), Arc::clone(&gate), number, draw, Arc::clone(tally)));
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| LoadError::Broken(error.to_string()))??;
    }
    let mut all = Tally::new()?;
    tallies.iter().try_for_each(|tally| all.merge(&locked(tally)))?;
    if let Some(pacer) = pacer {
        pacer.join().map_err(|_| LoadError::Broken("the pacer".to_owned()))?;
    }
    let seconds = match gate.window {
        // What was due within the window and answered long behind it was answered at the rate of all that time.
        Some((first, end)) => all.last.map_or(end, |last| last.max(end)) - first,
        None => gate.begun.elapsed(),
    };
    let seconds = seconds.as_secs_f64();
    let calls = all.latency.len();
    let items = calls.saturating_mul(work.items());
    let Tally { sent, latency, late, refused, .. } = all;
    Ok(Figures { sent, calls, items, seconds, latency, late, refused })
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn worker<W: Work>(
    work: Arc<W>,
    gate: Arc<Gate>,
    number: usize,
    mut draw: Draw,
    tally: Arc<Mutex<Tally>>,
) -> Result<(), LoadError> {
    while let Some(due) = gate.next().await {
        let sent = Instant::now();
        let refused = match work.call(number, &mut draw).await {
            Ok(()) => false,
            Err(LoadError::Call { status, .. }) if status.code() == Code::ResourceExhausted => true,
            Err(error) => return Err(error),
        };
        let answered = Instant::now();
        note(&mut locked(&tally), &gate, refused, [due, sent, answered]);
        if refused && let Pace::Closed = gate.load.pace {
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
    Ok(())
}

fn note(tally: &mut Tally, gate: &Gate, refused: bool, [due, sent, answered]: [Instant; 3]) {
    tally.sent = tally.sent.saturating_add(1);
    if gate.counts(due, answered) {
        match refused {
            false => tally.latency.saturating_record(micros(answered, due)),
            true => tally.refused.saturating_record(micros(answered, sent)),
        }
        tally.late.saturating_record(micros(sent, due));
        tally.last = tally.last.max(Some(answered));
    }
}

fn micros(late: Instant, early: Instant) -> u64 {
    u64::try_from(late.saturating_duration_since(early).as_micros()).unwrap_or(LATENCY_US_MAX).max(1)
}

/// Who may send, and when.
struct Gate {
    load: Load,
    begun: Instant,
    /// When counting begins and ends.
    window: Option<(Instant, Instant)>,
    /// Calls handed out.
    handed: AtomicU64,
    /// Open: calls that are due and not handed out yet.
    due: Semaphore,
}

impl Gate {
    fn open(load: Load) -> Self {
        let begun = Instant::now();
        let window = match load.until {
            Until::Time(time) => {
                let first = begun + time.mul_f64(WARM_UP);
                Some((first, first + time))
            }
            Until::Calls(_) => None,
        };
        Self { load, begun, window, handed: AtomicU64::new(0), due: Semaphore::new(0) }
    }

    /// How many calls there are to be in all, where that is known before.
    fn total(&self) -> Option<u64> {
        match (self.load.until, self.load.pace, self.window) {
            (Until::Calls(calls), _, _) => Some(calls),
            (_, Pace::Open(rate), Some((_, end))) => {
                Some(((end - self.begun).as_secs_f64() * rate).ceil() as u64)
            }
            _ => None,
        }
    }

    /// Waits for the next call; when it was due. `None` once there are no more.
    async fn next(&self) -> Option<Instant> {
        if let Pace::Open(_) = self.load.pace {
            self.due.acquire().await.ok()?.forget();
        }
        let number = self.handed.fetch_add(1, Ordering::Relaxed);
        if self.total().is_some_and(|total| number >= total) {
            return None;
        }
        match self.load.pace {
            Pace::Open(rate) => Some(self.begun + Duration::from_secs_f64(number as f64 / rate)),
            Pace::Closed => {
                let now = Instant::now();
                self.window.is_none_or(|(_, end)| now < end).then_some(now)
            }
        }
    }

    /// Open load counts the calls that were due within the window, closed load those answered within it.
    fn counts(&self, due: Instant, answered: Instant) -> bool {
        let at = if let Pace::Open(_) = self.load.pace { due } else { answered };
        self.window.is_none_or(|(first, end)| (first..end).contains(&at))
    }

    /// Lets calls go when they are due, from a thread of its own: tokio's timer knows whole milliseconds only.
    fn pacer(self: &Arc<Self>) -> Result<Option<std::thread::JoinHandle<()>>, LoadError> {
        let (Pace::Open(rate), Some(total)) = (self.load.pace, self.total()) else { return Ok(None) };
        if !(rate.is_finite() && rate > 0.0) {
            return Err(LoadError::Usage("a rate is above zero".to_owned()));
        }
        let gate = Arc::clone(self);
        let pace = move || {
            let mut given = 0_u64;
            while given < total {
                let reached = (gate.begun.elapsed().as_secs_f64() * rate) as u64 + 1;
                let fresh = reached.min(total).saturating_sub(given);
                gate.due.add_permits(usize::try_from(fresh).unwrap_or(usize::MAX));
                given = given.saturating_add(fresh);
                let next = gate.begun + Duration::from_secs_f64(given as f64 / rate);
                std::thread::sleep(next.saturating_duration_since(Instant::now()).max(PACE_STEP));
            }
            gate.due.add_permits(gate.load.in_flight); // each worker finds that there are no more
        };
        let spawned = std::thread::Builder::new().name("pacer".to_owned()).spawn(pace);
        spawned.map(Some).map_err(LoadError::system("starting the pacer"))
    }
}

/// What some workers saw.
struct Tally {
    sent: u64,
    latency: Histogram<u64>,
    late: Histogram<u64>,
    refused: Histogram<u64>,
    /// When the last call that counts was answered.
    last: Option<Instant>,
}

impl Tally {
    fn new() -> Result<Self, LoadError> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        let made = || -> Result<_, hdrhistogram::CreationError> {
            Ok(Self { sent: 0, latency: histogram()?, late: histogram()?, refused: histogram()?, last: None })
        };
        made().map_err(|error| LoadError::Broken(error.to_string()))
    }

    fn merge(&mut self, other: &Self) -> Result<(), LoadError> {
        self.sent = self.sent.saturating_add(other.sent);
        self.last = self.last.max(other.last);
        merged(&mut self.latency, &other.latency)?;
        merged(&mut self.late, &other.late)?;
        merged(&mut self.refused, &other.refused)
    }
}

fn merged(all: &mut Histogram<u64>, part: &Histogram<u64>) -> Result<(), LoadError> {
    all.add(part).map_err(|error| LoadError::Broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at once but for one stall, during which everybody waits.
    struct Stalling {
        stall: Duration,
        calls: AtomicU64,
        lock: tokio::sync::Mutex<()>,
    }

    impl Work for Stalling {
        fn items(&self) -> u64 {
            2
        }

        async fn call(&self, _: usize, _: &mut Draw) -> Result<(), LoadError> {
            let _turn = self.lock.lock().await;
            if self.calls.fetch_add(1, Ordering::SeqCst) == 100 {
                tokio::time::sleep(self.stall).await;
            }
            Ok(())
        }
    }

    fn stalling(ms: u64) -> Arc<Stalling> {
        let stall = Duration::from_millis(ms);
        Arc::new(Stalling { stall, calls: AtomicU64::new(0), lock: tokio::sync::Mutex::new(()) })
    }

    #[tokio::test]
    async fn an_open_load_charges_a_stall_to_every_call_that_was_due() {
        let until = Until::Calls(500);
        let load = Load { in_flight: 4, pace: Pace::Open(1000.0), until };
        let figures = drive(&stalling(200), load, 1).await.unwrap();
        assert_eq!((figures.calls, figures.items), (500, 1000));
        // 200 calls were due while it stood still: two fifths of all, and they waited 100 ms in the mean.
        assert!(figures.latency_ms(0.75) > 20.0, "{} ms", figures.latency_ms(0.75));
        assert!(figures.latency_ms(1.0) > 190.0);
        assert!(figures.late_ms(1.0) > 100.0, "what waited for a worker was late");
    }

    #[tokio::test]
    async fn what_is_answered_late_was_answered_slowly() {
        let until = Until::Time(Duration::from_millis(500));
        let load = Load { in_flight: 4, pace: Pace::Open(1000.0), until };
        let figures = drive(&stalling(2000), load, 1).await.unwrap();
        assert!(figures.calls >= 500 && figures.seconds > 1.0, "{} in {} s", figures.calls, figures.seconds);
    }

    #[tokio::test]
    async fn a_closed_load_sends_as_many_calls_as_asked() {
        let load = Load { in_flight: 3, pace: Pace::Closed, until: Until::Calls(1000) };
        let work = stalling(0);
        let figures = drive(&work, load, 1).await.unwrap();
        assert_eq!((figures.calls, work.calls.load(Ordering::SeqCst)), (1000, 1000));
        assert!(figures.rate() > 0.0);
    }

    #[tokio::test]
    async fn parts_of_a_load_add_up() {
        let load = |calls| Load { in_flight: 3, pace: Pace::Closed, until: Until::Calls(calls) };
        let mut all = drive(&stalling(0), load(1000), 1).await.unwrap();
        let (first, later) = (all.seconds, drive(&stalling(200), load(500), 2).await.unwrap());
        all.add(&later).unwrap();
        assert_eq!((all.sent, all.calls, all.items, all.latency.len()), (1500, 1500, 3000, 1500));
        assert_eq!((all.seconds, all.latency.max()), (first + later.seconds, later.latency.max()));
    }

    #[tokio::test]
    async fn what_is_outside_the_window_does_not_count() {
        let load = Load { in_flight: 1, pace: Pace::Closed, until: Until::Time(Duration::from_secs(1)) };
        let work = stalling(0);
        let figures = drive(&work, load, 1).await.unwrap();
        assert!(figures.calls > 0 && figures.calls < work.calls.load(Ordering::SeqCst));
    }

    struct Failing(Mutex<u32>);

    impl Work for Failing {
        fn items(&self) -> u64 {
            1
        }

        async fn call(&self, _: usize, _: &mut Draw) -> Result<(), LoadError> {
            let mut left = self.0.lock().unwrap();
            *left = left.checked_sub(1).ok_or(LoadError::Usage("wrong".to_owned()))?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn one_wrong_answer_fails_the_run() {
        let load = Load { in_flight: 2, pace: Pace::Closed, until: Until::Calls(1_000_000) };
        assert!(drive(&Arc::new(Failing(Mutex::new(50))), load, 1).await.is_err());
    }

    /// Takes every other call.
    struct Full(AtomicU64);

    impl Work for Full {
        fn items(&self) -> u64 {
            1
        }

        async fn call(&self, _: usize, _: &mut Draw) -> Result<(), LoadError> {
            let taken = self.0.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            if taken {
                Ok(())
            } else {
                Err(LoadError::call("Full")(tonic::Status::resource_exhausted("full")))
            }
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_not_answered() {
        let load = Load { in_flight: 100, pace: Pace::Closed, until: Until::Calls(1000) };
        let figures = drive(&Arc::new(Full(AtomicU64::new(0))), load, 1).await.unwrap();
        assert_eq!(
            (figures.sent, figures.calls, figures.refused.len(), figures.items),
            (1000, 500, 500, 500)
        );
    }
}
