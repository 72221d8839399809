//! A whole vault whose root lies with keyholders: it stops before its lease ends, and one that slept longer than
//! its lease is refused, by the keyholders and by itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom_client::proto::admin::v1::request_erasure_request::Who;
use cloakroom_client::proto::admin::v1::{
    ApplyRegisterRequest, GetStatusRequest, MoveKeysRequest, RequestErasureRequest,
};
use cloakroom_client::proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, ReadMode, TokenizeItem, TokenizeRequest, tokenize_item,
};
use cloakroom_client::{AdminClient, Client, Endpoint};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_core::ids::TreeId;
use cloakroom_keytree::{HolderError, RootHolder};
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_testkit::daemons::Daemon;
use cloakroom_testkit::{ports, wait};

use crate::trio::{PATIENCE, THRESHOLD, Trio};

const REGISTER: &str = include_str!("../../../../examples/registers/see-tickets/register.toml");
const SEE: &str = "see-tickets";
/// After a failure of which nothing is known but that it must stop.
const FAILED_EXIT_CODE: i32 = 70;

struct Vault {
    daemon: Daemon,
    at: SocketAddr,
    admin: SocketAddr,
    certs: PathBuf,
}

fn config(folder: &Path) -> PathBuf {
    folder.join("vault.toml")
}

fn keyholders(trio: &Trio) -> String {
    let (names, lease_ms) = (trio.names(), trio.lease.as_millis());
    format!(
        "[roots]\nholder = \"keyholders\"\n[roots.keyholders]\naddresses = {names:?}\n\
         threshold = {THRESHOLD}\nlease_ms = {lease_ms}\n"
    )
}

impl Vault {
    /// Starts one over `folder`, with the trio's keyholders.
    fn start(trio: &Trio, folder: &Path) -> Self {
        Self::start_with(trio, folder, &keyholders(trio))
    }

    /// Starts one over `folder`, with these root holders.
    fn start_with(trio: &Trio, folder: &Path, roots: &str) -> Self {
        let certs = trio.folder().join("certs");
        if !certs.join("admin.pem").exists() {
            let now = SystemClock.now_unix_ms();
            let authority = Authority::open_or_create(&certs, now).unwrap();
            for (name, path) in [
                ("admin", "person/admin"),
                ("dpo", "person/dpo"),
                ("orders", "service/orders"),
                ("mail", "downstream/mail"),
            ] {
                let principal = Some(format!("spiffe://cloakroom.local/{path}"));
                authority.issue(&Holder { principal, ..Holder::local(name) }, now, 2).unwrap();
            }
        }
        let [at, admin] = ports::lasting::<2>().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let tls = trio.tls("vault");
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(config(folder), roots).unwrap();
        let arguments = [
            format!("--config={}", config(folder).display()),
            format!("listen={at}"),
            format!("admin.listen={admin}"),
            "health.listen=127.0.0.1:0".to_owned(),
            format!("data={}", folder.join("data").display()),
            format!("keys={}", folder.join("keys").display()),
            "admins=['spiffe://cloakroom.local/person/admin']".to_owned(),
            format!("tls={{ cert = {:?}, key = {:?}, ca = {:?} }}", tls.cert, tls.key, tls.ca),
            "memory.allow_unlocked=true".to_owned(),
            "store.reserve_bytes=0".to_owned(),
        ];
        let mut daemon = Daemon::new("cloakroomd", arguments, folder.join("output"));
        daemon.start();
        Self { daemon, at, admin, certs }
    }

    async fn is_ready(&mut self) {
        let admin = self.admin("admin");
        wait::until(PATIENCE, "the vault's readiness", async || {
            assert!(self.daemon.is_running(), "{}", self.daemon.last_words());
            admin.get_status(GetStatusRequest::default()).await.ok()
        })
        .await;
    }

    fn admin(&self, name: &str) -> AdminClient {
        AdminClient::lazy(&self.endpoint(self.admin, name), None).unwrap()
    }

    /// What `doctor` says of the root holder.
    async fn root_holder(&self) -> Option<String> {
        let status = self.admin("admin").get_status(GetStatusRequest::default()).await.ok()?;
        status.checks.get("root-holder").cloned()
    }

