//! `cloakroom fact`

use clap::{Args, ValueEnum};
use cloakroom_proto::vault::v1::{FactKind, RecordFactRequest};
use serde_json::json;

use crate::error::CliError;
use crate::output::{Output, moment};
use crate::settings::Settings;

/// Records a fact that retention periods count from
#[derive(Args, Debug)]
pub(crate) struct Fact {
    /// Whose customer
    #[arg(long)]
    controller: String,
    /// Whom it is about
    #[arg(long, value_name = "SUBJECT_ID")]
    subject: String,
    /// Under which activity
    #[arg(long)]
    activity: String,
    /// What happened
    #[arg(long, value_enum)]
    kind: Kind,
    /// When: 2027-06-21T20:00:00Z, or 2027-06-21 for its midnight in UTC; may lie ahead
    #[arg(long, value_parser = unix_ms, value_name = "TIME")]
    at: i64,
}

/// See [`FactKind`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    EventDate,
    LastInterest,
    Resolved,
    ProcessClosed,
    ContractEnd,
    ConsentEnd,
}

impl From<Kind> for FactKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::EventDate => Self::EventDate,
            Kind::LastInterest => Self::LastInterest,
            Kind::Resolved => Self::Resolved,
            Kind::ProcessClosed => Self::ProcessClosed,
            Kind::ContractEnd => Self::ContractEnd,
            Kind::ConsentEnd => Self::ConsentEnd,
        }
    }
}

fn unix_ms(text: &str) -> Result<i64, String> {
    let midnight = || -> Result<_, jiff::Error> {
        let date: jiff::civil::Date = text.parse()?;
        Ok(date.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
    };
    let time = text.parse::<jiff::Timestamp>().or_else(|_| midnight()).map_err(|error| error.to_string())?;
    Ok(time.as_millisecond())
}

impl Fact {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let request = RecordFactRequest {
            controller: self.controller.clone(),
            subject_id: self.subject.clone(),
            activity: self.activity.clone(),
            kind: FactKind::from(self.kind).into(),
            holds_unix_ms: self.at,
        };
        settings.vault().await?.record_fact(request).await?;
        let json = json!({ "subject_id": self.subject, "activity": self.activity, "holds": moment(self.at) });
        output.result(&json, || format!("recorded for {} under {}", self.subject, self.activity))
    }
}

#[cfg(test)]
mod tests {
    use super::unix_ms;

    #[test]
    fn times_are_rfc_3339_or_a_date() {
        assert_eq!(unix_ms("2027-01-15T08:00:00Z"), Ok(1_800_000_000_000));
        assert_eq!(unix_ms("2027-01-15"), Ok(1_799_971_200_000));
        assert!(unix_ms("tomorrow").is_err());
    }
}
