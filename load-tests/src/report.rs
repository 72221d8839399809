//! The table and the JSON: rows held to a goal, and beneath them every step with what it cost.

use std::fmt::Write as _;

use serde::Serialize;

use crate::chart::Chart;
use crate::drive::Figures;
use crate::machine::{Machine, Used};

/// What a row is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// Figure over ceiling, at least.
    RatioAtLeast(f64),
    /// Figure over comparison, at most.
    RatioAtMost(f64),
    /// The figure itself, at least.
    AtLeast(f64),
    /// The figure itself, at most.
    AtMost(f64),
}

impl Goal {
    fn judge(self, value: f64) -> bool {
        match self {
            Self::RatioAtLeast(goal) | Self::AtLeast(goal) => value >= goal,
            Self::RatioAtMost(goal) | Self::AtMost(goal) => value <= goal,
        }
    }

    fn text(self) -> String {
        match self {
            Self::RatioAtLeast(goal) => format!("≥ {goal}"),
            Self::RatioAtMost(goal) => format!("≤ {goal}"),
            Self::AtLeast(goal) => format!("≥ {}", number(goal)),
            Self::AtMost(goal) => format!("≤ {}", number(goal)),
        }
    }
}

/// A row as it is defined.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Kind {
    /// As in the design: P1 to P9.
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// What it is compared with.
    pub(crate) against: &'static str,
    pub(crate) goal: Goal,
}

/// A row with one figure a round.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    kind: Kind,
    figures: Vec<f64>,
    /// Empty where the goal is about the figure itself.
    ceilings: Vec<f64>,
    /// Why there are no figures.
    absent: Option<String>,
}

impl Row {
    /// What the goal is about, a value a round.
    fn judged(&self) -> Vec<f64> {
        match self.kind.goal {
            Goal::AtLeast(_) | Goal::AtMost(_) => self.figures.clone(),
            Goal::RatioAtLeast(_) | Goal::RatioAtMost(_) => {
                let ratio = |(figure, ceiling): (&f64, &f64)| figure / ceiling.max(f64::MIN_POSITIVE);
                self.figures.iter().zip(&self.ceilings).map(ratio).collect()
            }
        }
    }

    fn line(&self) -> [String; 7] {
        let Kind { id, what, unit, against, goal } = self.kind;
        if let Some(why) = &self.absent {
            let not = [id, what, "–", why, "–", &goal.text(), "not measured"];
            return not.map(str::to_owned);
        }
        let (judged, unit_of) =
            (self.judged(), |figures: &[f64]| format!("{}{unit}", number(median(figures))));
        let spread = [minimum(&judged), median(&judged), maximum(&judged)];
        let ceiling = match self.ceilings.as_slice() {
            [] => "–".to_owned(),
            ceilings => format!("{} {against}", unit_of(ceilings)),
        };
        [
            id.to_owned(),
            what.to_owned(),
            unit_of(&self.figures),
            ceiling,
            spread.map(number).join(" / "),
            goal.text(),
            if goal.judge(median(&judged)) { "reached" } else { "missed" }.to_owned(),
        ]
    }
}

/// One kind of step, a figure of each kind a round.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Step {
    name: String,
    /// Items a second.
    rate: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    p999_ms: Vec<f64>,
    /// The generator's own lateness.
    late_p99_ms: Vec<f64>,
    /// Calls sent away with RESOURCE_EXHAUSTED, of a hundred.
    refused_percent: Vec<f64>,
    /// Microseconds of processor that the server used an item.
    server_us: Vec<f64>,
    /// The same of the generator.
    generator_us: Vec<f64>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Values in the small, the main and the large vault at the beginning.
    pub(crate) values: [u64; 3],
    pub(crate) command: String,
    rows: Vec<Row>,
    steps: Vec<Step>,
    alone: Vec<Alone>,
    pub(crate) charts: Vec<Chart>,
}

/// A ceiling without a server, a rate a round.
#[derive(Debug, Serialize)]
struct Alone {
    name: String,
    rate: Vec<f64>,
}