    async fn tree(&self) -> TreeId {
        let hex = self.admin("admin").get_status(GetStatusRequest::default()).await.unwrap().tree_id;
        TreeId(std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()))
    }

    fn endpoint(&self, address: SocketAddr, name: &str) -> Endpoint {
        Endpoint::in_folder(address.to_string(), &self.certs, name)
    }

    fn client(&self, name: &str) -> Client {
        Client::lazy(&self.endpoint(self.at, name), None).unwrap()
    }

    /// Who may read.
    fn mail(&self) -> Client {
        self.client("mail")
    }

    /// Stores one value; its token.
    async fn store(&self, value: &str) -> String {
        let request = ApplyRegisterRequest { toml: REGISTER.to_owned(), dry_run: false };
        self.admin("admin").apply_register(request).await.unwrap();
        let item = TokenizeItem {
            subject: Some(tokenize_item::Subject::NewSubject("a".into())),
            field: "email".into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let request = TokenizeRequest {
            controller: SEE.into(),
            activity: "ticket_purchase".into(),
            items: vec![item],
            ..Default::default()
        };
        self.client("orders").tokenize(request).await.unwrap().remove(0).result.unwrap().token
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.daemon.process_id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
    }
}

async fn read(client: &Client, token: &str) -> Result<String, String> {
    let request = DetokenizeRequest {
        controller: SEE.into(),
        purpose: "ticket_delivery".into(),
        mode: ReadMode::Plain.into(),
        items: vec![DetokenizeItem { token: token.to_owned(), ..Default::default() }],
        ..Default::default()
    };
    match client.detokenize(request).await {
        Ok(mut answers) => match answers.remove(0).result {
            Ok(value) => Ok(value.as_str().unwrap().to_owned()),
            Err(refusal) => Err(format!("{refusal:?}")),
        },
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn a_vault_that_cannot_renew_stops_before_its_lease_ends() {
    let trio = Trio::settled(Duration::from_secs(5)).await;
    let mut vault = Vault::start(&trio, &trio.folder().join("a"));
    vault.is_ready().await;
    let token = vault.store("ada@example.com").await;
    assert_eq!(read(&vault.mail(), &token).await.unwrap(), "ada@example.com");
    // One is lost: it is told, and nothing happens, over more than a lease.
    assert_eq!(vault.root_holder().await.as_deref(), Some("ok"));
    trio.kill9(2);
    let until = std::time::Instant::now() + trio.lease + trio.lease / 2;
    while std::time::Instant::now() < until {
        assert_eq!(read(&vault.mail(), &token).await.unwrap(), "ada@example.com");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(vault.daemon.is_running());
    let told = vault.root_holder().await.unwrap();
    assert!(told.contains(&trio.names()[2]) && told.contains("0 more may be lost"), "{told}");

    let tree = vault.tree().await;

    // Two are lost: it is told while the lease still runs, to `keys status` too. The last one still holds the lease
    // when the vault has ended: it ended before.
    trio.kill9(1);
    wait::until(PATIENCE, "the loss told", async || {
        let told = vault.root_holder().await?;
        told.contains("is not renewed").then_some(())
    })
    .await;
    let ended = vault.daemon.wait(PATIENCE).await;
    let standing = trio.survey(tree).await.remove(0).unwrap();
    assert_eq!(ended.code(), Some(FAILED_EXIT_CODE), "{}", vault.daemon.last_words());
    assert!(!standing.lease_left.is_zero(), "the lease had ended before its owner had: {standing:?}");
}

#[tokio::test]
async fn a_clean_stop_gives_the_tree_back_and_a_crash_is_waited_for() {
    let trio = Trio::settled(Duration::from_secs(6)).await;
    let folder = trio.folder().join("a");
    let mut vault = Vault::start(&trio, &folder);
    vault.is_ready().await;
    let token = vault.store("ada@example.com").await;
    vault.daemon.stop().await;
    let mut vault = Vault::start(&trio, &folder);
    vault.is_ready().await;
    assert!(!vault.daemon.output().contains("the tree is not free"), "{}", vault.daemon.last_words());
    vault.daemon.kill9();
    let mut vault = Vault::start(&trio, &folder);
    vault.is_ready().await;
    assert!(vault.daemon.output().contains("the tree is not free"), "{}", vault.daemon.last_words());
    assert_eq!(read(&vault.mail(), &token).await.unwrap(), "ada@example.com");
}

#[tokio::test]
async fn a_vault_that_slept_through_its_lease_answers_nothing_when_it_wakes() {
    let trio = Trio::settled(Duration::from_secs(3)).await;
    let folder = trio.folder().join("a");
    let mut first = Vault::start(&trio, &folder);
    first.is_ready().await;
    let token = first.store("ada@example.com").await;
    let asking = first.mail();
    read(&asking, &token).await.unwrap();
    first.signal(rustix::process::Signal::STOP);

    // A copy of its folders, started beside it, takes its place once the lease has ended.
    let copy = trio.folder().join("b");
    copy_folder(&folder, &copy);
    let mut second = Vault::start(&trio, &copy);
    second.is_ready().await;
    assert_eq!(read(&second.mail(), &token).await.unwrap(), "ada@example.com");

    // A read that waits for the first when it wakes: the second may have erased the person meanwhile.
    let waiting = tokio::spawn({
        let (asking, token) = (asking.clone(), token.clone());
        async move { read(&asking, &token).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await; // until it is in the first one's socket
    first.signal(rustix::process::Signal::CONT);
    let answer = waiting.await.unwrap();
    assert!(answer.is_err(), "{answer:?}");
    let ended = first.daemon.wait(PATIENCE).await;
    assert_eq!(ended.code(), Some(FAILED_EXIT_CODE), "{}", first.daemon.last_words());
    assert_eq!(read(&second.mail(), &token).await.unwrap(), "ada@example.com", "and harmed nothing");
}

#[tokio::test]
async fn a_running_vault_moves_its_root_to_keyholders_and_renews_there() {
    let trio = Trio::settled(Duration::from_secs(3)).await;
    let folder = trio.folder().join("a");
    let roots = folder.join("roots");
    let file = |table: &str| format!("[{table}]\nholder = \"file\"\nfolder = {roots:?}\n");
    let mut vault = Vault::start_with(&trio, &folder, &file("roots"));
    vault.is_ready().await;
    let token = vault.store("ada@example.com").await;
    let tree = vault.tree().await;

    std::fs::write(config(&folder), keyholders(&trio) + &file("former_roots")).unwrap();
    let moved = vault.admin("admin").move_keys(MoveKeysRequest {}).await.unwrap().keys.unwrap();
    assert_eq!((moved.holder.as_str(), moved.roots_held, moved.left.len()), ("keyholders", 1, 0));
    assert_eq!(moved.lease_ms, 3_000);
    let files = std::fs::read_dir(roots.join(tree.to_string())).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with("root-")), "{names:?}");
    // It renews the lease that it had none of before: it serves on, and only it.
    let until = std::time::Instant::now() + trio.lease * 2;
    while std::time::Instant::now() < until {
        assert_eq!(read(&vault.mail(), &token).await.unwrap(), "ada@example.com");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(trio.holder().own(tree).await, Err(HolderError::Owned(_))));

    let request = RequestErasureRequest {
        controller: SEE.into(),
        who: Some(Who::Token(token.clone())),
        actor: "dsr-1".into(),
        reason: "case-1".into(),
        legal_basis: 2,
        ..Default::default()
    };
    let erasure = vault.admin("dpo").request_erasure(request).await.unwrap().erasure.unwrap();
    assert_eq!(erasure.destroy_class, "overwritten+quorum", "older copies of the keys were under the file");
    let kept = vault.store("bob@example.com").await;
    vault.daemon.kill9();
    let mut vault = Vault::start_with(&trio, &folder, &keyholders(&trio));
    vault.is_ready().await;
    assert_eq!(read(&vault.mail(), &kept).await.unwrap(), "bob@example.com");
    assert!(read(&vault.mail(), &token).await.unwrap_err().contains("Erased"));
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else if entry.file_name() != "output" {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
