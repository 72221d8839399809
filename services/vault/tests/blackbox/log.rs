//! The log of a real daemon, checked with nothing of ours: the packages that check Go's own checksum database.

use std::process::Command;

use cloakroom_client::{Endpoint, channel};
use cloakroom_proto::admin::v1::admin_service_client::AdminServiceClient;
use cloakroom_proto::admin::v1::{
    ApplyRegisterRequest, GetCertificateRequest, GetLogCheckpointRequest, GetLogTileRequest, PruneLogRequest,
};
use cloakroom_proto::vault::v1::TokenizeRequest;
use tonic::Code;
use tonic::transport::Channel;

use crate::process::{Daemon, configured, daemon, shop};
use crate::setting::{ALONE, ALONE_REGISTER, Setting, erasing, item, made, until};
use crate::watching::figure;

async fn admin(setting: &Setting, daemon: &Daemon, who: &str) -> AdminServiceClient<Channel> {
    let endpoint = Endpoint::in_folder(&daemon.admin, &setting.certs(), who);
    AdminServiceClient::new(channel(&endpoint).await.unwrap())
}

/// Enough people that the tree has a second level of tiles; the subject of one.
async fn people(setting: &Setting, daemon: &Daemon) -> String {
    let items = (0..400).map(|one| item("1", &one.to_string(), "email", format!("p{one}@example.com")));
    let request = TokenizeRequest {
        controller: ALONE.into(),
        activity: "sales".into(),
        idempotency_key: String::new(),
        items: items.collect(),
    };
    let answers = shop(setting, daemon, "orders").await.tokenize(request).await.unwrap().into_inner();
    made(&answers.items[0]).1
}

#[tokio::test(flavor = "multi_thread")]
async fn go_s_checksum_database_packages_verify_the_log_and_a_certificate() {
    let Some(verifier) = std::env::var_os("TEST_LOG_VERIFIER") else {
        assert!(std::env::var_os("CI").is_none(), "TEST_LOG_VERIFIER is not set: scripts/test.sh sets it");
        eprintln!(
            "skipped: `scripts/setup.sh test` builds the verifier, `scripts/test.sh` (make test) names it"
        );
        return;
    };
    let (setting, file) = configured().await;
    let daemon = Daemon::start(daemon(&file));
    let mut officer = admin(&setting, &daemon, "admin").await;
    let register = ApplyRegisterRequest { toml: ALONE_REGISTER.to_owned(), dry_run: false };
    officer.apply_register(register).await.unwrap();
    let older = officer.get_log_checkpoint(GetLogCheckpointRequest {}).await.unwrap().into_inner();
    let subject = people(&setting, &daemon).await;
    let erased = officer.request_erasure(erasing(ALONE, &subject)).await.unwrap().into_inner();
    let erasure_id = erased.erasure.unwrap().erasure_id;
    let certificate = until(async || {
        let request = GetCertificateRequest { erasure_id: erasure_id.clone() };
        officer.get_certificate(request).await.ok().map(|found| found.into_inner().certificate)
    })
    .await;
    let folder = setting.folder.path();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    let mut command = Command::new(verifier);
    command
        .args(["-address", &daemon.admin])
        .args(["-certs".as_ref(), setting.certs().as_os_str()])
        .args(["-old".as_ref(), write("older.checkpoint", &older.checkpoint).as_os_str()])
        .args(["-certificate".as_ref(), write("certificate.jws", &certificate).as_os_str()]);
    let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.ends_with("all held\n"), "{out}\n{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_has_a_role_sees_hashes_and_only_administrators_prune() {
    let house = Setting::new().await;
    let tile = |level, width| GetLogTileRequest { level, index: 0, width };
    let mut auditor = house.admin("auditor").await;
    let told = auditor.get_log_checkpoint(GetLogCheckpointRequest {}).await.unwrap().into_inner();
    assert!(told.checkpoint.starts_with("cloakroom/") && told.verifier_keys.len() == 1, "{told:?}");
    assert_eq!(auditor.get_log_tile(tile(0, 2)).await.unwrap().into_inner().hashes.len(), 64);
    for (wrong, code) in [
        (tile(8, 1), Code::InvalidArgument),
        (tile(0, 257), Code::InvalidArgument),
        (tile(7, 1), Code::NotFound),
    ] {
        assert_eq!(auditor.get_log_tile(wrong).await.unwrap_err().code(), code);
    }
    assert_eq!(auditor.prune_log(PruneLogRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    let mut shop = house.admin("orders").await;
    let refused = shop.get_log_checkpoint(GetLogCheckpointRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(shop.get_log_tile(tile(0, 1)).await.unwrap_err().code(), Code::PermissionDenied);
    let mut officer = house.admin("admin").await;
    let pruned = officer.prune_log(PruneLogRequest {}).await.unwrap().into_inner();
    assert_eq!((pruned.segments, pruned.values), (0, 0), "one segment, still growing");
    for counted in ["cloakroom_log_pruned_total", "cloakroom_log_pruned_bytes_total"] {
        assert_eq!(until(async || figure(&house, counted).await).await, 0.0, "{counted}");
    }
    until(async || {
        let (all, proved) = ("cloakroom_events", "cloakroom_log_tree_events");
        let (all, proved) = (figure(&house, all).await?, figure(&house, proved).await?);
        (all > 0.0 && all == proved).then_some(())
    })
    .await;
}
