//! `cloakroom-keyholder`.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use cloakroom_crypto::{arena, process};
use cloakroom_keyholder::arguments::{Arguments, USAGE};
use cloakroom_keyholder::config::{Config, VARIABLE_PREFIX};
use cloakroom_keyholder::{KeyholderError, run};
use cloakroom_runtime::config::{dump, load};
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry::Telemetry;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The command line or the configuration cannot be used.
const USAGE_EXIT_CODE: u8 = 2;

/// Locked memory besides the shares: the letterbox, and shares on their way in and out.
const WORKING_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    let asked = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(error) => return said(&error, USAGE_EXIT_CODE),
    };
    let done = match asked {
        Arguments::Help => print(USAGE),
        Arguments::Version => print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
        Arguments::Run { file, flags, dump: shown } => {
            let file = file.or_else(|| std::env::var_os("CLOAKROOM_CONFIG").map(OsString::into));
            match load::<Config>(file.as_deref(), VARIABLE_PREFIX, &flags) {
                Ok(config) if shown => dump(&config).map_err(Box::from).and_then(|text| print(&text)),
                Ok(config) => until_a_signal(config),
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
async fn until_a_signal(config: Config) -> Result<(), Box<dyn Error>> {
    let telemetry = Telemetry::start(&config.telemetry, "cloakroom-keyholder", env!("CARGO_PKG_VERSION"))?;
    harden(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let ended = run(config, telemetry.registry(), shutdown).await;
    telemetry.finish().await;
    Ok(ended?)
}

fn harden(config: &Config) -> Result<(), KeyholderError> {
    for swap in process::harden()?.swap {
        tracing::warn!(swap, "swap is on: shares are locked out of it, but nothing else is");
    }
    let wanted = config.shares_max.saturating_mul(arena::KEY_BYTES).saturating_add(WORKING_BYTES);
    let locked = arena::reserve(wanted, config.memory.allow_unlocked)?;
    if locked.locked_bytes < locked.bytes {
        tracing::warn!(
            bytes = locked.bytes,
            locked_bytes = locked.locked_bytes,
            "not all memory for shares is locked"
        );
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Box<dyn Error>> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Says the whole chain, once.
fn said(error: &dyn Error, code: u8) -> ExitCode {
    let mut text = format!("cloakroom-keyholder: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody else to tell
    ExitCode::from(code)
}
