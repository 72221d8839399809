//! Bounded calls. A call beyond the bound, or one that has waited too long for its turn while all wait, is refused
//! as soon as it has been heard out, with the time after which to come again: a queue would only hide the overload
//! until every deadline in it has passed. Whoever has more calls in than the others is refused first, so that nobody
//! starves another. The caller's deadline (`grpc-timeout`) is honoured: what it has given up on is dropped, and its
//! place given to another.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tower::ServiceExt;

use crate::answer::{Protocol, exhausted, refuse};

/// When a refused call may come again. As long as some tens of batches take.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Calls that wait too long are borne for so long, and are what counts for so long: a burst passes, a queue that
/// stands does not.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is read of a call that is refused: what most calls have, and no more.
const UNREAD_BYTES_MAX: usize = 1 << 20;
const UNREAD_WITHIN: Duration = Duration::from_secs(1);

/// The places of one listener, over all its connections.
#[derive(Debug)]
pub(crate) struct Places {
    calls_max: usize,
    wait_max: Duration,
    begun: Instant,
    calls: AtomicUsize,
    /// Callers that have a call in.
    callers: AtomicUsize,
    known: Mutex<HashMap<String, Weak<Caller>>>,
    /// When a call last waited too long, and since when there was no [`PATIENCE`] without one: microseconds.
    late_last: AtomicU64,
    late_since: AtomicU64,
}

/// One principal, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    calls: AtomicUsize,
}

impl Places {
    /// At most `calls_max` calls at once, each waiting at most `wait_max` for its turn while others do too.
    pub(crate) fn new(calls_max: usize, wait_max: Duration) -> Arc<Self> {
        Arc::new(Self {
            calls_max,
            wait_max,
            begun: Instant::now(),
            calls: AtomicUsize::new(0),
            callers: AtomicUsize::new(0),
            known: Mutex::new(HashMap::new()),
            late_last: AtomicU64::new(0),
            late_since: AtomicU64::new(0),
        })
    }

    /// The caller of that name, for a new connection.
    pub(crate) fn caller(&self, name: &str) -> Arc<Caller> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = known.get(name).and_then(Weak::upgrade) {
            return caller;
        }
        known.retain(|_, caller| caller.strong_count() > 0);
        let caller = Arc::default();
        known.insert(name.to_owned(), Arc::downgrade(&caller));
        caller
    }

    /// A place for a call that arrives now. A quarter of them is for those who have no more than their share.
    pub(crate) fn take(self: &Arc<Self>, caller: &Arc<Caller>) -> Option<Place> {
        let taken = self.calls.fetch_add(1, Ordering::Relaxed);
        let own = caller.calls.fetch_add(1, Ordering::Relaxed);
        if own == 0 {
            self.callers.fetch_add(1, Ordering::Relaxed);
        }
        let place = Place { places: Arc::clone(self), caller: Arc::clone(caller), arrived: Instant::now() };
        let for_all = self.calls_max.saturating_sub(self.calls_max / 4);
        let room = if place.is_of_the_greedy() { for_all } else { self.calls_max };
        (taken < room).then_some(place)
    }

    /// Whether calls have waited too long for some time now, if one did at `now`.
    fn stands(&self, now: Instant) -> bool {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let (now, patience) = (micros(now.saturating_duration_since(self.begun)), micros(PATIENCE));
        let last = self.late_last.swap(now, Ordering::Relaxed);
        if last == 0 || now.saturating_sub(last) > patience {
            self.late_since.store(now, Ordering::Relaxed);
        }
        now.saturating_sub(self.late_since.load(Ordering::Relaxed)) > patience
    }
}

/// A call's place, from its arrival to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    caller: Arc<Caller>,
    arrived: Instant,
}

impl Place {
    /// Whether its caller has as many calls in as is its share, or more.
    fn is_of_the_greedy(&self) -> bool {
        let own = self.caller.calls.load(Ordering::Relaxed);
        let callers = self.places.callers.load(Ordering::Relaxed);
        own.saturating_mul(callers) >= self.places.calls.load(Ordering::Relaxed)
    }

