//! `cloakroom-load`: drives a real vault and the ceilings it is measured against. See README.md beside it.
//!
//! | module | what happens there |
//! | --- | --- |
//! | [`mod@bench`] | the rounds, and the rows that they fill |
//! | [`drive`] | closed and open load, latencies from when a call was due |
//! | [`work`] | the verbs, every answer checked |
//! | [`people`], [`set`], [`stock`] | invented values, what is known of them, a vault filled with them |
//! | [`ceiling`], [`echo`] | the cipher, the disk and the wire alone |
//! | [`house`], [`child`] | vaults and echo as processes |
//! | [`machine`], [`report`] | what the kernel tells, and what is printed |

mod bench;
mod ceiling;
mod child;
mod drive;
mod echo;
mod error;
mod house;
mod machine;
mod people;
mod report;
mod set;
mod stock;
mod work;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use bench::{SMALL_PEOPLE, Settings, run_folder};
use drive::{Load, Pace, Until};
use error::LoadError;
use house::Certs;
use stock::Stock;
use work::{Read, Server};

/// As the vault: echo and generator must not lose by their allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Drives a real vault, checks every answer, and measures it against its ceilings
#[derive(Parser)]
#[command(name = "cloakroom-load", version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Rounds of every verb and every ceiling; prints the table, writes JSON
    Bench(BenchArgs),
    /// One verb for a while, to look at the vault with a profiler
    Drive(DriveArgs),
    /// The echo
    #[command(hide = true)]
    Echo { certs: PathBuf },
    /// Becomes a server that ends with its parent
    #[command(name = child::RUN_CHILD, hide = true)]
    RunChild {
        parent: i32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Args)]
struct Places {
    /// The vault's program [default: cloakroomd beside this one]
    #[arg(long, value_name = "FILE")]
    vault: Option<PathBuf>,
    /// Where data lies; its disk is what is measured
    #[arg(long, value_name = "FOLDER", default_value = "target/load-tests")]
    folder: PathBuf,
    /// Values in the vault, three a person [default: 1000000; 30000 with --quick and for drive]
    #[arg(long)]
    values: Option<u32>,
}

#[derive(Args)]
struct BenchArgs {
    #[command(flatten)]
    places: Places,
    /// Under five minutes: 10,000 people, five short rounds
    #[arg(long)]
    quick: bool,
    /// Rounds [default: 5]
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Seconds that each step is measured [default: 10; 2 with --quick]
    #[arg(long)]
    seconds: Option<f64>,
    /// Where the JSON goes
    #[arg(long, value_name = "FILE", default_value = "target/load-tests/bench.json")]
    json: PathBuf,
}

#[derive(Args)]
struct DriveArgs {
    verb: Verb,
    #[command(flatten)]
    places: Places,
    /// Values a call; for tokenize whole people
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// Calls in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
    in_flight: u32,
    /// Calls a second, latencies counted from when they were due [default: as fast as it goes]
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Verb {
    Detokenize,
    Tokenize,
    Erase,
}

fn main() -> ExitCode {
    let done = match Command::parse().what {
        What::RunChild { parent, command } => Err(child::become_child(parent, &command)),
        What::Echo { certs } => within_runtime(echo::serve(&certs)),
        What::Bench(arguments) => within_runtime(run_bench(arguments)),
        What::Drive(arguments) => within_runtime(run_drive(arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                text.push_str(&format!(": {error}"));
                source = error.source();
            }
            say(&format!("cloakroom-load: {text}"));
            ExitCode::FAILURE
        }
    }
}

fn within_runtime(work: impl Future<Output = Result<(), LoadError>>) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Runtime::new().map_err(LoadError::system("starting the runtime"))?;
    runtime.block_on(async {
        let mut asked =
            signal(SignalKind::terminate()).map_err(LoadError::system("listening for signals"))?;
        // Whoever is interrupted still ends the servers and removes the data: both go when `work` is dropped.
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => Err(LoadError::Interrupted),
            _ = asked.recv() => Err(LoadError::Interrupted),
        }
    })
}

