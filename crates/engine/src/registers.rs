//! Applying a controller's register, and showing it.

use std::collections::BTreeSet;

use cloakroom_core::clock::UnixMs;
use cloakroom_core::event::{Body, RegisterApplied};
use cloakroom_core::ids::Subtree;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_core::register::{Register, Role, diff, strands, warnings};

use crate::house::{House, TRIES, declined};
use crate::projection;
use crate::proposal::{Declined, Draft, Guard};

/// What applying a register came to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct AppliedRegister {
    pub controller: String,
    pub version: u32,
    pub changes: Vec<String>,
    pub warnings: Vec<String>,
}

impl House {
    pub(crate) async fn apply_register(
        &self,
        principal: &str,
        toml: &str,
        dry_run: bool,
    ) -> Result<AppliedRegister, CallRefusal> {
        let register = Register::parse(toml).map_err(|bad| CallRefusal::Invalid(bad.to_string()))?;
        let controller = register.controller().to_owned();
        for _ in 0..TRIES {
            let known = self.state.register(&controller);
            let dpo =
                known.as_ref().is_some_and(|known| known.register.roles_of(principal).contains(Role::Dpo));
            if !self.is_admin(principal) && !dpo {
                return Err(CallRefusal::Forbidden(
                    "applying a register takes an administrator or its dpo".to_owned(),
                ));
            }
            if let Some(known) = &known {
                let used = self.used(&controller).await.map_err(|error| error.for_call())?;
                strands(&known.register, &register, &used)
                    .map_err(|bad| CallRefusal::Conflict(bad.to_string()))?;
            }
            let changes: Vec<String> = diff(known.as_ref().map(|known| &known.register), &register)
                .iter()
                .map(ToString::to_string)
                .collect();
            let before = known.as_ref().map_or(0, |known| known.version);
            let unchanged = known.as_ref().is_some_and(|known| known.toml == toml);
            let version = if unchanged { before } else { before.saturating_add(1) };
            let applied = AppliedRegister {
                controller: controller.clone(),
                version,
                changes,
                warnings: warnings(&register),
            };
            if dry_run || unchanged {
                return Ok(applied);
            }
            let mut draft = Draft::of(Body::RegisterApplied(RegisterApplied {
                controller: controller.clone(),
                version,
                toml: toml.to_owned(),
                principal: principal.to_owned(),
                subtree: known.as_ref().map_or(Subtree(0), |known| known.subtree),
            }));
            draft.new_subtree = known.is_none();
            let guards = vec![Guard::Register { controller: controller.clone(), version: before }];
            match self.propose(guards, vec![draft], false).await {
                Ok(written) => {
                    let _events = written.into_inner();
                    return Ok(applied);
                }
                Err(Declined::Stale) => {}
                Err(reason) => return Err(declined(reason)),
            }
        }
        Err(declined(Declined::Stale))
    }

    /// Its text, its version, and since when.
    pub(crate) fn register_text(
        &self,
        principal: &str,
        controller: &str,
    ) -> Result<(String, u32, UnixMs), CallRefusal> {
        let known = self.register(principal, controller)?;
        self.may_look(principal, &known)?;
        Ok((known.toml.clone(), known.version, known.applied_at))
    }

    /// Where something was ever stored, by activity and field.
    async fn used(&self, controller: &str) -> Result<BTreeSet<(String, String)>, crate::EngineError> {
        let mut used = BTreeSet::new();
        for (place, _) in projection::all(&*self.projections, &projection::prefix(b'u', controller)).await? {
            let text = String::from_utf8_lossy(&place).into_owned();
            if let Some((activity, field)) = text.split_once('\0') {
                used.insert((activity.to_owned(), field.to_owned()));
            }
        }
        Ok(used)
    }
}
