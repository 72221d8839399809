//! One listener: accepts, shakes hands, hands requests to a router, drains.
//!
//! A tonic server becomes a router by `tonic::service::Routes::into_axum_router()`; HTTP routes are
//! merged into it, so that gRPC and HTTP/JSON share a port, a certificate and a principal. Every request
//! has a [`PeerAddress`] in its extensions and, behind TLS, a [`Principal`]; a caller whose certificate
//! names none is answered UNAUTHENTICATED (401) before any service sees the request.

mod cores;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::task::TaskTracker;
use tonic::Status;

pub use cores::Cores;

use self::cores::Seat;
use crate::RuntimeError;
use crate::answer::{Protocol, refuse};
use crate::identity::{Identity, Principal, principal_of};
use crate::limits::{Place, Places, limited};
use crate::observe::observed;
use crate::shutdown::Shutdown;

/// After a failed accept (the process has no more file descriptors), so long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What takes a millisecond takes so many in a build that is not optimised.
const SLOWER: u32 = if cfg!(debug_assertions) { 40 } else { 1 };

/// The bounds of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ServeConfig {
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// TLS handshakes at once, from the stranger's first words on: the costly part that one can ask for.
    pub handshakes_max: usize,
    /// How long a handshake, a connection's first request, or the head of an HTTP/1 request, may take.
    pub handshake_ms: u64,
    /// Calls at once on one connection.
    pub connection_calls_max: u32,
    /// Calls at once over all connections; further ones are refused with RESOURCE_EXHAUSTED.
    pub calls_max: usize,
    /// How long a call may wait for its turn where calls have waited so long for a tenth of a second: beyond it,
    /// what has no chance to be answered in time is refused with RESOURCE_EXHAUSTED.
    pub wait_ms_max: u64,
    /// Headers of one request.
    pub header_bytes_max: u32,
    /// Largest HTTP/2 frame taken.
    pub frame_bytes_max: u32,
    /// A connection idle for so long is pinged.
    pub keep_alive_ms: u64,
    /// A ping unanswered for so long ends the connection.
    pub keep_alive_answer_ms: u64,
    /// After so long a connection is asked to end, so that its caller shows its certificate again.
    pub connection_age_ms_max: u64,
    /// How long calls may take to end once the daemon is to stop.
    pub drain_ms: u64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            handshakes_max: 64,
            handshake_ms: 10_000,
            connection_calls_max: 256,
            calls_max: 512,
            wait_ms_max: 25,
            header_bytes_max: 16 * 1024,
            frame_bytes_max: 64 * 1024,
            keep_alive_ms: 30_000,
            keep_alive_answer_ms: 20_000,
            connection_age_ms_max: 3_600_000,
            drain_ms: 20_000,
        }
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// How a listener ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose calls had not ended in time and were cut.
    pub connections_cut: usize,
}

/// A bound port, not yet served.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    config: ServeConfig,
    cores: Option<Cores>,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`RuntimeError::Bind`] with the address.
    pub async fn bind(address: SocketAddr, config: ServeConfig) -> Result<Self, RuntimeError> {
        let bound = |source| RuntimeError::Bind { address, source };
        let tcp = TcpListener::bind(address).await.map_err(bound)?;
        let address = tcp.local_addr().map_err(bound)?;
        Ok(Self { tcp, address, config, cores: None })
    }

    /// Serves its connections on threads of their own instead of the runtime's.
    #[must_use]
    pub fn on(mut self, cores: Cores) -> Self {
        self.cores = Some(cores);
        self
    }

    /// The address that is listened on.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `router` to callers with a certificate of our authority, until `shutdown`, then drains.
    pub async fn serve_tls(self, identity: Identity, router: Router, shutdown: Shutdown) -> Drained {
        self.serve(Some(identity), router, shutdown).await
    }

    /// Serves `router` to anyone, without TLS, until `shutdown`, then drains.
    pub async fn serve_plain(self, router: Router, shutdown: Shutdown) -> Drained {
        self.serve(None, router, shutdown).await
    }

    async fn serve(self, identity: Option<Identity>, router: Router, shutdown: Shutdown) -> Drained {
        let connections = Arc::new(Semaphore::new(self.config.connections_max));
        let wait_max = Duration::from_millis(self.config.wait_ms_max).saturating_mul(SLOWER);
        let cut = Shutdown::new();
        let tracker = TaskTracker::new();
        let house = Arc::new(House {
            identity,
            places: Places::new(self.config.calls_max, wait_max),
            router,
            handshakes: Semaphore::new(self.config.handshakes_max),
            http: http_builder(&self.config),
            shutdown: shutdown.clone(),
            cut: cut.clone(),
            config: self.config,
        });
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.begun() => break,
                accepted = accept(&self.tcp, &connections) => accepted,
            };
            match accepted {
                Ok((stream, address, permit)) => {
                    let house = house.clone();
                    match self.cores.as_ref().and_then(Cores::seat) {
                        Some(seat) => {
                            let runtime = seat.runtime.clone();
                            tracker.spawn_on(house.seated(stream, address, (permit, seat)), &runtime);
                        }
                        None => {
                            tracker.spawn(async move {
                                house.welcome(stream, address).await;
                                drop(permit);
                            });
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.tcp);
        tracker.close();
        let drain = Duration::from_millis(house.config.drain_ms);
        let in_time = tokio::time::timeout(drain, tracker.wait()).await.is_ok();
        let connections_cut = if in_time { 0 } else { tracker.len() };
        cut.begin();
        tracker.wait().await;
        if let Some(cores) = self.cores {
            cores.end().await;
        }
        tracing::info!(address = %self.address, connections_cut, "listener drained");
        Drained { connections_cut }
    }
}

async fn accept(
    tcp: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = tcp.accept().await?;
    Ok((stream, address, permit))
}

fn http_builder(config: &ServeConfig) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.handshake_ms))
        .max_buf_size(usize::try_from(config.header_bytes_max).unwrap_or(usize::MAX).max(8192));
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.connection_calls_max)
        .max_header_list_size(config.header_bytes_max)
        .max_frame_size(config.frame_bytes_max.clamp(16_384, 16_777_215)) // RFC 9113 section 6.5.2
        .keep_alive_interval(Duration::from_millis(config.keep_alive_ms))
        .keep_alive_timeout(Duration::from_millis(config.keep_alive_answer_ms));
    http
}