async fn run_bench(arguments: BenchArgs) -> Result<(), LoadError> {
    let quick = arguments.quick;
    let (people, seconds) = if quick { (SMALL_PEOPLE, 2.0) } else { (333_333, 10.0) };
    let folder = run_folder(&arguments.places.folder)?;
    let settings = Settings {
        program: arguments.places.program()?,
        folder: folder.path().to_owned(),
        people: arguments.places.people(people),
        rounds: arguments.rounds,
        time: seconds_of(arguments.seconds.unwrap_or(seconds))?,
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
    };
    let report = bench::bench(&settings, say).await?;
    let json = serde_json::to_vec_pretty(&report).map_err(|error| LoadError::Broken(error.to_string()))?;
    std::fs::write(&arguments.json, json).map_err(LoadError::file(&arguments.json))?;
    let text = format!("\n{}\n{}\n", report.text(), arguments.json.display());
    std::io::stdout().write_all(text.as_bytes()).map_err(LoadError::system("writing the table"))
}

async fn run_drive(arguments: DriveArgs) -> Result<(), LoadError> {
    let folder = run_folder(&arguments.places.folder)?;
    let certs = Certs::issue(&folder.path().join("certs"))?;
    let people = arguments.places.people(SMALL_PEOPLE);
    let program = arguments.places.program()?;
    let (stock, loaded) = Stock::fill(&program, &certs, &folder.path().join("vault"), people).await?;
    let pid = stock.vault.pid();
    say(&format!("{} values in {:.1} s; the vault is process {pid}", stock.values(), loaded.seconds));
    let load = Load {
        in_flight: arguments.in_flight as usize,
        pace: arguments.rate.map_or(Pace::Closed, Pace::Open),
        until: Until::Time(seconds_of(arguments.seconds)?),
    };
    let step = async {
        match arguments.verb {
            Verb::Detokenize => {
                let (connections, set) = (stock.connections.clone(), Arc::clone(&stock.set));
                let batch = arguments.batch as usize;
                drive::drive(&Arc::new(Read { server: Server::Vault, connections, set, batch }), load, 1)
                    .await
            }
            Verb::Tokenize => stock.write((arguments.batch / 3).max(1), load, 1).await,
            // As many as there are people for.
            Verb::Erase => {
                let until = Until::Calls(set::Set::erasable(stock.set.people()) as u64);
                stock.erase(Load { until, ..load }, 1).await
            }
        }
    };
    let (figures, used) = machine::measured(pid, step).await?;
    let items = figures.all_items().max(1.0);
    say(&format!(
        "{:.0} a second; p50 {:.2} ms, p99 {:.2} ms; processor an item: vault {:.2} µs, generator {:.2} µs",
        figures.rate(),
        figures.latency_ms(0.5),
        figures.latency_ms(0.99),
        1e6 * used.server_s / items,
        1e6 * used.own_s / items,
    ));
    stock.vault.stop().await;
    Ok(())
}

impl Places {
    fn program(&self) -> Result<PathBuf, LoadError> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("cloakroomd"));
        let program = self.vault.clone().or_else(beside).unwrap_or_default();
        if program.exists() { Ok(program) } else { Err(missing(&program)) }
    }

    fn people(&self, default: u32) -> u32 {
        self.values.map_or(default, |values| values.div_ceil(3).max(1))
    }
}

fn missing(program: &Path) -> LoadError {
    let name = program.display();
    LoadError::Usage(format!("{name} is not there: cargo build --release -p cloakroom-vault"))
}

fn seconds_of(seconds: f64) -> Result<Duration, LoadError> {
    let usable = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    usable.ok_or_else(|| LoadError::Usage("seconds are above zero".to_owned()))
}

/// What is going on goes to stderr: the table alone to stdout.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}"); // nobody else to tell
}
