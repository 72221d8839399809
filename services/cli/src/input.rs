//! Values that come in from outside, and choices that have a word on the wire.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cloakroom_core::field::VALUE_BYTES_MAX;
use cloakroom_proto::vault::v1::TokenShape;
use serde::Deserialize;

use crate::error::CliError;

/// Where a value comes from.
#[derive(Args, Clone, Debug)]
pub(crate) struct ValueSource {
    /// The value itself. Beware: arguments are seen by every user of this machine (ps) and stay in the
    /// shell's history; better give it on stdin or in a file
    #[arg(conflicts_with = "from")]
    value: Option<String>,
    /// A file that holds the value, `-` for stdin, which is the default; one line end at its end is left out
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl ValueSource {
    /// A file or, without one, stdin: where a value is never an argument.
    pub(crate) fn of(from: Option<PathBuf>) -> Self {
        Self { value: None, from }
    }

    /// The value's bytes.
    pub(crate) fn read(&self) -> Result<Vec<u8>, CliError> {
        match (&self.value, &self.from) {
            (Some(value), _) => Ok(value.clone().into_bytes()),
            (None, Some(path)) if path != Path::new("-") => {
                let file = std::fs::File::open(path).map_err(CliError::file(path))?;
                bounded(file).map_err(CliError::file(path))
            }
            (None, _) => bounded(std::io::stdin().lock()).map_err(CliError::file("stdin")),
        }
    }
}

/// Up to one byte more than the longest value and its line end, so that too long stays too long.
fn bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut value = Vec::new();
    source.take(VALUE_BYTES_MAX as u64 + 3).read_to_end(&mut value)?;
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    Ok(value)
}

/// What a token looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// tok_ and 26 characters
    #[default]
    Opaque,
    /// A valid address under the controller's token domain
    Email,
    /// E.164 under +999
    Phone,
    /// As many digits as the value has
    Digits,
    /// A random UUID
    Uuid,
}

impl From<Shape> for TokenShape {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Opaque => Self::Opaque,
            Shape::Email => Self::Email,
            Shape::Phone => Self::Phone,
            Shape::Digits => Self::Digits,
            Shape::Uuid => Self::Uuid,
        }
    }
}

/// Whether this is a subject id rather than a token.
pub(crate) fn is_subject_id(text: &str) -> bool {
    text.starts_with("sub_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_no_part_of_a_value() {
        assert_eq!(bounded(&b"Ada\n"[..]).unwrap(), b"Ada");
        assert_eq!(bounded(&b"Ada\r\n"[..]).unwrap(), b"Ada");
        assert_eq!(bounded(&b"Ada\n\n"[..]).unwrap(), b"Ada\n");
        assert_eq!(bounded(&b""[..]).unwrap(), b"");
    }

    #[test]
    fn what_is_too_long_stays_too_long() {
        let long = vec![b'x'; VALUE_BYTES_MAX * 2];
        assert!(bounded(long.as_slice()).unwrap().len() > VALUE_BYTES_MAX);
        let longest = [vec![b'x'; VALUE_BYTES_MAX], b"\r\n".to_vec()].concat();
        assert_eq!(bounded(longest.as_slice()).unwrap().len(), VALUE_BYTES_MAX);
    }
}
