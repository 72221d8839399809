//! The broker's jars and what is made from them once, kept under `target/kafka`.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::supervisor::Supervisor;
use super::{Settings, await_start, lay_out};
use crate::ports;

/// As in `kafka/pom.xml`.
pub(super) const VERSION: &str = "4.3.1";
/// Any 16 bytes in base64url, the same in checkpoint and brokers.
pub(super) const CLUSTER_ID: &str = "Y2xvYWtyb29tLXRlc3QxMg";

/// A folder with the jars, a bootstrap checkpoint and, if it could be made, an archive of loaded classes,
/// with which a start takes a third of the time.
pub(super) struct Jars {
    folder: PathBuf,
    class_path: String,
}

impl Jars {
    /// Fetches what is missing; other processes that want the same wait.
    pub(super) fn fetched() -> Self {
        let folder = target_folder().join("kafka").join(VERSION);
        fs::create_dir_all(&folder).expect("the folder of the jars");
        let lock = File::create(folder.join("lock")).expect("the lock file");
        lock.lock().expect("the lock");

        let libs = folder.join("libs");
        if !libs.exists() {
            fetch(&folder, &libs);
        }
        let mut names: Vec<String> = fs::read_dir(&libs)
            .expect("the jars")
            .map(|entry| entry.expect("a jar").path().display().to_string())
            .collect();
        names.sort();
        let jars = Self { class_path: names.join(":"), folder };
        if !jars.bootstrap_checkpoint().exists() {
            jars.make_checkpoint();
        }
        if !jars.archive().exists() {
            jars.make_archive();
        }
        jars
    }

    /// What `kafka-storage format` writes into a new broker's data folder.
    pub(super) fn bootstrap_checkpoint(&self) -> PathBuf {
        self.folder.join("bootstrap.checkpoint")
    }

    /// A folder beside the jars, for what several processes must agree on.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The classes of a running broker: with them a start takes a third of the time.
    fn archive(&self) -> PathBuf {
        self.folder.join("classes.jsa")
    }

    /// The command that runs the broker laid out in `folder`.
    pub(super) fn broker_command(&self, folder: &Path) -> Vec<String> {
        self.command(
            folder,
            &[format!("-XX:SharedArchiveFile={}", self.archive().display()), "-Xshare:auto".into()],
        )
    }

    fn command(&self, folder: &Path, sharing: &[String]) -> Vec<String> {
        let mut command: Vec<String> = Vec::new();
        if Command::new("setpriv").arg("--version").output().is_ok_and(|output| output.status.success()) {
            // even if somebody kills the supervisor
            command.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        }
        command.push("java".into());
        command.extend_from_slice(sharing);
        command.extend(
            [
                "-Xlog:cds=off",
                "-Xlog:cds+dynamic=off",
                "-Xmx256m",
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-XX:-UsePerfData",
                "-Dlog4j2.StatusLogger.level=OFF",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
                "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.utils.AppInfoParser=info",
                "-cp",
                &self.class_path,
                "kafka.Kafka",
            ]
            .map(str::to_owned),
        );
        command.push(folder.join("server.properties").display().to_string());
        command
    }

    /// Runs a broker once and keeps the classes it loaded. Brokers start without them too, slower.
    fn make_archive(&self) {
        let folder = tempfile::tempdir().expect("a folder");
        let [port, controller_port] = ports::several();
        lay_out(folder.path(), self, port, controller_port, &Settings::default());
        let fresh = self.folder.join("classes.new");
        let sharing = format!("-XX:ArchiveClassesAtExit={}", fresh.display());
        let mut broker = Supervisor::over(folder.path(), self.command(folder.path(), &[sharing]));
        broker.start();
        if await_start(folder.path(), || broker.has_ended()).is_ok() {
            broker.stop();
        }
        // An empty file is ignored by Java and keeps this from being tried again.
        fs::rename(fresh, self.archive())
            .or_else(|_| File::create(self.archive()).map(drop))
            .expect("the archive");
    }

    fn make_checkpoint(&self) {
        let folder = tempfile::tempdir().expect("a folder");
        let properties = folder.path().join("server.properties");
        fs::write(&properties, super::jars::properties("PLAINTEXT", 1, 2, &folder.path().join("data")))
            .expect("server.properties");
        let mut format = Command::new("java");
        format.args([
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ]);
        format.args(["-cp", &self.class_path, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]);
        run(format.arg(&properties), "a JDK, 17 or newer (Debian: apt-get install openjdk-17-jre-headless)");
        fs::copy(folder.path().join("data/bootstrap.checkpoint"), self.folder.join("checkpoint.new"))
            .expect("the checkpoint");
        fs::rename(self.folder.join("checkpoint.new"), self.bootstrap_checkpoint()).expect("the checkpoint");
    }
}

/// `server.properties` of the smallest broker that is still itself: one node, few threads, quick to notice
/// that it was killed (with the default session of 9 s a restart takes 12 s).
pub(super) fn properties(protocol: &str, port: u16, controller_port: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners={protocol}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={protocol}://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map={protocol}:{protocol},CONTROLLER:PLAINTEXT
inter.broker.listener.name={protocol}
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=250
log.cleaner.dedupe.buffer.size=1048577
log.cleaner.threads=1
num.network.threads=1
num.io.threads=2
background.threads=1
num.recovery.threads.per.data.dir=1
group.coordinator.threads=1
share.coordinator.threads=1
metric.reporters=
",
        data = data.display()
    )
}

fn fetch(folder: &Path, libs: &Path) {
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/pom.xml");
    let fresh = folder.join("libs.new");
    let _absent = fs::remove_dir_all(&fresh);
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]).arg(&pom);
    maven.arg(format!("-Dkafka.version={VERSION}")).arg(format!("-DoutputDirectory={}", fresh.display()));
    run(&mut maven, "Maven and a JDK, 17 or newer (Debian: apt-get install maven openjdk-17-jre-headless)");
    fs::rename(&fresh, libs).expect("the fetched jars");
}

fn run(command: &mut Command, needed: &str) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("tests against Apache Kafka need {needed}; `{program}` does not run: {error}");
    });
    assert!(
        output.status.success(),
        "`{program}` failed while preparing Apache Kafka (needs {needed}, and for the jars a network once):\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

fn target_folder() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    }
}
