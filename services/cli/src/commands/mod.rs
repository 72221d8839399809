//! A file per command, named as it is typed.

mod backup;
mod certificate;
mod certs;
mod completions;
mod describe;
mod detokenize;
mod dev;
mod doctor;
mod downstreams;
mod erase;
mod erasure;
mod fact;
pub(crate) mod import;
mod keys;
mod ledger;
mod log;
mod lookup;
mod rectify;
mod register;
mod release;
mod restore;
mod tokenize;
mod vault;
mod verify;

pub(crate) use verify::verify;

use clap::Subcommand;

use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// Everything that can be typed.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Dev(dev::Dev),
    Tokenize(tokenize::Tokenize),
    Detokenize(detokenize::Detokenize),
    Describe(describe::Describe),
    Lookup(lookup::Lookup),
    Rectify(rectify::Rectify),
    Release(release::Release),
    Fact(fact::Fact),
    Import(import::Import),
    Erase(erase::Erase),
    #[command(subcommand)]
    Erasure(erasure::Erasure),
    Certificate(certificate::Certificate),
    Verify(verify::Verify),
    #[command(subcommand)]
    Register(register::Register),
    Downstreams(downstreams::Downstreams),
    #[command(subcommand)]
    Keys(keys::Keys),
    #[command(subcommand)]
    Backup(backup::Backup),
    Restore(restore::Restore),
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    #[command(subcommand)]
    Log(log::Log),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Certs(certs::Certs),
    Completions(completions::Completions),
    #[command(hide = true)]
    RunChild(dev::RunChild),
}

impl Command {
    /// Does what was typed.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        match self {
            Self::Dev(command) => command.run(output).await,
            Self::Tokenize(command) => command.run(settings, output).await,
            Self::Detokenize(command) => command.run(settings, output).await,
            Self::Describe(command) => command.run(settings, output).await,
            Self::Lookup(command) => command.run(settings, output).await,
            Self::Rectify(command) => command.run(settings, output).await,
            Self::Release(command) => command.run(settings, output).await,
            Self::Fact(command) => command.run(settings, output).await,
            Self::Import(command) => command.run(settings, output).await,
            Self::Erase(command) => command.run(settings, output).await,
            Self::Erasure(command) => command.run(settings, output).await,
            Self::Certificate(command) => command.run(settings, output).await,
            Self::Verify(command) => command.run(output),
            Self::Register(command) => command.run(settings, output).await,
            Self::Downstreams(command) => command.run(settings, output).await,
            Self::Keys(command) => command.run(settings, output).await,
            Self::Backup(command) => command.run(settings, output).await,
            Self::Restore(command) => command.run(settings, output).await,
            Self::Ledger(command) => command.run(settings, output).await,
            Self::Log(command) => command.run(settings, output).await,
            Self::Doctor(command) => command.run(settings, output).await,
            Self::Certs(command) => command.run(output),
            Self::Completions(command) => command.run(output),
            Self::RunChild(command) => command.run(),
        }
    }
}
