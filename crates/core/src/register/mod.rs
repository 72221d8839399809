//! A controller's register of processing activities (GDPR Art. 30), and what it lets each principal do.
//!
//! What is not in the register cannot be stored or read. A register is parsed whole or refused whole
//! ([`Register::parse`]), compiled into maps, and asked for every item of every call: so a decision is a
//! few hash look-ups, without allocation. It never changes; a new version is a new `Register`.
//!
//! - `model`: what the file says, as types
//! - `file`, `parse`, `shape`: the file, its checks, its errors with line and key
//! - `decide`: who may do what
//! - `change`: differences between versions, and what a new one must not strand
//! - `warn`: contradictions worth a look
//! - [`report`]: the record of Art. 30 for people and programs

mod change;
mod decide;
mod file;
mod model;
mod parse;
pub mod report;
mod shape;
#[cfg(test)]
mod tests;
mod warn;

pub use change::{Change, ChangeKind, diff, strands};
pub use decide::{Denied, ReadMode};
pub use model::{
    Access, Activity, Downstream, Field, LegalBasis, Recipient, Role, Roles, SpecialBasis, ThirdParty,
    TransferBasis, Verb,
};
pub use parse::{Problem, REGISTER_BYTES_MAX, RegisterError};
pub use warn::warnings;

use std::collections::HashMap;

use decide::Decisions;

/// One version of one controller's register.
#[derive(Clone, Debug)]
pub struct Register {
    controller: String,
    name: String,
    time_zone: String,
    token_domain: Option<String>,
    fields: Vec<Field>,
    downstreams: Vec<Downstream>,
    third_parties: Vec<ThirdParty>,
    roles: Vec<(String, Role)>,
    activities: Vec<Activity>,
    roles_of: HashMap<String, Roles>,
    decisions: Decisions,
}

impl Register {
    /// Reads `register.toml`.
    ///
    /// # Errors
    /// [`RegisterError`] with the line and key of the first thing that is wrong.
    pub fn parse(toml: &str) -> Result<Self, RegisterError> {
        parse::parse(toml)
    }

    /// The controller's slug.
    pub fn controller(&self) -> &str {
        &self.controller
    }

    /// The controller's name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IANA name of the time zone in which the controller's periods end.
    pub fn time_zone(&self) -> &str {
        &self.time_zone
    }

    /// The domain under which tokens of the shape `EMAIL` are made; without one there are none.
    pub fn token_domain(&self) -> Option<&str> {
        self.token_domain.as_deref()
    }

    /// All fields, in the order of the file.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// One field.
    pub fn field(&self, id: &str) -> Option<&Field> {
        self.decisions.field(id).and_then(|at| self.fields.get(at))
    }

    /// All activities, in the order of the file.
    pub fn activities(&self) -> &[Activity] {
        &self.activities
    }

    /// One activity.
    pub fn activity(&self, id: &str) -> Option<&Activity> {
        self.decisions.activity(id).and_then(|at| self.activities.get(at))
    }

    /// All downstreams, in the order of the file.
    pub fn downstreams(&self) -> &[Downstream] {
        &self.downstreams
    }

    /// One downstream.
    pub fn downstream(&self, id: &str) -> Option<&Downstream> {
        self.downstreams.iter().find(|downstream| downstream.id == id)
    }

    /// Recipients that no erasure is announced to, in the order of the file.
    pub fn third_parties(&self) -> &[ThirdParty] {
        &self.third_parties
    }

    /// The downstreams that receive data of `activity`, so that an erasure of it is complete only when each
    /// of them has purged. None for an unknown activity.
    pub fn required_downstreams(&self, activity: &str) -> impl Iterator<Item = &Downstream> {
        self.activity(activity).into_iter().flat_map(|activity| &activity.recipients).filter_map(
            |recipient| match recipient {
                Recipient::Downstream(id) => self.downstream(id),
                Recipient::ThirdParty(_) | Recipient::Named(_) => None,
            },
        )
    }

    /// All roles, in the order of the file.
    pub fn roles(&self) -> &[(String, Role)] {
        &self.roles
    }

    /// The roles of a principal with this controller.
    pub fn roles_of(&self, principal: &str) -> Roles {
        self.roles_of.get(principal).copied().unwrap_or_default()
    }

    /// Whether the register names this principal at all. To any other the controller does not exist.
    pub fn knows(&self, principal: &str) -> bool {
        self.decisions.knows(principal)
    }

    /// Whether a principal may ask for erasures: the data protection officer.
    pub fn may_erase(&self, principal: &str) -> bool {
        self.roles_of(principal).contains(Role::Dpo)
    }
}
