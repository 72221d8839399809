//! Becomes the program that it is told, under the recorder's filter: `cloakroom-traced PROGRAM [ARGUMENT]...`
//!
//! Started by the recorder alone. It stops until the tracer holds it; with nobody to trace it the filtered calls
//! would fail.

#![cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), allow(dead_code, unused_imports))]
#![allow(clippy::print_stderr, reason = "a program of tests")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn become_it(program: OsString, arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    use cloakroom_testkit::recorder::filter;
    use rustix::process::{Signal, geteuid, getpid, kill_process};

    kill_process(getpid(), Signal::STOP)?;
    let stay_dumpable = !geteuid().is_root();
    seccompiler::apply_filter(&filter::program(stay_dumpable)).map_err(io::Error::other)?;
    Err(Command::new(program).args(arguments).exec())
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn become_it(_: OsString, _: impl Iterator<Item = OsString>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("cloakroom-traced PROGRAM [ARGUMENT]...");
        return ExitCode::from(64);
    };
    let ended = become_it(program, arguments);
    eprintln!("cloakroom-traced: {ended:?}");
    ExitCode::FAILURE
}
