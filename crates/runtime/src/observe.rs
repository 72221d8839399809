//! One span and one measurement for every call, in OpenTelemetry's names for RPC and HTTP servers.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use tokio::time::Instant;
use tonic::Code;
use tracing::{Instrument, Span, field};

use crate::answer::Protocol;
use crate::identity::Principal;
use crate::telemetry::{SECONDS, continue_from_headers};

static GRPC: LazyLock<Histogram<f64>> = LazyLock::new(|| seconds("rpc.server.call.duration"));
static HTTP: LazyLock<Histogram<f64>> = LazyLock::new(|| seconds("http.server.request.duration"));

/// The methods that a service has answered: as many as are served here. What is refused before any service has
/// looked is named by whoever calls, so it could be anything, and ever so many.
static SERVED: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());

/// Stands for all methods that are not served, in metrics and spans.
const OTHER: &str = "_OTHER";

/// The longest name of a method that a span bears.
const METHOD_BYTES_MAX: usize = 128;

fn seconds(name: &'static str) -> Histogram<f64> {
    let meter = opentelemetry::global::meter("cloakroom");
    meter.f64_histogram(name).with_unit("s").with_boundaries(SECONDS.to_vec()).build()
}

/// Answers `request` by `answer` inside a span that continues the caller's trace.
pub(crate) async fn observed(
    request: Request<Body>,
    principal: Option<&Principal>,
    answer: impl FnOnce(Request<Body>) -> BoxFuture<'static, Response<Body>>,
) -> Response<Body> {
    let protocol = Protocol::of(request.headers());
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let span = span_of(protocol, request.method(), &path, principal);
    if !span.is_disabled() {
        continue_from_headers(&span, request.headers());
    }
    let call = Call {
        protocol,
        path,
        method: request.method().clone(),
        begun: Instant::now(),
        ended: None,
        span: span.clone(),
    };
    let response = answer(request).instrument(span).await;
    call.follow(response)
}

/// Of level DEBUG: to make it, and its text, costs more than opening a value, so it is there for a collector of
/// traces, and in log lines for whoever asks for them.
fn span_of(protocol: Protocol, method: &Method, path: &str, principal: Option<&Principal>) -> Span {
    let principal = principal.map(field::display);
    match protocol {
        Protocol::Grpc => {
            let method = if is_method(path) { path } else { OTHER };
            tracing::debug_span!(
                "call",
                otel.name = method,
                otel.kind = "server",
                rpc.system.name = "grpc",
                rpc.method = method,
                rpc.response.status_code = field::Empty,
                principal
            )
        }
        // No path: it may name a token, and its parts are not a bounded set.
        Protocol::Http => tracing::debug_span!(
            "call", otel.name = %method, otel.kind = "server", http.request.method = %method,
            http.response.status_code = field::Empty, principal
        ),
    }
}

/// Whether `path` is written as `package.Service/Method`.
fn is_method(path: &str) -> bool {
    let names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/');
    path.len() <= METHOD_BYTES_MAX && path.bytes().all(names) && path.matches('/').count() == 1
}

/// The name under which a call that ended with `code` is measured.
fn measured_as(path: &str, code: Code) -> &str {
    use Code::{Cancelled, DeadlineExceeded, ResourceExhausted, Unauthenticated, Unimplemented};
    if SERVED.read().unwrap_or_else(PoisonError::into_inner).contains(path) {
        return path;
    }
    // Without any service these alone are given.
    if matches!(code, Cancelled | DeadlineExceeded | ResourceExhausted | Unauthenticated | Unimplemented) {
        return OTHER;
    }
    SERVED.write().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    path
}

/// A call under way. Measured when it is dropped: after its last byte, or when its caller went away.
struct Call {
    protocol: Protocol,
    path: String,
    method: Method,
    begun: Instant,
    ended: Option<u16>,
    span: Span,
}

impl Call {
    fn follow(mut self, response: Response<Body>) -> Response<Body> {
        match self.protocol {
            Protocol::Grpc => self.note(response.headers()),
            Protocol::Http => self.ended = Some(response.status().as_u16()),
        }
        response.map(|inner| Body::new(Watched { inner, call: self }))
    }

    fn note(&mut self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
        self.ended = status.and_then(|code| u16::try_from(i32::from(code)).ok()).or(self.ended);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        match self.protocol {
            Protocol::Grpc => {
                let code = self.ended.map_or(Code::Cancelled, |code| Code::from(i32::from(code)));
                let status = format!("{code:?}");
                self.span.record("rpc.response.status_code", status.as_str());
                let attributes = [
                    KeyValue::new("rpc.system.name", "grpc"),
                    KeyValue::new("rpc.method", measured_as(&self.path, code).to_owned()),
                    KeyValue::new("rpc.response.status_code", status),
                ];
                GRPC.record(seconds, &attributes);
            }
            Protocol::Http => {
                let status = self.ended.unwrap_or(499); // the caller went away, as proxies count it
                self.span.record("http.response.status_code", status);
                let attributes = [
                    KeyValue::new("http.request.method", method_name(&self.method)),
                    KeyValue::new("http.response.status_code", i64::from(status)),
                ];
                HTTP.record(seconds, &attributes);
            }
        }
    }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => OTHER,
    }
}

struct Watched {
    inner: Body,
    call: Call,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let span = self.call.span.clone();
        let frame = span.in_scope(|| Pin::new(&mut self.inner).poll_frame(context));
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let (Protocol::Grpc, Some(trailers)) = (self.call.protocol, frame.trailers_ref())
        {
            self.call.note(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