/// What all connections of a listener share.
struct House {
    identity: Option<Identity>,
    places: Arc<Places>,
    router: Router,
    handshakes: Semaphore,
    http: Builder<TokioExecutor>,
    shutdown: Shutdown,
    cut: Shutdown,
    config: ServeConfig,
}

impl House {
    /// The same on the thread that it is called on, whose events the stream is one of from now on.
    fn seated(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        held: (OwnedSemaphorePermit, Seat),
    ) -> impl Future<Output = ()> + Send {
        let stream = stream.into_std();
        async move {
            match stream.and_then(TcpStream::from_std) {
                Ok(stream) => self.welcome(stream, address).await,
                Err(error) => tracing::warn!(%address, %error, "cannot serve a connection"),
            }
            drop(held);
        }
    }

    async fn welcome(&self, stream: TcpStream, address: SocketAddr) {
        let _ = stream.set_nodelay(true); // a hint: without it answers are merely slower
        let Some(identity) = &self.identity else {
            return self.converse(stream, address, None).await;
        };
        let handshake = async {
            // Whoever says nothing takes nobody's place.
            let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
            let _permit = self.handshakes.acquire().await.map_err(io::Error::other)?;
            hello.into_stream(identity.config()).await
        };
        let limit = Duration::from_millis(self.config.handshake_ms);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(limit, handshake) => shaken,
            () = self.shutdown.begun() => return,
        };
        match shaken {
            Ok(Ok(stream)) => {
                let principal = principal_of(stream.get_ref().1.peer_certificates());
                self.converse(stream, address, Some(principal)).await;
            }
            Ok(Err(error)) => tracing::info!(%address, %error, "TLS handshake refused"),
            Err(_) => tracing::info!(%address, "TLS handshake took too long"),
        }
    }

    /// `caller`: `None` without TLS, `Some(None)` for a certificate that names nobody.
    async fn converse<IO>(&self, io: IO, address: SocketAddr, caller: Option<Option<Principal>>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (places, router) = (self.places.clone(), self.router.clone());
        let name = caller.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let own = places.caller(&name);
        let spoken = Arc::new(AtomicBool::new(false));
        let speaks = spoken.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            speaks.store(true, Ordering::Relaxed);
            let (place, router, caller) = (places.take(&own), router.clone(), caller.clone());
            request.extensions_mut().insert(PeerAddress(address));
            async move { Ok::<_, Infallible>(answered(request.map(Body::new), caller, place, router).await) }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(io), service));
        let age = Duration::from_millis(self.config.connection_age_ms_max);
        let silent = async {
            tokio::time::sleep(Duration::from_millis(self.config.handshake_ms)).await;
            if spoken.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.shutdown.begun() => None,
            () = tokio::time::sleep(age) => None,
            () = silent => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! { ended = connection => ended, () = self.cut.begun() => Ok(()) }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "connection ended");
        }
    }
}

async fn answered(
    mut request: Request<Body>,
    caller: Option<Option<Principal>>,
    place: Option<Place>,
    router: Router,
) -> Response<Body> {
    let principal = caller.clone().flatten();
    let nobody = matches!(caller, Some(None));
    if let Some(principal) = principal.clone() {
        request.extensions_mut().insert(principal);
    }
    observed(request, principal.as_ref(), move |request| {
        Box::pin(async move {
            if nobody {
                let status = Status::unauthenticated("the certificate has no SPIFFE URI");
                return refuse(Protocol::of(request.headers()), status);
            }
            limited(place, request, router).await
        })
    })
    .await
}

#[cfg(test)]
mod tests;