    /// Whether there is no use in answering: it has waited too long, all do, and its caller has its share.
    fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.arrived) > self.places.wait_max
            && self.places.stands(now)
            && self.is_of_the_greedy()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.calls.fetch_sub(1, Ordering::Relaxed);
        if self.caller.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.places.callers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Has `router` answer, if the call got a place when it arrived, and its turn has come in time.
pub(crate) async fn limited(place: Option<Place>, request: Request<Body>, router: Router) -> Response<Body> {
    let protocol = Protocol::of(request.headers());
    let Some(place) = place else {
        read_to_the_end(request.into_body()).await;
        return refuse(protocol, exhausted("too many calls at once", RETRY_AFTER));
    };
    if place.is_overdue(Instant::now()) {
        drop(place);
        read_to_the_end(request.into_body()).await;
        return refuse(protocol, exhausted("more calls than can be answered in time", RETRY_AFTER));
    }
    let deadline = deadline_of(request.headers());
    let answer = router.oneshot(request);
    let answered = match deadline {
        Some(at) => tokio::time::timeout_at(at, answer).await,
        None => Ok(answer.await),
    };
    match answered {
        Ok(Ok(response)) => {
            let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
            response.map(|inner| Body::new(Held { inner, deadline, _place: place }))
        }
        Ok(Err(never)) => match never {},
        Err(_) => refuse(protocol, Status::deadline_exceeded("the call's deadline has passed")),
    }
}

/// Lets a refused call say what it had to say: an answer before its end resets its stream, and a connection with a
/// thousand streams that were reset while they spoke is ended as an attack (h2, `max_local_error_reset_streams`).
async fn read_to_the_end(mut body: Body) {
    let read = async {
        let mut left = UNREAD_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(left) => left,
                None => return,
            };
        }
    };
    drop(tokio::time::timeout(UNREAD_WITHIN, read).await);
}

fn deadline_of(headers: &HeaderMap) -> Option<Instant> {
    let timeout = timeout_of(headers.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout)
}

