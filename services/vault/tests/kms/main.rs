//! Roots sealed by a KMS, against a real OpenBao.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::{Key, random};
use cloakroom_keytree::holder::contract::{Bench, Trouble};
use cloakroom_keytree::{FileHolder, HolderError, OwnerNumber, RootHolder};
use cloakroom_runtime::identity::TlsFiles;
use cloakroom_store::Answer;
use cloakroom_testkit::kms::Bao;
use cloakroom_vault::VaultError;
use cloakroom_vault::config::{KmsConfig, RootsConfig};
use cloakroom_vault::kms::Transit;
use tempfile::TempDir;

/// A file holder whose roots an OpenBao of its own seals.
struct Sealed {
    bao: Arc<Bao>,
    folder: TempDir,
    slow: Arc<AtomicBool>,
}

impl Sealed {
    async fn new() -> Self {
        let bao = Arc::new(Bao::start().await);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), bao.token()).unwrap();
        Self { bao, folder, slow: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kms(&self) -> KmsConfig {
        KmsConfig {
            address: self.bao.address().to_owned(),
            ca: self.bao.ca(),
            token_file: self.path("token"),
            ..KmsConfig::default()
        }
    }

    fn config(&self) -> RootsConfig {
        RootsConfig { folder: self.path("roots"), kms: Some(self.kms()), ..RootsConfig::default() }
    }

    async fn holder(&self) -> Arc<dyn RootHolder> {
        self.config().open(&TlsFiles::named(&self.path("certs"), "vault")).await.unwrap()
    }

    fn root_file(&self, tree: TreeId, root: RootId) -> PathBuf {
        self.path("roots").join(tree.to_string()).join(format!("root-{root}"))
    }
}

fn holder_error(error: VaultError) -> HolderError {
    match error {
        VaultError::Holder(error) => error,
        other => panic!("{other}"),
    }
}

impl Bench for Sealed {
    fn open(&self) -> Answer<'_, Result<Arc<dyn RootHolder>, HolderError>> {
        Answer::later(async {
            self.config().open(&TlsFiles::named(&self.path("certs"), "vault")).await.map_err(holder_error)
        })
    }

    fn pass(&self, time: Duration) -> Answer<'_, ()> {
        Answer::later(tokio::time::sleep(time))
    }

    fn trouble(&self, trouble: Trouble) -> Answer<'_, Result<(), &'static str>> {
        Answer::now(match trouble {
            Trouble::Slow => {
                self.slow.store(true, Ordering::SeqCst);
                let (bao, slow) = (Arc::clone(&self.bao), Arc::clone(&self.slow));
                // Stands still for most of the time.
                tokio::spawn(async move {
                    while slow.load(Ordering::SeqCst) {
                        bao.pause();
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        bao.wake();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                });
                Ok(())
            }
            Trouble::Refuses => {
                fs::write(self.path("token"), "not a token").unwrap();
                Ok(())
            }
            Trouble::Unreachable => Err("listing and destroying need no KMS; what does is tested below"),
            Trouble::Full => Err("the disk is the file holder's"),
        })
    }

    fn relieve(&self, trouble: Trouble) -> Answer<'_, ()> {
        self.slow.store(false, Ordering::SeqCst);
        if trouble == Trouble::Refuses {
            fs::write(self.path("token"), self.bao.token()).unwrap();
        }
        Answer::now(())
    }
}

mod holds {
    cloakroom_keytree::holder_contract!(super::Sealed::new().await);
}

async fn made(sealed: &Sealed) -> (Arc<dyn RootHolder>, TreeId, OwnerNumber, RootId) {
    let holder = sealed.holder().await;
    let (tree, root) = (TreeId(random::id16()), RootId(random::id16()));
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, root).await.unwrap();
    (holder, tree, owner, root)
}

