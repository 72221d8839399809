//! A broker inside this process, for development and the first run: librdkafka's own mock.
//!
//! Any Kafka client on this machine reaches it. It keeps everything in memory, 5 MiB or 100,000 records a
//! partition, and nothing beyond the process; it knows no TLS, no access lists and no topics' settings. Its
//! port is chosen anew at each start and written to a file, which [`crate::Publisher`] and
//! [`crate::Subscription`] read again when it changes. A group's first member waits three seconds there.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::mocking::MockCluster;

use crate::config::Address;
use crate::error::BusError;

/// The broker. Stops when dropped, and takes its port file with it.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: Address,
    port_file: PathBuf,
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker on a free port of this machine's loopback and writes its address to `port_file`,
    /// whose folder must exist. A file that a former broker left is replaced.
    ///
    /// # Errors
    /// [`BusError::Embedded`], [`BusError::PortFile`].
    pub fn start(port_file: &Path) -> Result<Self, BusError> {
        let (stop, stopped) = mpsc::sync_channel(1);
        let (started, start) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("embedded-broker".into())
            .spawn(move || {
                // The cluster stays on the thread that made it.
                let cluster = MockCluster::new(1);
                let servers =
                    cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(ToString::to_string);
                if started.send(servers).is_ok() {
                    // ends when the other side is dropped
                    let _ended = stopped.recv();
                }
            })
            .map_err(|error| BusError::Embedded { reason: error.to_string() })?;
        let servers = start
            .recv()
            .unwrap_or_else(|_| Err("its thread ended".into()))
            .map_err(|reason| BusError::Embedded { reason })?;
        let address =
            Address { servers, start: format!("{:016x}", RandomState::new().hash_one(thread.thread().id())) };
        write_whole(port_file, &address.to_port_file()).map_err(BusError::PortFile)?;
        tracing::info!(
            address = address.servers,
            "embedded broker runs; it forgets everything when it stops"
        );
        Ok(Self { address, port_file: port_file.to_owned(), stop: Some(stop), thread: Some(thread) })
    }

    /// `host:port`, for any Kafka client.
    pub fn address(&self) -> &str {
        &self.address.servers
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // A file of another broker, started since over the same folder, stays.
        if fs::read_to_string(&self.port_file).is_ok_and(|text| text == self.address.to_port_file()) {
            drop(fs::remove_file(&self.port_file));
        }
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Whoever reads the file sees the former text or this one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}
