//! A refusal in the caller's own protocol: a gRPC status, or an HTTP problem (RFC 9457).

use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What a caller speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// gRPC: errors travel as statuses.
    Grpc,
    /// Anything else: errors are HTTP problems.
    Http,
}

impl Protocol {
    /// Tells by the content type, as the gRPC protocol wants it.
    pub fn of(headers: &HeaderMap) -> Self {
        let grpc =
            headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if grpc { Self::Grpc } else { Self::Http }
    }
}

/// RESOURCE_EXHAUSTED with the time after which another try makes sense, as `google.rpc.RetryInfo`.
pub fn exhausted(message: &str, retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// `status` as an answer in `protocol`. An HTTP answer has a problem document, and `Retry-After` where
/// the status has retry information.
pub fn refuse(protocol: Protocol, status: Status) -> Response<Body> {
    match protocol {
        Protocol::Grpc => status.into_http(),
        Protocol::Http => problem(&status),
    }
}

fn problem(status: &Status) -> Response<Body> {
    let code = http_status(status.code());
    let document = serde_json::json!({
        "type": "about:blank",
        "title": code.canonical_reason(),
        "status": code.as_u16(),
        "detail": status.message(),
    });
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    if let Some(delay) = retry {
        headers.insert(RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
    }
    response
}

/// The HTTP status that says the same as a gRPC code (google.rpc.Code's own mapping).
pub fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhaustion_says_when_to_try_again_in_either_protocol() {
        let status = exhausted("too many calls", Duration::from_millis(1500));
        let grpc = refuse(Protocol::Grpc, status.clone());
        assert_eq!(grpc.status(), StatusCode::OK);
        let read = Status::from_header_map(grpc.headers()).unwrap();
        assert_eq!(read.code(), Code::ResourceExhausted);
        let retry = read.get_details_retry_info().unwrap().retry_delay;
        assert_eq!(retry, Some(Duration::from_millis(1500)));

        let http = refuse(Protocol::Http, status);
        assert_eq!(http.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(http.headers()[RETRY_AFTER], "1");
        assert_eq!(http.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn the_content_type_tells_the_protocol() {
        let mut headers = HeaderMap::new();
        assert_eq!(Protocol::of(&headers), Protocol::Http);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        assert_eq!(Protocol::of(&headers), Protocol::Grpc);
    }
}
