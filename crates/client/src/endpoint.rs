//! Mutual TLS to one server.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::ClientError;

/// A connection idle for so long is pinged: a server that died without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A ping unanswered for so long ends the connection.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);

const MISFIT: &str = "certificate and key do not fit together";

/// How often, and how far apart, a renewal under way is looked at again.
const RENEWAL_LOOKS: u32 = 3;
const RENEWAL_PAUSE: Duration = Duration::from_millis(50);

/// One server, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The authority of the server's certificate, PEM.
    pub ca: PathBuf,
    /// Our certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM, mode 0600.
    pub key: PathBuf,
    /// The name in the server's certificate, where it is not the address's host.
    pub server_name: Option<String>,
    /// How long connecting may take.
    pub connect_ms: u64,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:7443".to_owned(),
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            server_name: None,
            connect_ms: 5_000,
        }
    }
}

impl Endpoint {
    /// `address` with the files as `certs issue` names them in `folder`: `<name>.pem`, `<name>.key`, `ca.pem`.
    pub fn in_folder(address: impl Into<String>, folder: &Path, name: &str) -> Self {
        Self {
            address: address.into(),
            ca: folder.join("ca.pem"),
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
            ..Self::default()
        }
    }

    fn name(&self) -> Result<ServerName<'static>, ClientError> {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = self.server_name.clone().unwrap_or_else(|| host.to_owned());
        ServerName::try_from(name.clone())
            .map_err(|_| ClientError::Endpoint { what: "server name", text: name })
    }

    fn tls(&self) -> Result<ClientConfig, ClientError> {
        let unusable = |path: &Path, reason| ClientError::Identity { path: path.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|_| unusable(&self.ca, "not an authority's certificate"))?;
        }
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|_| unusable(&self.cert, "no TLS version is available"))?
                .with_root_certificates(roots)
                .with_client_auth_cert(certificates(&self.cert)?, private_key(&self.key)?)
                .map_err(|_| unusable(&self.cert, MISFIT))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn transport(&self) -> Result<(tonic::transport::Endpoint, Connector), ClientError> {
        let wrong = |_| ClientError::Endpoint { what: "address", text: self.address.clone() };
        let origin: Uri = format!("https://{}", self.address).parse().map_err(wrong)?;
        if origin.port_u16().is_none() {
            return Err(ClientError::Endpoint { what: "address", text: self.address.clone() });
        }
        // The scheme is plain to tonic: TLS is ours, so that files are read again at each connection.
        let transport = Channel::builder(format!("http://{}", self.address).parse().map_err(wrong)?)
            .origin(origin)
            .connect_timeout(Duration::from_millis(self.connect_ms))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER);
        Ok((transport, Connector { endpoint: Arc::new(self.clone()), name: self.name()? }))
    }
}

/// A channel for any generated client, connected. It reconnects by itself, reading the files again.
///
/// # Errors
/// [`ClientError::Endpoint`], [`ClientError::File`] and [`ClientError::Identity`] for what is configured,
/// [`ClientError::Unreachable`] and [`ClientError::Refused`] for what is found.
pub async fn channel(endpoint: &Endpoint) -> Result<Channel, ClientError> {
    let (transport, connector) = endpoint.transport()?;
    let connected = transport.connect_with_connector(connector).await;
    connected.map_err(|error| ClientError::of_transport(&endpoint.address, error))
}

/// As [`channel`], connecting at the first call: for daemons that may start before the vault does.
///
/// # Errors
/// [`ClientError::Endpoint`]; certificates are first read when connecting.
pub fn channel_lazy(endpoint: &Endpoint) -> Result<Channel, ClientError> {
    let (transport, connector) = endpoint.transport()?;
    Ok(transport.connect_with_connector_lazy(connector))
}

/// What is written into the headers of every call: the trace context, for daemons that have one.
pub type Outgoing = fn(&mut HeaderMap);

/// A channel that writes [`Outgoing`] headers; what [`crate::Client::wire`] gives.
pub type Wire = InterceptedService<Channel, WriteHeaders>;

/// Writes headers into calls on their way out.
#[derive(Clone, Copy, Debug)]
pub struct WriteHeaders(pub(crate) Option<Outgoing>);

impl Interceptor for WriteHeaders {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(write) = self.0 {
            let mut headers = std::mem::take(request.metadata_mut()).into_headers();
            write(&mut headers);
            *request.metadata_mut() = MetadataMap::from_headers(headers);
        }
        Ok(request)
    }
}

#[derive(Clone)]
struct Connector {
    endpoint: Arc<Endpoint>,
    name: ServerName<'static>,
}

impl Connector {
    /// The files as they are now. Certificate and key are two files: while they are being renewed they do
    /// not fit together for a moment.
    async fn config(&self) -> Result<ClientConfig, ClientError> {
        for _ in 0..RENEWAL_LOOKS {
            match self.endpoint.tls() {
                Err(ClientError::Identity { reason: MISFIT, .. }) => tokio::time::sleep(RENEWAL_PAUSE).await,
                settled => return settled,
            }
        }
        self.endpoint.tls()
    }

    async fn connect(self) -> Result<TokioIo<TlsStream<TcpStream>>, ClientError> {
        let address = &self.endpoint.address;
        let unreachable =
            |source: io::Error| ClientError::Unreachable { address: address.clone(), source: source.into() };
        let config = self.config().await?;
        let stream = TcpStream::connect(address.as_str()).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let shaken = TlsConnector::from(Arc::new(config)).connect(self.name, stream).await;
        shaken.map(TokioIo::new).map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(refused) => {
                    ClientError::Refused { address: address.clone(), source: refused.clone().into() }
                }
                None => unreachable(error),
            }
        })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ClientError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ClientError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let pem = std::fs::read(path).map_err(|source| ClientError::File { path: path.to_owned(), source })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or(ClientError::Identity { path: path.to_owned(), reason: "holds no certificate" })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ClientError> {
    let failed = |source| ClientError::File { path: path.to_owned(), source };
    let unusable = |reason| ClientError::Identity { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(unusable("others than its owner can read it; wanted is mode 0600"));
    }
    let mut pem = Vec::new();
    file.read_to_end(&mut pem).map_err(failed)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable("holds no private key"))
}
