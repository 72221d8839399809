//! More than it can bear: what is answered, how late, and what becomes of the rest.

use std::sync::Arc;

use crate::bench::{Bench, OPEN_SHARE};
use crate::chart::{Axis, Chart, Line, Scale};
use crate::drive::{Pace, drive};
use crate::error::LoadError;
use crate::machine::{measured, watched};
use crate::report::{Goal, Kind};
use crate::work::{Read, Server};

/// Values a call: the generator shares the machine, and could not send three times as many unary calls as the
/// vault answers.
const BATCH: usize = 100;
/// Calls in flight at the best rate.
const BEST_IN_FLIGHT: usize = 16;
/// What is offered, over the best rate.
const TIMES: f64 = 3.0;
/// Calls in flight then, above all that the vault takes at once, and on how many connections.
const IN_FLIGHT: usize = 1_024;
const CONNECTIONS: usize = 8;
/// The share of the watched time at its beginning and end whose memory is compared.
const ENDS: usize = 5;

const ANSWERED: Kind = Kind {
    id: "P9",
    what: "answered at three times the best rate",
    unit: " values/s",
    against: "best rate",
    goal: Goal::RatioAtLeast(0.9),
};
const LATE: Kind = Kind {
    id: "P9",
    what: "p99 of the answered",
    unit: " ms",
    against: "at half the best rate",
    goal: Goal::RatioAtMost(5.0),
};
const REFUSED: Kind = Kind { what: "p99 of the refused, RESOURCE_EXHAUSTED all", ..LATE };
const MEMORY: Kind = Kind {
    id: "P9",
    what: "resident memory at its end",
    unit: " MiB",
    against: "at its beginning",
    goal: Goal::RatioAtMost(1.1),
};

impl Bench<'_> {
    /// The best rate, half of it, three times of it, and the best rate again.
    pub(crate) async fn overload(&mut self) -> Result<(), LoadError> {
        let reads = self.reads(Server::Vault, BATCH);
        let closed = self.timed(BEST_IN_FLIGHT, Pace::Closed);
        let best = self.driven("Detokenize, 100 a call, best", Server::Vault, &reads, closed).await?;
        let calls = best.rate() / BATCH as f64;
        let half = self.timed(BEST_IN_FLIGHT, Pace::Open(calls * OPEN_SHARE));
        let unloaded = self.driven("Detokenize, 100 a call, half of it", Server::Vault, &reads, half).await?;

        let connections = self.places.certs.connections(self.main.vault.address, CONNECTIONS).await?;
        let set = Arc::clone(&self.main.set);
        let reads_of_many = Arc::new(Read { server: Server::Vault, connections, set, batch: BATCH });
        let mut load = self.timed(IN_FLIGHT, Pace::Open(calls * TIMES));
        load.until = crate::drive::Until::Time(self.settings.overload);
        let pid = self.main.vault.pid();
        let step = measured(pid, drive(&reads_of_many, load, self.seed));
        let ((figures, used), memory) = watched(pid, step).await?;
        self.report.step("Detokenize, 100 a call, three times of it", &figures, used);
        let offered = (figures.calls + figures.refused.len()) as f64 / figures.seconds * BATCH as f64;
        self.report.alone("values offered meanwhile", offered);
        self.driven("Detokenize, 100 a call, best again", Server::Vault, &reads, closed).await?;

        let unloaded = unloaded.latency_ms(0.99);
        self.report.note(ANSWERED, figures.rate(), Some(best.rate()));
        self.report.note(LATE, figures.latency_ms(0.99), Some(unloaded));
        if figures.refused.is_empty() {
            self.report.absent(REFUSED, "nothing was refused");
        } else {
            let p99 = figures.refused.value_at_quantile(0.99) as f64 / 1e3;
            self.report.note(REFUSED, p99, Some(unloaded));
        }
        let part = memory.len().div_ceil(ENDS).max(1);
        let most = |points: &[(f64, f64)]| points.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
        let begin = most(memory.get(..part).unwrap_or_default());
        let end = most(memory.get(memory.len().saturating_sub(part)..).unwrap_or_default());
        self.report.note(MEMORY, end, Some(begin));
        self.report.chart(Chart {
            id: "P9",
            title: "memory at three times the best rate".to_owned(),
            x: Axis::new("seconds", Scale::Linear),
            y: Axis::new("MiB resident", Scale::Linear),
            lines: vec![Line::new("vault", memory)],
        });
        Ok(())
    }
}
