//! Three keyholders as processes of their own, with certificates of their own, each behind a proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::random;
use cloakroom_keytree::holder::QuorumHolder;
use cloakroom_keytree::holder::quorum::{Decline, Keyholder, Standing};
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_runtime::identity::TlsFiles;
use cloakroom_testkit::daemons::Daemon;
use cloakroom_testkit::{ports, wait};
use cloakroom_vault::keyholders;

use crate::proxy::{Proxy, Way};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Of three, one may be lost.
pub(crate) const THRESHOLD: u8 = 2;
/// Shares that each keyholder takes.
pub(crate) const SHARES_MAX: usize = 16;

pub(crate) struct Trio {
    folder: tempfile::TempDir,
    daemons: Mutex<Vec<Daemon>>,
    at: [SocketAddr; 3],
    proxies: Vec<Proxy>,
    pub(crate) lease: Duration,
}

pub(crate) fn tree() -> TreeId {
    TreeId(random::id16())
}

pub(crate) fn root() -> RootId {
    RootId(random::id16())
}

impl Trio {
    /// Three that answer, and grant nothing yet.
    pub(crate) async fn new(lease: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(&folder.path().join("certs"), SystemClock.now_unix_ms()).unwrap();
        for name in ["keyholder", "vault", "stranger"] {
            authority.issue(&Holder::local(name), SystemClock.now_unix_ms(), 2).unwrap();
        }
        let at = ports::lasting::<3>().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut proxies = vec![];
        for keyholder in at {
            proxies.push(Proxy::to(keyholder).await);
        }
        let trio = Self { folder, daemons: Mutex::default(), at, proxies, lease };
        *trio.daemons.lock().unwrap() = at.iter().enumerate().map(|(at, _)| trio.daemon(at)).collect();
        (0..3).for_each(|at| trio.start(at));
        trio.all_answer().await;
        trio
    }

    /// Three that have been up for a lease.
    pub(crate) async fn settled(lease: Duration) -> Self {
        let trio = Self::new(lease).await;
        for keyholder in trio.keyholders("vault") {
            wait::until(PATIENCE, "an ownership granted by each", async || {
                keyholder.own(tree(), 1, lease, false).await.ok()
            })
            .await;
        }
        trio
    }

    fn daemon(&self, at: usize) -> Daemon {
        let TlsFiles { cert, key, ca } = self.tls("keyholder");
        let folder = self.own_folder(at);
        std::fs::create_dir(&folder).unwrap();
        let arguments = [
            format!("listen={}", self.at[at]),
            "health.listen=127.0.0.1:0".to_owned(),
            "owners=['spiffe://cloakroom.local/vault']".to_owned(),
            format!("lease_ms={}", self.lease.as_millis()),
            format!("shares_max={SHARES_MAX}"),
            format!("tls={{ cert = {cert:?}, key = {key:?}, ca = {ca:?} }}"),
            "memory.allow_unlocked=true".to_owned(),
            "telemetry.filter=debug".to_owned(), // whatever could be logged is
        ];
        Daemon::new("cloakroom-keyholder", arguments, folder.join("output"))
    }

    /// Where a keyholder's output goes.
    pub(crate) fn own_folder(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("keyholder-{at}"))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn tls(&self, name: &str) -> TlsFiles {
        TlsFiles::named(&self.folder.path().join("certs"), name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.proxies.iter().map(|proxy| proxy.address.to_string()).collect()
    }

    /// A process's way to each of them.
    pub(crate) fn keyholders(&self, name: &str) -> Vec<Arc<dyn Keyholder>> {
        keyholders::connect(&self.names(), &self.tls(name)).unwrap()
    }

    /// A process's quorum.
    pub(crate) fn holder(&self) -> Arc<QuorumHolder> {
        self.holder_of("vault")
    }

    pub(crate) fn holder_of(&self, name: &str) -> Arc<QuorumHolder> {
        Arc::new(QuorumHolder::new(self.keyholders(name), THRESHOLD, self.lease).unwrap())
    }

    pub(crate) fn start(&self, at: usize) {
        self.daemons.lock().unwrap()[at].start();
    }

    pub(crate) fn kill9(&self, at: usize) {
        self.daemons.lock().unwrap()[at].kill9();
    }

    pub(crate) fn process_id(&self, at: usize) -> u32 {
        self.daemons.lock().unwrap()[at].process_id().unwrap()
    }

    /// Kills a keyholder, starts it again, and waits until it answers.
    pub(crate) async fn restart(&self, at: usize) {
        self.kill9(at);
        self.start(at);
        self.all_answer().await;
    }

    pub(crate) fn set(&self, at: usize, way: Way) {
        self.proxies[at].set(way);
    }

    async fn all_answer(&self) {
        let tree = tree();
        let holder = self.holder();
        wait::until(PATIENCE, "an answer of all three", async || {
            let running = self.daemons.lock().unwrap().iter_mut().all(Daemon::is_running);
            assert!(
                running,
                "{}",
                self.daemons.lock().unwrap().iter().map(Daemon::last_words).collect::<String>()
            );
            holder.survey(tree).await.iter().all(|(_, answer)| answer.is_ok()).then_some(())
        })
        .await;
    }

    /// What each keyholder says of a tree.
    pub(crate) async fn survey(&self, tree: TreeId) -> Vec<Result<Standing, Decline>> {
        self.holder().survey(tree).await.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Who has a share of a root.
    pub(crate) async fn shares(&self, tree: TreeId, root: RootId) -> Vec<bool> {
        let has = |standing: &Standing| standing.dealings.iter().any(|dealing| dealing.root == root);
        self.survey(tree).await.iter().map(|answer| answer.as_ref().is_ok_and(has)).collect()
    }
}

/// Owns a tree as a start does: a former owner's lease is waited for.
pub(crate) async fn own(holder: &QuorumHolder, tree: TreeId) -> OwnerNumber {
    let given_up = Instant::now() + PATIENCE;
    loop {
        match holder.own(tree).await {
            Ok(owner) => return owner,
            Err(HolderError::Owned(_) | HolderError::Unreachable(_)) if Instant::now() < given_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Trio {
    /// One of them under a name of its own: another way to the same process, for as long as the proxy is held.
    pub(crate) async fn another_name(&self, at: usize) -> (Proxy, Arc<dyn Keyholder>) {
        let proxy = Proxy::to(self.at[at]).await;
        let names = [proxy.address.to_string()];
        let keyholder = keyholders::connect(&names, &self.tls("vault")).unwrap().remove(0);
        (proxy, keyholder)
    }
}
