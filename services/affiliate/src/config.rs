//! What is affiliate's own in its configuration: the table `own`.

use cloakroom_downstream::daemon::Service;
use serde::{Deserialize, Serialize};

use crate::AffiliateError;

/// Affiliate's own part of the configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct AffiliateConfig {
    /// What an affiliate earns of a sale, in thousandths.
    pub commission_per_mille: u32,
    /// The purpose under which buyers are read.
    pub purpose: String,
}

impl Default for AffiliateConfig {
    fn default() -> Self {
        Self { commission_per_mille: 50, purpose: "commission_attribution".to_owned() }
    }
}

impl AffiliateConfig {
    pub(crate) fn check(&self) -> Result<(), AffiliateError> {
        match self.commission_per_mille {
            0..=1000 => Ok(()),
            _ => Err(AffiliateError::Config {
                key: "own.commission_per_mille",
                reason: "more than the sale itself: wanted is 0 to 1000",
            }),
        }
    }
}

impl Service for AffiliateConfig {
    const NAME: &'static str = "affiliate";
    const LISTEN_PORT: u16 = 7452;
    const HEALTH_PORT: u16 = 9466;
}
