//! From the command line to the exit code.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cloakroom_crypto::{arena, process};
use cloakroom_runtime::config::{dump, load};
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry::Telemetry;
use prometheus::Registry;

use super::arguments::{Arguments, parse, usage};
use super::config::{Config, Service, VARIABLE_PREFIX};
use crate::DownstreamError;

/// The command line or the configuration cannot be used.
const USAGE_EXIT_CODE: u8 = 2;
/// Locked memory: 4 MiB of opened pages and 2 of keys at work stay within the 8 MiB that most systems let a
/// process lock.
const LOCKED_BYTES: usize = 6 << 20;
/// A Kafka client that leaves a broker which is gone waits for ever: nothing here does.
const LEFT_WITHIN: Duration = Duration::from_secs(1);

/// A `main`: reads the command line and the configuration, starts telemetry, keeps keys from core dumps and
/// swap, and runs the service until a signal. `name` is the program's.
pub fn launch<S, R, F, E>(name: &'static str, version: &'static str, run: R) -> ExitCode
where
    S: Service,
    R: FnOnce(Config<S>, Registry, Shutdown) -> F,
    F: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    let asked = match parse(std::env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(error) => return said(name, &error, USAGE_EXIT_CODE),
    };
    let (file, flags, shown) = match asked {
        Arguments::Help => return printed(&usage(name)),
        Arguments::Version => return printed(&format!("{version}\n")),
        Arguments::Run { file, flags, dump } => (file, flags, dump),
    };
    let file = file.or_else(|| std::env::var_os("CLOAKROOM_CONFIG").map(OsString::into));
    let config = match load::<Config<S>>(file.as_deref(), VARIABLE_PREFIX, &flags) {
        Ok(config) => config,
        Err(error) => return said(name, &error, USAGE_EXIT_CODE),
    };
    if shown {
        return dump(&config).map_or_else(|error| said(name, &error, 1), |text| printed(&text));
    }
    let ended = tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(until_a_signal(name, version, config, run));
        runtime.shutdown_timeout(LEFT_WITHIN);
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => said(name, error.as_ref(), 1),
    }
}

async fn until_a_signal<S, R, F, E>(
    name: &'static str,
    version: &'static str,
    config: Config<S>,
    run: R,
) -> Result<(), Box<dyn Error>>
where
    S: Service,
    R: FnOnce(Config<S>, Registry, Shutdown) -> F,
    F: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    let telemetry = Telemetry::start(&config.telemetry, name, version)?;
    harden(config.memory.allow_unlocked)?;
    let shutdown = Shutdown::on_signals()?;
    let ended = run(config, telemetry.registry(), shutdown).await;
    telemetry.finish().await;
    Ok(ended?)
}

fn harden(allow_unlocked: bool) -> Result<(), DownstreamError> {
    for swap in process::harden()?.swap {
        tracing::warn!(swap, "swap is on: values on their way may reach it");
    }
    let locked = arena::reserve(LOCKED_BYTES, allow_unlocked)?;
    if locked.locked_bytes < locked.bytes {
        tracing::warn!(
            bytes = locked.bytes,
            locked_bytes = locked.locked_bytes,
            "not all memory for keys is locked"
        );
    }
    Ok(())
}

fn printed(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says the whole chain, once.
fn said(name: &str, error: &dyn Error, code: u8) -> ExitCode {
    let mut text = format!("{name}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody else to tell
    ExitCode::from(code)
}
