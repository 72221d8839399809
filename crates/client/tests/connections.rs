//! The client against a real listener of ours, over real TLS on a free port.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom_client::proto::vault::v1::vault_service_server::{VaultService, VaultServiceServer};
use cloakroom_client::proto::vault::v1::*;
use cloakroom_client::{Client, ClientError, Endpoint, Retry};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_runtime::identity::{Identity, Principal};
use cloakroom_runtime::serve::{Listener, ServeConfig};
use cloakroom_runtime::shutdown::Shutdown;
use tempfile::TempDir;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

type Outcome<T> = Result<Response<T>, Status>;
type Batches<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A vault of the wire alone: fails as often as it is told to, then answers. Its tokens name the caller.
#[derive(Clone, Default)]
struct Scripted {
    calls: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<Status>>>,
    trace: Arc<Mutex<Option<String>>>,
}

impl Scripted {
    fn arrive<T>(&self, request: &Request<T>) -> Result<String, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let trace = request.metadata().get("traceparent").and_then(|value| value.to_str().ok());
        *self.trace.lock().unwrap() = trace.map(str::to_owned);
        match self.failures.lock().unwrap().pop() {
            Some(status) => Err(status),
            None => Ok(request.extensions().get::<Principal>().unwrap().to_string()),
        }
    }
}

#[tonic::async_trait]
impl VaultService for Scripted {
    type TokenizeStreamStream = Batches<TokenizeStreamResponse>;
    type DetokenizeStreamStream = Batches<DetokenizeStreamResponse>;

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Outcome<TokenizeResponse> {
        let caller = self.arrive(&request)?;
        let answer = |item: TokenizeItem| TokenizeResult {
            reference: item.reference,
            result: Some(if item.value.is_empty() {
                let code = ErrorCode::Denied.into();
                tokenize_result::Result::Error(ItemError { code, message: "field".into(), retryable: false })
            } else {
                tokenize_result::Result::Tokenized(Tokenized {
                    token: caller.clone(),
                    ..Tokenized::default()
                })
            }),
        };
        let items = request.into_inner().items.into_iter().map(answer).collect();
        Ok(Response::new(TokenizeResponse { items }))
    }

    async fn detokenize(&self, request: Request<DetokenizeRequest>) -> Outcome<DetokenizeResponse> {
        self.arrive(&request)?;
        let value = |item: DetokenizeItem| DetokenizeResult {
            reference: item.reference,
            result: Some(detokenize_result::Result::Value("planted".into())),
        };
        // One item short where it is told to be.
        let items = request.into_inner().items.into_iter().filter(|item| item.token != "swallow");
        Ok(Response::new(DetokenizeResponse { items: items.map(value).collect() }))
    }

    async fn tokenize_stream(
        &self,
        _: Request<tonic::Streaming<TokenizeStreamRequest>>,
    ) -> Outcome<Self::TokenizeStreamStream> {
        Err(Status::unimplemented(""))
    }

    async fn detokenize_stream(
        &self,
        _: Request<tonic::Streaming<DetokenizeStreamRequest>>,
    ) -> Outcome<Self::DetokenizeStreamStream> {
        Err(Status::unimplemented(""))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Outcome<DescribeResponse> {
        Err(Status::unimplemented(""))
    }

    async fn lookup(&self, _: Request<LookupRequest>) -> Outcome<LookupResponse> {
        Err(Status::unimplemented(""))
    }

    async fn rectify(&self, _: Request<RectifyRequest>) -> Outcome<RectifyResponse> {
        Err(Status::unimplemented(""))
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Outcome<ReleaseResponse> {
        Err(Status::unimplemented(""))
    }

    async fn record_fact(&self, _: Request<RecordFactRequest>) -> Outcome<RecordFactResponse> {
        // Never in time.
        std::future::pending().await
    }
}

struct Vault {
    folder: TempDir,
    authority: Authority,
    address: SocketAddr,
    scripted: Scripted,
    shutdown: Shutdown,
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

fn now() -> i64 {
    SystemClock.now_unix_ms()
}

async fn vault(config: ServeConfig) -> Vault {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path(), now()).unwrap();
    let files = authority.issue(&Holder::local("vault"), now(), 1).unwrap();
    authority.issue(&Holder::local("shop"), now(), 1).unwrap();
    let shutdown = Shutdown::new();
    let identity = Identity::follow(files, &shutdown).unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), config).await.unwrap();
    let address = listener.local_address();
    let scripted = Scripted::default();
    let routes = tonic::service::Routes::new(VaultServiceServer::new(scripted.clone()));
    tokio::spawn(listener.serve_tls(identity, routes.into_axum_router(), shutdown.clone()));
    Vault { folder, authority, address, scripted, shutdown }
}

