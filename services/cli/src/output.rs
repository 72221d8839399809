//! Text for people, JSON for programs; colours on a terminal alone. Results go to stdout, everything else to
//! stderr, so that a script may take stdout as it is.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value.
    Json,
}

/// What a text is to stand out as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong or refused.
    Bad,
    /// A heading.
    Strong,
    /// Beside the matter.
    Faint,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    colours: bool,
}

impl Output {
    /// Results in `format`, coloured if stdout is a terminal and nobody set `NO_COLOR`.
    pub(crate) fn new(format: Format) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { format, colours }
    }

    /// Whether programs read.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `json` or what `text` gives, whichever is wanted.
    pub(crate) fn result(
        &self,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        if self.is_json() {
            let json = serde_json::to_string_pretty(json).map_err(|error| CliError::System(error.into()))?;
            return self.line(&json);
        }
        let text = text();
        if text.is_empty() { Ok(()) } else { self.line(text.trim_end_matches('\n')) }
    }

    /// Prints a line to stdout.
    pub(crate) fn line(&self, text: &str) -> Result<(), CliError> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Prints bytes to stdout as they are. Whoever closed the pipe wanted no more: no error.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// `text` in the colour of `tone`, where there are colours.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints a note to stderr.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}"); // nobody is left to be told
}

/// Prints an error with all its causes, once, to stderr.
pub(crate) fn complain(error: &(dyn Error + 'static)) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        cause = error.source();
    }
    note(&text);
}

/// Columns side by side, as wide as their widest cell; no blanks at line ends.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A moment as RFC 3339 in UTC; `-` for none.
pub(crate) fn moment(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(time) if unix_ms != 0 => time.to_string(),
        _ => "-".to_owned(),
    }
}

/// The word of a protobuf enum value without its prefix: `ERASURE_STATE_FENCED` is `FENCED`.
pub(crate) fn word(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_end_without_blanks() {
        let rows = [vec!["a".into(), "längste".into(), "x".into()], vec!["bbb".into(), "b".into()]];
        assert_eq!(columns(&rows), "a    längste  x\nbbb  b\n");
    }

    #[test]
    fn moments_are_utc_and_none_is_a_dash() {
        assert_eq!(moment(0), "-");
        assert_eq!(moment(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
    }

    #[test]
    fn nothing_is_coloured_where_no_terminal_is() {
        let output = Output { format: Format::Text, colours: false };
        assert_eq!(output.paint(Tone::Bad, "DENIED"), "DENIED");
        let output = Output { format: Format::Text, colours: true };
        assert_eq!(output.paint(Tone::Bad, "DENIED"), "\x1b[31mDENIED\x1b[0m");
    }
}
