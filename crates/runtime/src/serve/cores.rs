//! A thread for each processor, with a runtime of its own: a connection stays with one of them from its handshake
//! to its end, so that a call wakes no other thread on its way from socket to socket.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::RuntimeError;

/// Threads that serve connections. What takes long there keeps their other connections waiting: hand it on.
#[derive(Debug)]
pub struct Cores(Vec<Core>);

#[derive(Debug)]
struct Core {
    runtime: Handle,
    /// One for each connection, and this one.
    connections: Arc<()>,
    /// Ends the thread when it is dropped.
    _end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// A connection's place with a thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) runtime: Handle,
    _counted: Arc<()>,
}

impl Cores {
    /// As many threads as there are processors.
    ///
    /// # Errors
    /// [`RuntimeError::Threads`].
    pub fn start() -> Result<Self, RuntimeError> {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let cores: Result<_, _> = (0..count).map(Core::start).collect();
        cores.map(Self).map_err(RuntimeError::Threads)
    }

    /// A place where the fewest connections are.
    pub(super) fn seat(&self) -> Option<Seat> {
        let core = self.0.iter().min_by_key(|core| Arc::strong_count(&core.connections))?;
        Some(Seat { runtime: core.runtime.clone(), _counted: Arc::clone(&core.connections) })
    }

    /// Ends the threads, and with them what is still on them.
    pub(super) async fn end(self) {
        let threads: Vec<_> = self.0.into_iter().map(|core| core.thread).collect();
        let joined = tokio::task::spawn_blocking(|| {
            for thread in threads {
                drop(thread.join()); // a panic there was said by the thread itself
            }
        });
        drop(joined.await);
    }
}

impl Core {
    fn start(number: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let serve = move || drop(runtime.block_on(ended));
        let thread = thread::Builder::new().name(format!("core-{number}")).spawn(serve)?;
        Ok(Self { runtime: handle, connections: Arc::new(()), _end: end, thread })
    }
}
