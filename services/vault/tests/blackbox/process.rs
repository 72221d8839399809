//! The program itself: its command line, its signals, its exit codes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cloakroom_client::{Endpoint, channel};
use cloakroom_proto::admin::v1::ApplyRegisterRequest;
use cloakroom_proto::admin::v1::admin_service_client::AdminServiceClient;
use cloakroom_proto::vault::v1::ReadMode;
use cloakroom_proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_runtime::config::dump;
use rustix::process::{Pid, Signal, kill_process};

use crate::setting::{SEE, Setting, item, made, purchase, reading, shipped, shown};

const DAEMON: &str = env!("CARGO_BIN_EXE_cloakroomd");

/// A daemon of its own process, ended with the test.
pub(crate) struct Daemon {
    child: Child,
    vault: String,
    pub(crate) admin: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts `command` and waits until it says where it listens.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let listening = loop {
            let Some(line) = lines.next() else { panic!("ended before it listened: {said:#?}") };
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["message"] == "listening" {
                break line;
            }
            said.push(line);
        };
        std::thread::spawn(move || lines.for_each(drop)); // so that it never waits for a reader
        let address = |key: &str| listening[key].as_str().unwrap().to_owned();
        Self { vault: address("vault_address"), admin: address("admin_address"), child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A folder with certificates and a configuration file, and nothing running.
pub(crate) async fn configured() -> (Setting, PathBuf) {
    let mut setting = Setting::bare().await;
    let _ = setting.stop().await;
    let mut config = setting.config();
    config.telemetry.format = cloakroom_runtime::telemetry::LogFormat::Json;
    let path = setting.folder.path().join("vault.toml");
    std::fs::write(&path, dump(&config).unwrap()).unwrap();
    (setting, path)
}

pub(crate) fn daemon(file: &PathBuf) -> Command {
    let mut command = Command::new(DAEMON);
    command.arg("--config").arg(file);
    command
}

pub(crate) async fn shop(
    setting: &Setting,
    daemon: &Daemon,
    who: &str,
) -> VaultServiceClient<tonic::transport::Channel> {
    let endpoint = Endpoint::in_folder(&daemon.vault, &setting.certs(), who);
    VaultServiceClient::new(channel(&endpoint).await.unwrap())
        .max_decoding_message_size(8 << 20)
        .max_encoding_message_size(8 << 20)
}

async fn apply(setting: &Setting, daemon: &Daemon) {
    let endpoint = Endpoint::in_folder(&daemon.admin, &setting.certs(), "admin");
    let request = ApplyRegisterRequest { toml: shipped(SEE), dry_run: false };
    AdminServiceClient::new(channel(&endpoint).await.unwrap()).apply_register(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_in_order_and_all_is_there_when_it_comes_back() {
    let (setting, file) = configured().await;
    let mut first = Daemon::start(daemon(&file));
    apply(&setting, &first).await;
    let request = purchase(vec![item("1", "p", "full_name", "Ann")]);
    let answers = shop(&setting, &first, "orders").await.tokenize(request).await.unwrap().into_inner().items;
    let token = made(&answers[0]).0;
    first.signal(Signal::TERM);
    assert_eq!(first.ended().code(), Some(0));
    let mut second = Daemon::start(daemon(&file));
    let request = reading("ticket_delivery", ReadMode::Plain, &[&token]);
    let read = shop(&setting, &second, "mail").await.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]).unwrap(), "Ann");
    second.signal(Signal::INT);
    assert_eq!(second.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_ends_it_with_70_and_loses_nothing_that_was_acknowledged() {
    let (setting, file) = configured().await;
    // No file may grow beyond 3 MiB; the signal that says so is ignored, so that the write itself fails.
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 3072; exec \"$@\"", "bash", DAEMON, "--config"]).arg(&file);
    let mut first = Daemon::start(limited);
    apply(&setting, &first).await;
    let mut client = shop(&setting, &first, "orders").await;
    let answers = client.tokenize(purchase(vec![item("1", "p", "full_name", "Ann")])).await.unwrap();
    let token = made(&answers.into_inner().items[0]).0;
    let large = |at: usize| item(&at.to_string(), "p", "full_name", format!("{at:060000}"));
    let answer = client.tokenize(purchase((0..65).map(large).collect())).await;
    assert!(answer.is_err(), "what could not be written was acknowledged");
    assert_eq!(first.ended().code(), Some(70));

    let second = Daemon::start(daemon(&file));
    let request = reading("ticket_delivery", ReadMode::Plain, &[&token]);
    let read = shop(&setting, &second, "mail").await.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]).unwrap(), "Ann");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_is_shown_with_secrets_hidden() {
    let (_setting, file) = configured().await;
    let shown = daemon(&file)
        .args(["--dump-config", "erase.batch_ms=7", "kafka.extra={ 'sasl.password' = 'planted' }"])
        .env("CLOAKROOM_ACCESS__SYNC_MS", "9")
        .output()
        .unwrap();
    assert!(shown.status.success());
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("batch_ms = 7") && text.contains("sync_ms = 9"), "{text}");
    assert!(text.contains("sasl.password") && !text.contains("planted"), "{text}");
}

#[test]
fn a_wrong_command_line_or_configuration_ends_it_with_2_and_says_what_is_wrong() {
    for (arguments, named) in [
        (&["serve"][..], "serve"),
        (&["erase.bach_ms=1"], "erase.bach_ms"),
        (&["--config", "nowhere.toml"], "nowhere.toml"),
        (&["listen=everywhere"], "listen"),
    ] {
        let ended = Command::new(DAEMON).args(arguments).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(named), "{said}");
    }
    let ended = Command::new(DAEMON).args(["kafka.embedded=false"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("kafka.bootstrap"));
    let version = Command::new(DAEMON).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(version.stdout).unwrap().trim(), env!("CARGO_PKG_VERSION"));
}
