//! A vault whose root lies in a device: a real swtpm stands for the TPM, SoftHSM2 for the token. What every holder must do stands in
//! `crates/keytree/src/holder/contract.rs`; here one carries a value's whole life.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cloakroom_client::{Endpoint, channel};
use cloakroom_proto::admin::v1::admin_service_client::AdminServiceClient;
use cloakroom_proto::admin::v1::{ApplyRegisterRequest, GetCertificateRequest, GetStatusRequest};
use cloakroom_proto::vault::v1::{ErrorCode, ReadMode, TokenizeRequest};
use cloakroom_runtime::config::dump;
use cloakroom_vault::Ended;
use cloakroom_vault::config::{Config, HolderKind, Pkcs11Config, TpmConfig};
use data_encoding::BASE64URL_NOPAD;

use crate::process::{Daemon, configured, daemon, shop};
use crate::setting::{
    ALONE, ALONE_REGISTER, SEE, Setting, erasing, item, made, purchase, reading, shipped, shown, until,
};

struct Swtpm {
    child: Child,
    port: u16,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The control channel is looked for one port above.
fn two_ports() -> u16 {
    loop {
        let below = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = below.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

async fn swtpm(folder: &Path) -> Swtpm {
    std::fs::create_dir(folder).unwrap();
    let port = two_ports();
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--tpmstate", &format!("dir={}", folder.display())])
        .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
        .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm; scripts/setup.sh test installs it");
    let tpm = Swtpm { child, port };
    until(async || TcpListener::bind(("127.0.0.1", port)).is_err().then_some(())).await;
    tpm
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_in_a_tpm_carries_values_through_restarts_and_erasures() {
    let mut house = Setting::bare().await;
    assert_eq!(house.stop().await, Ended::Drained);
    let tpm = swtpm(&house.folder.path().join("swtpm")).await;
    let password = house.folder.path().join("password");
    std::fs::write(&password, "indexes").unwrap();
    std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let mut config = Config {
        data: house.folder.path().join("tpm-data"),
        keys: house.folder.path().join("tpm-keys"),
        ..house.config()
    };
    config.roots.holder = HolderKind::Tpm;
    config.roots.tpm = TpmConfig {
        tcti: format!("swtpm:host=127.0.0.1,port={}", tpm.port),
        state: house.folder.path().join("tpm-state"),
        index_auth_file: password,
        ..TpmConfig::default()
    };

    house.start_with(config.clone()).await.unwrap();
    house.apply(&shipped(SEE)).await;
    let (kept, _) = house.person("kept@example.com").await;
    let (gone, subject) = house.person("gone@example.com").await;
    house.erase(&subject).await;
    assert_eq!(house.stop().await, Ended::Drained);

    house.start_with(config).await.unwrap();
    let read: Vec<_> = house.read(&[&kept, &gone]).await.iter().map(shown).collect();
    assert_eq!(read, [Ok("kept@example.com".to_owned()), Err(ErrorCode::Erased)]);
    let status = house.admin("auditor").await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.root_holder.as_str(), status.destroy_class.as_str()), ("tpm", "overwritten"));
    assert_eq!(house.stop().await, Ended::Drained);
    drop(tpm);
}

/// A SoftHSM2 token in `folder`, its configuration and its PIN beside it.
fn softhsm(folder: &Path) -> Pkcs11Config {
    std::fs::create_dir_all(folder.join("tokens")).unwrap();
    let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", folder.join("tokens").display());
    std::fs::write(folder.join("softhsm2.conf"), conf).unwrap();
    let pin_file = folder.join("pin");
    std::fs::write(&pin_file, "4711").unwrap();
    std::fs::set_permissions(&pin_file, Permissions::from_mode(0o600)).unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .args(["--init-token", "--free", "--label", "cloakroom", "--pin", "4711", "--so-pin", "12345678"])
        .output()
        .expect("softhsm2-util; scripts/setup.sh test installs it");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let known = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"].map(PathBuf::from);
    let module = known.into_iter().find(|path| path.exists()).expect("SoftHSM2's library");
    // Each start waits for a lease; long enough that a busy machine renews in time.
    Pkcs11Config { module, pin_file, lease_ms: 3_000, ..Pkcs11Config::default() }
}

/// The daemon itself, from its configuration to a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_in_a_token_carries_values_from_the_configuration_to_the_certificate() {
    let (setting, file) = configured().await;
    let folder = setting.folder.path().join("token");
    let mut config = Config { data: folder.join("data"), keys: folder.join("keys"), ..setting.config() };
    config.telemetry.format = cloakroom_runtime::telemetry::LogFormat::Json;
    config.roots.holder = HolderKind::Pkcs11;
    config.roots.pkcs11 = softhsm(&folder);
    std::fs::write(&file, dump(&config).unwrap()).unwrap();
    let start = || {
        let mut command = daemon(&file);
        command.env("SOFTHSM2_CONF", folder.join("softhsm2.conf"));
        Daemon::start(command)
    };

    let running = start();
    let admin = async |running: &Daemon, who: &str| {
        let endpoint = Endpoint::in_folder(&running.admin, &setting.certs(), who);
        AdminServiceClient::new(channel(&endpoint).await.unwrap())
    };
    let mut administrator = admin(&running, "admin").await;
    for toml in [shipped(SEE), ALONE_REGISTER.to_owned()] {
        administrator.apply_register(ApplyRegisterRequest { toml, dry_run: false }).await.unwrap();
    }
    let mut orders = shop(&setting, &running, "orders").await;
    let kept = orders.tokenize(purchase(vec![item("1", "p", "full_name", "Ann")])).await.unwrap();
    let kept = made(&kept.into_inner().items[0]).0;
    let request = TokenizeRequest {
        controller: ALONE.into(),
        activity: "sales".into(),
        ..purchase(vec![item("1", "p", "email", "b@example.com")])
    };
    let (_, subject) = made(&orders.tokenize(request).await.unwrap().into_inner().items[0]);
    let mut dpo = admin(&running, "dpo").await;
    let erased = dpo.request_erasure(erasing(ALONE, &subject)).await.unwrap().into_inner();
    let erasure_id = erased.erasure.unwrap().erasure_id;
    let certificate = until(async || {
        let request = GetCertificateRequest { erasure_id: erasure_id.clone() };
        dpo.get_certificate(request).await.ok().map(|found| found.into_inner().certificate)
    })
    .await;
    let claims = BASE64URL_NOPAD.decode(certificate.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    // A token made of software claims no more than the file that it is.
    assert!(claims.to_string().contains(r#""destroy_class":"overwritten""#), "{claims}");
    drop(running); // killed: its lease is waited for

    let again = start();
    let request = reading("ticket_delivery", ReadMode::Plain, &[&kept]);
    let read = shop(&setting, &again, "mail").await.detokenize(request).await.unwrap().into_inner();
    assert_eq!(shown(&read.items[0]).as_deref(), Ok("Ann"));
    let status = admin(&again, "auditor").await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.root_holder.as_str(), status.checks["root-holder"].as_str()), ("pkcs11", "ok"));
}
