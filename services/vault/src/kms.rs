//! Roots sealed by the transit engine of OpenBao or HashiCorp Vault, over its HTTP API
//! (`/v1/<mount>/encrypt/<key>`, `/v1/<mount>/decrypt/<key>`, with `associated_data`).
//!
//! A root is on the wire for moments, inside TLS, as base64 in JSON. Those buffers are ours and wiped; what
//! the HTTP and TLS libraries copied in between is not.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloakroom_engine::holder::Sealer;
use cloakroom_engine::{Answer, HolderError, Plaintext};
use data_encoding::BASE64;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::{Zeroize, Zeroizing};

use crate::VaultError;
use crate::config::KmsConfig;

/// More than any answer of a transit engine has.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// More than what asks for a root's sealing or opening: written once, so that no copy stays behind.
const QUESTION_BYTES: usize = 2 << 10;
/// More of a KMS's own words than this is not repeated.
const WORDS_MAX: usize = 300;

/// Token, as the KMS knows us. Wiped when replaced.
type Token = Arc<Zeroizing<String>>;

/// A transit engine.
pub struct Transit {
    config: KmsConfig,
    host: String,
    port: u16,
    tls: bool,
    /// What the last login gave; none where a file holds the token.
    logged_in: Mutex<Option<Token>>,
}

#[derive(Serialize)]
struct Seal<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
}

#[derive(Serialize)]
struct Unseal<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
}

#[derive(Serialize)]
struct AppRole<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Deserialize)]
struct Told<T> {
    data: T,
}

#[derive(Deserialize)]
struct Sealed {
    ciphertext: String,
}

/// Borrowed from the answer, which is wiped; base64 has nothing that JSON escapes.
#[derive(Deserialize)]
struct Unsealed<'a> {
    plaintext: &'a str,
}

#[derive(Deserialize)]
struct LoggedIn<'a> {
    #[serde(borrow)]
    auth: Auth<'a>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    client_token: &'a str,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

impl Transit {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// [`VaultError::Config`] for an address or a way to be known that cannot be meant.
    pub fn new(config: KmsConfig) -> Result<Self, VaultError> {
        let wrong = |key, reason| VaultError::Config { key, reason };
        let uri: Uri = config
            .address
            .parse()
            .map_err(|_| wrong("roots.kms.address", "wanted is https://host:port, without a path"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = uri.scheme_str() == Some("https");
        let local = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        if host.is_empty() || !matches!(uri.path(), "" | "/") || !(tls || uri.scheme_str() == Some("http")) {
            return Err(wrong("roots.kms.address", "wanted is https://host:port, without a path"));
        }
        if !tls && !local {
            return Err(wrong(
                "roots.kms.address",
                "plain http is for this machine alone: roots go this way",
            ));
        }
        if tls && config.ca.as_os_str().is_empty() {
            return Err(wrong("roots.kms.ca", "name the file of the KMS's authority"));
        }
        let set = |path: &Path| !path.as_os_str().is_empty();
        if set(&config.cert) != set(&config.cert_key) || (set(&config.cert) && !tls) {
            return Err(wrong("roots.kms.cert", "a certificate needs its cert_key and https"));
        }
        if config.role_id.is_empty() == set(&config.secret_id_file) {
            return Err(wrong("roots.kms.role_id", "an AppRole has a role_id and a secret_id_file"));
        }
        let ways = [set(&config.token_file), !config.role_id.is_empty()];
        if ways == [true, true] || (ways == [false, false] && !set(&config.cert)) {
            return Err(wrong("roots.kms.token_file", "wanted is one: token_file, an AppRole, or a cert"));
        }
        let port = uri.port_u16().unwrap_or(8200);
        Ok(Self { config, host, port, tls, logged_in: Mutex::default() })
    }

    /// Whether it seals for us: what is wrong with the configuration shows at the start, not at a batch.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub async fn check(&self) -> Result<(), HolderError> {
        let context = b"cloakroom check";
        let sealed = self.seal(context, Plaintext::from_slice(&[0; 32])).await?;
        self.unseal(context, &sealed).await.map(drop)
    }

    /// Asks the engine to do `verb`, logging in again once where a login has run out.
    async fn ask(
        &self,
        verb: &str,
        question: impl Fn() -> Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, HolderError> {
        let path = format!("/v1/{}/{verb}/{}", self.config.mount, self.config.key);
        let held = self.logged_in.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = held.is_none();
        let token = match held {
            Some(token) => token,
            None => self.token().await?,
        };
        match self.call(&path, Some(&token), question()).await {
            Err(HolderError::Refused(_)) if !fresh => {
                *self.logged_in.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let token = self.token().await?;
                self.call(&path, Some(&token), question()).await
            }
            answer => answer,
        }
    }

    /// What we are known by: the file's token as it is now, or what a login gives.
    async fn token(&self) -> Result<Token, HolderError> {
        let config = &self.config;
        if !config.token_file.as_os_str().is_empty() {
            return secret(&config.token_file, "token").map(Arc::new);
        }
        let mount = |usual| match config.login_mount.as_str() {
            "" => usual,
            given => given,
        };
        let answer = if config.role_id.is_empty() {
            let path = format!("/v1/auth/{}/login", mount("cert"));
            self.call(&path, None, Zeroizing::new(b"{}".to_vec())).await?
        } else {
            let path = format!("/v1/auth/{}/login", mount("approle"));
            let secret_id = secret(&config.secret_id_file, "secret id")?;
            let login = AppRole { role_id: &config.role_id, secret_id: &secret_id };
            self.call(&path, None, json(&login)).await?
        };
        let read: LoggedIn<'_> = serde_json::from_slice(&answer).map_err(|_| unreadable())?;
        let token = Arc::new(Zeroizing::new(read.auth.client_token.to_owned()));
        *self.logged_in.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&token));
        Ok(token)
    }

