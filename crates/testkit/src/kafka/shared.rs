//! One broker for all processes of a test run.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use super::jars::Jars;
use super::supervisor::{can_share, start_shared};
use super::{Kafka, Settings, await_start, lay_out, new_folder, say_started};
use crate::ports;

/// A share in the broker, for as long as this process lives.
pub(super) struct Shared {
    bootstrap: String,
    /// A shared lock on the users' file: the broker's supervisor ends when it gets the file for itself.
    _user: File,
    /// Where brokers cannot be shared.
    _own: Option<Kafka>,
}

impl Shared {
    pub(super) fn join() -> Self {
        let jars = Jars::fetched();
        let [turn, users, notice] = ["turn", "users", "notice"].map(|name| jars.folder().join(name));
        let turn = File::create(turn).expect("the lock file");
        turn.lock().expect("one after the other");
        let user = File::options().create(true).truncate(false).read(true).write(true).open(&users);
        let user = user.expect("the users' file");
        user.lock_shared().expect("a share");
        if !can_share() {
            let own = Kafka::start();
            return Self { bootstrap: own.bootstrap(), _user: user, _own: Some(own) };
        }
        let bootstrap = match fs::read_to_string(&notice) {
            Ok(bootstrap) if TcpStream::connect(&bootstrap).is_ok() => bootstrap,
            _ => start(&jars, &users, &notice),
        };
        Self { bootstrap, _user: user, _own: None }
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

fn start(jars: &Jars, users: &Path, notice: &Path) -> String {
    let mut refusal = String::new();
    for _ in 0..3 {
        let folder = new_folder();
        let [port, controller_port] = ports::several();
        lay_out(&folder, jars, port, controller_port, &Settings::default());
        let began = Instant::now();
        let mut supervisor = start_shared(&folder, users, notice, jars.broker_command(&folder));
        match await_start(&folder, || supervisor.try_wait().is_ok_and(|ended| ended.is_some())) {
            Ok(version) => {
                say_started(&version, port, began);
                let bootstrap = format!("127.0.0.1:{port}");
                fs::write(notice, &bootstrap).expect("the notice");
                return bootstrap;
            }
            Err(log) => refusal = log,
        }
        let _ended = supervisor.kill();
        let _waited = supervisor.wait();
        let _removed = fs::remove_dir_all(&folder);
    }
    panic!("Apache Kafka did not start:\n{refusal}");
}
