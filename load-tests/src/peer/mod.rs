//! What a team would take instead, with the same values, on the same cores: OpenBao's transit engine, and
//! PostgreSQL with pgcrypto. Each set up as its own documentation advises, and checked as the vault is.

#[allow(clippy::indexing_slicing)] // JSON: what is missing reads as null
mod bao;
mod postgres;

use std::path::Path;
use std::sync::Arc;

use crate::bench::{BATCH_100, Bench, ERASE_RATE, OPEN_SHARE, RATE, UNARY_IN_FLIGHT};
use crate::drive::{Figures, Load, Pace, Until, Work, drive};
use crate::error::LoadError;
use crate::house::Certs;
use crate::machine::measured;
use crate::report::{Goal, Kind};
use crate::work::Server;

use bao::{Bao, Decrypt, DecryptOwn, Delete};
use postgres::{Postgres, Select};

/// The batch that is compared: items a call, calls in flight.
const BATCH: usize = 100;
const BATCH_IN_FLIGHT: usize = 16;
/// Keys deleted a round, and calls in flight meanwhile.
const DELETIONS: u64 = 1_000;
const DELETE_IN_FLIGHT: usize = 64;

const SINGLE_BAO: Kind = Kind {
    id: "P4",
    what: "Detokenize, unary, against OpenBao transit",
    unit: " /s",
    against: "OpenBao",
    goal: Goal::RatioAtLeast(5.0),
};
const OWN_BAO: Kind =
    Kind { what: "the same, one OpenBao key a person", against: "OpenBao, own keys", ..SINGLE_BAO };
const SINGLE_PGCRYPTO: Kind = Kind {
    what: "Detokenize, unary, against pgcrypto",
    against: "pgcrypto",
    goal: Goal::RatioAtLeast(1.0),
    ..SINGLE_BAO
};
const BATCH_BAO: Kind = Kind {
    what: "Detokenize, batches of 100, against OpenBao",
    unit: " values/s",
    goal: Goal::RatioAtLeast(3.0),
    ..SINGLE_BAO
};
const P99_BAO: Kind = Kind {
    what: "p99 of such batches at half OpenBao's rate",
    unit: " ms",
    goal: Goal::RatioAtMost(0.1),
    ..SINGLE_BAO
};
const ERASE_BAO: Kind = Kind {
    id: "P5",
    what: "RequestErasure against OpenBao's key deletions",
    unit: " /s",
    against: "OpenBao",
    goal: Goal::RatioAtLeast(3.0),
};

/// The peers that run here, or why one does not.
pub(crate) struct Peers {
    bao: Result<Bao, LoadError>,
    postgres: Result<Postgres, LoadError>,
}

impl Peers {
    /// Starts both and gives them the values of `people`; OpenBao also keys to delete in `rounds` rounds.
    ///
    /// # Errors
    /// [`LoadError::Server`] for one that does not run, if both are `required`.
    pub(crate) async fn start(
        certs: &Certs,
        folder: &Path,
        people: u32,
        rounds: u64,
        required: bool,
    ) -> Result<Self, LoadError> {
        let bao = Bao::start(certs, &folder.join("bao"), people, DELETIONS.saturating_mul(rounds)).await;
        let postgres = Postgres::start(people).await;
        match (bao, postgres) {
            (Err(error), _) | (_, Err(error)) if required => Err(error),
            (bao, postgres) => Ok(Self { bao, postgres }),
        }
    }

    /// Ends them.
    pub(crate) async fn stop(self) {
        if let Ok(bao) = self.bao {
            bao.stop().await;
        }
        if let Ok(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

/// This round's figure of a row.
fn newest((figures, _): (Vec<f64>, Vec<f64>)) -> f64 {
    figures.last().copied().unwrap_or(f64::NAN)
}

impl Bench<'_> {
    /// Every peer once, held against what the vault did in this round.
    pub(crate) async fn peers(&mut self, peers: &Peers) -> Result<(), LoadError> {
        match &peers.bao {
            Ok(bao) => self.bao(bao).await?,
            Err(error) => {
                for kind in [SINGLE_BAO, OWN_BAO, BATCH_BAO, P99_BAO, ERASE_BAO] {
                    self.report.absent(kind, &error.to_string());
                }
            }
        }
        match &peers.postgres {
            Ok(postgres) => {
                let load = self.timed(UNARY_IN_FLIGHT, Pace::Closed);
                let work = Arc::new(Select::of(postgres));
                let figures = self.peer("pgcrypto, one row", postgres.pid(), &work, load).await?;
                self.report.note(SINGLE_PGCRYPTO, newest(self.report.rounds(RATE)), Some(figures.rate()));
            }
            Err(error) => self.report.absent(SINGLE_PGCRYPTO, &error.to_string()),
        }
        Ok(())
    }

    async fn bao(&mut self, bao: &Bao) -> Result<(), LoadError> {
        let unary = newest(self.report.rounds(RATE));
        let load = self.timed(UNARY_IN_FLIGHT, Pace::Closed);
        let one = Arc::new(Decrypt::of(bao, 1));
        let figures = self.peer("OpenBao, decrypt", bao.pid(), &one, load).await?;
        self.report.note(SINGLE_BAO, unary, Some(figures.rate()));
        let own = Arc::new(DecryptOwn::of(bao));
        let figures = self.peer("OpenBao, decrypt, one key a person", bao.pid(), &own, load).await?;
        self.report.note(OWN_BAO, unary, Some(figures.rate()));

        let load = self.timed(BATCH_IN_FLIGHT, Pace::Closed);
        let batch = Arc::new(Decrypt::of(bao, BATCH));
        let figures = self.peer("OpenBao, decrypt, 100 a call", bao.pid(), &batch, load).await?;
        self.report.note(BATCH_BAO, newest(self.report.rounds(BATCH_100)), Some(figures.rate()));
        let rate = figures.rate() / BATCH as f64 * OPEN_SHARE;
        let load = self.timed(BATCH_IN_FLIGHT, Pace::Open(rate));
        let name = "OpenBao, 100 a call, open loop";
        let theirs = self.peer(name, bao.pid(), &batch, load).await?;
        let name = "Detokenize, 100 a call, as many";
        let ours = self.driven(name, Server::Vault, &self.reads(Server::Vault, BATCH), load).await?;
        self.report.note(P99_BAO, ours.latency_ms(0.99), Some(theirs.latency_ms(0.99)));

        let load = Load { in_flight: DELETE_IN_FLIGHT, pace: Pace::Closed, until: Until::Calls(DELETIONS) };
        let figures = self.peer("OpenBao, delete a key", bao.pid(), &Arc::new(Delete::of(bao)), load).await?;
        self.report.note(ERASE_BAO, newest(self.report.rounds(ERASE_RATE)), Some(figures.rate()));
        Ok(())
    }

    async fn peer<W: Work>(
        &mut self,
        name: &str,
        pid: u32,
        work: &Arc<W>,
        load: Load,
    ) -> Result<Figures, LoadError> {
        let (figures, used) = measured(pid, drive(work, load, self.seed)).await?;
        self.seed = self.seed.wrapping_add(1);
        self.report.step(name, &figures, used);
        Ok(figures)
    }
}
