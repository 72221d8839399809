//! `cloakroom log verify`

use std::time::Duration;

use clap::Subcommand;
use cloakroom_client::Retry;
use cloakroom_proto::admin::v1::VerifyLogRequest;
use serde_json::json;

use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// The vault's log
#[derive(Subcommand, Debug)]
pub(crate) enum Log {
    /// Replays the whole log and compares: every checksum, every projection, every slot
    Verify {
        /// How long it may take, in seconds
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        timeout_s: u64,
    },
}

impl Log {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let Self::Verify { timeout_s } = self;
        let retry = Retry { deadline: Duration::from_secs(*timeout_s), ..Retry::default() };
        let found = settings.admin().await?.with_retry(retry).verify_log(VerifyLogRequest {}).await?;
        let json = json!({
            "events": found.events,
            "frames": found.frames,
            "digest": found.digest,
            "problems": found.problems,
        });
        output.result(&json, || {
            let mut text =
                format!("{} events in {} frames, digest {}\n", found.events, found.frames, found.digest);
            found.problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n")));
            text
        })?;
        match found.problems.len() {
            0 => Ok(()),
            problems => Err(CliError::Refused(format!("{problems} problems"))),
        }
    }
}
