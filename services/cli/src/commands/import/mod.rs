//! `cloakroom import`: a CSV goes in, the same CSV with tokens and subject ids in place of people comes out.
//!
//! - `mapping`: what the mapping file says, held against the CSV's heading
//! - `rows`: the CSV in chunks that depend on the file alone
//! - `people`: repeated buyers, in memory alone
//! - `send`: a chunk becomes requests, answers become rows
//! - `journal`: the files written, and how far they count
//!
//! Invariants: every row ends in exactly one of the two files; no value is written anywhere; a chunk asks
//! for the same under the same ids whenever it is asked for, so that a killed import is gone on with by
//! starting it again.

mod journal;
mod mapping;
mod people;
mod progress;
mod rows;
mod send;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use cloakroom_client::{Client, ClientError, Refusal};
use cloakroom_core::register::Register;
use cloakroom_crypto::hash::sha256;
use csv::WriterBuilder;
use data_encoding::HEXLOWER;
use serde::Serialize;

use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

use journal::{Files, Journal, State};
use mapping::{Cell, ITEMS_MAX, Mapping, MappingError, Plan};
use people::{People, TooMany};
use progress::Progress;
use rows::{Rows, fingerprint};
use send::{Passenger, Sender, Vault};

/// Different people that are recognised in memory by default, some 50 bytes each.
const PEOPLE_MAX: usize = 4_000_000;

/// Takes a CSV in and writes it back with tokens in place of people
///
/// Repeated buyers are recognised in memory only. A row that cannot be taken goes to the rejects file by row
/// number, column and reason, without its values, and stops nothing. An import that was interrupted goes on
/// when it is started again with the same arguments, within 24 hours; each row goes in once.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The CSV, UTF-8, with a heading
    file: PathBuf,
    /// What its columns are (see examples/orders/README.md)
    #[arg(long)]
    map: PathBuf,
    /// The CSV with tokens [default: FILE.tokens.csv]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rows that could not be taken [default: FILE.rejects.csv]
    #[arg(long)]
    rejects: Option<PathBuf>,
    /// How far the import is [default: FILE.import-state.json]
    #[arg(long)]
    state: Option<PathBuf>,
    /// Check values by this register before anything of their row is sent
    #[arg(long, value_name = "REGISTER.toml")]
    register: Option<PathBuf>,
    /// Different people to recognise; more stop the import
    #[arg(long, default_value_t = PEOPLE_MAX, value_name = "NUMBER")]
    people_max: usize,
}

/// Why an import stopped. Names files, columns and rows, never cells.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ImportError {
    /// A file could not be used.
    #[error("{path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else than a CSV.
    #[error("{path} is not a CSV: {looks}")]
    NoCsv {
        /// Which file.
        path: PathBuf,
        /// What it is instead.
        looks: &'static str,
    },
    /// The parser came to no end.
    #[error("row {row} is not CSV: a quote was most likely opened and never closed")]
    Row {
        /// Counted from 1, the heading not counted.
        row: u64,
    },
    /// The mapping is wrong, or does not fit the CSV.
    #[error("{path}")]
    Mapping {
        /// Which mapping file.
        path: PathBuf,
        /// What is wrong.
        source: MappingError,
    },
    /// A file to write is there already.
    #[error("{path} is there already; remove it, or name another")]
    Exists {
        /// Which one.
        path: PathBuf,
    },
    /// The state is about another import.
    #[error("{path} is the state of another CSV or mapping; name another, or remove it with its files")]
    OtherSource {
        /// The state file.
        path: PathBuf,
    },
    /// The state is damaged, or does not fit the files.
    #[error("{path} does not fit the files that it counts; remove all three to begin again")]
    State {
        /// The state file.
        path: PathBuf,
    },
    /// Another import is writing.
    #[error("{path} is being written by another import")]
    Busy {
        /// Which file.
        path: PathBuf,
    },
    /// More different people than allowed.
    #[error("more than {max} different people; raise --people-max (some 50 bytes of memory each) and go on")]
    People {
        /// The bound.
        max: usize,
    },
    /// The vault cannot do it now. Nothing is lost: the same command goes on.
    #[error("the vault cannot take values now; the same command goes on where this one stopped")]
    NotNow {
        /// What it said.
        #[source]
        refusal: Refusal,
    },
    /// A call failed as a whole.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ImportError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::NotNow { .. } => 3,
            Self::NoCsv { .. } | Self::Row { .. } | Self::State { .. } | Self::People { .. } => 1,
            Self::File { .. }
            | Self::Mapping { .. }
            | Self::Exists { .. }
            | Self::OtherSource { .. }
            | Self::Busy { .. } => 2,
        }
    }

    fn file(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File { path, source }
    }
}

