//! Mutual TLS. Whoever calls shows a certificate of our authority; who they are is its SPIFFE URI.
//!
//! One acceptor serves gRPC and HTTP alike. Its configuration is swapped when the files change, so
//! that certificates are renewed without a restart; what does not load changes nothing.

mod files;
mod principal;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::signal::unix::{SignalKind, signal};

pub use files::{TlsFiles, refuse_open_to_others};
pub use principal::Principal;

use crate::RuntimeError;
use crate::shutdown::Shutdown;
use files::Stamps;

/// How often the files are looked at. A renewal is planned days ahead; seconds are soon enough.
const POLL: Duration = Duration::from_secs(2);

/// A daemon's own certificate and whom it lets in. Clones share one state.
#[derive(Clone)]
pub struct Identity {
    current: Arc<ArcSwap<ServerConfig>>,
}

impl Identity {
    /// Loads `files` and follows their changes (every two seconds, and on SIGHUP) until `shutdown`.
    /// Call it inside the runtime.
    ///
    /// # Errors
    /// What [`TlsFiles`] says of a file that does not load; [`RuntimeError::Tls`] if they do not fit together.
    pub fn follow(files: TlsFiles, shutdown: &Shutdown) -> Result<Self, RuntimeError> {
        Self::follow_every(POLL, files, shutdown)
    }

    pub(crate) fn follow_every(
        poll: Duration,
        files: TlsFiles,
        shutdown: &Shutdown,
    ) -> Result<Self, RuntimeError> {
        let seen = Stamps::of(&files);
        let identity = Self { current: Arc::new(ArcSwap::from_pointee(server_config(&files)?)) };
        let hangup = signal(SignalKind::hangup()).map_err(RuntimeError::Signals)?;
        tokio::spawn(watch(identity.clone(), files, seen, poll, hangup, shutdown.clone()));
        Ok(identity)
    }

    pub(crate) fn reload(&self, files: &TlsFiles) -> Result<(), RuntimeError> {
        self.current.store(Arc::new(server_config(files)?));
        Ok(())
    }

    /// What the next handshake goes by.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

async fn watch(
    identity: Identity,
    files: TlsFiles,
    mut seen: Stamps,
    poll: Duration,
    mut hangup: tokio::signal::unix::Signal,
    shutdown: Shutdown,
) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + poll, poll);
    loop {
        let asked = tokio::select! {
            () = shutdown.begun() => return,
            _ = tick.tick() => false,
            _ = hangup.recv() => true,
        };
        // Taken before loading: a change during the load is seen at the next look.
        let stamps = Stamps::of(&files);
        if stamps == seen && !asked {
            continue;
        }
        seen = stamps;
        match identity.reload(&files) {
            Ok(()) => tracing::info!(certificate = %files.cert.display(), "certificates reloaded"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "certificates changed but do not load; the former ones stay in force"
            ),
        }
    }
}

/// No sessions are resumed: every connection shows its certificate anew, so that one that has expired or
/// whose authority was replaced does not come in on an old ticket.
fn server_config(files: &TlsFiles) -> Result<ServerConfig, RuntimeError> {
    let loaded = files.load()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(loaded.roots), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(loaded.chain, loaded.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The caller behind a verified connection: the SPIFFE URI of its leaf certificate, if it has one.
pub(crate) fn principal_of(peer: Option<&[CertificateDer<'_>]>) -> Option<Principal> {
    Principal::of_certificate(peer?.first()?)
}
