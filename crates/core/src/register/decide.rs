//! Who may do what: the access rules compiled into maps. Deny by default; only what was entered is allowed.

use std::collections::{HashMap, HashSet};

use super::Register;
use super::model::{Activity, Downstream, Field, Role, Verb};

/// How a value is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReadMode {
    /// As [`crate::field::mask`] shows it.
    Masked,
    /// Whole.
    Plain,
}

/// Why the register does not allow something. To a principal that it does not name at all it always answers
/// [`Denied::NotGranted`], so that strangers learn nothing of what exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Denied {
    /// No such activity.
    #[error("no such activity")]
    UnknownActivity,
    /// The activity does not use this field.
    #[error("the activity has no such field")]
    UnknownField,
    /// The activity does not have this purpose.
    #[error("the activity has no such purpose")]
    UnknownPurpose,
    /// Not allowed to this principal.
    #[error("not granted")]
    NotGranted,
}

impl Denied {
    /// A stable code for programs.
    pub fn code(self) -> &'static str {
        match self {
            Denied::UnknownActivity => "unknown-activity",
            Denied::UnknownField => "unknown-field",
            Denied::UnknownPurpose => "unknown-purpose",
            Denied::NotGranted => "not-granted",
        }
    }
}

/// A principal, activity, field or purpose by its place among its kind.
type Place = u32;

#[derive(Clone, Debug, Default)]
pub(super) struct Decisions {
    principals: HashMap<String, Place>,
    activities: HashMap<String, Place>,
    fields: HashMap<String, Place>,
    purposes: HashMap<String, Place>,
    activity_fields: HashSet<(Place, Place)>,
    activity_purposes: HashSet<(Place, Place)>,
    /// Principal, activity, field, purpose.
    reads: HashMap<(Place, Place, Place, Place), ReadMode>,
    /// Principal, activity, field and a verb that does not read.
    does: HashSet<(Place, Place, Place, Verb)>,
    /// Principal and activity: any access at all, and recording of facts.
    touches: HashSet<(Place, Place)>,
    records_facts: HashSet<(Place, Place)>,
}

impl Decisions {
    /// Compiles all access rules.
    pub(super) fn compile(
        fields: &[Field],
        activities: &[Activity],
        downstreams: &[Downstream],
        roles: &[(String, Role)],
    ) -> Self {
        let mut all = Decisions::default();
        for field in fields {
            place(&mut all.fields, &field.id);
        }
        let named = roles.iter().map(|(principal, _)| principal);
        for principal in named.chain(downstreams.iter().map(|downstream| &downstream.principal)) {
            place(&mut all.principals, principal);
        }
        let barred: HashSet<&str> = downstreams
            .iter()
            .filter(|downstream| !downstream.may_receive())
            .map(|downstream| downstream.principal.as_str())
            .collect();
        for activity in activities {
            all.enter(activity, &barred);
        }
        all
    }

    fn enter(&mut self, activity: &Activity, barred: &HashSet<&str>) {
        let at = place(&mut self.activities, &activity.id);
        for field in &activity.fields {
            let field = place(&mut self.fields, field);
            self.activity_fields.insert((at, field));
        }
        for purpose in &activity.purposes {
            let purpose = place(&mut self.purposes, purpose);
            self.activity_purposes.insert((at, purpose));
        }
        for access in &activity.access {
            let principal = place(&mut self.principals, &access.principal);
            self.touches.insert((principal, at));
            let is_barred = barred.contains(access.principal.as_str());
            for &verb in access.may.iter().filter(|verb| !(is_barred && verb.reads())) {
                if verb == Verb::RecordFact {
                    self.records_facts.insert((principal, at));
                    continue;
                }
                for field in &access.fields {
                    let field = place(&mut self.fields, field);
                    if !verb.reads() {
                        self.does.insert((principal, at, field, verb));
                        continue;
                    }
                    let mode = if verb == Verb::Read { ReadMode::Plain } else { ReadMode::Masked };
                    for purpose in &access.purposes {
                        let purpose = place(&mut self.purposes, purpose);
                        let widest = self.reads.entry((principal, at, field, purpose)).or_insert(mode);
                        *widest = mode.max(*widest);
                    }
                }
            }
        }
    }

    pub(super) fn knows(&self, principal: &str) -> bool {
        self.principals.contains_key(principal)
    }

    pub(super) fn field(&self, id: &str) -> Option<usize> {
        self.fields.get(id).and_then(|&at| usize::try_from(at).ok())
    }

    pub(super) fn activity(&self, id: &str) -> Option<usize> {
        self.activities.get(id).and_then(|&at| usize::try_from(at).ok())
    }

    fn principal_and_activity(&self, principal: &str, activity: &str) -> Result<(Place, Place), Denied> {
        let principal = self.principals.get(principal).ok_or(Denied::NotGranted)?;
        let activity = self.activities.get(activity).ok_or(Denied::UnknownActivity)?;
        Ok((*principal, *activity))
    }

