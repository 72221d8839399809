//! `cloakroom`: the command line for developers, operators and the data protection officer.
//!
//! Not here: any rule about personal data. A command turns arguments into calls and answers into text or
//! JSON; what may be done is the vault's to decide.
//!
//! - `commands`: a file per command, named as it is typed
//! - `commands::import`: a CSV goes in, the same CSV with tokens comes out
//! - `commands::dev`: everything on one machine, and the story that shows it
//! - `settings`: flags, variables and the optional file; connections made of them
//! - `output`: text for people, JSON for programs
//! - `error`: what went wrong, and the exit code it ends with

mod commands;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod input;
mod output;
mod proofs;
mod settings;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use commands::Command;
use output::Output;
use settings::Globals;

/// Cloakroom: check personal data in, carry tokens, forget for good.
#[derive(Parser, Debug)]
#[command(name = "cloakroom", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 unreachable.";

/// The whole program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = cli.globals.resolve().and_then(|settings| {
        let output = Output::new(settings.format);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // On this very thread: children of `dev` end with the thread that started them.
        runtime.block_on(cli.command.run(&settings, &output))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The command as clap knows it, for completions and the help that a test compares.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        command().debug_assert();
    }

    /// All help texts are in `tests/help.txt`; `UPDATE_SNAPSHOTS=1 cargo test -p cloakroom-cli` writes it anew.
    #[test]
    fn help_reads_as_agreed() {
        let mut text = String::new();
        let mut command = command().term_width(100);
        command.build();
        gather(&mut command, &mut text);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let agreed = std::fs::read_to_string(path).unwrap();
        assert!(text == agreed, "help differs from {path}:\n{text}");
    }

    fn gather(command: &mut clap::Command, text: &mut String) {
        if command.is_hide_set() {
            return;
        }
        let name = command.get_bin_name().unwrap_or("cloakroom").to_owned();
        text.push_str(&format!("### {name}\n{}\n", command.render_help()));
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            gather(below, text);
        }
    }
}
