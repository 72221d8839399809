//! A child that ends with its parent, however that ends: between fork and exec runs this program itself,
//! which asks the kernel for a signal at the parent's death and then becomes the child.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::error::CliError;

/// How long a daemon may take to drain.
const DRAIN: Duration = Duration::from_secs(20);

/// How much of a log is shown when its daemon died.
const TAIL_LINES: usize = 12;

/// Becomes another program that ends with its parent
#[derive(Args, Debug)]
pub(crate) struct RunChild {
    /// The parent's process id
    parent: i32,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

impl RunChild {
    /// Runs the command; returns only if it cannot.
    pub(crate) fn run(&self) -> Result<(), CliError> {
        set_parent_process_death_signal(Some(Signal::TERM))
            .map_err(|error| CliError::System(error.into()))?;
        // Asked for after the parent died, the signal would never come.
        if getppid().map(Pid::as_raw_pid) != Some(self.parent) {
            return Err(CliError::Refused("the parent is gone".to_owned()));
        }
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(CliError::Usage("no program".to_owned()));
        };
        Err(CliError::file(program)(Command::new(program).args(arguments).exec()))
    }
}

/// A daemon that runs, its output in a file.
pub(super) struct Child {
    /// Its program's name.
    pub(super) name: &'static str,
    log: PathBuf,
    process: tokio::process::Child,
}

impl Child {
    /// Starts `program` with a configuration file; nothing of this process's own `CLOAKROOM_*` settings
    /// reaches it.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        config: &Path,
        log: PathBuf,
    ) -> Result<Self, CliError> {
        let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
        let output: File = open.map_err(CliError::file(&log))?;
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command
            .arg("run-child")
            .arg(std::process::id().to_string())
            .arg(program)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0) // Ctrl-C is for us: we stop them in order
            .kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("CLOAKROOM_") {
                command.env_remove(variable);
            }
        }
        Ok(Self { name, log, process: command.spawn()? })
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<CliError> {
        self.process.try_wait().ok().flatten().map(|status| self.obituary(status))
    }

    /// What its log says last.
    pub(super) fn tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }

    fn obituary(&self, status: ExitStatus) -> CliError {
        CliError::Refused(format!(
            "{} ended by itself ({status}); its log ends so:\n{}",
            self.name,
            self.tail()
        ))
    }

    /// Asks it to drain and end, and ends it if it does not.
    pub(super) async fn stop(&mut self) {
        let pid = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM); // gone already, if this fails
        }
        if tokio::time::timeout(DRAIN, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }
}
