//! What a new version of a register changes, and what it must not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Register;
use super::model::{Recipient, Verb};
use super::parse::RegisterError;

/// What happens to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// `+`
    Added,
    /// `-`
    Removed,
    /// `~`
    Changed,
}

/// One line of a difference: `+`, `-` or `~` and what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What happens.
    pub kind: ChangeKind,
    /// To what.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {}", self.what)
    }
}

/// An entry's attributes in words, by name.
type Attributes = BTreeMap<String, String>;

/// The changes from `old` (none if this is the first) to `new`, in the order of sections and ids. Two
/// registers without a change between them decide alike.
pub fn diff(old: Option<&Register>, new: &Register) -> Vec<Change> {
    let (before, after) = (old.map(entries).unwrap_or_default(), entries(new));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (_, entry) = name;
        match (before.get(name), after.get(name)) {
            (None, Some(new)) => changes.push(Change { kind: ChangeKind::Added, what: whole(entry, new) }),
            (Some(_), None) => changes.push(Change { kind: ChangeKind::Removed, what: entry.clone() }),
            (Some(old), Some(new)) => attribute_changes(entry, old, new, &mut changes),
            (None, None) => {}
        }
    }
    changes
}

fn whole(entry: &str, attributes: &Attributes) -> String {
    let words: Vec<String> = attributes.iter().map(|(name, words)| format!("{name}: {words}")).collect();
    format!("{entry} ({})", words.join("; "))
}

fn attribute_changes(entry: &str, old: &Attributes, new: &Attributes, changes: &mut Vec<Change>) {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        let what = match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) if before == after => continue,
            (Some(before), Some(after)) => format!("{before} → {after}"),
            (None, Some(after)) => format!("{after} (new)"),
            (Some(before), None) => format!("{before} (gone)"),
            (None, None) => continue,
        };
        changes.push(Change { kind: ChangeKind::Changed, what: format!("{entry}: {name}: {what}") });
    }
}

/// Everything that a register says, by section's order and entry.
fn entries(register: &Register) -> BTreeMap<(u8, String), Attributes> {
    let mut all = BTreeMap::new();
    let mut controller = vec![("name", register.name.clone()), ("time zone", register.time_zone.clone())];
    controller.extend(register.token_domain.clone().map(|domain| ("token domain", domain)));
    all.insert((0, format!("controller {}", register.controller)), attributes(controller));
    for field in &register.fields {
        let words = [
            ("type", field.field_type.name().to_owned()),
            ("category", field.category.name().to_owned()),
            ("lookup", if field.lookup { "yes" } else { "no" }.to_owned()),
        ];
        all.insert((1, format!("field {}", field.id)), attributes(words));
    }
    for downstream in &register.downstreams {
        let words = [
            ("name", downstream.name.clone()),
            ("principal", downstream.principal.clone()),
            ("region", downstream.region.clone()),
            ("transfer basis", downstream.transfer_basis.map_or("none", |basis| basis.code()).to_owned()),
            ("deadline", format!("{} h", downstream.deadline_hours)),
        ];
        all.insert((2, format!("downstream {}", downstream.id)), attributes(words));
    }
    for third_party in &register.third_parties {
        let words = [
            ("name", third_party.name.clone()),
            ("region", third_party.region.clone()),
            ("transfer basis", third_party.transfer_basis.map_or("none", |basis| basis.code()).to_owned()),
        ];
        all.insert((3, format!("third party {}", third_party.id)), attributes(words));
    }
    for (principal, role) in &register.roles {
        let words: &mut Attributes = all.entry((4, format!("roles of {principal}"))).or_default();
        words.insert(role.name().to_owned(), "yes".to_owned());
    }
    for activity in &register.activities {
        enter_activity(activity, &mut all);
    }
    all
}

fn enter_activity(activity: &super::Activity, all: &mut BTreeMap<(u8, String), Attributes>) {
    let recipient = |recipient: &Recipient| match recipient {
        Recipient::Downstream(name) | Recipient::ThirdParty(name) | Recipient::Named(name) => name.clone(),
    };
    let words = [
        ("name", activity.name.clone()),
        ("purposes", list(activity.purposes.iter().cloned())),
        ("legal basis", list(activity.legal_basis.iter().map(|basis| basis.code().to_owned()))),
        ("special basis", activity.special_basis.map_or("none", |basis| basis.code()).to_owned()),
        ("fields", list(activity.fields.iter().cloned())),
        ("origin", activity.origin.clone()),
        ("retention", activity.retention.clone()),
        ("recipients", list(activity.recipients.iter().map(recipient))),
        ("transfers", activity.transfers.clone()),
        ("security", activity.security.clone()),
    ];
    all.insert((5, format!("activity {}", activity.id)), attributes(words));
    // Rules are gathered as they are decided: per principal, verb and purpose the fields.
    let mut grants = BTreeMap::<(String, String), BTreeSet<&str>>::new();
    for access in &activity.access {
        let entry = format!("access of {} under {}", access.principal, activity.id);
        for verb in &access.may {
            let purposes = match verb {
                // Reads nothing, and yet its holder may learn what tokens stand for.
                Verb::Read | Verb::ReadMasked if access.purposes.is_empty() => {
                    vec![" for no purpose".to_owned()]
                }
                Verb::Read | Verb::ReadMasked => {
                    access.purposes.iter().map(|purpose| format!(" for {purpose}")).collect()
                }
                _ => vec![String::new()],
            };
            for purpose in purposes {
                let fields = grants.entry((entry.clone(), format!("{}{purpose}", verb.name()))).or_default();
                if *verb != Verb::RecordFact {
                    fields.extend(access.fields.iter().map(String::as_str));
                }
            }
        }
    }
    for ((entry, name), fields) in grants {
        let fields =
            if fields.is_empty() { "yes".to_owned() } else { list(fields.into_iter().map(str::to_owned)) };
        all.entry((6, entry)).or_default().insert(name, fields);
    }
}

fn attributes(words: impl IntoIterator<Item = (&'static str, String)>) -> Attributes {
    words.into_iter().map(|(name, words)| (name.to_owned(), words.replace('\n', " "))).collect()
}

fn list(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.sort_unstable();
    words.join(", ")
}

/// Refuses a version under which stored values would have no rule any more. `used` holds each activity and
/// field that has living values.
///
/// # Errors
/// [`RegisterError::Strands`] if `new` is another controller's; if an activity or field with living values
/// is gone from it, or the field's type is another; or if the domain of e-mail tokens changes while any
/// value lives, because tokens under the former domain could not be told from strangers' addresses.
pub fn strands(
    old: &Register,
    new: &Register,
    used: &BTreeSet<(String, String)>,
) -> Result<(), RegisterError> {
    let stranded = |why: String| Err(RegisterError::Strands(why));
    if old.controller != new.controller {
        return stranded(format!("this is the register of {}", new.controller));
    }
    if !used.is_empty() && old.token_domain.is_some() && old.token_domain != new.token_domain {
        return stranded("the token domain may not change while values live under it".to_owned());
    }
    for (activity, field) in used {
        let Some(kept) = new.activity(activity) else {
            return stranded(format!("the activity {activity} is gone"));
        };
        if !kept.fields.contains(field) {
            return stranded(format!("the activity {activity} lacks the field {field}"));
        }
        if let (Some(before), Some(after)) = (old.field(field), new.field(field))
            && before.field_type != after.field_type
        {
            let (before, after) = (before.field_type.name(), after.field_type.name());
            return stranded(format!("the field {field} turns from {before} into {after}"));
        }
    }
    Ok(())
}
