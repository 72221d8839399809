//! A daemon whose root an operator replaces and moves: from a folder into another that a real OpenBao seals.

use std::path::{Path, PathBuf};

use cloakroom_client::{Endpoint, channel};
use cloakroom_proto::admin::v1::admin_service_client::AdminServiceClient;
use cloakroom_proto::admin::v1::{
    ApplyRegisterRequest, GetKeysRequest, Keys, MoveKeysRequest, RotateKeysRequest,
};
use cloakroom_proto::vault::v1::{ErrorCode, ReadMode};
use cloakroom_runtime::config::dump;
use cloakroom_runtime::telemetry::LogFormat;
use cloakroom_testkit::kms::Bao;
use cloakroom_vault::config::{Config, KmsConfig, RootsConfig};
use tonic::Code;
use tonic::transport::Channel;

use crate::process::{Daemon, configured, daemon, shop};
use crate::setting::{SEE, Setting, erasing, item, made, purchase, reading, shipped, shown};

struct Vault {
    setting: Setting,
    file: PathBuf,
    config: Config,
}

impl Vault {
    async fn new() -> Self {
        let (setting, file) = configured().await;
        let mut config = setting.config();
        config.telemetry.format = LogFormat::Json;
        Self { setting, file, config }
    }

    fn write(&self, roots: &RootsConfig, former: Option<&RootsConfig>) {
        let config = Config { roots: roots.clone(), former_roots: former.cloned(), ..self.config.clone() };
        std::fs::write(&self.file, dump(&config).unwrap()).unwrap();
    }

    async fn admin(&self, daemon: &Daemon, who: &str) -> AdminServiceClient<Channel> {
        let endpoint = Endpoint::in_folder(&daemon.admin, &self.setting.certs(), who);
        AdminServiceClient::new(channel(&endpoint).await.unwrap())
    }

    async fn keys(&self, daemon: &Daemon) -> Keys {
        let answer = self.admin(daemon, "admin").await.get_keys(GetKeysRequest {}).await;
        answer.unwrap().into_inner().keys.unwrap()
    }

    async fn person(&self, daemon: &Daemon, name: &str) -> (String, String) {
        let request = purchase(vec![item("1", "p", "full_name", name)]);
        let mut shop = shop(&self.setting, daemon, "orders").await;
        made(&shop.tokenize(request).await.unwrap().into_inner().items[0])
    }

    async fn read(&self, daemon: &Daemon, token: &str) -> Result<String, ErrorCode> {
        let request = reading("ticket_delivery", ReadMode::Plain, &[token]);
        let mut shop = shop(&self.setting, daemon, "mail").await;
        shown(&shop.detokenize(request).await.unwrap().into_inner().items[0])
    }
}

