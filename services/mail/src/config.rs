//! What is mail's own in its configuration: the tables `own` and `own.smtp`.

use std::net::SocketAddr;
use std::path::PathBuf;

use cloakroom_downstream::daemon::Service;
use cloakroom_runtime::config::Secret;
use serde::{Deserialize, Serialize};

/// Mail's own part of the configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct MailConfig {
    /// Who mail comes from, as `Name <address>` or an address.
    pub sender: String,
    /// The purpose under which a ticket's recipient is read.
    pub ticket_purpose: String,
    /// The purpose under which the newsletter's are.
    pub newsletter_purpose: String,
    /// The relay.
    pub smtp: SmtpConfig,
    /// For development: an SMTP server here that keeps messages in memory and shows them at `/messages` on the
    /// port for health. Without a relay's host, mail goes there.
    pub sink: Option<SocketAddr>,
}

/// The relay.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct SmtpConfig {
    /// Its host; empty for the sink.
    pub host: String,
    /// Its port; 0 for the usual one of `tls`.
    pub port: u16,
    /// How the connection is protected.
    pub tls: SmtpTls,
    /// The authority of its certificate, PEM, where the public ones will not do.
    pub ca: PathBuf,
    /// Who logs in there; empty for nobody.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// How long one message may take: a purge of its recipient waits for it.
    pub timeout_ms: u64,
}

/// How the connection to the relay is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// Not at all: for a relay on this machine.
    None,
    /// STARTTLS, without which nothing is sent (port 587).
    #[default]
    Starttls,
    /// TLS from the first byte (port 465).
    Tls,
}

impl Default for MailConfig {
    fn default() -> Self {
        Self {
            sender: "Tickets <tickets@mail.invalid>".to_owned(),
            ticket_purpose: "ticket_delivery".to_owned(),
            newsletter_purpose: "newsletter".to_owned(),
            smtp: SmtpConfig::default(),
            sink: None,
        }
    }
}

impl Default for SmtpConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 0,
            tls: SmtpTls::default(),
            ca: PathBuf::new(),
            username: String::new(),
            password: Secret::default(),
            timeout_ms: 15_000,
        }
    }
}

impl Service for MailConfig {
    const NAME: &'static str = "mail";
    const LISTEN_PORT: u16 = 7451;
    const HEALTH_PORT: u16 = 9465;
}
