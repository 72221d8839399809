//! Apache Kafka for tests: one KRaft broker from its own jars, on free ports.
//!
//! The jars come through Maven, once, into `target/kafka`. A small shell watches each broker: when the test
//! process lets go of it, or dies in whatever way, the shell kills the broker and removes its folder.
//!
//! Needs a JDK (17 or newer) and Maven. Where they are missing, tests fail and say so.

mod jars;
mod shared;
mod supervisor;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{ports, wait};
use jars::Jars;
use supervisor::Supervisor;

/// A machine without idle processors has been seen to take 27 s.
const START_MAX: Duration = Duration::from_secs(120);

/// A broker of the caller's own. Killed and its folder removed on drop.
pub struct Kafka {
    supervisor: Supervisor,
    folder: PathBuf,
    port: u16,
    version: String,
}

/// How a broker differs from the plain one.
#[derive(Clone, Default)]
pub struct Settings {
    /// TLS with client certificates instead of plaintext.
    pub tls: Option<Tls>,
    /// Further lines of `server.properties`. They come last and win.
    pub properties: Vec<(String, String)>,
}

/// PEM files of a broker that speaks TLS.
#[derive(Clone)]
pub struct Tls {
    /// The broker's private key and its certificate chain, in one file. The certificate must name 127.0.0.1.
    pub keystore: PathBuf,
    /// The authority of the clients' certificates.
    pub truststore: PathBuf,
}

impl Kafka {
    /// Starts a broker of the caller's own: for tests that kill it.
    ///
    /// # Panics
    /// If it cannot be started, saying why.
    pub fn start() -> Self {
        Self::start_with(&Settings::default())
    }

    /// Starts a broker with `settings`.
    ///
    /// # Panics
    /// If it cannot be started, saying why.
    pub fn start_with(settings: &Settings) -> Self {
        let jars = Jars::fetched();
        let folder = new_folder();
        // A port may be taken by others between being found free and being listened on.
        let mut refusal = String::new();
        for _ in 0..3 {
            let [port, controller_port] = ports::several();
            lay_out(&folder, &jars, port, controller_port, settings);
            let mut supervisor = Supervisor::over(&folder, jars.broker_command(&folder));
            let began = Instant::now();
            supervisor.start();
            match await_start(&folder, || supervisor.has_ended()) {
                Ok(version) => {
                    say_started(&version, port, began);
                    return Self { supervisor, folder, port, version };
                }
                Err(log) => refusal = log,
            }
            supervisor.kill();
            supervisor.keep_folder();
        }
        let _removed = fs::remove_dir_all(&folder);
        panic!("Apache Kafka did not start:\n{refusal}");
    }

    /// The address of a broker that all tests of a run share, in whichever process; the first of them starts
    /// it, and it ends a moment after the last. Tests keep apart by the names of their topics and groups: see
    /// [`crate::unique`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn shared() -> &'static str {
        static SHARED: OnceLock<shared::Shared> = OnceLock::new();
        SHARED.get_or_init(shared::Shared::join).bootstrap()
    }

    /// `host:port`, the same for the broker's whole life.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The version that the broker itself states.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where the broker keeps its segments.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Kills the broker as a crash would. Returns when it is gone.
    pub fn kill9(&mut self) {
        self.supervisor.kill();
    }

    /// Starts the broker again over the same data and port, after [`Self::kill9`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.supervisor.start();
        if let Err(log) = await_start(&self.folder, || self.supervisor.has_ended()) {
            panic!("Apache Kafka did not start again:\n{log}");
        }
    }
}

fn new_folder() -> PathBuf {
    tempfile::Builder::new().prefix("cloakroom-kafka-").tempdir().expect("a folder").keep()
}

/// Past the test harness's capture: the run's log shall show what it ran against.
fn say_started(version: &str, port: u16, began: Instant) {
    let seconds = began.elapsed().as_secs_f32();
    let line = format!("Apache Kafka {version} on 127.0.0.1:{port}, started in {seconds:.1} s");
    let _unheard = writeln!(std::io::stderr(), "{line}");
}

/// Waits for a start that has been ordered, and returns the version in its log; the log's end if there is no
/// broker.
fn await_start(folder: &Path, mut has_ended: impl FnMut() -> bool) -> Result<String, String> {
    let path = folder.join("log");
    let given_up = Instant::now() + START_MAX;
    wait::until_blocking(START_MAX + Duration::from_secs(1), "Kafka's start", || {
        let log = fs::read_to_string(&path).unwrap_or_default();
        if log.contains("Kafka Server started") {
            let version = log.split_once("Kafka version: ").and_then(|(_, rest)| rest.lines().next());
            return Some(Ok(version.unwrap_or("of an unknown version").to_owned()));
        }
        if has_ended() || Instant::now() > given_up {
            let lines: Vec<&str> = log.lines().collect();
            return Some(Err(lines[lines.len().saturating_sub(30)..].join("\n")));
        }
        None
    })
}

/// Writes the folder of a broker that has never run.
fn lay_out(folder: &Path, jars: &Jars, port: u16, controller_port: u16, settings: &Settings) {
    let data = folder.join("data");
    let _absent = fs::remove_dir_all(&data);
    fs::create_dir_all(&data).expect("the data folder");
    fs::copy(jars.bootstrap_checkpoint(), data.join("bootstrap.checkpoint")).expect("the checkpoint");
    let meta = format!(
        "version=1\ncluster.id={}\nnode.id=1\ndirectory.id=Y2xvYWtyb29tLWRpcg1234\n",
        jars::CLUSTER_ID
    );
    fs::write(data.join("meta.properties"), meta).expect("meta.properties");

    let protocol = if settings.tls.is_some() { "SSL" } else { "PLAINTEXT" };
    let mut text = jars::properties(protocol, port, controller_port, &data);
    if let Some(tls) = &settings.tls {
        for (name, value) in [
            ("ssl.keystore.type", "PEM".into()),
            ("ssl.keystore.location", tls.keystore.display().to_string()),
            ("ssl.truststore.type", "PEM".into()),
            ("ssl.truststore.location", tls.truststore.display().to_string()),
            ("ssl.client.auth", "required".into()),
        ] {
            let _ = writeln!(text, "{name}={value}");
        }
    }
    for (name, value) in &settings.properties {
        let _ = writeln!(text, "{name}={value}");
    }
    fs::write(folder.join("server.properties"), text).expect("server.properties");
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn listens(kafka: &Kafka) -> bool {
        TcpStream::connect(kafka.bootstrap()).is_ok()
    }

    #[test]
    fn starts_dies_comes_back_and_leaves_nothing() {
        let mut kafka = Kafka::start();
        assert_eq!(kafka.version(), jars::VERSION);
        assert!(listens(&kafka));
        kafka.kill9();
        assert!(!listens(&kafka));
        kafka.restart();
        assert!(listens(&kafka));
        let folder = kafka.folder.clone();
        let address = kafka.bootstrap();
        drop(kafka);
        assert!(TcpStream::connect(address).is_err());
        assert!(!folder.exists());
    }
    #[test]
    fn one_is_shared() {
        let first = Kafka::shared();
        assert!(TcpStream::connect(first).is_ok());
        // what another process would get
        assert_eq!(shared::Shared::join().bootstrap(), first);
    }
}
