//! The engine, or the reason why there is none: a vault whose gate is closed lives, and says so. The gate may
//! open and close while calls come.

use std::panic::resume_unwind;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_engine::Engine;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// What every call asks. Clones are one house.
#[derive(Clone)]
pub(crate) struct House {
    door: Arc<ArcSwap<Door>>,
    /// The runtime that it was made on, all of whose threads share the work.
    workers: Handle,
}

/// Up to so many items are answered on the connection's own thread: some 100 µs. More are handed to the workers, so
/// that they keep nobody on the same thread waiting, and calls of one connection have more than one processor.
const FEW_ITEMS: usize = 16;

enum Door {
    Open(Arc<Engine>),
    /// Why.
    Gated(String),
}

impl House {
    /// A house whose gate is closed.
    pub(crate) fn gated(reason: impl Into<String>) -> Self {
        let door = Arc::new(ArcSwap::from_pointee(Door::Gated(reason.into())));
        Self { door, workers: Handle::current() }
    }

    /// Serves from now on.
    pub(crate) fn open(&self, engine: Arc<Engine>) {
        self.door.store(Arc::new(Door::Open(engine)));
    }

    /// Serves no further call. Those under way are the engine's.
    pub(crate) fn shut(&self, reason: impl Into<String>) {
        self.door.store(Arc::new(Door::Gated(reason.into())));
    }

    /// The engine, for calls that have one answer.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, CallRefusal> {
        match &**self.door.load() {
            Door::Open(engine) => Ok(Arc::clone(engine)),
            Door::Gated(reason) => Err(CallRefusal::Unavailable(shut(reason))),
        }
    }

    /// What `ask` answers for each of `count` items; it is not asked about none. While the gate is closed each is KEY_UNAVAILABLE:
    /// whatever became of a value, it must not look erased.
    pub(crate) async fn items<A, F>(
        &self,
        count: usize,
        ask: impl FnOnce(Arc<Engine>) -> F,
    ) -> Result<Vec<Result<A, Refusal>>, CallRefusal>
    where
        A: Send + 'static,
        F: Future<Output = Result<Vec<Result<A, Refusal>>, CallRefusal>> + Send + 'static,
    {
        if count == 0 {
            return Ok(Vec::new());
        }
        match self.engine() {
            Ok(engine) if count <= FEW_ITEMS => ask(engine).await,
            Ok(engine) => self.by_workers(ask(engine)).await,
            Err(CallRefusal::Unavailable(reason)) => {
                let refused = || Err(Refusal::new(Code::KeyUnavailable, reason.clone()));
                Ok(std::iter::repeat_with(refused).take(count).collect())
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// What `asked` comes to, on a thread that has time; nothing more is done for a caller that left.
    async fn by_workers<T: Send + 'static>(&self, asked: impl Future<Output = T> + Send + 'static) -> T {
        match AbortOnDropHandle::new(self.workers.spawn(asked.in_current_span())).await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => std::future::pending().await, // the runtime ends, and with it whoever waits
            },
        }
    }
}

fn shut(reason: &str) -> String {
    format!("the vault's gate is closed: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_never_says_erased() {
        let house = House::gated("the keys are older than the log");
        let answers = house.items(2, |_| async { Ok(vec![Ok(()), Ok(())]) }).await.unwrap();
        assert_eq!(answers.len(), 2);
        for answer in answers {
            let refusal = answer.unwrap_err();
            assert_eq!(refusal.code, Code::KeyUnavailable);
            assert!(refusal.is_retryable() && refusal.message.contains("older than the log"));
        }
        assert!(matches!(house.engine(), Err(CallRefusal::Unavailable(_))));
    }
}
