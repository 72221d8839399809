//! `cloakroom erasure get|list|watch|redrive`

use clap::{Subcommand, ValueEnum};
use cloakroom_client::AdminClient;
use cloakroom_proto::admin::v1::{
    Erasure as Wire, ErasureState, GetErasureRequest, ListErasuresRequest, RedriveErasureRequest,
    WatchErasureRequest,
};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, columns, moment, note, word};
use crate::settings::Settings;

/// Erasures and how far they are
#[derive(Subcommand, Debug)]
pub(crate) enum Erasure {
    /// Shows one erasure
    Get {
        /// era_...
        erasure_id: String,
    },
    /// Lists erasures
    List {
        /// Whose customers
        #[arg(long)]
        controller: String,
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only those whose deadline was missed
        #[arg(long)]
        overdue: bool,
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "NUMBER")]
        limit: u32,
    },
    /// Shows an erasure after every change, until nothing can change any more
    Watch {
        /// era_...
        erasure_id: String,
    },
    /// Announces an erasure again to those who owe an answer; a completed one is left as it is
    Redrive {
        /// era_...
        erasure_id: String,
    },
}

/// See [`ErasureState`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Fenced,
    KeysDestroyed,
    Propagating,
    Completed,
    CompletedWithExpiry,
    Overdue,
}

impl From<State> for ErasureState {
    fn from(state: State) -> Self {
        match state {
            State::Fenced => Self::Fenced,
            State::KeysDestroyed => Self::KeysDestroyed,
            State::Propagating => Self::Propagating,
            State::Completed => Self::Completed,
            State::CompletedWithExpiry => Self::CompletedWithExpiry,
            State::Overdue => Self::Overdue,
        }
    }
}

impl Erasure {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let admin = settings.admin().await?;
        match self {
            Self::Get { erasure_id } => {
                let request = GetErasureRequest { erasure_id: erasure_id.clone() };
                let erasure = admin.get_erasure(request).await?.erasure.unwrap_or_default();
                output.result(&json(&erasure), || text(&erasure))
            }
            Self::List { controller, state, overdue, limit } => {
                let state = state.map_or(ErasureState::Unspecified, ErasureState::from);
                let erasures = list(&admin, controller, state, *overdue, *limit).await?;
                let objects: Vec<_> = erasures.iter().map(json).collect();
                output.result(&objects, || columns(&erasures.iter().map(row).collect::<Vec<_>>()))
            }
            Self::Watch { erasure_id } => {
                let show = |erasure: &Wire| output.result(&json(erasure), || text(erasure));
                follow(&admin, erasure_id, show).await.map(|_| ())
            }
            Self::Redrive { erasure_id } => {
                let request = RedriveErasureRequest { erasure_id: erasure_id.clone() };
                let erasure = admin.redrive_erasure(request).await?.erasure.unwrap_or_default();
                if erasure.completed_unix_ms > 0 {
                    note("completed before: nobody owes an answer, so nothing was announced again");
                }
                output.result(&json(&erasure), || text(&erasure))
            }
        }
    }
}

/// All erasures that fit, page after page, up to `limit`.
async fn list(
    admin: &AdminClient,
    controller: &str,
    state: ErasureState,
    overdue: bool,
    limit: u32,
) -> Result<Vec<Wire>, CliError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut request = ListErasuresRequest {
        controller: controller.to_owned(),
        state: state.into(),
        overdue,
        page_size: u32::try_from(limit.min(1000)).unwrap_or(1000),
        page_token: String::new(),
    };
    let mut erasures = Vec::new();
    loop {
        let page = admin.list_erasures(request.clone()).await?;
        erasures.extend(page.erasures);
        if page.next_page_token.is_empty() || erasures.len() >= limit {
            erasures.truncate(limit);
            return Ok(erasures);
        }
        request.page_token = page.next_page_token;
    }
}