impl Vault {
    fn endpoint(&self) -> Endpoint {
        Endpoint::in_folder(self.address.to_string(), self.folder.path(), "shop")
    }

    async fn client(&self) -> Client {
        let retry = Retry { first_pause: Duration::from_millis(1), ..Retry::default() };
        Client::connect(&self.endpoint()).await.unwrap().with_retry(retry)
    }

    fn fail(&self, with: &[Status]) {
        *self.scripted.failures.lock().unwrap() = with.to_vec();
    }

    fn calls(&self) -> usize {
        self.scripted.calls.swap(0, Ordering::SeqCst)
    }
}

fn item(reference: &str, value: &'static str, subject: tokenize_item::Subject) -> TokenizeItem {
    TokenizeItem {
        reference: reference.into(),
        value: value.into(),
        subject: Some(subject),
        ..TokenizeItem::default()
    }
}

fn read(token: &str) -> DetokenizeRequest {
    let item = DetokenizeItem { reference: "1".into(), token: token.into() };
    DetokenizeRequest { items: vec![item], ..DetokenizeRequest::default() }
}

#[tokio::test]
async fn each_item_has_its_answer() {
    let vault = vault(ServeConfig::default()).await;
    let known = || tokenize_item::Subject::SubjectId("sub".into());
    let items = vec![item("a", "x", known()), item("b", "", known())];
    let request = TokenizeRequest { items, ..TokenizeRequest::default() };
    let answers = vault.client().await.tokenize(request).await.unwrap();
    assert_eq!(answers[0].reference, "a");
    assert_eq!(answers[0].result.as_ref().unwrap().token, "spiffe://cloakroom.local/shop");
    assert_eq!(answers[1].reference, "b");
    let refusal = answers[1].result.clone().unwrap_err();
    assert_eq!((refusal.code, refusal.retryable), (ErrorCode::Denied, false));
    assert_eq!(refusal.to_string(), "ERROR_CODE_DENIED: field");
}

#[tokio::test]
async fn values_are_read_and_never_shown() {
    let vault = vault(ServeConfig::default()).await;
    let answers = vault.client().await.detokenize(read("tok")).await.unwrap();
    assert_eq!(answers[0].result.as_ref().unwrap().as_str(), Some("planted"));
    assert!(!format!("{answers:?}").contains("planted"));
    let swallowed = vault.client().await.detokenize(read("swallow")).await.unwrap_err();
    assert!(matches!(swallowed, ClientError::Malformed { found: 0, wanted: 1 }), "{swallowed}");
}

#[tokio::test]
async fn only_what_makes_nothing_twice_is_tried_again() {
    let vault = vault(ServeConfig::default()).await;
    let client = vault.client().await;
    let away = || Status::unavailable("starting");
    vault.fail(&[away(), away()]);
    assert!(client.detokenize(read("tok")).await.is_ok());
    assert_eq!(vault.calls(), 3);

    let new = item("a", "x", tokenize_item::Subject::NewSubject("buyer".into()));
    let mut request = TokenizeRequest { items: vec![new], ..TokenizeRequest::default() };
    vault.fail(&[away()]);
    assert_eq!(client.tokenize(request.clone()).await.unwrap_err().code(), Some(Code::Unavailable));
    assert_eq!(vault.calls(), 1);

    request.idempotency_key = "import-7".into();
    vault.fail(&[away()]);
    assert!(client.tokenize(request).await.is_ok());
    assert_eq!(vault.calls(), 2);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let vault = vault(ServeConfig::default()).await;
    let retry = Retry { deadline: Duration::from_millis(100), ..Retry::default() };
    let client = vault.client().await.with_retry(retry);
    let error = client.record_fact(RecordFactRequest::default()).await.unwrap_err();
    assert!(matches!(error.code(), Some(Code::DeadlineExceeded | Code::Cancelled)), "{error}");
    assert_eq!(error.exit_code(), 3, "{error}");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let vault = vault(ServeConfig::default()).await;
    let closed = Listener::bind(([127, 0, 0, 1], 0).into(), ServeConfig::default()).await.unwrap();
    let endpoint = Endpoint { address: closed.local_address().to_string(), ..vault.endpoint() };
    drop(closed);
    let error = Client::connect(&endpoint).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 3);
    // The same at the first call of a lazy client, once its deadline has passed.
    let retry = Retry { deadline: Duration::from_millis(100), ..Retry::default() };
    let lazy = Client::lazy(&endpoint, None).unwrap().with_retry(retry);
    let error = lazy.detokenize(read("tok")).await.unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error:?}");
}

