//! SMTP to the configured relay. What a relay writes back may quote the recipient, so it goes nowhere; its
//! code does.

use std::net::IpAddr;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransportBuilder, Error};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::MailError;
use crate::config::{MailConfig, SmtpConfig, SmtpTls};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// The way out, and who mail comes from.
#[derive(Clone)]
pub(crate) struct Relay {
    transport: Transport,
    sender: Mailbox,
    timeout: Duration,
}

impl Relay {
    pub(crate) fn new(config: &MailConfig) -> Result<Self, MailError> {
        let sender = config.sender.parse().map_err(|_| MailError::Config {
            key: "own.sender",
            reason: "wanted is an address, or a name and an address in angle brackets",
        })?;
        let timeout = Duration::from_millis(config.smtp.timeout_ms);
        let builder = match (config.smtp.host.is_empty(), config.sink) {
            (true, Some(sink)) => Transport::builder_dangerous(sink.ip().to_string()).port(sink.port()),
            (true, None) => {
                return Err(MailError::Config {
                    key: "own.smtp.host",
                    reason: "there is no relay and no sink",
                });
            }
            (false, _) => relay(&config.smtp)?,
        };
        Ok(Self { transport: builder.timeout(Some(timeout)).build(), sender, timeout })
    }

    pub(crate) fn sender(&self) -> &Mailbox {
        &self.sender
    }

    /// Hands a message over; the relay has it when this returns.
    pub(crate) async fn send(&self, message: Message) -> Result<(), MailError> {
        match tokio::time::timeout(self.timeout, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(MailError::RelayAway),
        }
    }
}

fn relay(config: &SmtpConfig) -> Result<AsyncSmtpTransportBuilder, MailError> {
    let wrong = |key, reason| MailError::Config { key, reason };
    let (host, mut builder) = (&config.host, Transport::builder_dangerous(&config.host));
    let parameters = || {
        let mut parameters = TlsParameters::builder(host.clone());
        if !config.ca.as_os_str().is_empty() {
            let unusable = || wrong("own.smtp.ca", "the file cannot be read, or holds no certificate");
            let pem = std::fs::read(&config.ca).map_err(|_| unusable())?;
            parameters =
                parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(|_| unusable())?);
        }
        parameters.build().map_err(|_| wrong("own.smtp.host", "not a name that a certificate can bear"))
    };
    let (tls, usual_port) = match config.tls {
        SmtpTls::None if is_here(host) => (Tls::None, 25),
        SmtpTls::None => {
            return Err(wrong("own.smtp.tls", "without TLS only a relay on this machine is spoken to"));
        }
        SmtpTls::Starttls => (Tls::Required(parameters()?), 587),
        SmtpTls::Tls => (Tls::Wrapper(parameters()?), 465),
    };
    builder = builder.tls(tls).port(if config.port == 0 { usual_port } else { config.port });
    if !config.username.is_empty() {
        let password = config.password.reveal().to_owned();
        builder = builder.credentials(Credentials::new(config.username.clone(), password));
    }
    Ok(builder)
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn told(error: &Error) -> MailError {
    match error.status() {
        Some(code) if error.is_permanent() => MailError::Refused { code: code.into() },
        // The relay knows no SMTPUTF8, and the address needs it.
        None if error.is_client() => MailError::Unmailable,
        code => {
            tracing::warn!(
                code = code.map(u16::from),
                timeout = error.is_timeout(),
                "the relay did not take a message"
            );
            MailError::RelayAway
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay_of(change: impl FnOnce(&mut MailConfig)) -> Result<Relay, MailError> {
        let mut config = MailConfig::default();
        config.smtp.host = "smtp.example".into();
        change(&mut config);
        Relay::new(&config)
    }

    fn key_of(result: Result<Relay, MailError>) -> &'static str {
        match result {
            Err(MailError::Config { key, .. }) => key,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("taken"),
        }
    }

    #[test]
    fn nothing_leaves_this_machine_in_the_clear() {
        assert!(relay_of(|_| ()).is_ok());
        assert_eq!(key_of(relay_of(|config| config.smtp.tls = SmtpTls::None)), "own.smtp.tls");
        for host in ["localhost", "127.0.0.1", "::1"] {
            let here = |config: &mut MailConfig| {
                config.smtp.tls = SmtpTls::None;
                config.smtp.host = host.into();
            };
            assert!(relay_of(here).is_ok(), "{host}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        assert_eq!(key_of(relay_of(|config| config.smtp.host.clear())), "own.smtp.host");
        assert_eq!(key_of(relay_of(|config| config.sender = "nobody".into())), "own.sender");
        assert_eq!(key_of(relay_of(|config| config.smtp.ca = "/nowhere/ca.pem".into())), "own.smtp.ca");
    }
}
