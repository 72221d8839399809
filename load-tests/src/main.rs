//! `cloakroom-load`: drives a real vault and the ceilings it is measured against. See README.md beside it.
//!
//! | module | what happens there |
//! | --- | --- |
//! | [`mod@bench`] | the rounds, and the rows that they fill |
//! | [`drive`] | closed and open load, latencies from when a call was due |
//! | [`work`], [`mixed`] | the verbs, every answer checked |
//! | [`people`], [`set`], [`stock`] | invented values, what is known of them, a vault filled with them |
//! | [`ceiling`], [`echo`] | the cipher, the disk and the wire alone |
//! | [`house`], [`child`] | vaults and echo as processes |
//! | [`peer`] | what a team would take instead |
//! | [`overload`], [`broadcast`] | too much load; erasures all the way to the stores that hold copies |
//! | [`flat`] | the same at every size: memory, disk, starts |
//! | [`machine`], [`report`], [`chart`], [`curve`] | what the kernel tells, and what is printed |

mod bench;
mod broadcast;
mod ceiling;
mod chart;
mod child;
mod curve;
mod drive;
mod echo;
mod error;
mod flat;
mod house;
mod machine;
mod mixed;
mod overload;
mod peer;
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

use bench::{Settings, run_folder};
use drive::{Figures, Load, Pace, Until};
use error::LoadError;
use house::Certs;
use stock::Stock;
use work::{Read, Server};

/// As the vault: echo and generator must not lose by their allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Values in the small, the main and the large set.
const VALUES: [u32; 3] = [10_000, 1_000_000, 10_000_000];
const QUICK_VALUES: [u32; 3] = [3_000, 30_000, 300_000];
/// How often the mixed load says how it goes.
const PARTS: u64 = 10;
const DRIVE_VALUES: u32 = 30_000;

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
    Echo {
        certs: PathBuf,
        /// On a thread with a runtime for each processor
        #[arg(long)]
        cores: bool,
    },
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
    /// Where data sets are kept between runs [default: sets in --folder]
    #[arg(long, value_name = "FOLDER")]
    sets: Option<PathBuf>,
}

#[derive(Args)]
struct BenchArgs {
    #[command(flatten)]
    places: Places,
    /// Under five minutes: smaller sets, five short rounds
    #[arg(long)]
    quick: bool,
    /// Values in the small vault that others are compared with [default: 10000; 3000 with --quick]
    #[arg(long)]
    small: Option<u32>,
    /// Values in the large vault [default: 10000000; 300000 with --quick]
    #[arg(long)]
    large: Option<u32>,
    /// Rounds [default: 5]
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Seconds that each step is measured [default: 10; 1 with --quick]
    #[arg(long)]
    seconds: Option<f64>,
    /// Go on without OpenBao, PostgreSQL or Apache Kafka where they are not here, as --quick does
    #[arg(long)]
    optional: bool,
    /// Seconds at three times the load that it can bear [default: 60; 8 with --quick]
    #[arg(long)]
    overload_seconds: Option<f64>,
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
    /// How long it is measured; erase ends once nine of ten people are erased
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Verb {
    Detokenize,
    Tokenize,
    Erase,
    /// 90 % read, 9 % store a person, 1 % erase one; what it is like in each tenth of the time
    Mixed,
}

fn main() -> ExitCode {
    let done = match Command::parse().what {
        What::RunChild { parent, command } => Err(child::become_child(parent, &command)),
        What::Echo { certs, cores } => within_runtime(echo::serve(&certs, cores)),
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
    let (sizes, seconds, overload) = if quick { (QUICK_VALUES, 1.0, 8.0) } else { (VALUES, 10.0, 60.0) };
    let asked = [arguments.small, arguments.places.values, arguments.large];
    let mut people = [0; 3];
    for ((people, asked), size) in people.iter_mut().zip(asked).zip(sizes) {
        *people = people_of(asked.unwrap_or(size));
    }
    if !people.is_sorted() {
        return Err(LoadError::Usage("the small set is the smallest, the large one the largest".to_owned()));
    }
    let folder = run_folder(&arguments.places.folder)?;
    let settings = Settings {
        program: arguments.places.program()?,
        folder: folder.path().to_owned(),
        sets: arguments.places.sets(),
        people,
        rounds: arguments.rounds,
        all_required: !(quick || arguments.optional),
        time: seconds_of(arguments.seconds.unwrap_or(seconds))?,
        overload: seconds_of(arguments.overload_seconds.unwrap_or(overload))?,
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
    };
    let report = bench::bench(&settings, &say).await?;
    let json = serde_json::to_vec_pretty(&report).map_err(|error| LoadError::Broken(error.to_string()))?;
    std::fs::write(&arguments.json, json).map_err(LoadError::file(&arguments.json))?;
    let pictures = arguments.json.parent().unwrap_or(Path::new("."));
    report.charts.iter().try_for_each(|chart| chart.save(pictures))?;
    let text = format!("\n{}\n{} and P1.svg to P9.svg beside it\n", report.text(), arguments.json.display());
    std::io::stdout().write_all(text.as_bytes()).map_err(LoadError::system("writing the table"))
}

async fn run_drive(arguments: DriveArgs) -> Result<(), LoadError> {
    let folder = run_folder(&arguments.places.folder)?;
    let certs = Certs::issue(&folder.path().join("certs"))?;
    let (program, sets) = (arguments.places.program()?, arguments.places.sets());
    let places = stock::Places { program: &program, certs: &certs, sets: &sets };
    let people = people_of(arguments.places.values.unwrap_or(DRIVE_VALUES));
    let stock = Stock::open(places, &folder.path().join("vault"), people, &say).await?;
    let pid = stock.vault.pid();
    say(&format!("{} values; the vault is process {pid}", stock.values()));
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
            Verb::Mixed => {
                let part = Load { until: Until::Time(seconds_of(arguments.seconds / PARTS as f64)?), ..load };
                let mut all: Option<Figures> = None;
                for number in 1..=PARTS {
                    let figures = stock.mixed(part, number).await?;
                    let memory = machine::resident_bytes(pid)? >> 20;
                    let files = machine::open_files(pid)?;
                    let disk = machine::disk_bytes(&folder.path().join("vault"))? >> 20;
                    say(&format!(
                        "part {number}: {:.0} a second; p50 {:.2} ms, p99 {:.2} ms; {memory} MiB resident, \
                         {files} open files, {disk} MiB on the disk",
                        figures.rate(),
                        figures.latency_ms(0.5),
                        figures.latency_ms(0.99),
                    ));
                    match &mut all {
                        Some(all) => all.add(&figures)?,
                        None => all = Some(figures),
                    }
                }
                all.ok_or_else(|| LoadError::Broken("a load of no parts".to_owned()))
            }
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

    fn sets(&self) -> PathBuf {
        self.sets.clone().unwrap_or_else(|| self.folder.join("sets"))
    }
}

fn people_of(values: u32) -> u32 {
    values.div_ceil(3).max(1)
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
