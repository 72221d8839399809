//! Why a call was refused, or the service does not start. Ids and codes, never values.

use cloakroom_downstream::DownstreamError;
use cloakroom_downstream::daemon::status;
use tonic::Status;

/// Why a call was refused, or the service does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AffiliateError {
    /// The kit.
    #[error(transparent)]
    Downstream(#[from] DownstreamError),
    /// The configuration parses and still cannot be meant.
    #[error("the configuration's {key} is wrong: {reason}")]
    Config {
        /// Its key.
        key: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A part of the request that cannot be taken.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The order was recorded with other facts.
    #[error("CONFLICT: this order was recorded with another affiliate, amount, currency or buyer")]
    Conflict,
    /// More customers than one answer holds.
    #[error("this affiliate has more customers than one answer holds")]
    TooMany,
}

impl From<AffiliateError> for Status {
    fn from(error: AffiliateError) -> Self {
        let said = error.to_string();
        match error {
            AffiliateError::Downstream(error) => status(error),
            AffiliateError::Invalid { .. } => Self::invalid_argument(said),
            AffiliateError::Conflict => Self::already_exists(said),
            AffiliateError::TooMany => Self::resource_exhausted(said),
            AffiliateError::Config { .. } => Self::internal(said),
        }
    }
}
