//! Real TLS on a free port: who gets in, as whom, and what happens while certificates and the process change.

use std::path::Path;
use std::sync::atomic::AtomicUsize;

use axum::Extension;
use axum::routing::get;
use cloakroom_core::clock::{Clock, SystemClock};
use http::StatusCode;
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, transport::Channel};

use super::*;
use crate::certs::{Authority, Holder};
use crate::identity::TlsFiles;

fn now() -> i64 {
    SystemClock.now_unix_ms()
}

/// Some real gRPC service: answers with the caller's principal, as the message of an error.
struct WhoAmI;

#[tonic::async_trait]
impl TraceService for WhoAmI {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let principal = request.extensions().get::<Principal>().map(ToString::to_string);
        Err(Status::aborted(principal.unwrap_or_default()))
    }
}

/// A vault's port in miniature: gRPC and HTTP on one listener.
struct Port {
    folder: TempDir,
    authority: Authority,
    files: TlsFiles,
    identity: Identity,
    address: SocketAddr,
    shutdown: Shutdown,
    reached: Arc<AtomicUsize>,
    slow: Arc<Notify>,
    served: JoinHandle<Drained>,
}

async fn port(config: ServeConfig) -> Port {
    port_polling(Duration::from_millis(20), config).await
}

async fn port_polling(poll: Duration, config: ServeConfig) -> Port {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path(), now()).unwrap();
    let files = authority.issue(&Holder::local("vault"), now(), 1).unwrap();
    let shutdown = Shutdown::new();
    let identity = Identity::follow_every(poll, files.clone(), &shutdown).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), config).await.unwrap();
    let listener = listener.on(Cores::start().unwrap());
    let address = listener.local_address();
    let (reached, slow) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, finish) = (reached.clone(), slow.clone());
    let router = tonic::service::Routes::new(TraceServiceServer::new(WhoAmI)).into_axum_router();
    let router = router
        .route(
            "/whoami",
            get(|Extension(principal): Extension<Principal>| async move { principal.to_string() }),
        )
        .route("/thread", get(async || std::thread::current().name().unwrap_or_default().to_owned()))
        .route(
            "/slow",
            get(move || async move {
                counted.fetch_add(1, Ordering::SeqCst);
                finish.notified().await;
                "done"
            }),
        );
    let served = tokio::spawn(listener.serve_tls(identity.clone(), router, shutdown.clone()));
    Port { folder, authority, files, identity, address, shutdown, reached, slow, served }
}

impl Port {
    fn caller(&self, name: &str) -> TlsFiles {
        self.authority.issue(&Holder::local(name), now(), 1).unwrap()
    }

    async fn connect(&self, files: Option<&TlsFiles>) -> io::Result<TlsStream<TcpStream>> {
        connect(self.address, &self.folder.path().join("ca.pem"), files).await
    }

    async fn whoami(&self, files: Option<&TlsFiles>) -> io::Result<(StatusCode, String)> {
        get_over(self.connect(files).await?, "/whoami").await
    }
}

