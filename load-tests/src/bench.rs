//! The rounds: in each every ceiling and every verb once, one after the other, so that an hour in which the
//! machine is slow is slow for all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::ceiling;
use crate::drive::{Figures, Load, Pace, Until, Work, drive};
use crate::error::LoadError;
use crate::house::{Certs, Echo};
use crate::machine::{Machine, measured, written_bytes};
use crate::mixed::Again;
use crate::peer::Peers;
use crate::report::{Goal, Kind, Report};
use crate::set::Set;
use crate::stock::{CONNECTIONS, Places, Stock};
use crate::work::{Connections, Read, Server, Write};

/// Unary calls in flight, as the goal of P1 names them.
pub(crate) const UNARY_IN_FLIGHT: usize = 64;
/// Open load runs at this share of the best rate: where a server is, not where it breaks.
pub(crate) const OPEN_SHARE: f64 = 0.5;
/// Batches of Detokenize: items a call, calls in flight.
pub(crate) const BATCHES: [(usize, usize, Kind); 2] = [(100, 16, BATCH_100), (1_000, 4, BATCH_1000)];
/// People a call of Tokenize under load: 99 values.
const WRITE_PEOPLE: u32 = 33;
const WRITE_IN_FLIGHT: usize = 32;
/// Erasures one at a time, a round, where the small set has people enough.
const ERASE_ALONE: u64 = 100;
/// Erasures in flight at once, and how many a round, where the main set has people enough.
const ERASE_IN_FLIGHT: usize = 256;
const ERASE_MANY: u64 = 1_500;
/// Calls in flight of the mixed load: its erasures wait for their batches while the others go on.
const MIXED_IN_FLIGHT: usize = 128;
/// Each commit syncs twice: the key database, then the log.
const SYNCS_A_COMMIT: u64 = 2;

pub(crate) const RATE: Kind = Kind {
    id: "P1",
    what: "Detokenize, unary, 64 in flight",
    unit: " /s",
    against: "echo",
    goal: Goal::RatioAtLeast(0.85),
};
const P99: Kind = Kind {
    id: "P1",
    what: "its p99 at half that rate, open loop",
    unit: " ms",
    against: "echo",
    goal: Goal::RatioAtMost(1.5),
};
pub(crate) const BATCH_100: Kind = Kind {
    id: "P2",
    what: "Detokenize, batches of 100",
    unit: " values/s",
    against: "echo + crypto",
    goal: Goal::RatioAtLeast(0.75),
};
const BATCH_1000: Kind = Kind { what: "Detokenize, batches of 1,000", ..BATCH_100 };
const TOKENIZE: Kind = Kind {
    id: "P3",
    what: "Tokenize, new people, batches of 99",
    unit: " values/s",
    against: "slowest of three",
    goal: Goal::RatioAtLeast(0.5),
};
const ERASE_LATENCY: Kind = Kind {
    id: "P5",
    what: "RequestErasure, one at a time, p50, large set",
    unit: " ms",
    against: "small set",
    goal: Goal::RatioAtMost(2.0),
};
pub(crate) const ERASE_RATE: Kind = Kind {
    id: "P5",
    what: "RequestErasure, 256 in flight",
    unit: " /s",
    against: "",
    goal: Goal::AtLeast(5_000.0),
};

/// What to run.
pub(crate) struct Settings {
    pub(crate) program: PathBuf,
    /// Where data lies; its disk is what is measured.
    pub(crate) folder: PathBuf,
    /// Where sets are kept between runs.
    pub(crate) sets: PathBuf,
    /// People in the small, the main and the large set.
    pub(crate) people: [u32; 3],
    pub(crate) rounds: u64,
    /// Whether a peer or a broker that is not here ends the run.
    pub(crate) all_required: bool,
    /// How long each step is measured.
    pub(crate) time: Duration,
    /// How long more is asked of the vault than it can bear.
    pub(crate) overload: Duration,
    /// How the report says what was asked.
    pub(crate) command: String,
}

impl Settings {
    /// Erasures a round: one at a time, and many in flight.
    fn erasures(&self) -> (u64, u64) {
        let [small, main, _] =
            self.people.map(|people| Set::erasable(people as usize) as u64 / self.rounds.max(1));
        let alone = ERASE_ALONE.min(small);
        // The mixed load takes the rest.
        (alone, ERASE_MANY.min(main.saturating_sub(alone) / 2))
    }
}

/// Everything that runs.
pub(crate) struct Bench<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) places: Places<'a>,
    /// The ceiling, and the same on threads as the vault's, each with connections to it.
    pub(crate) echo: (Echo, Connections),
    pub(crate) cores: (Echo, Connections),
    pub(crate) small: Stock,
    pub(crate) main: Stock,
    pub(crate) large: Stock,
    pub(crate) report: Report,
    pub(crate) seed: u64,
}