impl Report {
    pub(crate) fn new(machine: Machine, values: [u64; 3], command: String) -> Self {
        let (rows, steps, alone, charts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { machine, values, command, rows, steps, alone, charts }
    }

    /// Adds a round's figure to a row, and what it is compared with.
    pub(crate) fn note(&mut self, kind: Kind, figure: f64, ceiling: Option<f64>) {
        if let Some(row) = self.row(kind) {
            row.figures.push(figure);
            row.ceilings.extend(ceiling);
        }
    }

    /// A row that has no figure here, and why.
    pub(crate) fn absent(&mut self, kind: Kind, why: &str) {
        if let Some(row) = self.row(kind) {
            row.absent = Some(why.to_owned());
        }
    }

    /// Rows stand in the order of their ids, and of when they were first noted.
    fn row(&mut self, kind: Kind) -> Option<&mut Row> {
        let at = self.rows.iter().position(|row| row.kind == kind).unwrap_or_else(|| {
            let at = self.rows.iter().take_while(|row| row.kind.id <= kind.id).count();
            self.rows.insert(at, Row { kind, figures: Vec::new(), ceilings: Vec::new(), absent: None });
            at
        });
        self.rows.get_mut(at)
    }

    /// Adds a picture.
    pub(crate) fn chart(&mut self, chart: Chart) {
        self.charts.push(chart);
    }

    /// A row's figures and ceilings, a value a round.
    pub(crate) fn rounds(&self, kind: Kind) -> (Vec<f64>, Vec<f64>) {
        let row = self.rows.iter().find(|row| row.kind == kind);
        row.map(|row| (row.figures.clone(), row.ceilings.clone())).unwrap_or_default()
    }

    /// A step's latencies in milliseconds, p50 or p99, a value a round.
    pub(crate) fn latencies(&self, name: &str, quantile: f64) -> Vec<f64> {
        let step = self.steps.iter().find(|step| step.name == name);
        step.map(|step| if quantile > 0.5 { &step.p99_ms } else { &step.p50_ms }).cloned().unwrap_or_default()
    }

    /// A step's rates, a value a round.
    pub(crate) fn rates(&self, name: &str) -> Vec<f64> {
        let step = self.steps.iter().find(|step| step.name == name).map(|step| step.rate.clone());
        let alone = || self.alone.iter().find(|alone| alone.name == name).map(|alone| alone.rate.clone());
        step.or_else(alone).unwrap_or_default()
    }

    /// Adds a round's step: what was measured, and what it used.
    pub(crate) fn step(&mut self, name: &str, figures: &Figures, used: Used) {
        let at = self.steps.iter().position(|step| step.name == name).unwrap_or_else(|| {
            self.steps.push(Step { name: name.to_owned(), ..Step::default() });
            self.steps.len().saturating_sub(1)
        });
        let items = figures.all_items().max(1.0);
        if let Some(step) = self.steps.get_mut(at) {
            step.rate.push(figures.rate());
            step.p50_ms.push(figures.latency_ms(0.5));
            step.p99_ms.push(figures.latency_ms(0.99));
            step.p999_ms.push(figures.latency_ms(0.999));
            step.late_p99_ms.push(figures.late_ms(0.99));
            step.refused_percent.push(figures.refused_percent());
            step.server_us.push(1e6 * used.server_s / items);
            step.generator_us.push(1e6 * used.own_s / items);
        }
    }

    /// Adds a round's rate of a ceiling that needs no server.
    pub(crate) fn alone(&mut self, name: &str, rate: f64) {
        match self.alone.iter_mut().find(|alone| alone.name == name) {
            Some(alone) => alone.rate.push(rate),
            None => self.alone.push(Alone { name: name.to_owned(), rate: vec![rate] }),
        }
    }

    /// What people read.
    pub(crate) fn text(&self) -> String {
        let (machine, [small, main, large]) = (&self.machine, self.values);
        let mut text = format!(
            "{}, commit {}, {} cores ({}), {} MiB, Linux {}; {} values, small set {}, large set {}; {}\n\n",
            machine.date,
            machine.commit,
            machine.cores,
            machine.processor,
            machine.memory_mib,
            machine.kernel,
            number(main as f64),
            number(small as f64),
            number(large as f64),
            self.command,
        );
        if cfg!(debug_assertions) {
            text.push_str("Echo and generator were built without optimisation: the ratios mean nothing.\n\n");
        }
        if machine.is_busy() {
            let load = machine.load_before;
            let _ = writeln!(
                text,
                "This machine was busy before the run (load {load}): the figures are indicative only.\n"
            );
        }
        let head =
            ["", "what", "vault", "against", "min / median / max", "goal", ""].map(str::to_owned).to_vec();
        let rows = self.rows.iter().map(|row| row.line().to_vec());
        text.push_str(&aligned(std::iter::once(head).chain(rows).collect()));
        let head = [
            "step (medians)",
            "a second",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "late p99",
            "refused %",
            "server µs",
            "own µs",
        ];
        let steps = self.steps.iter().map(|step| {
            let medians = [
                number(median(&step.rate)),
                decimals(median(&step.p50_ms)),
                decimals(median(&step.p99_ms)),
                decimals(median(&step.p999_ms)),
                decimals(median(&step.late_p99_ms)),
                decimals(median(&step.refused_percent)),
                decimals(median(&step.server_us)),
                decimals(median(&step.generator_us)),
            ];
            std::iter::once(step.name.clone()).chain(medians).collect()
        });
        let alone = |alone: &Alone| vec![alone.name.clone(), number(median(&alone.rate))];
        let steps = steps.chain(self.alone.iter().map(alone));
        text.push('\n');
        text.push_str(&aligned(std::iter::once(head.map(str::to_owned).to_vec()).chain(steps).collect()));
        text.push_str("\nserver µs, own µs: processor time an item, of the server and of this generator.\n");
        text
    }
}

/// Columns as wide as their widest cell, two blanks between.
fn aligned(lines: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Whole with a comma between thousands from 100 on, below that with decimals.
pub(crate) fn number(value: f64) -> String {
    if value < 100.0 {
        return decimals(value);
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn decimals(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn minimum(values: &[f64]) -> f64 {
    sorted(values).first().copied().unwrap_or(f64::NAN)
}

fn maximum(values: &[f64]) -> f64 {
    sorted(values).last().copied().unwrap_or(f64::NAN)
}

/// The middle one; of two middle ones the lower, so that it is a value that was measured.
pub(crate) fn median(values: &[f64]) -> f64 {
    sorted(values).get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind =
        Kind { id: "P1", what: "reads", unit: " /s", against: "echo", goal: Goal::RatioAtLeast(0.85) };

    fn report() -> Report {
        Report::new(Machine::look(), [3_000, 30_000, 300_000], "bench".to_owned())
    }

    #[test]
    fn a_ratio_is_taken_round_by_round_before_its_median() {
        let mut report = report();
        for (figure, ceiling) in [(90.0, 100.0), (10.0, 100.0), (1700.0, 2000.0)] {
            report.note(KIND, figure, Some(ceiling));
        }
        let line = report.rows[0].line();
        assert_eq!(line[4], "0.10 / 0.85 / 0.90");
        assert_eq!(line[6], "reached");
        assert_eq!((&*line[2], &*line[3]), ("90.0 /s", "100 /s echo"));
    }

    #[test]
    fn goals_are_judged_on_their_own_side() {
        assert!(Goal::RatioAtMost(1.5).judge(1.5) && !Goal::RatioAtMost(1.5).judge(1.6));
        assert!(Goal::AtLeast(5000.0).judge(5001.0) && !Goal::AtLeast(5000.0).judge(4999.0));
        let mut report = report();
        report.note(Kind { goal: Goal::AtLeast(5000.0), ..KIND }, 4999.0, None);
        let line = report.rows[0].line();
        assert_eq!((&*line[3], &*line[4], &*line[6]), ("–", "4,999 / 4,999 / 4,999", "missed"));
    }

    #[test]
    fn rows_stand_in_order_and_one_without_figures_says_why() {
        let mut report = report();
        report.note(Kind { id: "P9", ..KIND }, 1.0, Some(1.0));
        report.absent(Kind { id: "P4", ..KIND }, "no peer here");
        report.note(KIND, 1.0, Some(1.0));
        assert_eq!(report.rows.iter().map(|row| row.kind.id).collect::<Vec<_>>(), ["P1", "P4", "P9"]);
        let line = report.rows[1].line();
        assert_eq!((&*line[3], &*line[6]), ("no peer here", "not measured"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0.851, 12.34, 999.6, 1_234_567.0].map(number), ["0.85", "12.3", "1,000", "1,234,567"]);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.0);
    }

    #[test]
    fn json_says_all_that_the_table_says() {
        let mut report = report();
        report.note(KIND, 1.0, Some(2.0));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["id"], "P1");
        assert_eq!(json["rows"][0]["goal"]["ratio_at_least"], 0.85);
        assert_eq!(json["rows"][0]["ceilings"][0], 2.0);
        assert_eq!(json["values"][1], 30_000);
    }
}
