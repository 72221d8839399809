//! A process of its own, ended by signals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cloakroom_runtime::shutdown::{FORCED_EXIT_CODE, Shutdown};
use rustix::process::{Pid, Signal, kill_process};

const CHILD: &str = "CLOAKROOM_TEST_CHILD";

/// Not a test of its own: what the other test starts.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().unwrap();
        println!("\nrunning");
        shutdown.begun().await;
        println!("draining");
        std::future::pending::<()>().await;
    });
}

#[test]
fn the_first_signal_drains_and_the_second_ends_the_process() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::TERM)] {
        drains_and_ends(first, second);
    }
}

fn drains_and_ends(first: Signal, second: Signal) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line == "running").expect("the child runs");
    kill_process(pid, first).unwrap();
    lines.find(|line| line == "draining").expect("the child drains");
    kill_process(pid, second).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(FORCED_EXIT_CODE));
}