/// What an import did, this time and before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Rows of the CSV.
    pub(crate) rows: u64,
    /// Rows in the file with tokens.
    pub(crate) taken: u64,
    /// Rows in the rejects file.
    pub(crate) rejected: u64,
    /// Tokens in the file with tokens.
    pub(crate) tokens: u64,
    /// Different people recognised; those without the identifying column not counted.
    pub(crate) people: u64,
    /// Tokens of rejected rows that this caller may not release: they stay in the vault.
    pub(crate) left_behind: u64,
    /// Where this run began.
    pub(crate) resumed_at_row: u64,
    /// The CSV with tokens.
    pub(crate) out: PathBuf,
    /// The rejects file.
    pub(crate) rejects: PathBuf,
}

impl Import {
    /// An import into files of the usual names in `folder`, as `dev` makes it.
    pub(super) fn into_folder(file: PathBuf, map: PathBuf, register: PathBuf, folder: &Path) -> Self {
        let at = |name: &str| Some(folder.join(name));
        Self {
            file,
            map,
            out: at("orders.tokens.csv"),
            rejects: at("orders.rejects.csv"),
            state: at("orders.import-state.json"),
            register: Some(register),
            people_max: PEOPLE_MAX,
        }
    }

    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let prepared = self.prepare()?; // what is wrong here is told before anybody is called
        let vault = settings.vault().await?;
        let summary = prepared.run(&vault).await?;
        output.result(&summary, || summary.text())
    }

    /// Imports through a connection that is there already.
    pub(super) async fn with(&self, vault: &Client) -> Result<Summary, CliError> {
        self.through(vault).await
    }

    async fn through(&self, vault: &impl Vault) -> Result<Summary, CliError> {
        Ok(self.prepare()?.run(vault).await?)
    }

    fn prepare(&self) -> Result<Prepared, CliError> {
        let text = std::fs::read_to_string(&self.map).map_err(CliError::file(&self.map))?;
        let wrong = |source| ImportError::Mapping { path: self.map.clone(), source };
        let mapping = Mapping::parse(&text).map_err(wrong)?;
        let rows = Rows::open(&self.file, mapping.delimiter().map_err(wrong)?)?;
        let plan = mapping.plan(rows.heading()).map_err(wrong)?;
        let register =
            self.register.as_deref().map(super::register::read).transpose()?.map(|(_, register)| register);
        let beside = |given: &Option<PathBuf>, name: &str| {
            given.clone().unwrap_or_else(|| self.file.with_extension(name))
        };
        let files = Files {
            out: beside(&self.out, "tokens.csv"),
            rejects: beside(&self.rejects, "rejects.csv"),
            state: beside(&self.state, "import-state.json"),
        };
        let source = fingerprint(&self.file)?;
        let mapping = sha256(text.as_bytes());
        let bytes = std::fs::metadata(&self.file).map_err(ImportError::file(&self.file))?.len();
        let people = People::new(plan.compare, self.people_max);
        Ok(Prepared {
            rows,
            plan,
            register,
            files,
            source,
            mapping,
            bytes,
            people,
            people_max: self.people_max,
        })
    }
}

impl Summary {
    fn text(&self) -> String {
        let mut text = format!(
            "{} rows: {} taken ({} tokens, {} people recognised), {} rejected\n  with tokens: {}\n  rejects:     {}\n",
            self.rows,
            self.taken,
            self.tokens,
            self.people,
            self.rejected,
            self.out.display(),
            self.rejects.display(),
        );
        if self.resumed_at_row > 0 {
            text.push_str(&format!("  went on after row {}\n", self.resumed_at_row));
        }
        if self.left_behind > 0 {
            text.push_str(&format!(
                "  {} tokens of rejected rows stay in the vault: this caller may not release them\n",
                self.left_behind
            ));
        }
        text
    }
}

/// An import that is ready to begin or to go on.
struct Prepared {
    rows: Rows,
    plan: Plan,
    register: Option<Register>,
    files: Files,
    source: [u8; 32],
    mapping: [u8; 32],
    bytes: u64,
    people: People,
    people_max: usize,
}