/// Runs all rounds; `progress` is told what is going on.
///
/// # Errors
/// The first wrong answer, refused call or dead server.
pub(crate) async fn bench(settings: &Settings, progress: &dyn Fn(&str)) -> Result<Report, LoadError> {
    let machine = Machine::look();
    let folder = &settings.folder;
    let certs = Certs::issue(&folder.join("certs"))?;
    let places = Places { program: &settings.program, certs: &certs, sets: &settings.sets };
    let echo = Echo::start(&certs, folder, false).await?;
    let to_echo = certs.connections(echo.address, CONNECTIONS).await?;
    let cores = Echo::start(&certs, folder, true).await?;
    let to_cores = certs.connections(cores.address, CONNECTIONS).await?;
    let open = async |name: &str, people| Stock::open(places, &folder.join(name), people, progress).await;
    let [small, main, large] = settings.people;
    let (small, main) = (open("small", small).await?, open("main", main).await?);
    let large = open("large", large).await?;
    progress("starting the peers and giving them the values");
    let people = u32::try_from(main.set.people()).unwrap_or(u32::MAX);
    let peers = Peers::start(&certs, folder, people, settings.rounds, settings.all_required).await?;
    let values = [&small, &main, &large].map(Stock::values);
    let report = Report::new(machine, values, settings.command.clone());
    let (echo, cores) = ((echo, to_echo), (cores, to_cores));
    let mut bench = Bench { settings, places, echo, cores, small, main, large, report, seed: 0 };
    for round in 1..=settings.rounds {
        progress(&format!("round {round} of {}", settings.rounds));
        bench.unary().await?;
        bench.batches().await?;
        bench.sizes().await?;
        bench.tokenize().await?;
        bench.mixed().await?;
        bench.erase().await?;
        bench.peers(&peers).await?;
    }
    peers.stop().await;
    progress("latency against load");
    bench.curve().await?;
    progress("three times the load it can bear");
    bench.overload().await?;
    progress("erasures to two stores over Apache Kafka");
    bench.broadcast().await?;
    progress("starts after kill -9");
    bench.starts().await?;
    bench.charts();
    bench.echo.0.stop().await;
    bench.cores.0.stop().await;
    for stock in [bench.small, bench.main, bench.large] {
        stock.vault.stop().await;
    }
    Ok(bench.report)
}