    fn field_of(&self, activity: Place, field: &str) -> Result<Place, Denied> {
        let field = *self.fields.get(field).ok_or(Denied::UnknownField)?;
        granted(self.activity_fields.contains(&(activity, field))).map_err(|_| Denied::UnknownField)?;
        Ok(field)
    }

    fn may(&self, verb: Verb, principal: &str, activity: &str, field: &str) -> Result<(), Denied> {
        let (principal, activity) = self.principal_and_activity(principal, activity)?;
        let field = self.field_of(activity, field)?;
        granted(self.does.contains(&(principal, activity, field, verb)))
    }
}

/// The place of `id` among its kind; the next one if it is new.
fn place(places: &mut HashMap<String, Place>, id: &str) -> Place {
    if let Some(at) = places.get(id) {
        return *at;
    }
    // The file's size bounds the number of ids far below what a place can hold.
    let next = Place::try_from(places.len()).unwrap_or(Place::MAX);
    places.insert(id.to_owned(), next);
    next
}

fn granted(yes: bool) -> Result<(), Denied> {
    if yes { Ok(()) } else { Err(Denied::NotGranted) }
}

impl Register {
    /// Whether a principal may store values of a field under an activity.
    ///
    /// # Errors
    /// [`Denied`], decided in the order of its variants; for a principal that the register does not name,
    /// [`Denied::NotGranted`] before anything else. The same holds for all decisions here.
    pub fn may_write(&self, principal: &str, activity: &str, field: &str) -> Result<(), Denied> {
        self.decisions.may(Verb::Write, principal, activity, field)
    }

    /// Whether a principal may read values of a field under an activity for a purpose. Who may read plain may
    /// also read masked. A downstream outside the EEA without a transfer basis reads nothing.
    ///
    /// # Errors
    /// As [`Register::may_write`].
    pub fn may_read(
        &self,
        principal: &str,
        activity: &str,
        field: &str,
        purpose: &str,
        mode: ReadMode,
    ) -> Result<(), Denied> {
        let all = &self.decisions;
        let (principal, activity) = all.principal_and_activity(principal, activity)?;
        let field = all.field_of(activity, field)?;
        let purpose = *all.purposes.get(purpose).ok_or(Denied::UnknownPurpose)?;
        if !all.activity_purposes.contains(&(activity, purpose)) {
            return Err(Denied::UnknownPurpose);
        }
        granted(all.reads.get(&(principal, activity, field, purpose)).is_some_and(|widest| *widest >= mode))
    }

    /// Whether a principal may replace values.
    ///
    /// # Errors
    /// As [`Register::may_write`].
    pub fn may_rectify(&self, principal: &str, activity: &str, field: &str) -> Result<(), Denied> {
        self.decisions.may(Verb::Rectify, principal, activity, field)
    }

    /// Whether a principal may forget single tokens.
    ///
    /// # Errors
    /// As [`Register::may_write`].
    pub fn may_release(&self, principal: &str, activity: &str, field: &str) -> Result<(), Denied> {
        self.decisions.may(Verb::Release, principal, activity, field)
    }

    /// The activities under which a principal may find tokens by a field's value.
    ///
    /// # Errors
    /// As [`Register::may_write`]; [`Denied::NotGranted`] where there is none.
    pub fn may_look_up(&self, principal: &str, field: &str) -> Result<Vec<&str>, Denied> {
        let all = &self.decisions;
        let principal = *all.principals.get(principal).ok_or(Denied::NotGranted)?;
        let field = *all.fields.get(field).ok_or(Denied::UnknownField)?;
        let may = |activity: &&str| {
            let at = all.activities.get(*activity);
            at.is_some_and(|at| all.does.contains(&(principal, *at, field, Verb::Lookup)))
        };
        let found: Vec<&str> =
            self.activities().iter().map(|activity| activity.id.as_str()).filter(may).collect();
        granted(!found.is_empty())?;
        Ok(found)
    }

    /// Whether a principal may record facts under an activity.
    ///
    /// # Errors
    /// As [`Register::may_write`].
    pub fn may_record_fact(&self, principal: &str, activity: &str) -> Result<(), Denied> {
        let place = self.decisions.principal_and_activity(principal, activity)?;
        granted(self.decisions.records_facts.contains(&place))
    }

    /// Whether a principal may learn what a token stands for, without its value: whoever has any access under
    /// the activity, the data protection officer and auditors.
    ///
    /// # Errors
    /// As [`Register::may_write`].
    pub fn may_describe(&self, principal: &str, activity: &str) -> Result<(), Denied> {
        let place = self.decisions.principal_and_activity(principal, activity)?;
        let roles = self.roles_of(principal);
        granted(
            self.decisions.touches.contains(&place)
                || roles.contains(Role::Dpo)
                || roles.contains(Role::Auditor),
        )
    }
}