impl Prepared {
    async fn run(mut self, vault: &impl Vault) -> Result<Summary, ImportError> {
        let begin = State::new(HEXLOWER.encode(&self.source), HEXLOWER.encode(&self.mapping));
        let mut journal = Journal::open(self.files.clone(), begin)?;
        let resumed_at_row = journal.state().rows;
        let mut progress = Progress::new(self.bytes);
        if journal.is_new() {
            let names = self.plan.columns().into_iter().map(|(name, _)| name.as_bytes().to_vec()).collect();
            journal.append(&lines([names]), b"row,column,reason\n", |_| ())?;
        } else {
            self.recall(&journal)?;
        }
        let sender = Sender {
            vault,
            plan: &self.plan,
            register: self.register.as_ref(),
            import_id: sha256(&[self.source, self.mapping].concat()),
        };
        let rows_max = (ITEMS_MAX / self.plan.tokens_per_activity().max(1)).max(1);
        let mut left_behind = 0_u64;
        loop {
            let chunk = self.rows.chunk(rows_max)?;
            if chunk.is_empty() {
                break;
            }
            let taken = sender.take(chunk, &self.people).await?;
            let left = sender.give_back(&taken, |tokens| journal.known(tokens)).await?;
            left_behind = left_behind.saturating_add(left);
            for (who, subject) in taken.iter().filter_map(Passenger::remembered) {
                let full = |TooMany| ImportError::People { max: self.people_max };
                self.people.remember(who, subject).map_err(full)?;
            }
            write(&mut journal, &self.plan, &taken)?;
            progress.at(journal.state().rows, self.rows.position());
        }
        journal.append(b"", b"", |state| state.done = true)?;
        progress.end();
        let state = journal.state();
        Ok(Summary {
            rows: state.rows,
            taken: state.taken,
            rejected: state.rejected(),
            tokens: state.tokens,
            people: self.people.count() as u64,
            left_behind,
            resumed_at_row,
            out: self.files.out,
            rejects: self.files.rejects,
        })
    }

    /// Passes over the rows dealt with before, remembering who they were about: the subject ids stand in
    /// the file with tokens, beside the rows of the CSV.
    fn recall(&mut self, journal: &Journal) -> Result<(), ImportError> {
        let subject_at = self.plan.columns().iter().position(|(_, cell)| *cell == Cell::Subject).unwrap_or(0);
        let mut written = journal.written(subject_at)?;
        for number in 1..=journal.state().rows {
            let row = self.rows.next()?.ok_or_else(|| journal.misfit())?;
            let subject = written.subject(number).ok_or_else(|| journal.misfit())?;
            let who = self.plan.identified_by.and_then(|column| self.people.who(row.text(column)));
            if let (Some(who), Some(subject)) = (who, subject.filter(|subject| !subject.is_empty())) {
                let full = |TooMany| ImportError::People { max: self.people_max };
                self.people.remember(who, &subject).map_err(full)?;
            }
        }
        Ok(())
    }
}

fn write(journal: &mut Journal, plan: &Plan, chunk: &[Passenger]) -> Result<(), ImportError> {
    let columns = plan.columns();
    let (mut taken, mut tokens) = (0_u64, 0_u64);
    let (mut out, mut rejects) = (Vec::new(), Vec::new());
    for passenger in chunk {
        if !passenger.refused.is_empty() {
            let number = passenger.row.number.to_string().into_bytes();
            rejects.extend(passenger.reasons().map(|(column, reason)| {
                let column = column.map_or("", |column| plan.name(column));
                vec![number.clone(), column.as_bytes().to_vec(), reason.as_bytes().to_vec()]
            }));
            continue;
        }
        let token = |at: usize| passenger.tokens.get(at).and_then(Option::as_deref).unwrap_or("");
        out.push(
            columns
                .iter()
                .map(|(_, cell)| match cell {
                    Cell::Kept(column) => passenger.row.cells.get(*column).unwrap_or(b"").to_vec(),
                    Cell::Token(at) => token(*at).as_bytes().to_vec(),
                    Cell::Subject => passenger.subject.as_deref().unwrap_or("").as_bytes().to_vec(),
                })
                .collect(),
        );
        taken = taken.saturating_add(1);
        tokens = tokens.saturating_add(passenger.tokens.iter().flatten().count() as u64);
    }
    journal.append(&lines(out), &lines(rejects), |state| {
        state.rows = state.rows.saturating_add(chunk.len() as u64);
        state.taken = state.taken.saturating_add(taken);
        state.tokens = state.tokens.saturating_add(tokens);
    })
}

/// Reads a CSV by a mapping to its end, sending nothing: the number of values it would send.
pub(crate) fn values_in(map: &str, csv: &Path) -> Result<u64, CliError> {
    let mapping = |source| ImportError::Mapping { path: csv.to_owned(), source };
    let map = Mapping::parse(map).map_err(mapping)?;
    let mut rows = Rows::open(csv, map.delimiter().map_err(mapping)?)?;
    let plan = map.plan(rows.heading()).map_err(mapping)?;
    let mut values = 0_u64;
    loop {
        let chunk = rows.chunk(ITEMS_MAX)?;
        if chunk.is_empty() {
            return Ok(values);
        }
        for row in &chunk {
            let has = |token| plan.has(token, |column| row.text(column).to_owned());
            let found = plan.tokens.iter().filter(|token| has(token)).count();
            values = values.saturating_add(found as u64);
        }
    }
}

fn lines(rows: impl IntoIterator<Item = Vec<Vec<u8>>>) -> Vec<u8> {
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    for row in rows {
        let _ = writer.write_record(row); // into memory, rows of one length: cannot fail
    }
    writer.into_inner().unwrap_or_default()
}
