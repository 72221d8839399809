//! Tells about tokens without opening anything.

use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::Shape;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};

use crate::house::{House, Resolved};
use crate::state::InForce;
use crate::tokenize::check_count;

/// What has become of a token's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenState {
    /// Can be read by those who may.
    Active,
    /// Fenced, its key about to be destroyed.
    Erasing,
    /// Its key is destroyed.
    Erased,
}

/// What is known of a token.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in vault/v1
pub struct Description {
    pub subject_id: String,
    pub activity: String,
    pub field: String,
    pub state: TokenState,
    pub shape: Shape,
    pub value_version: u32,
    pub created_unix_ms: UnixMs,
    pub retention: String,
}

impl House {
    pub(crate) async fn describe(
        &self,
        principal: &str,
        controller: &str,
        tokens: &[String],
    ) -> Result<Vec<Result<Description, Refusal>>, CallRefusal> {
        let controller = self.register(principal, controller)?;
        check_count(tokens.len())?;
        let mut answers = Vec::with_capacity(tokens.len());
        for token in tokens {
            answers.push(match self.resolve(&controller, token).await {
                Ok(resolved) => self.description(principal, &controller, resolved).await,
                Err(refusal) => Err(refusal),
            });
        }
        Ok(answers)
    }

    async fn description(
        &self,
        principal: &str,
        controller: &InForce,
        resolved: Resolved,
    ) -> Result<Description, Refusal> {
        let stored = resolved.stored;
        let register = &controller.register;
        register
            .may_describe(principal, &stored.activity)
            .map_err(|denied| Refusal::new(Code::Denied, denied.code()))?;
        let version = self.version(resolved.number, &stored).await.map_err(|error| error.for_item())?;
        let state = if self.state.is_fenced(version.slot) {
            TokenState::Erasing
        } else {
            match self.tree.with_key(version.slot, |_| ()).await {
                Ok(Some(())) => TokenState::Active,
                Ok(None) => match self.dead(stored.subject, version.slot).await {
                    refusal if refusal.code == Code::Erased => TokenState::Erased,
                    lost => return Err(lost),
                },
                Err(fault) => return Err(crate::EngineError::from(fault).for_item()),
            }
        };
        Ok(Description {
            subject_id: self.subject_id(stored.subject, stored.subject_bits),
            retention: register
                .activity(&stored.activity)
                .map(|found| found.retention.clone())
                .unwrap_or_default(),
            activity: stored.activity,
            field: stored.field,
            state,
            shape: stored.shape,
            value_version: version.number,
            created_unix_ms: resolved.at,
        })
    }
}
