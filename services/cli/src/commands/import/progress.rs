//! How far an import is: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on stderr; stdout is for results.
pub(super) enum Progress {
    Bar(ProgressBar),
    Lines { bytes: u64, last: Instant },
}

impl Progress {
    /// Nothing yet, of a file of `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        if !stderr().is_terminal() {
            return Self::Lines { bytes, last: Instant::now() };
        }
        let bar = ProgressBar::new(bytes);
        let style = "  {bar:40.green/dim} {percent:>3} %  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    /// So many rows, so far into the file.
    pub(super) fn at(&mut self, rows: u64, position: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_message(format!("{rows} rows"));
                bar.set_position(position);
            }
            Self::Lines { bytes, last } if last.elapsed() >= LINE_EVERY => {
                let percent = position.saturating_mul(100).checked_div(*bytes).unwrap_or(100);
                note(&format!("{rows} rows, {percent} %"));
                *last = Instant::now();
            }
            Self::Lines { .. } => {}
        }
    }

    /// No more to come.
    pub(super) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
