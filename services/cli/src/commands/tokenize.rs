//! `cloakroom tokenize`

use clap::Args;
use cloakroom_proto::vault::v1::{TokenShape, TokenizeItem, TokenizeRequest, tokenize_item};
use serde_json::json;

use super::vault::only;
use crate::error::CliError;
use crate::input::{Shape, ValueSource};
use crate::output::Output;
use crate::settings::Settings;

/// Takes one value in and prints its token
#[derive(Args, Debug)]
pub(crate) struct Tokenize {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// The processing activity, as the register names it
    #[arg(long)]
    activity: String,
    /// The field, as the register names it
    #[arg(long)]
    field: String,
    /// A subject the vault knows; without one the value is a new subject's
    #[arg(long, value_name = "SUBJECT_ID")]
    subject: Option<String>,
    /// What the token looks like
    #[arg(long, value_enum, default_value_t)]
    shape: Shape,
    /// A repeat with the same key within 24 h gets the same token
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    value: ValueSource,
}

impl Tokenize {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let subject = match &self.subject {
            Some(id) => tokenize_item::Subject::SubjectId(id.clone()),
            None => tokenize_item::Subject::NewSubject("new".to_owned()),
        };
        let item = TokenizeItem {
            reference: String::new(),
            subject: Some(subject),
            field: self.field.clone(),
            value: self.value.read()?.into(),
            shape: TokenShape::from(self.shape).into(),
        };
        let request = TokenizeRequest {
            controller: self.controller.clone(),
            activity: self.activity.clone(),
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
            items: vec![item],
        };
        let made = only(settings.vault().await?.tokenize(request).await?)?;
        let json = json!({ "token": made.token, "subject_id": made.subject_id });
        output.result(&json, || format!("{}  {}", made.token, made.subject_id))
    }
}