impl Bench<'_> {
    pub(crate) fn timed(&self, in_flight: usize, pace: Pace) -> Load {
        Load { in_flight, pace, until: Until::Time(self.settings.time) }
    }

    pub(crate) fn reads(&self, server: Server, batch: usize) -> Arc<Read> {
        let connections = match server {
            Server::Vault => &self.main.connections,
            Server::Echo => &self.echo.1,
            Server::CoresEcho => &self.cores.1,
        };
        Arc::new(Read { server, connections: connections.clone(), set: Arc::clone(&self.main.set), batch })
    }

    fn pid(&self, server: Server) -> u32 {
        match server {
            Server::Vault => self.main.vault.pid(),
            Server::Echo => self.echo.0.pid(),
            Server::CoresEcho => self.cores.0.pid(),
        }
    }

    /// One step, noted in the report with what it used.
    pub(crate) async fn driven<W: Work>(
        &mut self,
        name: &str,
        server: Server,
        work: &Arc<W>,
        load: Load,
    ) -> Result<Figures, LoadError> {
        let (figures, used) = measured(self.pid(server), drive(work, load, self.seed)).await?;
        self.seed = self.seed.wrapping_add(1);
        self.report.step(name, &figures, used);
        Ok(figures)
    }

    async fn unary(&mut self) -> Result<(), LoadError> {
        let (echo, vault) = (self.reads(Server::Echo, 1), self.reads(Server::Vault, 1));
        let closed = self.timed(UNARY_IN_FLIGHT, Pace::Closed);
        let ceiling = self.driven("echo, unary", Server::Echo, &echo, closed).await?;
        let cores = self.reads(Server::CoresEcho, 1);
        self.driven("echo on a thread for each core, unary", Server::CoresEcho, &cores, closed).await?;
        let figures = self.driven("Detokenize, unary", Server::Vault, &vault, closed).await?;
        self.report.note(RATE, figures.rate(), Some(ceiling.rate()));
        let open = self.timed(UNARY_IN_FLIGHT, Pace::Open(figures.rate() * OPEN_SHARE));
        let ceiling = self.driven("echo, unary, open loop", Server::Echo, &echo, open).await?;
        let figures = self.driven("Detokenize, unary, open loop", Server::Vault, &vault, open).await?;
        self.report.note(P99, figures.latency_ms(0.99), Some(ceiling.latency_ms(0.99)));
        Ok(())
    }

    async fn batches(&mut self) -> Result<(), LoadError> {
        let crypto = self.alone("crypto alone, open", ceiling::opening).await?;
        for (batch, in_flight, kind) in BATCHES {
            let load = self.timed(in_flight, Pace::Closed);
            let work = self.reads(Server::Echo, batch);
            let echo = self.driven(&format!("echo, {batch} a call"), Server::Echo, &work, load).await?;
            let work = self.reads(Server::Vault, batch);
            let name = format!("Detokenize, {batch} a call");
            let figures = self.driven(&name, Server::Vault, &work, load).await?;
            let combined = 1.0 / (1.0 / echo.rate() + 1.0 / crypto);
            self.report.note(kind, figures.rate(), Some(combined));
        }
        Ok(())
    }

    async fn tokenize(&mut self) -> Result<(), LoadError> {
        let load = self.timed(WRITE_IN_FLIGHT, Pace::Closed);
        let crypto = self.alone("crypto alone, seal", ceiling::sealing).await?;
        let work = Arc::new(Write::new(self.echo.1.clone(), WRITE_PEOPLE, 0));
        let echo = self.driven("echo, Tokenize", Server::Echo, &work, load).await?;

        let pid = self.pid(Server::Vault);
        let before = (self.main.vault.verify().await?.commits, written_bytes(pid)?);
        let (figures, used) = measured(pid, self.main.write(WRITE_PEOPLE, load, self.seed)).await?;
        self.report.step("Tokenize", &figures, used);
        let written = written_bytes(pid)?.saturating_sub(before.1);
        let commits = self.main.vault.verify().await?.commits.saturating_sub(before.0).max(1);

        let syncs = commits.saturating_mul(SYNCS_A_COMMIT);
        let (bytes, time, folder) = (written / syncs, self.settings.time, self.settings.folder.clone());
        let file = blocking(move || ceiling::syncing(&folder, bytes, time)).await? * figures.all_items()
            / syncs as f64;
        self.report.alone("file alone, values at the vault's syncs", file);
        self.report.alone("values the vault commits at once", figures.all_items() / commits as f64);
        self.report.note(TOKENIZE, figures.rate(), Some(echo.rate().min(crypto).min(file)));

        let (connections, set) = (self.main.connections.clone(), Arc::clone(&self.main.set));
        let work = Arc::new(Again { connections, set, people: WRITE_PEOPLE });
        self.driven("Tokenize, known people", Server::Vault, &work, load).await?;
        Ok(())
    }

    async fn mixed(&mut self) -> Result<(), LoadError> {
        let load = self.timed(MIXED_IN_FLIGHT, Pace::Closed);
        let (figures, used) = measured(self.pid(Server::Vault), self.main.mixed(load, self.seed)).await?;
        self.seed = self.seed.wrapping_add(1);
        self.report.step("mixed: 90 % read, 9 % write, 1 % erase", &figures, used);
        Ok(())
    }

    async fn erase(&mut self) -> Result<(), LoadError> {
        let (alone, many) = self.settings.erasures();
        let alone = Load { in_flight: 1, pace: Pace::Closed, until: Until::Calls(alone) };
        let many = Load { in_flight: ERASE_IN_FLIGHT, pace: Pace::Closed, until: Until::Calls(many) };
        let mut p50 = [0.0; 3];
        let stocks = [("small", &self.small), ("main", &self.main), ("large", &self.large)];
        for ((name, stock), p50) in stocks.into_iter().zip(&mut p50) {
            let (figures, used) = measured(stock.vault.pid(), stock.erase(alone, self.seed)).await?;
            self.report.step(&format!("RequestErasure, alone, {name} set"), &figures, used);
            *p50 = figures.latency_ms(0.5);
        }
        let [small, _, large] = p50;
        self.report.note(ERASE_LATENCY, large, Some(small));
        let (figures, used) = measured(self.main.vault.pid(), self.main.erase(many, self.seed)).await?;
        self.report.step("RequestErasure, 256 in flight", &figures, used);
        self.report.note(ERASE_RATE, figures.rate(), None);
        Ok(())
    }

    /// A ceiling that needs no server, noted in the report.
    async fn alone(
        &mut self,
        name: &str,
        ceiling: fn(Duration) -> Result<f64, LoadError>,
    ) -> Result<f64, LoadError> {
        let time = self.settings.time;
        let rate = blocking(move || ceiling(time)).await?;
        self.report.alone(name, rate);
        Ok(rate)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| LoadError::Broken(error.to_string()))?
}

/// The folder of a run: a new one in `parent`, gone with the returned value.
///
/// # Errors
/// [`LoadError::File`].
pub(crate) fn run_folder(parent: &Path) -> Result<tempfile::TempDir, LoadError> {
    std::fs::create_dir_all(parent).map_err(LoadError::file(parent))?;
    tempfile::Builder::new().prefix("run-").tempdir_in(parent).map_err(LoadError::file(parent))
}
