//! An import of 100,000 rows into a real vault, killed once on its way: each row goes in once, and memory
//! stays flat. Takes about a minute and a half.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_testkit::{ports, wait::until_blocking};
use serde_json::Value;

const ROWS: u64 = 100_000;

/// The rows dealt with when the import is killed, at least.
const KILLED_AFTER: u64 = 20_000;

/// All of the process, programme text included: 26 MiB were measured, of which the 70,000 people take 7.
const RESIDENT_KIB_MAX: u64 = 64 << 10;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Vault {
    folder: tempfile::TempDir,
    listen: String,
    admin: String,
    _daemon: Running,
}

impl Vault {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let authority = Authority::open_or_create(&at("certs"), SystemClock.now_unix_ms()).unwrap();
        for (name, place) in [("vault", "vault"), ("orders", "service/orders"), ("dpo", "person/dpo")] {
            let principal = Some(format!("spiffe://cloakroom.local/{place}"));
            let holder = Holder { name: name.to_owned(), principal, ..Holder::local(name) };
            authority.issue(&holder, SystemClock.now_unix_ms(), 1).unwrap();
        }
        let [listen, admin, health] = ports::several().map(|port| format!("127.0.0.1:{port}"));
        let path = |name: &str| at(name).to_str().unwrap().to_owned();
        let config = format!(
            "listen = '{listen}'\ndata = '{}'\nkeys = '{}'\nroots = '{}'\nadmins = ['spiffe://cloakroom.local/person/dpo']\n\
             [admin]\nlisten = '{admin}'\n[health]\nlisten = '{health}'\n\
             [tls]\ncert = '{}'\nkey = '{}'\nca = '{}'\n[memory]\nallow_unlocked = true\n",
            path("data"),
            path("keys"),
            path("roots"),
            path("certs/vault.pem"),
            path("certs/vault.key"),
            path("certs/ca.pem"),
        );
        std::fs::write(at("vault.toml"), config).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_cloakroom")).with_file_name("cloakroomd");
        assert!(program.exists(), "{} is missing: cargo build --workspace --bins", program.display());
        let log = std::fs::File::create(at("vault.log")).unwrap();
        let daemon = Command::new(program)
            .arg("--config")
            .arg(at("vault.toml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let vault = Self { listen, admin, _daemon: Running(daemon.unwrap()), folder };
        until_blocking(Duration::from_secs(60), "the vault takes the register", || {
            let register = format!("{EXAMPLES}/registers/see-tickets/register.toml");
            let output = vault.cloakroom("dpo", &["register", "apply", &register]).output().unwrap();
            output.status.success().then_some(())
        });
        vault
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cloakroom(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.args([
            "--vault",
            &self.listen,
            "--admin",
            &self.admin,
            "--as",
            name,
            "--output",
            "json",
            "--certs",
        ]);
        command.arg(self.at("certs")).args(arguments);
        command
    }

    fn slots(&self) -> u64 {
        let output = self.cloakroom("dpo", &["keys", "status"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["slots"].as_u64().unwrap()
    }

    fn tokenize_one(&self) {
        let arguments = [
            "tokenize",
            "--controller",
            "see-tickets",
            "--activity",
            "ticket_purchase",
            "--field",
            "full_name",
        ];
        let mut command = self.cloakroom("orders", &arguments);
        assert!(
            command.args(["--idempotency-key", "first", "Ada Lovelace"]).output().unwrap().status.success()
        );
    }

    fn import(&self) -> Command {
        let csv = self.at("orders.csv");
        let (map, register) = (
            format!("{EXAMPLES}/orders/map.toml"),
            format!("{EXAMPLES}/registers/see-tickets/register.toml"),
        );
        let mut command = self
            .cloakroom("orders", &["import", csv.to_str().unwrap(), "--map", &map, "--register", &register]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }
}

fn rows_done(state: &Path) -> Option<u64> {
    let state: Value = serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
    state["rows"].as_u64()
}

/// The most memory that a process had resident, in KiB; none once it has ended.
fn resident_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn import_of_100_000_rows_killed_once() {
    let vault = Vault::start();
    let generated = Command::new("python3")
        .args(["-B", &format!("{EXAMPLES}/orders/generate.py"), "--rows", &ROWS.to_string(), "-o"])
        .arg(vault.at("orders.csv"))
        .status();
    assert!(generated.expect("python3 runs").success());
    // The vault makes the day's key for idempotency ids when it is first shown one.
    vault.tokenize_one();
    let before = vault.slots();

    let mut import = Running(vault.import().spawn().unwrap());
    let state = vault.at("orders.import-state.json");
    until_blocking(Duration::from_secs(300), "a part of the rows is in", || {
        assert!(import.0.try_wait().unwrap().is_none(), "it ended before it was killed");
        rows_done(&state).filter(|rows| *rows >= KILLED_AFTER)
    });
    import.0.kill().unwrap(); // SIGKILL
    import.0.wait().unwrap();
    let killed_at = rows_done(&state).unwrap();
    assert!(killed_at < ROWS);

    let mut import = Running(vault.import().spawn().unwrap());
    let mut resident = 0;
    let status = until_blocking(Duration::from_secs(600), "the import ends", || {
        resident = resident_kib(import.0.id()).unwrap_or(resident).max(resident);
        import.0.try_wait().unwrap()
    });
    assert!(status.success());
    let summary: Value = serde_json::from_reader(import.0.stdout.take().unwrap()).unwrap();
    assert_eq!(summary["rows"], ROWS);
    assert_eq!(summary["resumed_at_row"], killed_at);
    assert!((1..RESIDENT_KIB_MAX).contains(&resident), "{resident} KiB resident");

    let mut reader = csv::Reader::from_path(vault.at("orders.tokens.csv")).unwrap();
    let (mut orders, mut tokens, mut taken) = (HashSet::new(), HashSet::new(), 0_u64);
    for row in reader.records().map(Result::unwrap) {
        taken += 1;
        assert!(orders.insert(row[0].to_owned()), "{} is there twice", &row[0]);
        let made = [3, 4, 5, 6, 7, 13, 14].map(|at| row[at].to_owned());
        tokens.extend(made.into_iter().filter(|token| !token.is_empty()));
    }
    let mut reader = csv::Reader::from_path(vault.at("orders.rejects.csv")).unwrap();
    let rejected: HashSet<String> = reader.records().map(|line| line.unwrap()[0].to_owned()).collect();
    assert_eq!(taken + rejected.len() as u64, ROWS);
    assert_eq!(rejected.len(), 480, "12 broken rows in every 2,500");
    // Every value that the vault took has its token in the file: nothing went in twice or for nobody.
    assert_eq!(vault.slots() - before, tokens.len() as u64);
}
