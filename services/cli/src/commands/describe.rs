//! `cloakroom describe`

use clap::Args;
use cloakroom_proto::vault::v1::{DescribeRequest, Description};
use serde_json::{Value, json};

use super::vault::each;
use crate::error::CliError;
use crate::output::{Output, moment, word};
use crate::settings::Settings;

/// Tells about tokens without their values
#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// Tokens
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

impl Describe {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let request = DescribeRequest { controller: self.controller.clone(), tokens: self.tokens.clone() };
        let answers = settings.vault().await?.describe(request).await?;
        each(output, &self.tokens, answers, json, text)
    }
}

fn state(found: &Description) -> &'static str {
    word(found.state().as_str_name(), "TOKEN_STATE_")
}

fn json(found: &Description) -> Value {
    json!({
        "subject_id": found.subject_id,
        "activity": found.activity,
        "field": found.field,
        "state": state(found),
        "shape": word(found.shape().as_str_name(), "TOKEN_SHAPE_"),
        "value_version": found.value_version,
        "created": moment(found.created_unix_ms),
        "retention": found.retention,
    })
}

fn text(token: &str, found: &Description) -> String {
    format!(
        "{token}\n  {} of {} under {}, {}\n  version {}, since {}\n  kept: {}",
        found.field,
        found.subject_id,
        found.activity,
        state(found),
        found.value_version,
        moment(found.created_unix_ms),
        found.retention,
    )
}
