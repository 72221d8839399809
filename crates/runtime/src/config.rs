//! One configuration out of a TOML file, environment variables and flags, each overriding the one before.
//!
//! A key is named by its path: `admin.listen` as a flag, `CLOAKROOM_ADMIN__LISTEN` as a variable (two
//! underscores go one level down). A variable's or flag's text is read as TOML where it is a number, a
//! truth value, an array or an inline table, and as plain text otherwise; text that looks like a number
//! is quoted, `"123"`. Unknown keys are errors wherever they come from: a misspelt limit is no limit.
//! They are found here, with their whole path, so a configuration's own types need not deny them.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::RuntimeError;

/// The variable, after the prefix, that names the file itself and so is no key of it.
pub const FILE_VARIABLE: &str = "CONFIG";

/// Reads `file` if there is one, then the process's variables that begin with `prefix`, then `flags`.
///
/// Defaults are `T`'s own (`#[serde(default)]`).
///
/// # Errors
/// [`RuntimeError::File`] if the file cannot be read, [`RuntimeError::UnknownKey`] with the key's whole
/// path, [`RuntimeError::Config`] for anything that does not parse.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    prefix: &str,
    flags: &[(String, String)],
) -> Result<T, RuntimeError> {
    load_from(file, prefix, std::env::vars_os().filter_map(text), flags)
}

fn text((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// As [`load`], with the variables given.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    prefix: &str,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<T, RuntimeError> {
    let mut table = toml::Table::new();
    let mut origins = Vec::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(RuntimeError::file(path))?;
        table = toml::from_str(&text).map_err(|error| RuntimeError::Config {
            origin: path.display().to_string(),
            reason: error.message().to_owned() + &place(&text, error.span()),
        })?;
        origins.push(path.display().to_string());
    }
    for (name, value) in variables {
        let Some(key) = name.strip_prefix(prefix).filter(|key| *key != FILE_VARIABLE) else { continue };
        let path = key.to_ascii_lowercase();
        put(&mut table, &mut path.split("__"), &value, &name)?;
        origins.push(name);
    }
    for (key, value) in flags {
        put(&mut table, &mut key.split('.'), value, key)?;
        origins.push(format!("--{key}"));
    }
    let mut unknown = None;
    let known = serde_ignored::deserialize(table, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    })
    .map_err(|error: toml::de::Error| RuntimeError::Config {
        origin: origins.join(", "),
        reason: error.to_string().trim_end().replace('\n', " "),
    })?;
    match unknown {
        Some(key) => Err(RuntimeError::UnknownKey { key }),
        None => Ok(known),
    }
}

fn place(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    before.map_or_else(String::new, |before| format!(" (line {})", before.matches('\n').count() + 1))
}

fn put(
    table: &mut toml::Table,
    path: &mut dyn Iterator<Item = &str>,
    value: &str,
    origin: &str,
) -> Result<(), RuntimeError> {
    let wrong = |reason: &str| RuntimeError::Config { origin: origin.to_owned(), reason: reason.to_owned() };
    let mut table = table;
    let mut key = path.next().filter(|key| !key.is_empty()).ok_or_else(|| wrong("names no key"))?;
    for below in path {
        let level = table.entry(key).or_insert_with(|| toml::Table::new().into());
        table = level.as_table_mut().ok_or_else(|| wrong("a part of this key holds a value, not a table"))?;
        key = below;
    }
    table.insert(key.to_owned(), parse(value));
    Ok(())
}

fn parse(value: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let parsed = parsed.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    // A date that a text key was meant to hold would be lost as a date; no key of ours is one.
    parsed.filter(|value| !value.is_datetime()).unwrap_or_else(|| value.into())
}

/// Reads a flag's `key=value`.
///
/// # Errors
/// [`RuntimeError::Config`] if there is no `=` or no key before it.
pub fn assignment(flag: &str) -> Result<(String, String), RuntimeError> {
    match flag.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(RuntimeError::Config { origin: flag.to_owned(), reason: "wanted is key=value".to_owned() }),
    }
}

/// What is in force, as TOML, secrets hidden by their own type.
///
/// # Errors
/// [`RuntimeError::Config`] if `config` has a shape that TOML does not know.
pub fn dump<T: Serialize>(config: &T) -> Result<String, RuntimeError> {
    toml::to_string_pretty(config)
        .map_err(|error| RuntimeError::Config { origin: "dump".into(), reason: error.to_string() })
}