async fn connect(
    address: SocketAddr,
    ca: &Path,
    files: Option<&TlsFiles>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&std::fs::read(ca).unwrap()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match files {
        None => config.with_no_client_auth(),
        Some(files) => {
            let chain = CertificateDer::from_pem_slice(&std::fs::read(&files.cert).unwrap()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&std::fs::read(&files.key).unwrap()).unwrap();
            config.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

async fn get_over(stream: TlsStream<TcpStream>, path: &str) -> io::Result<(StatusCode, String)> {
    let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = shake.await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get(format!("https://localhost{path}")).body(Body::empty()).unwrap();
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn grpc_status(stream: TlsStream<TcpStream>) -> Status {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        std::future::ready(stream.take().ok_or(io::Error::from(io::ErrorKind::NotConnected)))
    });
    let endpoint = Channel::from_static("https://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    TraceServiceClient::new(channel).export(ExportTraceServiceRequest::default()).await.unwrap_err()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn grpc_and_http_see_the_same_principal() {
    let port = port(ServeConfig::default()).await;
    let shop = port.caller("shop");
    let expected = "spiffe://cloakroom.local/shop";
    assert_eq!(port.whoami(Some(&shop)).await.unwrap(), (StatusCode::OK, expected.into()));
    let status = grpc_status(port.connect(Some(&shop)).await.unwrap()).await;
    assert_eq!((status.code(), status.message()), (Code::Aborted, expected));
}

#[tokio::test]
async fn connections_are_spread_over_the_cores_and_stay_where_they_are() {
    let port = port(ServeConfig::default()).await;
    let (shop, cores) = (port.caller("shop"), std::thread::available_parallelism().unwrap().get());
    let mut open = vec![];
    for _ in 0..2 * cores {
        let stream = port.connect(Some(&shop)).await.unwrap();
        let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = shake.await.unwrap();
        tokio::spawn(connection);
        open.push(sender);
    }
    let mut rounds = vec![];
    for _ in 0..2 {
        let mut threads = vec![];
        for sender in &mut open {
            let request = Request::get("https://localhost/thread").body(Body::empty()).unwrap();
            let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
            threads.push(String::from_utf8(body.to_bytes().to_vec()).unwrap());
        }
        rounds.push(threads);
    }
    assert_eq!(rounds[0], rounds[1]);
    rounds[0].sort();
    let mut expected: Vec<String> =
        (0..cores).flat_map(|core| [format!("core-{core}"), format!("core-{core}")]).collect();
    expected.sort();
    assert_eq!(rounds[0], expected);
    drop(open);
    port.shutdown.begin();
    assert_eq!(port.served.await.unwrap(), Drained { connections_cut: 0 });
}

#[tokio::test]
async fn a_certificate_without_a_spiffe_uri_connects_and_is_unauthenticated() {
    let port = port(ServeConfig::default()).await;
    let holder = Holder { principal: None, ..Holder::local("nobody") };
    let nobody = port.authority.issue(&holder, now(), 1).unwrap();
    let status = grpc_status(port.connect(Some(&nobody)).await.unwrap()).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let (status, body) = port.whoami(Some(&nobody)).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(body.contains("SPIFFE"), "{body}");
}

#[tokio::test]
async fn foreign_expired_and_missing_certificates_fail_in_tls() {
    let port = port(ServeConfig::default()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::open_or_create(elsewhere.path(), now()).unwrap();
    let foreign = foreign.issue(&Holder::local("shop"), now(), 1).unwrap();
    let expired = port.authority.issue(&Holder::local("old"), now() - 1000, 0).unwrap();
    // In TLS 1.3 the client is done before the server has looked: the refusal comes with the first read.
    assert!(port.whoami(Some(&foreign)).await.is_err());
    assert!(port.whoami(Some(&expired)).await.is_err());
    assert!(port.whoami(None).await.is_err());
    assert!(port.whoami(Some(&port.caller("shop"))).await.is_ok());
}

#[tokio::test]
async fn renewed_certificates_are_served_on_the_same_listener_while_old_connections_go_on() {
    let port = port(ServeConfig::default()).await;
    let shop = port.caller("shop");
    let seen = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let before = port.connect(Some(&shop)).await.unwrap();
    let old = seen(&before);
    port.authority.issue(&Holder::local("vault"), now(), 2).unwrap();
    until("the new certificate is served", async || {
        // Between the renewal of key and certificate either may be seen; a handshake never fails.
        seen(&port.connect(Some(&shop)).await.unwrap()) != old
    })
    .await;
    assert_eq!(get_over(before, "/whoami").await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn a_hangup_reloads_at_once() {
    let port = port_polling(Duration::from_secs(3600), ServeConfig::default()).await;
    let shop = port.caller("shop");
    let serial = async || {
        let stream = port.connect(Some(&shop)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let old = serial().await;
    port.authority.issue(&Holder::local("vault"), now(), 2).unwrap();
    assert!(serial().await == old, "nobody has looked");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    until("the new certificate is served", async || serial().await != old).await;
    // Also where no file tells that it was changed: whoever asks may know better.
    let before = port.identity.config();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    until("all is read anew", async || !Arc::ptr_eq(&before, &port.identity.config())).await;
}

#[tokio::test]
async fn certificates_that_do_not_load_leave_the_former_ones_in_force() {
    let port = port(ServeConfig::default()).await;
    let (shop, other) = (port.caller("shop"), port.caller("other"));
    std::fs::copy(&other.cert, &port.files.cert).unwrap();
    assert!(
        matches!(port.identity.reload(&port.files), Err(RuntimeError::Tls(_))),
        "a foreign key's certificate"
    );
    std::fs::write(&port.files.cert, "no certificate").unwrap();
    assert!(matches!(port.identity.reload(&port.files), Err(RuntimeError::Pem { .. })));
    std::fs::remove_file(&port.files.cert).unwrap();
    assert!(matches!(port.identity.reload(&port.files), Err(RuntimeError::File { .. })));
    assert!(port.whoami(Some(&shop)).await.is_ok());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_by_name_and_mode() {
    use std::os::unix::fs::PermissionsExt;
    let port = port(ServeConfig::default()).await;
    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&port.files.key, PermissionsExt::from_mode(mode)).unwrap();
        let error = Identity::follow(port.files.clone(), &port.shutdown).err().unwrap().to_string();
        assert!(error.contains("vault.key") && error.contains(&format!("{mode:04o}")), "{error}");
        assert!(error.contains("0600"), "{error}");
    }
}

#[tokio::test]
async fn a_drain_lets_calls_end_and_takes_no_new_ones() {
    let port = port(ServeConfig::default()).await;
    let shop = port.caller("shop");
    let call = tokio::spawn(get_over(port.connect(Some(&shop)).await.unwrap(), "/slow"));
    until("the call is in", async || port.reached.load(Ordering::SeqCst) == 1).await;
    port.shutdown.begin();
    until("the listener is closed", async || TcpStream::connect(port.address).await.is_err()).await;
    assert!(!port.served.is_finished());
    port.slow.notify_one();
    assert_eq!(call.await.unwrap().unwrap(), (StatusCode::OK, "done".into()));
    assert_eq!(port.served.await.unwrap(), Drained { connections_cut: 0 });
}

#[tokio::test]
async fn a_drain_ends_even_if_a_call_does_not() {
    let port = port(ServeConfig { drain_ms: 50, ..ServeConfig::default() }).await;
    let shop = port.caller("shop");
    let call = tokio::spawn(get_over(port.connect(Some(&shop)).await.unwrap(), "/slow"));
    until("the call is in", async || port.reached.load(Ordering::SeqCst) == 1).await;
    port.shutdown.begin();
    assert_eq!(port.served.await.unwrap(), Drained { connections_cut: 1 });
    let cut = tokio::time::timeout(Duration::from_secs(10), call).await.expect("the call is cut");
    assert!(cut.unwrap().is_err());
}

#[tokio::test]
async fn who_does_not_shake_hands_in_time_is_let_go() {
    let port = port(ServeConfig { handshake_ms: 50, ..ServeConfig::default() }).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    let mut byte = [0; 1];
    let read = silent.read(&mut byte);
    let ended = tokio::time::timeout(Duration::from_secs(10), read).await.expect("the connection is closed");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[tokio::test]
async fn strangers_who_say_nothing_keep_nobody_from_shaking_hands() {
    let port = port(ServeConfig { handshakes_max: 1, handshake_ms: 60_000, ..ServeConfig::default() }).await;
    let _silent = TcpStream::connect(port.address).await.unwrap();
    let shop = port.caller("shop");
    let asked = tokio::time::timeout(Duration::from_secs(10), port.whoami(Some(&shop))).await;
    assert_eq!(asked.expect("let in beside the silent one").unwrap().0, StatusCode::OK);
}

/// Waits for the other side to close.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 64];
    let read_all = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
    tokio::time::timeout(Duration::from_secs(10), read_all).await.expect("the connection is closed");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed_and_one_that_has_asked_is_not() {
    let port = port(ServeConfig { handshake_ms: 100, ..ServeConfig::default() }).await;
    let shop = port.caller("shop");
    let stream = port.connect(Some(&shop)).await.unwrap();
    let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = shake.await.unwrap();
    tokio::spawn(connection);
    let request = || Request::get("https://localhost/whoami").body(Body::empty()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), StatusCode::OK);

    let mut silent = port.connect(Some(&shop)).await.unwrap();
    closed(&mut silent).await;
    assert_eq!(sender.send_request(request()).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn without_tls_too_a_silent_connection_is_closed() {
    let config = ServeConfig { handshake_ms: 100, ..ServeConfig::default() };
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), config).await.unwrap();
    let (address, shutdown) = (listener.local_address(), Shutdown::new());
    let served = tokio::spawn(listener.serve_plain(Router::new(), shutdown.clone()));
    // Also one whose first words could still become either version of HTTP.
    for words in ["", "PRI"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, words.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
    shutdown.begin();
    assert_eq!(served.await.unwrap(), Drained { connections_cut: 0 });
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_at_once() {
    let port = port(ServeConfig { calls_max: 1, ..ServeConfig::default() }).await;
    let shop = port.caller("shop");
    let call = tokio::spawn(get_over(port.connect(Some(&shop)).await.unwrap(), "/slow"));
    until("the call is in", async || port.reached.load(Ordering::SeqCst) == 1).await;
    assert_eq!(port.whoami(Some(&shop)).await.unwrap().0, StatusCode::TOO_MANY_REQUESTS);
    let status = grpc_status(port.connect(Some(&shop)).await.unwrap()).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    port.slow.notify_one();
    assert_eq!(call.await.unwrap().unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn an_old_connection_is_asked_to_end() {
    let port = port(ServeConfig { connection_age_ms_max: 20, ..ServeConfig::default() }).await;
    let stream = port.connect(Some(&port.caller("shop"))).await.unwrap();
    let shake =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream));
    let (_sender, connection) = shake.await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await;
    assert!(ended.is_ok(), "the connection has ended");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let port = port(ServeConfig::default()).await;
    let error = Listener::bind(port.address, ServeConfig::default()).await.unwrap_err();
    assert!(error.to_string().contains(&port.address.to_string()), "{error}");
}
