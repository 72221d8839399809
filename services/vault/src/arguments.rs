//! The daemon's command line.

use std::ffi::OsString;
use std::path::PathBuf;

use cloakroom_runtime::RuntimeError;
use cloakroom_runtime::config::assignment;

/// How to call it.
pub const USAGE: &str = "\
cloakroomd: the vault

usage: cloakroomd [--config FILE] [--dump-config] [--take-over] [KEY=VALUE]...

  --config FILE    a TOML file; the variable CLOAKROOM_CONFIG names one too
  --dump-config    print what is in force and end
  --take-over      take the keys from an owner that is known to be dead, without waiting for its lease to end:
                   whatever it still writes is lost
  KEY=VALUE        overrides the file and the CLOAKROOM_* variables, as in admin.listen=127.0.0.1:7444
  --version        print the version and end
  --help           print this and end

It ends with 0 after SIGINT or SIGTERM and a full drain, 1 when it cannot start, 2 for a wrong command line,
70 when a write or sync failed (its next start settles it), 130 when a second signal cut the drain short.
";

/// What is asked for.
#[derive(PartialEq, Eq, Debug)]
pub enum Arguments {
    /// Run, or show the configuration.
    Run {
        /// The file.
        file: Option<PathBuf>,
        /// What overrides it, in order.
        flags: Vec<(String, String)>,
        /// Show what is in force instead of running.
        dump: bool,
        /// Take the keys from an owner that is known to be dead.
        take_over: bool,
    },
    /// How to call it.
    Help,
    /// The version.
    Version,
}

impl Arguments {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// [`RuntimeError::Config`] with the word that is wrong.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, RuntimeError> {
        let wrong = |word: &str, reason: &str| RuntimeError::Config {
            origin: word.to_owned(),
            reason: reason.to_owned(),
        };
        let (mut file, mut flags, mut dump, mut take_over) = (None, Vec::new(), false, false);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = word.to_string_lossy();
            match word.as_ref() {
                "--help" | "-h" => return Ok(Self::Help),
                "--version" | "-V" => return Ok(Self::Version),
                "--dump-config" => dump = true,
                "--take-over" => take_over = true,
                "--config" => {
                    file = Some(words.next().ok_or_else(|| wrong("--config", "wanted is a file"))?.into());
                }
                flag => match flag.strip_prefix("--config=") {
                    Some(path) => file = Some(path.into()),
                    None => flags.push(assignment(flag.trim_start_matches("--"))?),
                },
            }
        }
        Ok(Self::Run { file, flags, dump, take_over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, RuntimeError> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn a_file_and_flags_are_read_in_order() {
        let run = |file: Option<&str>, flags: &[(&str, &str)], dump| Arguments::Run {
            file: file.map(PathBuf::from),
            flags: flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            dump,
            take_over: false,
        };
        assert_eq!(parse(&[]).unwrap(), run(None, &[], false));
        let words = ["--config", "a.toml", "data=x", "--admin.listen=[::1]:1", "--dump-config"];
        let expected = run(Some("a.toml"), &[("data", "x"), ("admin.listen", "[::1]:1")], true);
        assert_eq!(parse(&words).unwrap(), expected);
        assert!(matches!(parse(&["--take-over"]), Ok(Arguments::Run { take_over: true, .. })));
        assert_eq!(parse(&["--config=b.toml"]).unwrap(), run(Some("b.toml"), &[], false));
    }

    #[test]
    fn what_is_no_flag_is_an_error_that_names_it() {
        for words in [&["serve"][..], &["--quiet"], &["--config"]] {
            assert!(parse(words).unwrap_err().to_string().contains(words[0].trim_start_matches("--")));
        }
        assert_eq!(parse(&["data=x", "--help"]).unwrap(), Arguments::Help);
        assert_eq!(parse(&["-V"]).unwrap(), Arguments::Version);
    }
}
