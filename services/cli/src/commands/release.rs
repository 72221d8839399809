//! `cloakroom release`

use clap::Args;
use cloakroom_proto::vault::v1::{ReleaseItem, ReleaseRequest};
use serde_json::json;

use super::vault::each;
use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// Forgets single tokens for good
#[derive(Args, Debug)]
pub(crate) struct Release {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// Tokens
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

impl Release {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let item = |token: &String| ReleaseItem { reference: String::new(), token: token.clone() };
        let items = self.tokens.iter().map(item).collect();
        let request = ReleaseRequest { controller: self.controller.clone(), items };
        let answers = settings.vault().await?.release(request).await?;
        each(
            output,
            &self.tokens,
            answers,
            |released| json!({ "epoch": released.epoch }),
            |token, released| format!("{token} forgotten, epoch {}", released.epoch),
        )
    }
}
