//! A downstream's command line.

use std::ffi::OsString;
use std::path::PathBuf;

use cloakroom_runtime::RuntimeError;
use cloakroom_runtime::config::assignment;

/// What is asked for.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Arguments {
    Run { file: Option<PathBuf>, flags: Vec<(String, String)>, dump: bool },
    Help,
    Version,
}

pub(super) fn usage(name: &str) -> String {
    format!(
        "\
usage: {name} [--config FILE] [--dump-config] [KEY=VALUE]...

  --config FILE    a TOML file; the variable CLOAKROOM_CONFIG names one too
  --dump-config    print what is in force and end
  KEY=VALUE        overrides the file and the CLOAKROOM_* variables, as in listen=127.0.0.1:7451
  --version        print the version and end
  --help           print this and end

It ends with 0 after SIGINT or SIGTERM and a full drain, 1 when it cannot start, 2 for a wrong command line or
configuration, 130 when a second signal cut the drain short. After a failed write or sync it aborts; its next
start settles what it left.
"
    )
}

/// Reads the words after the program's name.
///
/// # Errors
/// [`RuntimeError::Config`] with the word that is wrong.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, RuntimeError> {
    let (mut file, mut flags, mut dump) = (None, Vec::new(), false);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        match word.as_ref() {
            "--help" | "-h" => return Ok(Arguments::Help),
            "--version" | "-V" => return Ok(Arguments::Version),
            "--dump-config" => dump = true,
            "--config" => {
                let missing = || RuntimeError::Config {
                    origin: word.to_string(),
                    reason: "wanted is a file".to_owned(),
                };
                file = Some(words.next().ok_or_else(missing)?.into());
            }
            flag => match flag.strip_prefix("--config=") {
                Some(path) => file = Some(path.into()),
                None => flags.push(assignment(flag.trim_start_matches("--"))?),
            },
        }
    }
    Ok(Arguments::Run { file, flags, dump })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Arguments, RuntimeError> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn a_file_and_flags_are_read_in_order() {
        let words = ["--config", "a.toml", "data=x", "--health.listen=[::1]:1", "--dump-config"];
        let flags =
            vec![("data".to_owned(), "x".to_owned()), ("health.listen".to_owned(), "[::1]:1".to_owned())];
        assert_eq!(
            parsed(&words).unwrap(),
            Arguments::Run { file: Some("a.toml".into()), flags, dump: true }
        );
        assert_eq!(parsed(&["data=x", "-h"]).unwrap(), Arguments::Help);
        assert!(parsed(&["serve"]).is_err() && parsed(&["--config"]).is_err());
    }
}
