//! `cloakroom dev`, as a newcomer runs it: the story holds, its commands work as printed, nothing outlives it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cloakroom_testkit::wait::until_blocking;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dev(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.args(["dev", "--any-ports", "--folder"]).arg(folder);
    // What a user has set for the command line must not reach the daemons.
    command.env("CLOAKROOM_AS", "nobody").env("CLOAKROOM_OUTPUT", "json");
    command
}

/// Processes whose configuration lies in `folder`.
fn daemons(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let commands =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    commands.filter(|command| command.contains("--config") && command.contains(folder)).collect()
}

#[test]
fn the_story_holds_and_nothing_outlives_it() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("dev");
    let told = dev(&folder).arg("--once").output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{text}\n{errors}");
    for line in [
        " 1  The register says who may do what",
        " 2  An order export goes in",
        " 3  What comes back carries tokens",
        " 4  A ticket is mailed to a token",
        "Dear Siobhán O’Dowd,",
        " 5  An affiliate earns a commission",
        "s***@example.com",
        "support gets DENIED",
        "affiliate gets DENIED",
        "KEYS_DESTROYED → PROPAGATING → COMPLETED",
        "the signature holds",
        "ERASED",
        "mail sends her nothing any more",
        " 8  The nightly backup is made",
        "14  Nothing of her is on this disk",
        "15  Yesterday's backup comes back",
        "she is ERASED there too",
        "with yesterday's root her address is back",
    ] {
        assert!(text.contains(line), "the story lacks {line:?}:\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours, though no terminal is there");
    assert_eq!(daemons(&folder), Vec::<String>::new());
}

#[test]
fn every_line_of_the_tour_works_as_printed_and_a_killed_story_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("dev");
    let mut running = Running(dev(&folder).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut said = lines.by_ref().map(Result::unwrap);
    assert!(said.any(|line| line.starts_with("Everything runs.")), "the story ended early");
    let tour: Vec<String> = said.take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let wanted = |line: &&String| {
        line.contains(env!("CARGO_BIN_EXE_cloakroom"))
            || (line.starts_with("  curl ") && has("curl"))
            || (line.starts_with("  grpcurl ") && has("grpcurl"))
    };
    let mut tried = 0;
    for line in tour.iter().filter(wanted) {
        let line = line.replace("  curl ", "curl --fail-with-body -s ");
        let done = Command::new("sh").arg("-c").arg(&line).output().unwrap();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{line}\n{}\n{errors}", String::from_utf8_lossy(&done.stdout));
        tried += 1;
    }
    assert!(tried >= 8, "{tour:?}");

    assert_eq!(daemons(&folder).len(), 3);
    running.0.kill().unwrap(); // SIGKILL: it can stop nobody any more
    until_blocking(Duration::from_secs(30), "the daemons end with their parent", || {
        daemons(&folder).is_empty().then_some(())
    });
}