fn roots_in(folder: &Path) -> Vec<Vec<u8>> {
    let trees = std::fs::read_dir(folder).into_iter().flatten();
    trees
        .flat_map(|tree| std::fs::read_dir(tree.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("root-"))
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vault_moves_its_root_under_a_kms_and_lives_on_there() {
    let (vault, bao) = (Vault::new().await, Bao::start().await);
    let at = |name: &str| vault.setting.folder.path().join(name);
    std::fs::write(at("token"), bao.token()).unwrap();
    let old = vault.config.roots.clone();
    let kms = KmsConfig {
        address: bao.address().to_owned(),
        ca: bao.ca(),
        token_file: at("token"),
        ..KmsConfig::default()
    };
    let new = RootsConfig { folder: at("sealed"), kms: Some(kms), ..RootsConfig::default() };

    let running = Daemon::start(daemon(&vault.file));
    let mut admin = vault.admin(&running, "admin").await;
    let register = ApplyRegisterRequest { toml: shipped(SEE), dry_run: false };
    admin.apply_register(register).await.unwrap();
    let (kept, _) = vault.person(&running, "Ann").await;
    let (gone, subject) = vault.person(&running, "Bob").await;

    let before = vault.keys(&running).await;
    assert_eq!((before.roots_held, before.destroy_class.as_str()), (1, "overwritten"));
    assert_eq!(before.place, format!("file {}", old.folder.display()));
    let root = roots_in(&old.folder);
    let rotated = admin.rotate_keys(RotateKeysRequest {}).await.unwrap().into_inner().keys.unwrap();
    assert_eq!(rotated.epoch, before.epoch + 1);
    assert_ne!(roots_in(&old.folder), root);
    for who in ["dpo", "orders"] {
        let refused = vault.admin(&running, who).await.rotate_keys(RotateKeysRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }

    // The configuration must be able to finish a move that a crash cuts short.
    let mut refused = async |word: &str| {
        let refused = admin.move_keys(MoveKeysRequest {}).await.unwrap_err();
        assert!(refused.message().contains(word), "{refused:?}");
    };
    refused("names the present root holder").await;
    vault.write(&new, None);
    refused("[former_roots] is not the present root holder").await;
    let wrong = KmsConfig { key: "nonesuch".into(), ..new.kms.clone().unwrap() };
    vault.write(&RootsConfig { kms: Some(wrong), ..new.clone() }, Some(&old));
    refused("nonesuch").await;
    assert_eq!(vault.keys(&running).await.place, before.place);

    vault.write(&new, Some(&old));
    let moved = admin.move_keys(MoveKeysRequest {}).await.unwrap().into_inner().keys.unwrap();
    assert_eq!(moved.holder, "file sealed by a KMS");
    assert_eq!((moved.roots_held, moved.left.len(), moved.trouble.as_str()), (1, 0, ""));
    assert!(roots_in(&old.folder).is_empty());
    assert!(roots_in(&at("sealed"))[0][8..].starts_with(b"vault:v1:"));
    assert_eq!(vault.read(&running, &kept).await.as_deref(), Ok("Ann"));
    let mut dpo = vault.admin(&running, "dpo").await;
    let erased = dpo.request_erasure(erasing(SEE, &subject)).await.unwrap().into_inner();
    assert_eq!(erased.erasure.unwrap().destroy_class, "overwritten");
    drop(running); // killed

    let again = Daemon::start(daemon(&vault.file));
    assert_eq!(vault.read(&again, &kept).await.as_deref(), Ok("Ann"));
    assert_eq!(vault.read(&again, &gone).await, Err(ErrorCode::Erased));
    drop(again);
    // Who starts it as before is told where the root is, and changes nothing.
    vault.write(&old, None);
    let shut = Daemon::start(daemon(&vault.file));
    let told = vault.admin(&shut, "admin").await.get_keys(GetKeysRequest {}).await.unwrap_err();
    assert!(told.message().contains(at("sealed").to_str().unwrap()), "{told:?}");
    drop(shut);
    vault.write(&new, None);
    let last = Daemon::start(daemon(&vault.file));
    assert_eq!(vault.read(&last, &kept).await.as_deref(), Ok("Ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_both_holders_configured_is_a_move_too() {
    let vault = Vault::new().await;
    let old = vault.config.roots.clone();
    let new = RootsConfig { folder: vault.setting.folder.path().join("new"), ..old.clone() };
    let first = Daemon::start(daemon(&vault.file));
    let register = ApplyRegisterRequest { toml: shipped(SEE), dry_run: false };
    vault.admin(&first, "admin").await.apply_register(register).await.unwrap();
    let (token, _) = vault.person(&first, "Ann").await;
    drop(first);
    vault.write(&new, Some(&old));
    let moved = Daemon::start(daemon(&vault.file));
    assert_eq!(vault.read(&moved, &token).await.as_deref(), Ok("Ann"));
    assert_eq!((roots_in(&old.folder).len(), roots_in(&new.folder).len()), (0, 1));
    assert!(vault.keys(&moved).await.left.is_empty());
}
