//! A refused call as a gRPC status. The admin endpoint's HTTP says the same in `admin/problem.rs`.

use cloakroom_core::refusal::CallRefusal;
use cloakroom_runtime::answer::exhausted;
use cloakroom_runtime::limits::RETRY_AFTER;
use tonic::Status;

/// The status for a whole call. Its message carries ids and codes, as the refusal's does.
pub(crate) fn status(refusal: CallRefusal) -> Status {
    match refusal {
        CallRefusal::Invalid(message) => Status::invalid_argument(message),
        CallRefusal::Forbidden(message) => Status::permission_denied(message),
        CallRefusal::NotFound(message) => Status::not_found(message),
        CallRefusal::Conflict(message) => Status::failed_precondition(message),
        CallRefusal::Exhausted(message) => exhausted(&message, RETRY_AFTER),
        CallRefusal::Unavailable(message) => Status::unavailable(message),
        other => Status::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn each_refusal_has_its_code() {
        let code = |of: fn(String) -> CallRefusal| status(of("why".into())).code();
        assert_eq!(code(CallRefusal::Invalid), Code::InvalidArgument);
        assert_eq!(code(CallRefusal::Forbidden), Code::PermissionDenied);
        assert_eq!(code(CallRefusal::NotFound), Code::NotFound);
        assert_eq!(code(CallRefusal::Conflict), Code::FailedPrecondition);
        assert_eq!(code(CallRefusal::Exhausted), Code::ResourceExhausted);
        assert_eq!(code(CallRefusal::Unavailable), Code::Unavailable);
    }
}
