//! A vault whose root lies in a device: a real swtpm stands for the TPM. What every holder must do stands in
//! `crates/keytree/src/holder/contract.rs`; here one carries a value's whole life.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cloakroom_proto::admin::v1::GetStatusRequest;
use cloakroom_proto::vault::v1::ErrorCode;
use cloakroom_vault::Ended;
use cloakroom_vault::config::{Config, HolderKind, TpmConfig};

use crate::setting::{SEE, Setting, shipped, shown, until};

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