/// A configured value that no log, dump or error shows. Better still is a path to a file of mode 0600.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const HIDDEN: &str = "(hidden)";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { HIDDEN })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The parser's own words would repeat what stands there: a password of digits reads as a number.
        String::deserialize(deserializer)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("a secret is text: put it in quotes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[derive(Deserialize, Serialize, Debug)]
    #[serde(default)]
    struct Daemon {
        data: String,
        admin: Admin,
        password: Secret,
    }

    #[derive(Deserialize, Serialize, Debug)]
    #[serde(default)]
    struct Admin {
        listen: SocketAddr,
        bulk_limit: u32,
        principals: Vec<String>,
    }

    impl Default for Daemon {
        fn default() -> Self {
            Self { data: "data".into(), admin: Admin::default(), password: Secret::default() }
        }
    }

    impl Default for Admin {
        fn default() -> Self {
            Self { listen: ([127, 0, 0, 1], 7444).into(), bulk_limit: 10, principals: Vec::new() }
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn loaded(
        file: &str,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Daemon, RuntimeError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.toml");
        std::fs::write(&path, file).unwrap();
        load_from(Some(&path), "CLOAKROOM_", pairs(variables), &pairs(flags))
    }

    #[test]
    fn a_flag_overrides_a_variable_overrides_the_file_overrides_the_default() {
        let file = "data = 'file'\n[admin]\nbulk_limit = 1\nlisten = '127.0.0.1:1'";
        let variables = [("CLOAKROOM_ADMIN__BULK_LIMIT", "2"), ("CLOAKROOM_ADMIN__LISTEN", "127.0.0.1:2")];
        let config = loaded(file, &variables, &[("admin.listen", "127.0.0.1:3")]).unwrap();
        assert_eq!(config.data, "file");
        assert_eq!(config.admin.bulk_limit, 2);
        assert_eq!(config.admin.listen.port(), 3);
        let config: Daemon = load_from(None, "CLOAKROOM_", [], &[]).unwrap();
        assert_eq!(config.admin.bulk_limit, 10);
    }

    #[test]
    fn variables_hold_lists_and_text_that_looks_like_something_else() {
        let variables = [
            ("CLOAKROOM_ADMIN__PRINCIPALS", "['spiffe://a/b', 'spiffe://a/c']"),
            ("CLOAKROOM_DATA", "\"123\""),
            ("CLOAKROOM_CONFIG", "/etc/cloakroom.toml"),
            ("PATH", "/bin"),
        ];
        let config = loaded("", &variables, &[]).unwrap();
        assert_eq!(config.admin.principals.len(), 2);
        assert_eq!(config.data, "123");
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_key_wherever_they_come_from() {
        let key = |result: Result<Daemon, RuntimeError>| match result.unwrap_err() {
            RuntimeError::UnknownKey { key } => key,
            other => panic!("{other}"),
        };
        assert_eq!(key(loaded("[admin]\nlisten_on = 'x'", &[], &[])), "admin.listen_on");
        assert_eq!(key(loaded("", &[("CLOAKROOM_ADMIN__LISTNE", "x")], &[])), "admin.listne");
        assert_eq!(key(loaded("", &[], &[("dtaa", "x")])), "dtaa");
    }

    #[test]
    fn what_does_not_parse_names_its_origin() {
        let error = loaded("data = ", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("vault.toml") && error.contains("line 1"), "{error}");
        let error = loaded("", &[("CLOAKROOM_ADMIN__LISTEN", "nowhere")], &[]).unwrap_err().to_string();
        assert!(error.contains("CLOAKROOM_ADMIN__LISTEN"), "{error}");
        let error = loaded("", &[("CLOAKROOM_DATA__X", "1")], &[("data", "2"), ("data.y", "3")]).unwrap_err();
        assert!(error.to_string().contains("data.y"), "{error}");
    }

    #[test]
    fn a_flag_is_a_key_and_a_value() {
        let (key, value) = assignment("otlp.endpoint=http://c:1/?a=b").unwrap();
        assert_eq!((key.as_str(), value.as_str()), ("otlp.endpoint", "http://c:1/?a=b"));
        assert!(assignment("quiet").is_err() && assignment("=1").is_err());
    }

    #[test]
    fn no_error_repeats_a_secret_that_is_no_text() {
        for secret in ["471100815", "true", "[471100815]", "{ a = 471100815 }"] {
            let error = loaded("", &[("CLOAKROOM_PASSWORD", secret)], &[]).unwrap_err().to_string();
            assert!(!error.contains("471100815") && error.contains("quotes"), "{error}");
        }
        let error = loaded("password = 471100815", &[], &[]).unwrap_err().to_string();
        assert!(!error.contains("471100815"), "{error}");
    }

    #[test]
    fn a_dump_shows_everything_but_secrets() {
        let config = loaded("password = 'open sesame'", &[], &[]).unwrap();
        assert_eq!(config.password.reveal(), "open sesame");
        let dump = dump(&config).unwrap();
        assert!(dump.contains("bulk_limit = 10") && dump.contains("(hidden)"), "{dump}");
        assert!(!dump.contains("sesame") && !format!("{config:?}").contains("sesame"));
    }
}
