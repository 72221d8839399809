//! W3C trace context in and out: gRPC and HTTP headers, and as text for the headers of Kafka records.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header, in HTTP, gRPC and Kafka alike.
const TRACEPARENT: &str = "traceparent";

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersOut<'a>(&'a mut HeaderMap);

impl Injector for HeadersOut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// Makes `span` a child of the caller's, where the headers name one. Before `span` is entered.
pub fn continue_from_headers(span: &Span, headers: &HeaderMap) {
    adopt(span, &Headers(headers));
}

/// Makes `span` a child of the one that `traceparent` names; false where it names none or nothing is
/// traced here. Before `span` is entered.
pub fn continue_from(span: &Span, traceparent: &str) -> bool {
    let mut headers = HeaderMap::new();
    HeadersOut(&mut headers).set(TRACEPARENT, traceparent.to_owned());
    adopt(span, &Headers(&headers))
}

fn adopt(span: &Span, from: &dyn Extractor) -> bool {
    let parent = TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), from);
    parent.span().span_context().is_valid() && span.set_parent(parent).is_ok()
}

/// The current span as a `traceparent`; `None` where nothing is traced.
pub fn traceparent() -> Option<String> {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    headers.get(TRACEPARENT)?.to_str().ok().map(str::to_owned)
}

/// Writes the current span into the headers of a call that is about to leave.
pub fn inject(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut HeadersOut(headers));
}
