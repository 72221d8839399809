//! What a caller is told when a downstream cannot do what it was asked: codes, never values.

use cloakroom_client::proto::vault::v1::ErrorCode;
use tonic::Status;

use crate::DownstreamError;

/// The gRPC status of an error. A message begins with the vault's code where the vault (or a purge) refused:
/// `ERASED: ...`.
pub fn status(error: DownstreamError) -> Status {
    match &error {
        DownstreamError::Purged => refused(ErrorCode::Erased),
        DownstreamError::Refused { code, .. } => refused(*code),
        DownstreamError::NotAToken => Status::invalid_argument(error.to_string()),
        DownstreamError::Application(code) => Status::failed_precondition(*code),
        DownstreamError::Stale => Status::aborted(error.to_string()),
        DownstreamError::Vault(_) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the vault was not asked");
            Status::unavailable(error.to_string())
        }
        DownstreamError::Closed | DownstreamError::NotWritten => Status::unavailable(error.to_string()),
        _ => {
            tracing::error!(error = &error as &dyn std::error::Error, "a call failed");
            Status::internal("see the service's log")
        }
    }
}

fn refused(code: ErrorCode) -> Status {
    let name = code.as_str_name().trim_start_matches("ERROR_CODE_");
    match code {
        ErrorCode::NotFound => Status::not_found(format!("{name}: no such token of this controller")),
        ErrorCode::Invalid => Status::invalid_argument(format!("{name}: the vault does not take this token")),
        ErrorCode::Erased => Status::failed_precondition(format!("{name}: the value was destroyed")),
        ErrorCode::KeyUnavailable => Status::unavailable(format!("{name}: the value cannot be had now")),
        _ => Status::failed_precondition(format!("{name}: the vault does not give the value")),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_refusal_of_the_vault_keeps_its_code_and_a_missing_key_is_never_erased() {
        let told = |error| {
            let status = status(error);
            (status.code(), status.message().split(':').next().unwrap().to_owned())
        };
        let refused = |code| DownstreamError::Refused { code, retryable: false };
        assert_eq!(told(DownstreamError::Purged), (Code::FailedPrecondition, "ERASED".into()));
        assert_eq!(told(refused(ErrorCode::Erased)), (Code::FailedPrecondition, "ERASED".into()));
        assert_eq!(told(refused(ErrorCode::Denied)), (Code::FailedPrecondition, "DENIED".into()));
        assert_eq!(told(refused(ErrorCode::NotFound)), (Code::NotFound, "NOT_FOUND".into()));
        assert_eq!(told(refused(ErrorCode::KeyUnavailable)), (Code::Unavailable, "KEY_UNAVAILABLE".into()));
    }
}