#[tokio::test]
async fn what_lies_on_the_disk_opens_nothing_without_the_kms() {
    let sealed = Sealed::new().await;
    let (holder, tree, _, root) = made(&sealed).await;
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    let file = sealed.root_file(tree, root);
    let bytes = fs::read(&file).unwrap();
    assert!(bytes[8..].starts_with(b"vault:v1:"));
    // Neither as they lie there nor decoded do any 32 of them open what the root wrapped.
    let decoded = data_encoding::BASE64.decode(&bytes[17..]).unwrap();
    let plain = FileHolder::open(&sealed.path("thief")).unwrap();
    plain.own(tree).await.unwrap();
    let stolen = sealed.path("thief").join(tree.to_string()).join(format!("root-{root}"));
    for window in bytes.windows(32).chain(decoded.windows(32)) {
        fs::write(&stolen, [&bytes[..8], window].concat()).unwrap();
        fs::set_permissions(&stolen, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(plain.unwrap(tree, root, &anchor).await, Err(HolderError::DoesNotOpen(_))));
    }
    // The file itself says what it is.
    fs::copy(&file, &stolen).unwrap();
    let refused = plain.unwrap(tree, root, &anchor).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("sealed by a KMS"), "{refused}");
    holder.unwrap(tree, root, &anchor).await.unwrap();
}

#[tokio::test]
async fn a_sealed_root_is_bound_to_its_tree_and_id() {
    let sealed = Sealed::new().await;
    let (holder, tree, owner, root) = made(&sealed).await;
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    let other = RootId(random::id16());
    fs::copy(sealed.root_file(tree, root), sealed.root_file(tree, other)).unwrap();
    let moved = holder.unwrap(tree, other, &anchor).await.map(drop).unwrap_err();
    assert!(moved.to_string().contains("authentication failed"), "{moved}");
    // A flipped bit is no root either.
    let mut bytes = fs::read(sealed.root_file(tree, root)).unwrap();
    let last = bytes.len() - 8;
    bytes[last] = if bytes[last] == b'A' { b'B' } else { b'A' };
    fs::write(sealed.root_file(tree, root), &bytes).unwrap();
    assert!(holder.unwrap(tree, root, &anchor).await.is_err());
    holder.destroy(tree, owner, root).await.unwrap();
}

#[tokio::test]
async fn a_root_that_lay_there_unsealed_is_read_and_destroying_overwrites_all_of_a_sealed_one() {
    let sealed = Sealed::new().await;
    let plain = FileHolder::open(&sealed.path("roots")).unwrap();
    let (tree, root, next) = (TreeId(random::id16()), RootId(random::id16()), RootId(random::id16()));
    let owner = plain.own(tree).await.unwrap();
    plain.create(tree, owner, root).await.unwrap();
    let anchor = plain.wrap(tree, root, Key::random().borrow()).await.unwrap();
    drop(plain);
    let holder = sealed.holder().await;
    let owner = holder.own(tree).await.unwrap();
    holder.unwrap(tree, root, &anchor).await.unwrap();
    holder.create(tree, owner, next).await.unwrap();
    let file = sealed.root_file(tree, next);
    let link = file.with_extension("link");
    fs::hard_link(&file, &link).unwrap();
    let before = fs::read(&file).unwrap();
    // Destroying asks nobody.
    sealed.bao.pause();
    holder.destroy(tree, owner, next).await.unwrap();
    sealed.bao.wake();
    let after = fs::read(&link).unwrap();
    let kept = before[8..].windows(6).filter(|bytes| after.windows(6).any(|left| left == *bytes)).count();
    assert!(!file.exists() && kept == 0, "{kept}");
}

#[tokio::test]
async fn a_kms_that_is_away_refuses_or_lost_its_key_is_told_apart() {
    let sealed = Sealed::new().await;
    let (holder, tree, owner, root) = made(&sealed).await;
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    let hasty = Transit::new(KmsConfig { timeout_ms: 200, ..sealed.kms() }).unwrap();
    sealed.bao.pause();
    assert!(matches!(hasty.check().await, Err(HolderError::Unreachable(_))));
    sealed.bao.wake();
    let nobody = KmsConfig { address: format!("http://127.0.0.1:{}", free_port()), ..sealed.kms() };
    let refused = Transit::new(nobody).unwrap().check().await.unwrap_err();
    assert!(matches!(&refused, HolderError::Unreachable(text) if text.contains("refused")), "{refused}");

    sealed.bao.run(&["operator", "seal"]);
    assert!(matches!(holder.unwrap(tree, root, &anchor).await, Err(HolderError::Unreachable(_))));
    assert_eq!(holder.list(tree).await.unwrap().len(), 1);
    holder.destroy(tree, owner, root).await.unwrap();
}

