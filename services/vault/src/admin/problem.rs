//! Refusals over HTTP: RFC 9457 problem details, with the refusal's code as a member of their own.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cloakroom_core::refusal::CallRefusal;
use cloakroom_runtime::answer::{Protocol, refuse};
use cloakroom_runtime::limits::RETRY_AFTER;
use http::header::{CONTENT_TYPE, RETRY_AFTER as RETRY_AFTER_HEADER};
use http::{HeaderMap, HeaderValue, StatusCode};
use tonic::Status;

/// A refused HTTP request. `detail` carries ids and codes, never values.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "INVALID", detail: detail.into() }
    }

    pub(super) fn of(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }
}

impl From<CallRefusal> for Problem {
    fn from(refusal: CallRefusal) -> Self {
        let (status, code) = match &refusal {
            CallRefusal::Invalid(_) => (StatusCode::BAD_REQUEST, "INVALID"),
            CallRefusal::Forbidden(_) => (StatusCode::FORBIDDEN, "DENIED"),
            CallRefusal::NotFound(_) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            CallRefusal::Conflict(_) => (StatusCode::CONFLICT, "CONFLICT"),
            CallRefusal::Exhausted(_) => (StatusCode::TOO_MANY_REQUESTS, "EXHAUSTED"),
            CallRefusal::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        };
        Self { status, code, detail: refusal.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER_HEADER, HeaderValue::from(RETRY_AFTER.as_secs().max(1)));
        }
        response
    }
}

/// What nobody serves, in the caller's own protocol.
pub(crate) async fn nowhere(headers: HeaderMap) -> Response {
    match Protocol::of(&headers) {
        Protocol::Grpc => refuse(Protocol::Grpc, Status::unimplemented("no such service")),
        Protocol::Http => Problem::of(StatusCode::NOT_FOUND, "NOT_FOUND", "no such route").into_response(),
    }
}

/// A route asked in a way that it is not made for.
pub(super) async fn not_so() -> Problem {
    Problem::of(StatusCode::METHOD_NOT_ALLOWED, "INVALID", "the route does not take this method")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_http_status() {
        let of = |refusal: CallRefusal| Problem::from(refusal).into_response();
        assert_eq!(of(CallRefusal::Invalid("x".into())).status(), 400);
        assert_eq!(of(CallRefusal::Forbidden("x".into())).status(), 403);
        assert_eq!(of(CallRefusal::NotFound("x".into())).status(), 404);
        assert_eq!(of(CallRefusal::Conflict("x".into())).status(), 409);
        assert_eq!(of(CallRefusal::Unavailable("x".into())).status(), 503);
        let busy = of(CallRefusal::Exhausted("x".into()));
        assert_eq!(busy.status(), 429);
        assert_eq!(busy.headers()[RETRY_AFTER_HEADER], "1");
        assert_eq!(busy.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
