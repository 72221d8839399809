//! The pictures: latency against load, and what the rounds saw.

use crate::bench::{BATCHES, Bench, RATE, UNARY_IN_FLIGHT};
use crate::chart::{Axis, Chart, Line, Scale};
use crate::drive::Pace;
use crate::error::LoadError;
use crate::report::median;
use crate::stock::SIZES;
use crate::work::Server;

/// Loads of the curve, over the best rate.
const SHARES: [f64; 6] = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9];

impl Bench<'_> {
    /// Latency of unary reads against load, vault and echo, each up to its own best rate.
    pub(crate) async fn curve(&mut self) -> Result<(), LoadError> {
        let (vault, echo) = self.report.rounds(RATE);
        let mut lines = Vec::new();
        for (name, server, best) in
            [("vault", Server::Vault, median(&vault)), ("echo", Server::Echo, median(&echo))]
        {
            let (reads, mut p50, mut p99) = (self.reads(server, 1), Vec::new(), Vec::new());
            for share in SHARES {
                let load = self.timed(UNARY_IN_FLIGHT, Pace::Open(best * share));
                let step = format!("{name}, unary, open loop at {:.0} %", share * 100.0);
                let figures = self.driven(&step, server, &reads, load).await?;
                p50.push((best * share, figures.latency_ms(0.5)));
                p99.push((best * share, figures.latency_ms(0.99)));
            }
            lines.extend([Line::new(&format!("{name}, p50"), p50), Line::new(&format!("{name}, p99"), p99)]);
        }
        self.report.chart(Chart {
            id: "P1",
            title: "latency of one read, from when it was due".to_owned(),
            x: Axis::new("calls a second", Scale::Linear),
            y: Axis::new("ms", Scale::Log),
            lines,
        });
        Ok(())
    }

    /// What the rounds have measured, as pictures.
    pub(crate) fn charts(&mut self) {
        let rates = |name: &str| self.report.rates(name);
        let by_batch = |unary: &str, batched: &dyn Fn(usize) -> String| {
            let one = [(1.0, median(&rates(unary)))];
            let batches = BATCHES.iter().map(|(batch, ..)| (*batch as f64, median(&rates(&batched(*batch)))));
            one.into_iter().chain(batches).collect()
        };
        let batches = Chart {
            id: "P2",
            title: "values read a second, by values a call".to_owned(),
            x: Axis::new("values a call", Scale::Log),
            y: Axis::new("values a second", Scale::Log),
            lines: vec![
                Line::new(
                    "vault",
                    by_batch("Detokenize, unary", &|batch| format!("Detokenize, {batch} a call")),
                ),
                Line::new("echo", by_batch("echo, unary", &|batch| format!("echo, {batch} a call"))),
            ],
        };
        let rounds = |id, title: &str, lines: &[(&str, &str)]| Chart {
            id,
            title: title.to_owned(),
            x: Axis::new("round", Scale::Linear),
            y: Axis::new("a second", Scale::Log),
            lines: lines.iter().map(|(name, step)| Line::by_round(name, rates(step))).collect(),
        };
        let writes = rounds(
            "P3",
            "values written a second, and what bounds them",
            &[
                ("vault, new people", "Tokenize"),
                ("vault, known people", "Tokenize, known people"),
                ("echo", "echo, Tokenize"),
                ("crypto alone", "crypto alone, seal"),
                ("file alone", "file alone, values at the vault's syncs"),
            ],
        );
        let peers = rounds(
            "P4",
            "values read a second, and peers",
            &[
                ("vault, 100 a call", "Detokenize, 100 a call"),
                ("OpenBao, 100 a call", "OpenBao, decrypt, 100 a call"),
                ("vault, unary", "Detokenize, unary"),
                ("pgcrypto, unary", "pgcrypto, one row"),
                ("OpenBao, unary", "OpenBao, decrypt"),
                ("OpenBao, own keys", "OpenBao, decrypt, one key a person"),
            ],
        );
        let people = [&self.small, &self.main, &self.large].map(|stock| stock.set.people() as f64);
        let erasures = |of: &dyn Fn(&str) -> Vec<f64>| {
            let alone = |name| median(&of(&format!("RequestErasure, alone, {name} set")));
            people.into_iter().zip(SIZES.map(alone)).collect()
        };
        let erase = Chart {
            id: "P5",
            title: "one erasure, by people in the vault".to_owned(),
            x: Axis::new("people", Scale::Log),
            y: Axis::new("ms", Scale::Linear),
            lines: vec![
                Line::new("p50", erasures(&|step| self.report.latencies(step, 0.5))),
                Line::new("p99", erasures(&|step| self.report.latencies(step, 0.99))),
            ],
        };
        for chart in [batches, writes, peers, erase] {
            self.report.chart(chart);
        }
    }
}