async fn refusal(endpoint: &Endpoint) -> ClientError {
    // In TLS 1.3 the server's refusal arrives after the client is done: with the first call at the latest.
    match Client::connect(endpoint).await {
        Ok(client) => client.detokenize(read("tok")).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn certificates_that_one_side_does_not_accept_are_refused() {
    let vault = vault(ServeConfig::default()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::open_or_create(elsewhere.path(), now()).unwrap();
    foreign.issue(&Holder::local("shop"), now(), 1).unwrap();
    vault.authority.issue(&Holder::local("old"), now() - 1000, 0).unwrap();

    let ours = vault.endpoint();
    let stranger = Endpoint {
        ca: ours.ca.clone(),
        ..Endpoint::in_folder(ours.address.clone(), elsewhere.path(), "shop")
    };
    let expired = Endpoint::in_folder(ours.address.clone(), vault.folder.path(), "old");
    let distrusting = Endpoint { ca: elsewhere.path().join("ca.pem"), ..ours.clone() };
    let misnamed = Endpoint { server_name: Some("vault.example".into()), ..ours.clone() };
    for endpoint in [stranger, expired, distrusting, misnamed] {
        let error = refusal(&endpoint).await;
        assert!(matches!(error, ClientError::Refused { .. }), "{endpoint:?}: {error:?}");
        assert_eq!(error.exit_code(), 1);
    }
    assert_eq!(vault.calls(), 0);
}

#[tokio::test]
async fn what_is_wrong_with_the_files_or_the_address_is_named() {
    let vault = vault(ServeConfig::default()).await;
    let ours = vault.endpoint();
    let named = async |endpoint: Endpoint, part: &str| {
        let error = Client::connect(&endpoint).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    };
    named(Endpoint { cert: "/nowhere.pem".into(), ..ours.clone() }, "/nowhere.pem").await;
    named(Endpoint { cert: ours.key.clone(), ..ours.clone() }, "holds no certificate").await;
    named(Endpoint { key: ours.cert.clone(), ..ours.clone() }, "0600").await;
    let other = Path::new("ca.key");
    named(Endpoint { key: vault.folder.path().join(other), ..ours.clone() }, "do not fit").await;
    named(Endpoint { address: "127.0.0.1".into(), ..ours.clone() }, "127.0.0.1").await;
    named(Endpoint { address: "not an address:1".into(), ..ours }, "not an address").await;
}

#[tokio::test]
async fn names_and_ipv6_addresses_are_reached() {
    let vault = vault(ServeConfig::default()).await;
    let by_name = Endpoint { address: format!("localhost:{}", vault.address.port()), ..vault.endpoint() };
    assert!(Client::connect(&by_name).await.is_ok());
    let renamed = Endpoint { server_name: Some("localhost".into()), ..vault.endpoint() };
    assert!(Client::connect(&renamed).await.is_ok());
    let six = Endpoint { address: "[::1]:1".into(), ..vault.endpoint() };
    assert!(!matches!(Client::connect(&six).await, Err(ClientError::Endpoint { .. })));
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_the_next_connection() {
    let vault = vault(ServeConfig { connection_age_ms_max: 50, ..ServeConfig::default() }).await;
    let client = vault.client().await;
    let principal = async || {
        let known = tokenize_item::Subject::SubjectId("sub".into());
        let request = TokenizeRequest { items: vec![item("a", "x", known)], ..TokenizeRequest::default() };
        client.tokenize(request).await.unwrap().remove(0).result.unwrap().token
    };
    assert_eq!(principal().await, "spiffe://cloakroom.local/shop");
    let renewed =
        Holder { principal: Some("spiffe://cloakroom.local/shop/2".into()), ..Holder::local("shop") };
    vault.authority.issue(&renewed, now(), 1).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while principal().await != "spiffe://cloakroom.local/shop/2" {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is never shown");
    }
}

#[tokio::test]
async fn daemons_send_their_trace_along() {
    let vault = vault(ServeConfig::default()).await;
    let client = Client::lazy(
        &vault.endpoint(),
        Some(|headers| {
            headers.insert("traceparent", http::HeaderValue::from_static("00-1-2-01"));
        }),
    );
    client.unwrap().detokenize(read("tok")).await.unwrap();
    assert_eq!(vault.scripted.trace.lock().unwrap().as_deref(), Some("00-1-2-01"));
}
