//! The whole of a small run against a real vault: `cloakroomd` must be built beside the program (`make build`).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn load(folder: &std::path::Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloakroom-load"))
        .args(arguments)
        .arg("--folder")
        .arg(folder)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_small_run_fills_every_row_and_leaves_nothing_but_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let sizes = ["--small", "750", "--values", "3000", "--large", "6000"];
    let json_at = json.to_str().unwrap();
    let times = ["--rounds", "1", "--seconds", "0.2", "--overload-seconds", "0.5"];
    // Whoever tests need not have every peer.
    let arguments = [&["bench", "--optional", "--json", json_at], &times[..]].concat();
    let output = load(folder.path(), &[&arguments[..], &sizes].concat());
    assert!(output.status.success(), "{}", said(&output));

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    let wanted = "P1 P1 P2 P2 P3 P4 P4 P4 P4 P4 P5 P5 P5 P6 P6 P6 P6 P7 P7 P8 P9 P9 P9 P9";
    assert_eq!(ids, wanted.split(' ').collect::<Vec<_>>());
    for row in rows {
        let what = row["what"].as_str().unwrap();
        assert!(said(&output).contains(what), "{what} is not in the table");
        if row["absent"].is_string() {
            assert!(["P4", "P5", "P8", "P9"].contains(&row["id"].as_str().unwrap()), "{what}");
            continue;
        }
        assert!(row["figures"][0].as_f64().unwrap() > 0.0, "{what}");
        let against = row["against"].as_str().unwrap();
        assert!(against.is_empty() || row["ceilings"][0].as_f64().unwrap() > 0.0, "{what}");
    }
    let left = |what: &str| folder.path().join(what).exists();
    assert!(left("P1.svg") && left("P9.svg") && left("sets/people-2000/stamp.json"));
    let runs = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        !runs.into_iter().any(|name| name.to_string_lossy().starts_with("run-")),
        "the run's own is gone"
    );
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_cloakroom-load"))
        .args(["drive", "detokenize", "--values", "300", "--seconds", "600", "--folder"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let has_data = || {
        let mut runs = std::fs::read_dir(folder.path()).unwrap();
        runs.any(|sets| sets.unwrap().path().join("people-250.new/data").exists())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !has_data() {
        assert!(Instant::now() < deadline, "the vault has never begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert!(!run.wait().unwrap().success());
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["sets"], "what was begun of a set, for the next run to make anew");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let output = load(folder.path(), &["bench", "--values", "6000", "--large", "3000"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("the large one the largest"), "{}", said(&output));

    let output = load(folder.path(), &["drive", "erase", "--vault", "/nowhere/cloakroomd"]);
    assert!(said(&output).contains("/nowhere/cloakroomd is not there"), "{}", said(&output));
}
