//! `cloakroom rectify`

use clap::Args;
use cloakroom_proto::vault::v1::{RectifyItem, RectifyRequest};
use serde_json::json;

use super::vault::only;
use crate::error::CliError;
use crate::input::ValueSource;
use crate::output::Output;
use crate::settings::Settings;

/// Puts a new value behind a token; the former value is destroyed
#[derive(Args, Debug)]
pub(crate) struct Rectify {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// The token
    token: String,
    #[command(flatten)]
    value: ValueSource,
}

impl Rectify {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let item = RectifyItem {
            reference: String::new(),
            token: self.token.clone(),
            value: self.value.read()?.into(),
        };
        let request = RectifyRequest { controller: self.controller.clone(), items: vec![item] };
        let version = only(settings.vault().await?.rectify(request).await?)?.value_version;
        let json = json!({ "token": self.token, "value_version": version });
        output.result(&json, || format!("{} now stands for version {version}", self.token))
    }
}