    /// One request over a connection of its own: a batch asks twice, and certificates are read again each time.
    async fn call(
        &self,
        path: &str,
        token: Option<&str>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, HolderError> {
        let time = Duration::from_millis(self.config.timeout_ms);
        let called = tokio::time::timeout(time, async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| self.away(&e))?;
            if !self.tls {
                return self.exchange(tcp, path, token, body).await;
            }
            let name = ServerName::try_from(self.host.clone()).map_err(|e| self.away(&e))?;
            let connector = TlsConnector::from(Arc::new(self.tls()?));
            let tls = connector.connect(name, tcp).await.map_err(|e| self.away(&e))?;
            self.exchange(tls, path, token, body).await
        });
        let (status, answer) = called.await.map_err(|late| self.away(&late))??;
        if status.is_success() { Ok(answer) } else { Err(self.refusal(status, &answer)) }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        token: Option<&str>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), HolderError> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.away(&e))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header("X-Vault-Request", "true");
        if let Some(token) = token {
            let mut value = header::HeaderValue::from_str(token)
                .map_err(|_| HolderError::Refused("the token is not one line of text".to_owned()))?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        if !self.config.namespace.is_empty() {
            request = request.header("X-Vault-Namespace", &self.config.namespace);
        }
        let request = request.body(Full::new(Bytes::from_owner(body))).map_err(|e| self.away(&e))?;
        let answered = async {
            let mut response = sender.send_request(request).await?;
            let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
            let mut frames = Vec::new();
            while let Some(frame) = response.frame().await {
                if let Ok(data) = frame?.into_data()
                    && answer.len().saturating_add(data.len()) <= ANSWER_BYTES_MAX
                {
                    answer.extend_from_slice(&data);
                    frames.push(data);
                }
            }
            Ok::<_, hyper::Error>((response.status(), answer, frames))
        }
        .await;
        // Once the connection is gone its buffers are ours alone, and wiped.
        connection.abort();
        let _ = connection.await;
        let (status, answer, frames) = answered.map_err(|e| self.away(&e))?;
        for frame in frames {
            if let Ok(mut frame) = frame.try_into_mut() {
                frame.as_mut().zeroize();
            }
        }
        Ok((status, answer))
    }

    fn tls(&self) -> Result<ClientConfig, HolderError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.config.ca)? {
            roots.add(certificate).map_err(|_| unusable(&self.config.ca))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| self.away(&e))?
            .with_root_certificates(roots);
        if self.config.cert.as_os_str().is_empty() {
            return Ok(builder.with_no_client_auth());
        }
        let key = PrivateKeyDer::from_pem_file(&self.config.cert_key)
            .map_err(|_| unusable(&self.config.cert_key))?;
        builder
            .with_client_auth_cert(certificates(&self.config.cert)?, key)
            .map_err(|_| unusable(&self.config.cert))
    }

    fn away(&self, error: &dyn std::error::Error) -> HolderError {
        let mut text = format!("the KMS at {}: {error}", self.config.address);
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        HolderError::Unreachable(text)
    }

    fn refusal(&self, status: StatusCode, answer: &[u8]) -> HolderError {
        let said: Errors = serde_json::from_slice(answer).unwrap_or(Errors { errors: vec![] });
        let mut words = said.errors.join("; ").replace('\n', " ");
        words.truncate(words.floor_char_boundary(WORDS_MAX));
        let text = format!(
            "the KMS at {} answers {} for key {}: {words}",
            self.config.address,
            status.as_u16(),
            self.config.key
        );
        // A sealed, overloaded or standby KMS is one to ask again.
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return HolderError::Unreachable(text);
        }
        HolderError::Refused(text)
    }
}

