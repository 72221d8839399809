//! The engine, or the reason why there is none: a vault whose gate is closed lives, and says so.

use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_engine::Engine;

/// What every call asks.
#[derive(Clone)]
pub(crate) enum House {
    /// The gate is open.
    Open(Engine),
    /// The gate is closed; why.
    Gated(String),
}

impl House {
    /// The engine, for calls that have one answer.
    pub(crate) fn engine(&self) -> Result<&Engine, CallRefusal> {
        match self {
            Self::Open(engine) => Ok(engine),
            Self::Gated(reason) => Err(CallRefusal::Unavailable(shut(reason))),
        }
    }

    /// What `ask` answers for each of `count` items; it is not asked about none. While the gate is closed each is KEY_UNAVAILABLE:
    /// whatever became of a value, it must not look erased.
    pub(crate) async fn items<'a, A, F>(
        &'a self,
        count: usize,
        ask: impl FnOnce(&'a Engine) -> F,
    ) -> Result<Vec<Result<A, Refusal>>, CallRefusal>
    where
        F: Future<Output = Result<Vec<Result<A, Refusal>>, CallRefusal>>,
    {
        match self {
            _ if count == 0 => Ok(Vec::new()),
            Self::Open(engine) => ask(engine).await,
            Self::Gated(reason) => {
                let refused = || Err(Refusal::new(Code::KeyUnavailable, shut(reason)));
                Ok(std::iter::repeat_with(refused).take(count).collect())
            }
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
        let house = House::Gated("the keys are older than the log".into());
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