#[tokio::test]
async fn a_key_that_was_deleted_is_named() {
    let sealed = Sealed::new().await;
    let (holder, tree, _, root) = made(&sealed).await;
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    sealed.bao.run(&["write", "transit/keys/cloakroom/config", "deletion_allowed=true"]);
    sealed.bao.run(&["delete", "transit/keys/cloakroom"]);
    let gone = holder.unwrap(tree, root, &anchor).await.map(drop).unwrap_err();
    assert!(matches!(&gone, HolderError::Refused(text) if text.contains("key cloakroom")), "{gone}");
    assert!(gone.to_string().contains("encryption key not found"), "{gone}");
}

#[tokio::test]
async fn it_is_known_by_a_token_that_changes_an_app_role_or_a_certificate() {
    let sealed = Sealed::new().await;
    let bao = &sealed.bao;
    let by_token = Transit::new(sealed.kms()).unwrap();
    by_token.check().await.unwrap();
    let first = fs::read_to_string(sealed.path("token")).unwrap();
    bao.run(&["token", "revoke", &first]);
    assert!(matches!(by_token.check().await, Err(HolderError::Refused(_))));
    fs::write(sealed.path("token"), bao.token()).unwrap();
    by_token.check().await.unwrap();

    bao.run(&["auth", "enable", "approle"]);
    bao.run(&["write", "auth/approle/role/vault", "token_policies=sealer", "token_num_uses=3"]);
    let role_id = bao.run(&["read", "-field=role_id", "auth/approle/role/vault/role-id"]);
    let secret_id = bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/vault/secret-id"]);
    fs::write(sealed.path("secret-id"), secret_id).unwrap();
    let approle = KmsConfig {
        token_file: PathBuf::new(),
        role_id,
        secret_id_file: sealed.path("secret-id"),
        ..sealed.kms()
    };
    let by_role = Transit::new(approle).unwrap();
    // A login is good for three uses: it logs in again.
    for _ in 0..4 {
        by_role.check().await.unwrap();
    }

    let authority = authority(&sealed.path("certs"));
    bao.run(&["auth", "enable", "cert"]);
    let ca = format!("certificate=@{}", sealed.path("certs").join("ca.pem").display());
    bao.run(&["write", "auth/cert/certs/vault", "token_policies=sealer", &ca]);
    let cert = KmsConfig {
        token_file: PathBuf::new(),
        cert: authority.join("vault.pem"),
        cert_key: authority.join("vault.key"),
        ..sealed.kms()
    };
    Transit::new(cert).unwrap().check().await.unwrap();
}

fn authority(folder: &Path) -> PathBuf {
    use cloakroom_core::clock::{Clock, SystemClock};
    use cloakroom_runtime::certs::{Authority, Holder};
    let now = SystemClock.now_unix_ms();
    Authority::open_or_create(folder, now).unwrap().issue(&Holder::local("vault"), now, 1).unwrap();
    folder.to_owned()
}

#[tokio::test]
async fn an_authority_that_did_not_sign_the_kms_is_refused() {
    let sealed = Sealed::new().await;
    let ca = authority(&sealed.path("certs")).join("ca.pem");
    let stranger = Transit::new(KmsConfig { ca, ..sealed.kms() }).unwrap();
    let error = stranger.check().await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}

#[test]
fn what_cannot_be_meant_is_an_error() {
    let good = KmsConfig {
        address: "https://bao.example:8200".into(),
        ca: "ca.pem".into(),
        token_file: "token".into(),
        ..KmsConfig::default()
    };
    assert!(Transit::new(good.clone()).is_ok());
    let local = KmsConfig { address: "http://[::1]:8200".into(), ca: PathBuf::new(), ..good.clone() };
    assert!(Transit::new(local).is_ok());
    for wrong in [
        KmsConfig { address: String::new(), ..good.clone() },
        KmsConfig { address: "http://bao.example:8200".into(), ..good.clone() },
        KmsConfig { address: "https://bao.example/v1".into(), ..good.clone() },
        KmsConfig { address: "ftp://127.0.0.1".into(), ..good.clone() },
        KmsConfig { ca: PathBuf::new(), ..good.clone() },
        KmsConfig { token_file: PathBuf::new(), ..good.clone() },
        KmsConfig { role_id: "r".into(), ..good.clone() },
        KmsConfig { role_id: "r".into(), secret_id_file: "s".into(), ..good.clone() },
        KmsConfig { cert: "c".into(), ..good.clone() },
    ] {
        assert!(matches!(Transit::new(wrong.clone()), Err(VaultError::Config { .. })), "{wrong:?}");
    }
}

fn free_port() -> u16 {
    cloakroom_testkit::ports::free()
}
