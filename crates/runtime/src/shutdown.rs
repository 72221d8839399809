//! An orderly end: the first SIGINT or SIGTERM asks every part to drain, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::RuntimeError;

/// The exit code when a second signal cut the drain short: 128 + SIGINT, as shells count.
pub const FORCED_EXIT_CODE: i32 = 130;

/// Whether and since when the process is to end. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that only [`Shutdown::begin`] begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGINT or SIGTERM begins; the second signal exits at once with [`FORCED_EXIT_CODE`].
    /// Call it inside the runtime.
    ///
    /// # Errors
    /// [`RuntimeError::Signals`] if the system gives no signals.
    pub fn on_signals() -> Result<Self, RuntimeError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RuntimeError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(RuntimeError::Signals)?;
        let shutdown = Self::new();
        let begun = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            tracing::info!("signal received: draining; a second one ends the process at once");
            begun.begin();
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            tracing::warn!("second signal: ending without waiting");
            std::process::exit(FORCED_EXIT_CODE);
        });
        Ok(shutdown)
    }

    /// Begins the end. Doing it again changes nothing.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether the end has begun.
    pub fn is_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for the beginning of the end.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// One that begins with this one and can begin on its own.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_ends_with_its_parent_but_not_the_other_way() {
        let parent = Shutdown::new();
        let child = parent.child();
        child.begin();
        assert!(!parent.is_begun());
        let child = parent.child();
        parent.clone().begin();
        child.begun().await;
    }
}