/// Follows an erasure until nothing can change any more; `seen` is told of every change. Returns its end.
pub(super) async fn follow(
    admin: &AdminClient,
    erasure_id: &str,
    mut seen: impl FnMut(&Wire) -> Result<(), CliError>,
) -> Result<Wire, CliError> {
    let mut changes = admin.watch_erasure(WatchErasureRequest { erasure_id: erasure_id.to_owned() }).await?;
    let mut last = None;
    while let Some(change) =
        changes.message().await.map_err(|status| CliError::Unreachable(status.to_string()))?
    {
        if let Some(erasure) = change.erasure {
            seen(&erasure)?;
            last = Some(erasure);
        }
    }
    let last = last.ok_or_else(|| CliError::Refused(format!("no such erasure: {erasure_id}")))?;
    match last.state() {
        ErasureState::Completed | ErasureState::CompletedWithExpiry => Ok(last),
        _ => Err(CliError::Unreachable("the vault ended the watch before the erasure did".to_owned())),
    }
}

/// The state's word: `PROPAGATING`.
pub(super) fn state(erasure: &Wire) -> &'static str {
    word(erasure.state().as_str_name(), "ERASURE_STATE_")
}

fn basis(erasure: &Wire) -> &'static str {
    word(erasure.legal_basis().as_str_name(), "LEGAL_BASIS_")
}

/// An erasure for programs.
pub(super) fn json(erasure: &Wire) -> Value {
    let downstream = |answer: &cloakroom_proto::admin::v1::DownstreamState| {
        json!({
            "downstream": answer.downstream,
            "status": answer.status,
            "tokens_answered": answer.tokens_answered,
            "copies_purged": answer.copies_purged,
            "reason": answer.reason,
            "evidence": answer.evidence,
            "answered": moment(answer.answered_unix_ms),
            "expires": moment(answer.expires_unix_ms),
        })
    };
    json!({
        "erasure_id": erasure.erasure_id,
        "controller": erasure.controller,
        "state": state(erasure),
        "activities": erasure.activities,
        "actor": erasure.actor,
        "reason": erasure.reason,
        "legal_basis": basis(erasure),
        "tokens": erasure.tokens,
        "requested": moment(erasure.requested_unix_ms),
        "keys_destroyed": moment(erasure.keys_destroyed_unix_ms),
        "completed": moment(erasure.completed_unix_ms),
        "deadline": moment(erasure.deadline_unix_ms),
        "epoch": erasure.epoch,
        "destroy_class": erasure.destroy_class,
        "final_at_unix_ms": erasure.final_at_unix_ms,
        "final_unix_ms": erasure.final_unix_ms,
        "downstreams": erasure.downstreams.iter().map(downstream).collect::<Vec<_>>(),
    })
}

fn row(erasure: &Wire) -> Vec<String> {
    let tokens = format!("{} tokens", erasure.tokens);
    vec![erasure.erasure_id.clone(), state(erasure).to_owned(), tokens, moment(erasure.requested_unix_ms)]
}

/// An erasure for people.
pub(super) fn text(erasure: &Wire) -> String {
    let scope =
        if erasure.activities.is_empty() { "everything".to_owned() } else { erasure.activities.join(", ") };
    let mut rows = vec![
        vec!["  state".to_owned(), state(erasure).to_owned()],
        vec!["  scope".to_owned(), format!("{scope}, {} tokens, {}", erasure.tokens, basis(erasure))],
        vec!["  asked for".to_owned(), moment(erasure.requested_unix_ms)],
        vec!["  keys gone".to_owned(), moment(erasure.keys_destroyed_unix_ms)],
    ];
    if erasure.epoch > 0 {
        rows.push(vec!["  how".to_owned(), format!("{}, epoch {}", erasure.destroy_class, erasure.epoch)]);
        if erasure.final_unix_ms == 0 {
            let until = moment(erasure.final_at_unix_ms);
            rows.push(vec!["  NOT FINAL".to_owned(), format!("a key backup knows it until {until}")]);
        }
    }
    for answer in &erasure.downstreams {
        let mut words = format!("{}, {} copies purged", answer.status, answer.copies_purged);
        for more in [&answer.reason, &answer.evidence] {
            if !more.is_empty() {
                words.push_str(&format!(", {more}"));
            }
        }
        rows.push(vec![format!("  {}", answer.downstream), words]);
    }
    rows.push(vec!["  complete".to_owned(), moment(erasure.completed_unix_ms)]);
    rows.push(vec!["  deadline".to_owned(), moment(erasure.deadline_unix_ms)]);
    format!("{} of {}\n{}", erasure.erasure_id, erasure.controller, columns(&rows))
}
