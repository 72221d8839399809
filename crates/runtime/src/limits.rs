//! Bounded calls. A call beyond the bound is refused at once, with the time after which to come again:
//! a queue would only hide the overload until every deadline in it has passed. The caller's deadline
//! (`grpc-timeout`) is honoured: what it has given up on is dropped, and its place given to another.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tower::{Layer, Service, ServiceExt};

use crate::answer::{Protocol, exhausted, refuse};

/// When a refused call may come again. As long as some tens of batches take.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Lets at most so many calls in at once, over everything that it wraps.
#[derive(Clone, Debug)]
pub struct LimitLayer {
    calls: Arc<Semaphore>,
}

impl LimitLayer {
    /// At most `calls_max` calls at once; a streaming call counts until its last message.
    pub fn new(calls_max: usize) -> Self {
        Self { calls: Arc::new(Semaphore::new(calls_max.min(Semaphore::MAX_PERMITS))) }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, calls: self.calls.clone() }
    }
}

/// A service behind a [`LimitLayer`].
#[derive(Clone, Debug)]
pub struct Limited<S> {
    inner: S,
    calls: Arc<Semaphore>,
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let protocol = Protocol::of(request.headers());
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            let refused = refuse(protocol, exhausted("too many calls at once", RETRY_AFTER));
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let deadline = deadline_of(request.headers());
        let answer = self.inner.clone().oneshot(request);
        Box::pin(async move {
            let answered = match deadline {
                Some(at) => tokio::time::timeout_at(at, answer).await,
                None => Ok(answer.await),
            };
            let Ok(Ok(response)) = answered else {
                return Ok(refuse(protocol, Status::deadline_exceeded("the call's deadline has passed")));
            };
            let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
            Ok(response.map(|inner| Body::new(Held { inner, deadline, _permit: permit })))
        })
    }
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
    _permit: OwnedSemaphorePermit,
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
    use super::*;
    use http_body_util::BodyExt;
    use tonic::Code;

    fn call(timeout: Option<&str>) -> Request<Body> {
        let builder = Request::post("/x.Y/Z").header("content-type", "application/grpc");
        match timeout {
            Some(timeout) => builder.header("grpc-timeout", timeout).body(Body::empty()).unwrap(),
            None => builder.body(Body::empty()).unwrap(),
        }
    }

    fn answering(
        body: fn() -> Body,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send
    {
        tower::service_fn(move |_: Request<Body>| async move { Ok(Response::new(body())) })
    }

    fn code(response: &Response<Body>) -> Option<Code> {
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_call_holds_its_place_until_its_body_is_gone() {
        let limited = LimitLayer::new(1).layer(answering(|| Body::from("x")));
        let first = limited.clone().oneshot(call(None)).await.unwrap();
        assert_eq!(code(&first), None);
        let second = limited.clone().oneshot(call(None)).await.unwrap();
        assert_eq!(code(&second), Some(Code::ResourceExhausted));
        drop(first);
        let third = limited.oneshot(call(None)).await.unwrap();
        assert_eq!(code(&third), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_at_its_deadline_and_frees_its_place() {
        let never = tower::service_fn(|_: Request<Body>| std::future::pending());
        let limited = LimitLayer::new(1).layer(never);
        for _ in 0..2 {
            let response = limited.clone().oneshot(call(Some("50m"))).await.unwrap();
            assert_eq!(code(&response), Some(Code::DeadlineExceeded));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline_with_a_status() {
        let endless = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let limited = LimitLayer::new(1).layer(answering(endless));
        let response = limited.oneshot(call(Some("1S"))).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(collected.trailers().unwrap()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
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
