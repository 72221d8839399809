//! `cloakroom certificate`

use std::path::PathBuf;

use clap::Args;
use cloakroom_proto::admin::v1::GetCertificateRequest;
use serde_json::json;

use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// Fetches the signed certificate of an erasure
#[derive(Args, Debug)]
pub(crate) struct Certificate {
    /// era_...
    erasure_id: String,
    /// Write it here instead of to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Certificate {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let request = GetCertificateRequest { erasure_id: self.erasure_id.clone() };
        let certificate = settings.admin().await?.get_certificate(request).await?.certificate;
        match &self.out {
            Some(path) => {
                std::fs::write(path, format!("{certificate}\n")).map_err(CliError::file(path))?;
                output.result(&json!({ "file": path }), || format!("written to {}", path.display()))
            }
            None => output.result(&json!({ "certificate": certificate }), || certificate.clone()),
        }
    }
}
