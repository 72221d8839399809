//! A server as a process of its own that ends with this one, however that ends: between fork and exec runs
//! this program itself, which asks the kernel for a signal at the parent's death and then becomes the server.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::LoadError;

/// The hidden subcommand of `main` that calls [`become_child`].
pub(crate) const RUN_CHILD: &str = "run-child";
/// How long a server may take to drain.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a killed one may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// How long a server may take to be ready: a large store is a long way from any default.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks: the resolution of a start's time.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How much of a log is shown when its server died.
const TAIL_LINES: usize = 12;

/// Becomes `command` and ends with process `parent`; returns only if it cannot.
pub(crate) fn become_child(parent: i32, command: &[OsString]) -> LoadError {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return LoadError::System { what: "asking to end with the parent", source: error.into() };
    }
    // Asked for after the parent died, the signal would never come.
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        return LoadError::Usage("the parent is gone".to_owned());
    }
    match command.split_first() {
        Some((program, arguments)) => {
            LoadError::file(program)(std::process::Command::new(program).args(arguments).exec())
        }
        None => LoadError::Usage("no program".to_owned()),
    }
}

/// A server that runs, what it says in a file.
pub(crate) struct Child {
    name: &'static str,
    log: PathBuf,
    process: tokio::process::Child,
    pid: u32,
}

impl Child {
    /// Starts `program`; nothing of this process's own `CLOAKROOM_*` settings reaches it.
    ///
    /// # Errors
    /// [`LoadError::File`], [`LoadError::System`].
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[OsString],
        log: PathBuf,
    ) -> Result<Self, LoadError> {
        let output = File::create(&log).map_err(LoadError::file(&log))?;
        let errors = output.try_clone().map_err(LoadError::file(&log))?;
        let this = std::env::current_exe().map_err(LoadError::system("finding this program"))?;
        let mut command = tokio::process::Command::new(this);
        command
            .arg(RUN_CHILD)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0) // Ctrl-C is for us: we stop them
            .kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("CLOAKROOM_") {
                command.env_remove(variable);
            }
        }
        let process = command.spawn().map_err(LoadError::file(program))?;
        let pid = process.id().unwrap_or_default();
        Ok(Self { name, log, process, pid })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `GET /readyz` on its port for health says that it is ready.
    ///
    /// # Errors
    /// [`LoadError::Server`] if it ends or does not get ready.
    pub(crate) async fn ready(&mut self, health: SocketAddr) -> Result<(), LoadError> {
        let deadline = Instant::now() + READY_WITHIN;
        while !is_ready(health).await.unwrap_or(false) {
            self.ended()?;
            if Instant::now() > deadline {
                return Err(self.failed("is not ready"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// An error that says so, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<(), LoadError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("ended by itself ({status})"))),
            Err(error) => Err(LoadError::System { what: "looking at a server", source: error }),
        }
    }

    /// An error about this server, with the last it said.
    pub(crate) fn failed(&self, what: &str) -> LoadError {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
        LoadError::Server { name: self.name, what: format!("{what}; its log ends so:\n{tail}") }
    }

    /// Asks it to drain and end, and ends it if it does not.
    pub(crate) async fn stop(mut self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM); // gone already, if this fails
        }
        if tokio::time::timeout(DRAIN, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }
}

async fn is_ready(health: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(health).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.get(8..12) == Some(b" 200"))
}

impl Child {
    /// Kills it and waits a moment for its end.
    pub(crate) fn kill9(&mut self) {
        let _ = self.process.start_kill(); // gone already, if this fails
        let deadline = Instant::now() + GONE_WITHIN;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Child {
    /// What is dropped next is the folder that it writes in.
    fn drop(&mut self) {
        self.kill9();
    }
}
