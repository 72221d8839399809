//! `cloakroom erase`

use std::io::{IsTerminal, stdin};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cloakroom_proto::admin::v1::{
    LegalBasis, PreviewErasureRequest, PreviewErasureResponse, RequestErasureRequest, ValueLookup,
    preview_erasure_request, request_erasure_request,
};
use serde_json::{Value, json};

use super::erasure;
use crate::error::CliError;
use crate::input::{ValueSource, is_subject_id};
use crate::output::{Output, columns, note};
use crate::settings::Settings;

/// Forgets a person: shows what would die, then, with --yes, destroys the keys and announces it
#[derive(Args, Debug)]
pub(crate) struct Erase {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// The subject's id, or any token of the subject
    #[arg(value_name = "SUBJECT_ID|TOKEN", required_unless_present = "field")]
    who: Option<String>,
    /// In place of an id: a field that the register marks for look-ups, whose value, read from stdin or --from, the
    /// subject alone has
    #[arg(long, conflicts_with = "who")]
    field: Option<String>,
    /// A file that holds the value, `-` for stdin, which is the default; one line end at its end is left out
    #[arg(long, value_name = "FILE", requires = "field")]
    from: Option<PathBuf>,
    /// Only what was collected under this activity; may be given again
    #[arg(long, value_name = "ACTIVITY")]
    activity: Vec<String>,
    /// On whose behalf, as an id, never a name: dsr-2026-114
    #[arg(long, value_name = "ID")]
    actor: String,
    /// A case or ticket id
    #[arg(long, value_name = "ID")]
    reason: String,
    /// The ground of GDPR Art. 17(1)
    #[arg(long, value_enum, default_value_t)]
    basis: Basis,
    /// A repeat with the same key gets the same erasure
    #[arg(long, value_name = "KEY", default_value = "")]
    idempotency_key: String,
    /// Do it, without asking
    #[arg(long)]
    yes: bool,
    /// Wait until every downstream has answered
    #[arg(long)]
    wait: bool,
}

/// See [`LegalBasis`].
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Basis {
    /// Art. 17(1)(a)
    NoLongerNeeded,
    /// Art. 17(1)(b)
    #[default]
    ConsentWithdrawn,
    /// Art. 17(1)(c)
    Objection,
    /// Art. 17(1)(d)
    UnlawfulProcessing,
    /// Art. 17(1)(e)
    LegalObligation,
    /// Art. 17(1)(f)
    ChildServices,
}

impl From<Basis> for LegalBasis {
    fn from(basis: Basis) -> Self {
        match basis {
            Basis::NoLongerNeeded => Self::NoLongerNeeded,
            Basis::ConsentWithdrawn => Self::ConsentWithdrawn,
            Basis::Objection => Self::Objection,
            Basis::UnlawfulProcessing => Self::UnlawfulProcessing,
            Basis::LegalObligation => Self::LegalObligation,
            Basis::ChildServices => Self::ChildServices,
        }
    }
}

impl Erase {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let admin = settings.admin().await?;
        let preview = admin.preview_erasure(self.preview()?).await?;
        if !output.is_json() {
            output.line(text(&preview).trim_end())?;
        }
        if !self.yes && !self.agreed(output)? {
            if output.is_json() {
                output.result(&json!({ "preview": json(&preview) }), String::new)?;
            }
            return Err(CliError::Refused("nothing was erased; add --yes to do it".to_owned()));
        }
        let done = admin.request_erasure(self.request(&preview.subject_id)).await?;
        let mut erasure = done.erasure.unwrap_or_default();
        if self.wait {
            erasure = erasure::follow(&admin, &erasure.erasure_id, |_| Ok(())).await?;
        }
        let json = json!({
            "preview": json(&preview),
            "erasure": erasure::json(&erasure),
            "subject_salt": done.subject_salt,
        });
        output.result(&json, || {
            let salt = match done.subject_salt.as_str() {
                "" => String::new(),
                salt => format!("  salt          {salt}\n  (given this once: with the subject's id it opens the certificate's commitment)\n"),
            };
            format!("{}{salt}", erasure::text(&erasure))
        })
    }

    fn preview(&self) -> Result<PreviewErasureRequest, CliError> {
        use preview_erasure_request::Who;
        let who = match (&self.who, &self.field) {
            (Some(id), _) if is_subject_id(id) => Some(Who::SubjectId(id.clone())),
            (Some(token), _) => Some(Who::Token(token.clone())),
            (None, Some(field)) => {
                let value = ValueSource::of(self.from.clone()).read()?.into();
                Some(Who::Lookup(ValueLookup { field: field.clone(), value }))
            }
            (None, None) => None,
        };
        Ok(PreviewErasureRequest {
            controller: self.controller.clone(),
            who,
            activities: self.activity.clone(),
            reason: self.reason.clone(),
        })
    }

    /// For the subject that was shown, however it was named.
    fn request(&self, subject_id: &str) -> RequestErasureRequest {
        RequestErasureRequest {
            controller: self.controller.clone(),
            who: Some(request_erasure_request::Who::SubjectId(subject_id.to_owned())),
            activities: self.activity.clone(),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            legal_basis: LegalBasis::from(self.basis).into(),
            idempotency_key: self.idempotency_key.clone(),
        }
    }

    fn agreed(&self, output: &Output) -> Result<bool, CliError> {
        if output.is_json() || !stdin().is_terminal() {
            return Ok(false);
        }
        note("Erase all of this for good? Type yes:");
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        Ok(answer.trim() == "yes")
    }
}

/// What would die and what would stay, for programs.
fn json(preview: &PreviewErasureResponse) -> Value {
    let token = |doomed: &cloakroom_proto::admin::v1::DoomedToken| json!({ "token": doomed.token, "activity": doomed.activity, "field": doomed.field });
    let kept = |kept: &cloakroom_proto::admin::v1::KeptActivity| json!({ "activity": kept.activity, "reason": kept.reason, "tokens": kept.tokens });
    json!({
        "subject_id": preview.subject_id,
        "tokens": preview.tokens.iter().map(token).collect::<Vec<_>>(),
        "downstreams": preview.downstreams,
        "kept": preview.kept.iter().map(kept).collect::<Vec<_>>(),
    })
}

/// The same for people.
pub(super) fn text(preview: &PreviewErasureResponse) -> String {
    let mut text = format!("{} would lose {} values:\n", preview.subject_id, preview.tokens.len());
    let row = |doomed: &cloakroom_proto::admin::v1::DoomedToken| {
        vec![format!("  {}", doomed.activity), doomed.field.clone(), doomed.token.clone()]
    };
    text.push_str(&columns(&preview.tokens.iter().map(row).collect::<Vec<_>>()));
    if !preview.downstreams.is_empty() {
        text.push_str(&format!("These would be told and must answer: {}\n", preview.downstreams.join(", ")));
    }
    for kept in &preview.kept {
        text.push_str(&format!("Kept: {} values under {} ({})\n", kept.tokens, kept.activity, kept.reason));
    }
    text
}
