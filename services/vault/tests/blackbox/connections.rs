//! Who gets in: certificates, files and folders that are not what they should be.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cloakroom_client::{ClientError, Endpoint, channel};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_runtime::certs::Authority;
use tonic::Code;

use crate::setting::{Setting, holder, item, purchase, shown};

const DAY_MS: i64 = 24 * 3_600_000;

/// What a call with the certificate `name` in `folder` comes to: the status's code, or none where TLS fails.
async fn called(house: &Setting, folder: &Path, name: &str) -> Option<Code> {
    let mut endpoint = Endpoint::in_folder(house.running().vault_address.to_string(), folder, name);
    endpoint.ca = house.certs().join("ca.pem");
    let channel = match channel(&endpoint).await {
        Ok(channel) => channel,
        Err(ClientError::Identity { reason, .. }) => panic!("{reason}"),
        Err(_) => return None,
    };
    let request = purchase(vec![item("1", "p", "full_name", "Ann")]);
    match VaultServiceClient::new(channel).tokenize(request).await {
        Ok(_) => Some(Code::Ok),
        // A refused handshake shows itself at the first read, as a transport error.
        Err(status) if status.code() == Code::Unauthenticated => Some(Code::Unauthenticated),
        Err(status) if std::error::Error::source(&status).is_some() => None,
        Err(status) => Some(status.code()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_foreign_authority_or_expired_fails_in_tls_and_one_without_spiffe_is_unauthenticated()
 {
    let house = Setting::new().await;
    let now = SystemClock.now_unix_ms();
    assert_eq!(called(&house, &house.certs(), "orders").await, Some(Code::Ok));

    let abroad = tempfile::tempdir().unwrap();
    let foreign = Authority::open_or_create(abroad.path(), now).unwrap();
    foreign.issue(&holder("orders", Some("service/orders")), now, 1).unwrap();
    assert_eq!(called(&house, abroad.path(), "orders").await, None);

    house.authority.issue(&holder("late", Some("service/orders")), now - 3 * DAY_MS, 1).unwrap();
    assert_eq!(called(&house, &house.certs(), "late").await, None);

    house.authority.issue(&holder("nameless", None), now, 1).unwrap();
    assert_eq!(called(&house, &house.certs(), "nameless").await, Some(Code::Unauthenticated));
    assert_eq!(called(&house, &house.certs(), "orders").await, Some(Code::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_others_can_read_stops_the_start() {
    let mut house = Setting::bare().await;
    let _ = house.stop().await;
    let key = house.certs().join("vault.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let error = house.start_with(house.config()).await.unwrap_err().to_string();
    assert!(error.contains("vault.key") && error.contains("0644"), "{error}");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    house.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_file_that_others_can_read_stops_the_start_and_harms_nothing() {
    let mut house = Setting::new().await;
    let (token, _) = house.person("a@example.com").await;
    let _ = house.stop().await;
    let roots = files_below(&house.folder.path().join("roots"));
    assert!(!roots.is_empty());
    for path in &roots {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o640)).unwrap();
    }
    let error = house.start_with(house.config()).await.unwrap_err();
    assert!(chain(&error).iter().any(|error| error.contains("640")), "{:?}", chain(&error));
    for path in &roots {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    house.start().await;
    assert_eq!(shown(&house.read(&[&token]).await[0]).unwrap(), "a@example.com");
}

fn chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_folders_does_not_start_and_harms_nothing() {
    let house = Setting::new().await;
    let (token, _) = house.person("a@example.com").await;
    let mut config = house.config();
    let mut second = Setting::bare().await;
    let _ = second.stop().await;
    config.tls = second.config().tls;
    let folder = house.folder.path().join("data");
    let error = second.start_with(config).await.unwrap_err();
    let said = format!("the folder {} is in use by another process", folder.display());
    assert!(chain(&error).contains(&said), "{:?}", chain(&error));
    assert_eq!(shown(&house.read(&[&token]).await[0]).unwrap(), "a@example.com");
    house.person("b@example.com").await;
}
