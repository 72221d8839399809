//! `cloakroom lookup`

use clap::Args;
use cloakroom_proto::vault::v1::{LookupItem, LookupRequest, Match};
use serde_json::json;

use super::vault::only;
use crate::error::CliError;
use crate::input::ValueSource;
use crate::output::{Output, note};
use crate::settings::Settings;

/// Finds the tokens that stand for a value, of a field that the register marks for it
#[derive(Args, Debug)]
pub(crate) struct Lookup {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// The field, as the register names it
    #[arg(long)]
    field: String,
    /// A case or ticket id; people need one
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    value: ValueSource,
}

impl Lookup {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let item = LookupItem {
            reference: String::new(),
            field: self.field.clone(),
            value: self.value.read()?.into(),
        };
        let request = LookupRequest {
            controller: self.controller.clone(),
            reason: self.reason.clone(),
            items: vec![item],
        };
        let matches = only(settings.vault().await?.lookup(request).await?)?;
        let found: Vec<_> = matches
            .found
            .iter()
            .map(|it| json!({ "token": it.token, "subject_id": it.subject_id, "activity": it.activity }))
            .collect();
        if found.is_empty() {
            return Err(CliError::Refused("nothing stands for this value".to_owned()));
        }
        if matches.more && !output.is_json() {
            note("there are more");
        }
        let line = |it: &Match| format!("{}  {}  {}", it.token, it.subject_id, it.activity);
        let text = || matches.found.iter().map(line).collect::<Vec<_>>().join("\n");
        output.result(&json!({ "found": found, "more": matches.more }), text)
    }
}
