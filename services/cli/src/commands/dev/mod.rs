//! `cloakroom dev`: everything on this machine, and the story that shows what it does.
//!
//! - `folder`: the run folder, begun anew each time
//! - `house`: certificates, configuration, three daemons as children of this process
//! - `child`: a child that ends with its parent
//! - `http`: the plain ports of the daemons, asked without ceremony
//! - `letter`: a mail as a person would read it
//! - `story`: the chapters, in `taking_in`, `using` and `forgetting`
//! - `tour`: addresses, and commands to try afterwards

mod child;
mod folder;
mod forgetting;
mod house;
mod http;
mod letter;
mod story;
mod taking_in;
mod tour;
mod using;
mod yesterday;

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;
use crate::output::{Output, Tone};

pub(crate) use child::RunChild;
use folder::Folder;
use house::House;

/// Runs everything on this machine and shows what it does, from an order export to a forgotten person
#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// End after the story, with exit code 0 only if every step held
    #[arg(long)]
    once: bool,
    /// Listen on any free ports rather than on the usual ones
    #[arg(long)]
    any_ports: bool,
    /// Where everything lies; what an earlier run left there is removed
    #[arg(long, default_value = "run/dev", value_name = "DIR")]
    folder: PathBuf,
}

impl Dev {
    /// Runs the command.
    pub(crate) async fn run(&self, output: &Output) -> Result<(), CliError> {
        let mut stop = Stop::listen()?;
        let folder = Folder::begin(&self.folder)?;
        let mut house = House::prepare(folder, self.any_ports)?;
        let outcome = tokio::select! {
            outcome = self.play(&mut house, output) => outcome,
            () = stop.asked() => Err(CliError::Refused("stopped before the story's end".to_owned())),
        };
        let outcome = match outcome {
            Ok(()) if !self.once => tokio::select! {
                died = house.watch() => Err(died),
                () = stop.asked() => Ok(()),
            },
            outcome => outcome,
        };
        house.stop().await;
        if outcome.is_err() {
            output.line(
                &output.paint(Tone::Faint, &format!("The daemons' logs: {}", house.folder.logs().display())),
            )?;
        }
        outcome
    }

    async fn play(&self, house: &mut House, output: &Output) -> Result<(), CliError> {
        let held = story::tell(house, output).await?;
        if self.once {
            return Ok(());
        }
        output.line(&tour::text(house, &held, output))
    }
}

/// Ctrl-C, or a signal that asks to end.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, CliError> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
