//! The same at every size: reads, memory and disk of the large set against the small, and what a start takes.

use std::sync::Arc;
use std::time::Instant;

use crate::bench::{Bench, UNARY_IN_FLIGHT};
use crate::chart::{Axis, Chart, Line, Scale};
use crate::drive::{Load, Pace, Until, drive};
use crate::error::LoadError;
use crate::machine::{measured, watched};
use crate::people::{Draw, Place};
use crate::report::{Goal, Kind, median};
use crate::stock::{SIZES, Stock};
use crate::work::{Read, Server, read_back};

/// Written before a vault is killed, so that its log does not end where it was stopped last.
const BEFORE_CRASH: Load = Load { in_flight: 8, pace: Pace::Closed, until: Until::Calls(40) };
/// People a call of that.
const CRASH_PEOPLE: u32 = 10;
/// Starts of each vault, over all rounds.
const STARTS: u64 = 5;

const READS: Kind = Kind {
    id: "P6",
    what: "Detokenize, unary, large set",
    unit: " /s",
    against: "small set",
    goal: Goal::RatioAtLeast(0.8),
};
const READY: Kind = Kind {
    id: "P6",
    what: "ready after kill -9, large set",
    unit: " s",
    against: "",
    goal: Goal::AtMost(2.0),
};
const LOOKUP: Kind = Kind {
    id: "P6",
    what: "look-up table built after a start",
    unit: " values/s",
    against: "",
    goal: Goal::AtLeast(200_000.0),
};
const VERIFY: Kind = Kind {
    id: "P6",
    what: "VerifyLog, large set",
    unit: " events/s",
    against: "",
    goal: Goal::AtLeast(500_000.0),
};
const MEMORY: Kind = Kind {
    id: "P7",
    what: "resident memory, large set, under P1",
    unit: " MiB",
    against: "",
    goal: Goal::AtMost(512.0),
};
const DISK: Kind = Kind {
    id: "P7",
    what: "disk a value, large set, everything",
    unit: " bytes",
    against: "",
    goal: Goal::AtMost(350.0),
};

/// Something of each size: values, and what was measured there, once a round.
type BySize = [(f64, Vec<f64>); 3];

fn line(name: &str, by_size: &BySize) -> Line {
    Line::new(name, by_size.iter().map(|(values, measured)| (*values, median(measured))).collect())
}

impl Bench<'_> {
    fn stocks(&self) -> [&Stock; 3] {
        [&self.small, &self.main, &self.large]
    }

    fn by_size(&self) -> BySize {
        self.stocks().map(|stock| (stock.values() as f64, Vec::new()))
    }

    /// Reads of every set, one after the other, with the memory that each vault then has.
    pub(crate) async fn sizes(&mut self) -> Result<(), LoadError> {
        let load = self.timed(UNARY_IN_FLIGHT, Pace::Closed);
        let mut rates = [0.0; 3];
        for (at, name) in SIZES.into_iter().enumerate() {
            let stocks = self.stocks();
            let Some(stock) = stocks.get(at) else { continue };
            let (connections, set) = (stock.connections.clone(), Arc::clone(&stock.set));
            let read = Arc::new(Read { server: Server::Vault, connections, set, batch: 1 });
            let pid = stock.vault.pid();
            let step = measured(pid, drive(&read, load, self.seed));
            let ((figures, used), memory) = watched(pid, step).await?;
            let resident = memory.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
            self.report.step(&format!("Detokenize, unary, {name} set"), &figures, used);
            self.report.alone(&memory_of(name), resident);
            if let Some(rate) = rates.get_mut(at) {
                *rate = figures.rate();
            }
            if name == "large" {
                self.report.note(MEMORY, resident, None);
            }
        }
        self.seed = self.seed.wrapping_add(1);
        let [small, _, large] = rates;
        self.report.note(READS, large, Some(small));
        Ok(())
    }

    /// Kills each vault and starts it again, several times; then has the large one verify its log.
    pub(crate) async fn starts(&mut self) -> Result<(), LoadError> {
        let mut ready = self.by_size();
        let certs = self.places.certs;
        for _ in 0..STARTS.min(self.settings.rounds) {
            let mut built = 0.0;
            for (stock, (_, ready)) in
                [&mut self.small, &mut self.main, &mut self.large].into_iter().zip(&mut ready)
            {
                stock.write(CRASH_PEOPLE, BEFORE_CRASH, self.seed).await?;
                stock.crash(certs).await?;
                ready.push(stock.vault.ready_after.as_secs_f64());
                let place: Place = stock.set.living(&mut Draw(self.seed));
                read_back(&stock.connections, &[(place, stock.set.token(place))]).await?;
                stock.whole().await?;
                built = stock.set.people() as f64 / stock.vault.ready_at.elapsed().as_secs_f64();
            }
            self.report.note(READY, self.large.vault.ready_after.as_secs_f64(), None);
            self.report.note(LOOKUP, built, None);
            let (begun, verified) = (Instant::now(), self.large.vault.verify().await?);
            self.report.note(VERIFY, verified.events as f64 / begun.elapsed().as_secs_f64(), None);
        }
        self.report.note(DISK, self.large.disk_bytes as f64 / self.large.values() as f64, None);
        for (name, (_, ready)) in SIZES.into_iter().zip(&ready) {
            ready.iter().for_each(|ready| {
                self.report.alone(&format!("seconds to ready after kill -9, {name} set"), *ready)
            });
        }
        self.draw(&ready);
        Ok(())
    }

    fn draw(&mut self, ready: &BySize) {
        let values = || Axis::new("values in the vault", Scale::Log);
        self.report.chart(Chart {
            id: "P6",
            title: "start after kill -9, and one read among many, by size".to_owned(),
            x: values(),
            y: Axis::new("seconds; µs a read", Scale::Log),
            lines: vec![
                line("seconds to ready", ready),
                self.by_step("µs a read", |name| {
                    let rates = self.report.rates(&format!("Detokenize, unary, {name} set"));
                    1e6 / median(&rates)
                }),
            ],
        });
        let disk = self
            .stocks()
            .map(|stock| (stock.values() as f64, vec![stock.disk_bytes as f64 / stock.values() as f64]));
        let memory = self.by_step("MiB resident", |name| median(&self.report.rates(&memory_of(name))));
        self.report.chart(Chart {
            id: "P7",
            title: "memory, and disk a value, by size".to_owned(),
            x: values(),
            y: Axis::new("MiB; bytes", Scale::Log),
            lines: vec![memory, line("bytes of disk a value", &disk)],
        });
    }

    /// Something that the report knows for each set.
    pub(crate) fn by_step(&self, name: &str, of: impl Fn(&str) -> f64) -> Line {
        let values = self.stocks().map(|stock| stock.values() as f64);
        Line::new(name, values.into_iter().zip(SIZES.map(of)).collect())
    }
}

fn memory_of(name: &str) -> String {
    format!("MiB resident under it, {name} set")
}