impl Sealer for Transit {
    fn seal<'a>(&'a self, context: &'a [u8], root: Plaintext) -> Answer<'a, Result<Vec<u8>, HolderError>> {
        Answer::later(async move {
            let context = BASE64.encode(context);
            let text = encoded(&root);
            drop(root);
            let question = || json(&Seal { plaintext: &text, associated_data: &context });
            let answer = self.ask("encrypt", question).await?;
            let told: Told<Sealed> = serde_json::from_slice(&answer).map_err(|_| unreadable())?;
            Ok(told.data.ciphertext.into_bytes())
        })
    }

    fn unseal<'a>(
        &'a self,
        context: &'a [u8],
        sealed: &'a [u8],
    ) -> Answer<'a, Result<Plaintext, HolderError>> {
        Answer::later(async move {
            let context = BASE64.encode(context);
            let sealed = std::str::from_utf8(sealed).map_err(|_| HolderError::Damaged("sealed root"))?;
            let question = || json(&Unseal { ciphertext: sealed, associated_data: &context });
            let answer = self.ask("decrypt", question).await?;
            let told: Told<Unsealed<'_>> = serde_json::from_slice(&answer).map_err(|_| unreadable())?;
            let mut text = told.data.plaintext.as_bytes();
            let mut opened = Zeroizing::new(vec![0; BASE64.decode_len(text.len()).unwrap_or_default()]);
            let length = BASE64.decode_mut(text, &mut opened).map_err(|_| unreadable())?;
            text = opened.get(..length).unwrap_or_default();
            Ok(Plaintext::from_slice(text))
        })
    }
}

/// Base64 in a buffer that does not grow, and is wiped.
fn encoded(root: &Plaintext) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(BASE64.encode_len(root.len())));
    BASE64.encode_append(root.as_bytes(), &mut text);
    text
}

fn json(question: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(QUESTION_BYTES));
    // Text in a struct serializes; what did not would be refused as no JSON.
    let _ = serde_json::to_writer(&mut *body, question);
    body
}

/// A secret in a file, one line.
fn secret(path: &Path, what: &str) -> Result<Zeroizing<String>, HolderError> {
    let read = fs::read_to_string(path).map(Zeroizing::new);
    let read = read.map_err(|error| {
        HolderError::Refused(format!("the {what} for the KMS in {} does not read: {error}", path.display()))
    })?;
    Ok(Zeroizing::new(read.trim().to_owned()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HolderError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.ok().filter(|read| !read.is_empty()).ok_or_else(|| unusable(path))
}

fn unusable(path: &Path) -> HolderError {
    HolderError::Refused(format!("{} is not the PEM that the KMS's connection needs", path.display()))
}

fn unreadable() -> HolderError {
    HolderError::Unreachable("what the KMS answered does not read".to_owned())
}