/// `grpc-timeout` as the gRPC protocol has it: up to eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A response body that holds the call's place until its end, and ends at the call's deadline.
struct Held {
    inner: Body,
    deadline: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let passed =
            self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if !passed {
            return Poll::Pending;
        }
        self.deadline = None;
        self.inner = Body::empty();
        let mut trailers = HeaderMap::new();
        let status = Status::deadline_exceeded("the call's deadline has passed");
        match status.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(axum::Error::new(status)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;

    use super::*;

    fn call(timeout: Option<&str>) -> Request<Body> {
        let builder = Request::post("/x.Y/Z").header("content-type", "application/grpc");
        match timeout {
            Some(timeout) => builder.header("grpc-timeout", timeout).body(Body::empty()).unwrap(),
            None => builder.body(Body::empty()).unwrap(),
        }
    }

    fn answering(body: fn() -> Body) -> Router {
        Router::new().fallback(move || async move { Response::new(body()) })
    }

    fn places(calls_max: usize) -> Arc<Places> {
        Places::new(calls_max, Duration::from_millis(20))
    }

    fn code(response: &Response<Body>) -> Option<Code> {
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_call_holds_its_place_until_its_body_is_gone() {
        let places = places(1);
        let (caller, router) = (places.caller("shop"), answering(|| Body::from("x")));
        let answer = async || limited(places.take(&caller), call(None), router.clone()).await;
        let first = answer().await;
        assert_eq!(code(&first), None);
        assert_eq!(code(&answer().await), Some(Code::ResourceExhausted));
        drop(first);
        assert_eq!(code(&answer().await), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline_and_frees_its_place() {
        let places = places(1);
        let caller = places.caller("shop");
        let never = Router::new().fallback(std::future::pending::<()>);
        for _ in 0..2 {
            let response = limited(places.take(&caller), call(Some("50m")), never.clone()).await;
            assert_eq!(code(&response), Some(Code::DeadlineExceeded));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_with_a_status() {
        let places = places(1);
        let endless = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let place = places.take(&places.caller("shop"));
        let response = limited(place, call(Some("1S")), answering(endless)).await;
        let collected = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(collected.trailers().unwrap()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    /// A refused call whose body is so many chunks of 1 KiB, and how many of them were read.
    async fn refused_with(chunks: usize) -> (Response<Body>, usize) {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let chunk = move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[0; 1024]))
        };
        let body = futures_util::stream::iter((0..chunks).map(chunk));
        let request = call(None).map(|_| Body::from_stream(body));
        let response = limited(None, request, answering(|| Body::from("x"))).await;
        (response, read.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_call_is_heard_out_but_not_for_ever() {
        let (response, read) = refused_with(100).await;
        assert_eq!((code(&response), read), (Some(Code::ResourceExhausted), 100));
        let (response, read) = refused_with(1_000_000).await;
        assert_eq!((code(&response), read), (Some(Code::ResourceExhausted), UNREAD_BYTES_MAX / 1024 + 1));
        let silent = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        let request = call(None).map(|_| Body::from_stream(silent));
        let begun = Instant::now();
        let response = limited(None, request, answering(|| Body::from("x"))).await;
        assert_eq!((code(&response), begun.elapsed()), (Some(Code::ResourceExhausted), UNREAD_WITHIN));
    }

    #[test]
    fn a_quarter_of_the_places_is_for_those_who_have_few() {
        let places = places(8);
        let (many, few) = (places.caller("many"), places.caller("few"));
        let taken: Vec<_> = std::iter::from_fn(|| places.take(&many)).collect();
        assert_eq!(taken.len(), 6);
        assert!(Arc::ptr_eq(&many, &places.caller("many")), "one principal over all its connections");
        let of_few = [places.take(&few), places.take(&few)];
        assert!(of_few.iter().all(Option::is_some), "those that are left");
        assert!(places.take(&few).is_none(), "there are no more");
        drop(taken);
        drop(of_few);
        assert_eq!([places.calls.load(Ordering::SeqCst), places.callers.load(Ordering::SeqCst)], [0, 0]);
    }

    /// A call of `caller` that arrived now and whose turn came after so many milliseconds: is it refused?
    async fn refused_after(places: &Arc<Places>, caller: &Arc<Caller>, wait_ms: u64) -> bool {
        let place = places.take(caller).unwrap();
        tokio::time::advance(Duration::from_millis(wait_ms)).await;
        place.is_overdue(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stands_is_shed_and_a_burst_is_not() {
        let places = places(100);
        let caller = places.caller("shop");
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut burst = vec![];
        for _ in 0..4 {
            burst.push(refused_after(&places, &caller, 30).await);
        }
        assert_eq!(burst, [false; 4], "for a tenth of a second it is borne");
        assert!(refused_after(&places, &caller, 30).await, "then it stands");
        assert!(!refused_after(&places, &caller, 20).await, "what came in time is answered all the same");
        assert!(refused_after(&places, &caller, 30).await);
        tokio::time::advance(Duration::from_millis(101)).await;
        assert!(!refused_after(&places, &caller, 30).await, "after a pause it is another burst");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_few_calls_in_is_answered_while_another_floods() {
        let places = places(100);
        let (many, few) = (places.caller("many"), places.caller("few"));
        tokio::time::advance(Duration::from_secs(1)).await;
        let _flood: Vec<_> = (0..50).map(|_| places.take(&many)).collect();
        for _ in 0..5 {
            refused_after(&places, &many, 30).await;
        }
        assert!(refused_after(&places, &many, 30).await);
        assert!(!refused_after(&places, &few, 30).await);
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout_of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout_of("15M"), Some(Duration::from_secs(900)));
        assert_eq!(timeout_of("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "5", "5s", "+5S", "123456789S", "5é"] {
            assert_eq!(timeout_of(bad), None, "{bad}");
        }
    }
}
