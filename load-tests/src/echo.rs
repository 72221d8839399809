//! The ceiling of the wire: a bare tonic server that takes the vault's messages over the vault's kind of TLS
//! and answers with messages of the same size, in a process of its own as the vault is. No register, no
//! record, no key: what remains is the price of gRPC, TLS and the kernel.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, available_parallelism};

use bytes::Bytes;
use cloakroom_client::proto::vault::v1::vault_service_server::{VaultService, VaultServiceServer};
use cloakroom_client::proto::vault::v1::*;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::error::LoadError;
use crate::house::ECHO;

/// As long as the vault's.
const TOKEN: &str = "tok_aaaaaaaaaaaaaaaaaaaaaaaaaa";
const SUBJECT: &str = "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Connections that may wait for the server; the load opens a handful.
const WAITING: usize = 64;

struct Echo;

type Never<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the echo answers Tokenize and Detokenize"))
}

#[tonic::async_trait]
impl VaultService for Echo {
    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let answer = |item: TokenizeItem| TokenizeResult {
            reference: item.reference,
            result: Some(tokenize_result::Result::Tokenized(Tokenized {
                token: TOKEN.to_owned(),
                subject_id: SUBJECT.to_owned(),
            })),
        };
        let items = request.into_inner().items.into_iter().map(answer).collect();
        Ok(Response::new(TokenizeResponse { items }))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let answer = |item: DetokenizeItem| DetokenizeResult {
            reference: item.reference,
            result: Some(detokenize_result::Result::Value(Bytes::from(item.token))),
        };
        let items = request.into_inner().items.into_iter().map(answer).collect();
        Ok(Response::new(DetokenizeResponse { items }))
    }

    type TokenizeStreamStream = Never<TokenizeStreamResponse>;

    async fn tokenize_stream(
        &self,
        _: Request<Streaming<TokenizeStreamRequest>>,
    ) -> Result<Response<Self::TokenizeStreamStream>, Status> {
        not_here()
    }

    type DetokenizeStreamStream = Never<DetokenizeStreamResponse>;

    async fn detokenize_stream(
        &self,
        _: Request<Streaming<DetokenizeStreamRequest>>,
    ) -> Result<Response<Self::DetokenizeStreamStream>, Status> {
        not_here()
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        not_here()
    }

    async fn lookup(&self, _: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        not_here()
    }

    async fn rectify(&self, _: Request<RectifyRequest>) -> Result<Response<RectifyResponse>, Status> {
        not_here()
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        not_here()
    }

    async fn record_fact(
        &self,
        _: Request<RecordFactRequest>,
    ) -> Result<Response<RecordFactResponse>, Status> {
        not_here()
    }
}

/// Serves with the certificate `echo` of `certs` until it is killed; the first line of stdout says where. On tokio's
/// usual runtime, or with `cores` as the vault does: on a thread with a runtime for each processor.
///
/// # Errors
/// [`LoadError`] if it cannot begin.
pub(crate) async fn serve(certs: &Path, cores: bool) -> Result<(), LoadError> {
    let tls = TlsAcceptor::from(Arc::new(tls(certs)?));
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let listener = listener.await.map_err(LoadError::system("binding a port"))?;
    let address = listener.local_addr().map_err(LoadError::system("binding a port"))?;
    let count = if cores { available_parallelism().map_or(1, NonZero::get) } else { 1 };
    let mut servers = vec![];
    for _ in 0..count {
        let (to_server, streams) = mpsc::channel(WAITING);
        let answering = answer(tls.clone(), streams);
        if cores {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(LoadError::system("starting a runtime"))?;
            thread::spawn(move || runtime.block_on(answering));
        } else {
            tokio::spawn(answering);
        }
        servers.push(to_server);
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{address}").and_then(|()| stdout.flush()).map_err(LoadError::system("writing"))?;
    for server in servers.iter().cycle() {
        let (stream, _) = listener.accept().await.map_err(LoadError::system("accepting"))?;
        let stream = stream.into_std().map_err(LoadError::system("accepting"))?;
        if server.send(stream).await.is_err() {
            break;
        }
    }
    Err(LoadError::Server { name: ECHO, what: "ended".to_owned() })
}

/// Serves the streams that come, on the runtime that it runs on.
async fn answer(tls: TlsAcceptor, mut streams: mpsc::Receiver<std::net::TcpStream>) {
    let (shaken, connections) = mpsc::channel(WAITING);
    let shake = async move {
        while let Some(stream) = streams.recv().await {
            let (tls, shaken) = (tls.clone(), shaken.clone());
            let Ok(stream) = TcpStream::from_std(stream) else { continue };
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true); // as the vault does; without it answers are merely slower
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = shaken.send(Ok::<_, std::io::Error>(stream)).await; // the server is gone, if this fails
                }
            });
        }
    };
    let serving = Server::builder()
        .add_service(VaultServiceServer::new(Echo))
        .serve_with_incoming(ReceiverStream::new(connections));
    let ((), served) = tokio::join!(shake, serving);
    drop(served); // whoever calls sees that it is gone
}

/// Mutual TLS as `runtime::identity` sets it up.
fn tls(certs: &Path) -> Result<ServerConfig, LoadError> {
    let made = || -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let at = |file: &str| certs.join(file);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(at("echo.pem"))?.collect();
        let key = PrivateKeyDer::from_pem_file(at("echo.key"))?;
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(at("ca.pem"))? {
            roots.add(authority?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain?, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    };
    made().map_err(LoadError::Tls)
}
