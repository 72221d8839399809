//! `cloakroom completions`

use clap::Args;
use clap_complete::{Shell, generate};

use crate::error::CliError;
use crate::output::Output;

/// Prints completions for a shell
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Runs the command.
    pub(crate) fn run(&self, output: &Output) -> Result<(), CliError> {
        let mut script = Vec::new();
        generate(self.shell, &mut crate::command(), "cloakroom", &mut script);
        output.raw(&script)
    }
}
