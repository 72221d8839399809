//! Where the servers are and who we are to them: flags, over `CLOAKROOM_*` variables, over the optional file,
//! over the defaults.

use std::path::{Path, PathBuf};

use clap::Args;
use cloakroom_client::{AdminClient, Client, Endpoint};
use serde::Deserialize;

use crate::error::CliError;
use crate::output::Format;

/// Where the vault listens for services by default.
pub(crate) const VAULT_DEFAULT: &str = "127.0.0.1:7443";

/// Where its admin endpoint listens by default.
pub(crate) const ADMIN_DEFAULT: &str = "127.0.0.1:7444";

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Globals {
    /// The vault [default: 127.0.0.1:7443]
    #[arg(long, global = true, env = "CLOAKROOM_VAULT", hide_env_values = true, value_name = "HOST:PORT")]
    vault: Option<String>,
    /// Its admin endpoint [default: 127.0.0.1:7444]
    #[arg(long, global = true, env = "CLOAKROOM_ADMIN", hide_env_values = true, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// The folder with ca.pem, NAME.pem and NAME.key
    #[arg(long, global = true, env = "CLOAKROOM_CERTS", hide_env_values = true, value_name = "DIR")]
    certs: Option<PathBuf>,
    /// Whose certificate to show, by file name: orders, support, dpo, ...
    #[arg(long = "as", global = true, env = "CLOAKROOM_AS", hide_env_values = true, value_name = "NAME")]
    name: Option<String>,
    /// How results are printed [default: text]
    #[arg(long, global = true, env = "CLOAKROOM_OUTPUT", hide_env_values = true, value_name = "FORMAT")]
    output: Option<Format>,
    /// A file with these settings [default: ~/.config/cloakroom/cli.toml, if there]
    #[arg(long, global = true, env = "CLOAKROOM_CLI_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The optional file.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
struct File {
    vault: Option<String>,
    admin: Option<String>,
    /// A relative folder is beside the file.
    certs: Option<PathBuf>,
    #[serde(rename = "as")]
    name: Option<String>,
    output: Option<Format>,
}

/// What is in force.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `host:port` of the vault.
    pub(crate) vault: String,
    /// `host:port` of its admin endpoint.
    pub(crate) admin: String,
    /// The folder of the certificates.
    pub(crate) certs: Option<PathBuf>,
    /// The certificate's name.
    pub(crate) name: Option<String>,
    /// How results are printed.
    pub(crate) format: Format,
}

impl Globals {
    /// Reads the file, if there is one, and puts everything in its order.
    pub(crate) fn resolve(&self) -> Result<Settings, CliError> {
        let usual = || usual_file().filter(|path| path.exists());
        let file = match self.config.clone().or_else(usual) {
            Some(path) => read(&path)?,
            None => File::default(),
        };
        Ok(Settings {
            vault: self.vault.clone().or(file.vault).unwrap_or_else(|| VAULT_DEFAULT.to_owned()),
            admin: self.admin.clone().or(file.admin).unwrap_or_else(|| ADMIN_DEFAULT.to_owned()),
            certs: self.certs.clone().or(file.certs),
            name: self.name.clone().or(file.name),
            format: self.output.or(file.output).unwrap_or_default(),
        })
    }
}

fn usual_file() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
    Some(folder.join("cloakroom/cli.toml"))
}

fn read(path: &Path) -> Result<File, CliError> {
    let text = std::fs::read_to_string(path).map_err(CliError::file(path))?;
    let mut file: File = toml::from_str(&text)
        .map_err(|error| CliError::Usage(format!("{}: {}", path.display(), error.message())))?;
    let beside = path.parent().unwrap_or(Path::new(""));
    file.certs = file.certs.map(|certs| beside.join(certs));
    Ok(file)
}

impl Settings {
    /// The vault's services' API.
    pub(crate) async fn vault(&self) -> Result<Client, CliError> {
        Ok(Client::connect(&self.endpoint(&self.vault)?).await?)
    }

    /// The admin endpoint.
    pub(crate) async fn admin(&self) -> Result<AdminClient, CliError> {
        Ok(AdminClient::connect(&self.endpoint(&self.admin)?).await?)
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, CliError> {
        let missing = |what: &str, flag: &str| {
            CliError::Usage(format!("{what}: give {flag}, or set it in the environment or the settings file"))
        };
        let certs =
            self.certs.as_deref().ok_or_else(|| missing("where are the certificates?", "--certs DIR"))?;
        let name = self.name.as_deref().ok_or_else(|| missing("who is calling?", "--as NAME"))?;
        Ok(Endpoint::in_folder(address, certs, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(file: &str, globals: Globals) -> Result<Settings, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cli.toml");
        std::fs::write(&path, file).unwrap();
        let mut settings = Globals { config: Some(path), ..globals }.resolve()?;
        settings.certs = settings.certs.map(|certs| certs.strip_prefix(folder.path()).unwrap().to_owned());
        Ok(settings)
    }

    #[test]
    fn a_flag_overrides_the_file_overrides_the_default() {
        let file = "vault = 'a:1'\nadmin = 'a:2'\ncerts = 'certs'\nas = 'dpo'\noutput = 'json'";
        let globals = Globals { vault: Some("b:1".into()), ..Globals::default() };
        let settings = resolved(file, globals).unwrap();
        assert_eq!((settings.vault.as_str(), settings.admin.as_str()), ("b:1", "a:2"));
        assert_eq!(settings.certs.as_deref(), Some(Path::new("certs")));
        assert_eq!((settings.name.as_deref(), settings.format), (Some("dpo"), Format::Json));
        let settings = resolved("", Globals::default()).unwrap();
        assert_eq!((settings.vault.as_str(), settings.format), (VAULT_DEFAULT, Format::Text));
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        let error = resolved("vualt = 'a:1'", Globals::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("vualt"), "{error}");
    }

    #[test]
    fn without_a_name_nobody_calls() {
        let settings = resolved("certs = 'certs'", Globals::default()).unwrap();
        assert!(settings.endpoint("a:1").unwrap_err().to_string().contains("--as"));
    }
}
