//! `cloakroom detokenize`

use clap::Args;
use cloakroom_proto::vault::v1::{DetokenizeItem, DetokenizeRequest, ReadMode};
use serde_json::json;

use super::vault::each;
use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// Prints the values of tokens, one a line, to stdout alone
#[derive(Args, Debug)]
pub(crate) struct Detokenize {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// One of the purposes that the register grants you
    #[arg(long)]
    purpose: String,
    /// A case or ticket id; people need one
    #[arg(long, default_value = "")]
    reason: String,
    /// Masked: j***@example.com
    #[arg(long)]
    masked: bool,
    /// Tokens
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

impl Detokenize {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let item = |token: &String| DetokenizeItem { reference: String::new(), token: token.clone() };
        let request = DetokenizeRequest {
            controller: self.controller.clone(),
            purpose: self.purpose.clone(),
            reason: self.reason.clone(),
            mode: if self.masked { ReadMode::Masked } else { ReadMode::Plain }.into(),
            items: self.tokens.iter().map(item).collect(),
        };
        let answers = settings.vault().await?.detokenize(request).await?;
        each(
            output,
            &self.tokens,
            answers,
            |value| json!({ "value": String::from_utf8_lossy(value.as_bytes()) }),
            |_, value| String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    }
}
