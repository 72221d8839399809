//! The programs of this house as children of a test: started, killed as a crash would, started again.
//!
//! A child dies with the test, whichever way that ends. Nothing of the test's own `CLOAKROOM_*` variables reaches
//! it. What it prints goes to a file, over all its starts.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::recorder::{Recorder, Traced};
use crate::wait;

/// The program `name` of this workspace, built beside the running test.
///
/// # Panics
/// If it is not there.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running test");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let program = profile.join(name);
    assert!(program.is_file(), "{name} is not built: run `make build` first ({})", program.display());
    program
}

/// A program that a test starts, and starts again.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    output: PathBuf,
    child: Option<Process>,
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    recorder: Option<Recorder>,
}

/// A child, by whoever holds it.
#[derive(Debug)]
enum Process {
    Own(Child),
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Traced(Traced),
}

impl Process {
    fn id(&self) -> u32 {
        match self {
            Self::Own(child) => child.id(),
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Self::Traced(traced) => traced.process_id(),
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Own(child) => child.try_wait().expect("a child"),
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Self::Traced(traced) => traced.ended(),
        }
    }

    fn kill9(&mut self) {
        match self {
            Self::Own(child) => {
                child.kill().expect("a child of ours");
                child.wait().expect("a child of ours");
            }
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Self::Traced(traced) => {
                traced.kill9();
            }
        }
    }
}

impl Daemon {
    /// `name` of this workspace, with these arguments; its output goes to `output`. Not started yet.
    pub fn new(
        name: &str,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        output: PathBuf,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self {
            name: name.to_owned(),
            program: None,
            arguments,
            output,
            child: None,
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            recorder: None,
        }
    }

    /// Has a recorder follow it from its next start on.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub fn record(&mut self, recorder: &Recorder) {
        self.recorder = Some(recorder.clone());
    }

    /// Starts it. The child ends with the thread that calls this: call it from the test's own.
    ///
    /// # Panics
    /// If it runs already or cannot be started; as [`program`].
    pub fn start(&mut self) {
        assert!(self.ended().is_none_or(|ended| ended.is_some()), "{} runs already", self.name);
        let output: File =
            OpenOptions::new().create(true).append(true).open(&self.output).expect("the output's file");
        let program = self.program.get_or_insert_with(|| program(&self.name));
        // util-linux's, which sets what no safe call can before it becomes the program.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if self.recorder.is_some() {
            command = Command::new(self::program("cloakroom-traced"));
        }
        command.arg(program).args(&self.arguments);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("CLOAKROOM_") {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a handle")).stderr(output);
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        if let Some(recorder) = &self.recorder {
            let traced = recorder.start_with(command).expect("it can be traced");
            self.child = Some(Process::Traced(traced));
            return;
        }
        self.child = Some(Process::Own(command.spawn().expect("setpriv (util-linux) starts")));
    }

    /// `None` if it was never started or its end was seen; else whether, and how, it has ended.
    fn ended(&mut self) -> Option<Option<ExitStatus>> {
        self.child.as_mut().map(Process::ended)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_some_and(|ended| ended.is_none())
    }

    /// Its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Process::id)
    }

    /// Kills it as a crash would. Returns when it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
        }
    }

    /// Asks it to end, and waits for that; meanwhile the test's own connections to it can be closed.
    ///
    /// # Panics
    /// If it does not run, or does not end in time.
    pub async fn stop(&mut self) -> ExitStatus {
        let id = self.process_id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("it runs"), Signal::TERM).expect("a child of ours");
        self.wait(Duration::from_secs(60)).await
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// If it does not within `deadline`, or was not started.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{}'s end", self.name);
        let status = wait::until(deadline, &what, async || self.ended().expect("started")).await;
        self.child = None;
        status
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The last lines that it has printed.
    pub fn last_words(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        format!("--- {} ends so:\n{}\n", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    /// Resident memory in bytes, while it runs.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.process_id().and_then(resident_bytes)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A process's resident memory in bytes.
pub fn resident_bytes(process_id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Daemon {
        Daemon {
            name: "sh".to_owned(),
            program: Some("/bin/sh".into()),
            arguments: vec!["-c".into(), script.into()],
            output: folder.join("output"),
            child: None,
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            recorder: None,
        }
    }

    #[tokio::test]
    async fn is_killed_and_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = shell("echo begun; exec sleep 100", folder.path());
        daemon.start();
        wait::until_blocking(Duration::from_secs(10), "its word", || {
            (daemon.output() == "begun\n").then_some(())
        });
        assert!(daemon.is_running() && daemon.resident_bytes().unwrap() > 0);
        daemon.kill9();
        assert!(!daemon.is_running());
        daemon.start();
        let id = daemon.process_id().unwrap();
        assert!(!daemon.stop().await.success());
        assert_eq!(resident_bytes(id), None);
    }

    #[tokio::test]
    async fn ends_by_itself_with_its_code() {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = shell("exit 7", folder.path());
        daemon.start();
        assert_eq!(daemon.wait(Duration::from_secs(10)).await.code(), Some(7));
    }

    #[test]
    #[should_panic(expected = "make build")]
    fn says_how_to_build_what_is_not_there() {
        program("cloakroom-nonesuch");
    }
}
