//! `cloakroomd`.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::config::{dump, load};
use cloakroom_runtime::machine::{self, Inspection, Severity};
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry::Telemetry;
use cloakroom_vault::arguments::{Arguments, USAGE};
use cloakroom_vault::config::{Config, Source, VARIABLE_PREFIX};
use cloakroom_vault::{Ended, start};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The command line or the configuration cannot be used.
const USAGE_EXIT_CODE: u8 = 2;

/// A write or sync failed (EX_SOFTWARE of sysexits).
const FAILED_EXIT_CODE: i32 = 70;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let asked = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(error) => return said(&error, USAGE_EXIT_CODE),
    };
    let done = match asked {
        Arguments::Help => print(USAGE),
        Arguments::Version => print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
        Arguments::Run { file, flags, dump: shown, take_over } => {
            let file = file.or_else(|| std::env::var_os("CLOAKROOM_CONFIG").map(OsString::into));
            match load::<Config>(file.as_deref(), VARIABLE_PREFIX, &flags) {
                Ok(config) if shown => dump(&config).map_err(Failure::from).and_then(|text| print(&text)),
                Ok(config) => run(Config { source: Some(Source { file, flags }), take_over, ..config }),
                Err(error) => return said(&error, USAGE_EXIT_CODE),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => said(error.as_ref(), 1),
    }
}

#[tokio::main]
async fn run(config: Config) -> Result<(), Failure> {
    let telemetry = Telemetry::start(&config.telemetry, "cloakroom-vault", env!("CARGO_PKG_VERSION"))?;
    cloakroom_engine::harden()?;
    look_at_the_machine(&config);
    let shutdown = Shutdown::on_signals()?;
    let running = tokio::select! {
        running = start(config, Arc::new(SystemClock), &telemetry, shutdown.clone()) => running?,
        () = shutdown.begun() => return Ok(()), // before anything was answered
    };
    let ended = running.ended().await;
    if let Ended::Failed(reason) = &ended {
        tracing::error!(reason, "the vault must stop: nothing is known about what it was writing");
    }
    telemetry.finish().await;
    match ended {
        Ended::Drained => Ok(()),
        // At once and without any destructor: what a start settles, this process must not touch.
        Ended::Failed(_) => std::process::exit(FAILED_EXIT_CODE),
    }
}

fn look_at_the_machine(config: &Config) {
    let inspection = Inspection {
        now_unix_ms: SystemClock.now_unix_ms(),
        secret_files: vec![config.tls.key.clone()],
        ..Inspection::default()
    };
    for finding in machine::inspect(&inspection) {
        if finding.severity > Severity::Fine {
            tracing::warn!(check = finding.check, found = finding.found, advice = finding.advice);
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Says the whole chain, once.
fn said(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut text = format!("cloakroomd: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody else to tell
    ExitCode::from(code)
}
