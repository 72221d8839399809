//! The engine, or the reason why there is none: a vault whose gate is closed lives, and says so. The gate may
//! open and close while calls come.

use std::sync::Arc;

use arc_swap::ArcSwap;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_engine::Engine;

/// What every call asks. Clones are one house.
#[derive(Clone)]
pub(crate) struct House(Arc<ArcSwap<Door>>);

enum Door {
    Open(Arc<Engine>),
    /// Why.
    Gated(String),
}

impl House {
    /// A house whose gate is closed.
    pub(crate) fn gated(reason: impl Into<String>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Door::Gated(reason.into()))))
    }

    /// Serves from now on.
    pub(crate) fn open(&self, engine: Arc<Engine>) {
        self.0.store(Arc::new(Door::Open(engine)));
    }

    /// Serves no further call. Those under way are the engine's.
    pub(crate) fn shut(&self, reason: impl Into<String>) {
        self.0.store(Arc::new(Door::Gated(reason.into())));
    }

    /// The engine, for calls that have one answer.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, CallRefusal> {
        match &**self.0.load() {
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
        F: Future<Output = Result<Vec<Result<A, Refusal>>, CallRefusal>>,
    {
        if count == 0 {
            return Ok(Vec::new());
        }
        match self.engine() {
            Ok(engine) => ask(engine).await,
            Err(CallRefusal::Unavailable(reason)) => {
                let refused = || Err(Refusal::new(Code::KeyUnavailable, reason.clone()));
                Ok(std::iter::repeat_with(refused).take(count).collect())
            }
            Err(refusal) => Err(refusal),
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
