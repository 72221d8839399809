//! What both ports hold every call to: a caller with a name, messages of bounded size, and statuses that say
//! whose fault it was.

use std::pin::Pin;

use axum::body::Body;
use cloakroom_runtime::answer::{Protocol, exhausted, refuse};
use cloakroom_runtime::identity::Principal;
use cloakroom_runtime::limits::RETRY_AFTER;
use cloakroom_runtime::telemetry::traceparent;
use futures_util::Stream;
use http::Response;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

/// The largest message either way.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A streaming call's answers.
pub(crate) type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Who calls: the SPIFFE id of the connection's certificate.
///
/// # Errors
/// UNAUTHENTICATED; the listener has refused such calls already.
pub(crate) fn caller<M>(request: &Request<M>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    principal.ok_or_else(|| Status::unauthenticated("the certificate has no SPIFFE URI"))
}

/// The trace that a call belongs to, zero without one: the span's own, or what the caller says where nothing
/// is traced here.
pub(crate) fn trace_of(metadata: &MetadataMap) -> [u8; 16] {
    let said = || Some(metadata.get("traceparent")?.to_str().ok()?.to_owned());
    let trace = traceparent().or_else(said).and_then(|parent| trace_id(&parent));
    trace.unwrap_or_default()
}

/// The second field of a `traceparent` (W3C Trace Context 3.2.2).
fn trace_id(traceparent: &str) -> Option<[u8; 16]> {
    let id = traceparent.split('-').nth(1).filter(|id| id.len() == 32)?;
    u128::from_str_radix(id, 16).ok().map(u128::to_be_bytes)
}

/// `message`, if it is not too large to be sent.
///
/// # Errors
/// RESOURCE_EXHAUSTED: the caller halves its batch, or streams.
pub(crate) fn bounded<M: prost::Message>(message: M) -> Result<tonic::Response<M>, Status> {
    within(&message)?;
    Ok(tonic::Response::new(message))
}

/// As [`bounded`], for one of many answers.
///
/// # Errors
/// As [`bounded`].
pub(crate) fn within<M: prost::Message>(message: &M) -> Result<(), Status> {
    match message.encoded_len() {
        0..=MESSAGE_BYTES_MAX => Ok(()),
        _ => Err(exhausted("the answer would be larger than 4 MiB: ask for less at once", RETRY_AFTER)),
    }
}

/// The status for what the framework found wrong with a request's bytes, in the words of api.md: too large is
/// RESOURCE_EXHAUSTED as everywhere in gRPC, and bytes that are no message are the caller's fault, not ours.
/// Nothing of ours says OUT_OF_RANGE.
pub(crate) fn fault_of(found: &Status) -> Option<Status> {
    match found.code() {
        Code::OutOfRange => Some(Status::resource_exhausted("the message is larger than 4 MiB")),
        Code::Internal if found.message().starts_with("failed to decode Protobuf message") => {
            Some(Status::invalid_argument("the request is not the message that this method takes"))
        }
        _ => None,
    }
}

/// Puts [`fault_of`] into answers that hold nothing but a status.
pub(crate) async fn with_faults(response: Response<Body>) -> Response<Body> {
    if Protocol::of(response.headers()) != Protocol::Grpc {
        return response;
    }
    match Status::from_header_map(response.headers()).as_ref().and_then(fault_of) {
        Some(status) => refuse(Protocol::Grpc, status),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_from_what_the_caller_says() {
        let mut metadata = MetadataMap::new();
        assert_eq!(trace_of(&metadata), [0; 16]);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        metadata.insert("traceparent", parent.parse().unwrap());
        assert_eq!(trace_of(&metadata)[..4], [0x0a, 0xf7, 0x65, 0x19]);
        for bad in ["", "00", "00-12-34-01", "00-+af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01"] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn what_the_framework_finds_is_said_in_our_words() {
        let after = async |status: Status| {
            let response = with_faults(status.into_http()).await;
            Status::from_header_map(response.headers()).unwrap()
        };
        let large = after(Status::out_of_range("Error, decoded message length too large")).await;
        assert_eq!(large.code(), Code::ResourceExhausted);
        let wrong = after(Status::internal("failed to decode Protobuf message: X.y: planted")).await;
        assert_eq!(wrong.code(), Code::InvalidArgument);
        assert!(!wrong.message().contains("planted"));
        assert_eq!(after(Status::internal("other")).await.code(), Code::Internal);
    }

    #[test]
    fn an_answer_that_is_too_large_is_refused() {
        use cloakroom_proto::vault::v1::{DetokenizeResponse, DetokenizeResult, detokenize_result};
        let of = |bytes: usize| {
            let value = detokenize_result::Result::Value(vec![0; bytes].into());
            DetokenizeResponse {
                items: vec![DetokenizeResult { reference: String::new(), result: Some(value) }],
            }
        };
        assert!(bounded(of(MESSAGE_BYTES_MAX - 64)).is_ok());
        assert_eq!(bounded(of(MESSAGE_BYTES_MAX)).unwrap_err().code(), Code::ResourceExhausted);
    }
}
