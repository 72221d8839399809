//! `register.toml`: read, checked, and every complaint given with its line and key.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Register;
use super::decide::Decisions;
use super::file::{
    RawAccess, RawActivity, RawDownstream, RawField, RawRegister, RawRole, RawThirdParty, Text,
};
use super::model::{Access, Activity, Downstream, Field, Recipient, Role, Roles, ThirdParty, Verb};
use super::shape::{is_domain, is_id, is_principal, is_region, is_slug, is_time_zone};
use crate::field::Category;

/// The largest register, in bytes: several times what a company with hundreds of activities needs, and few
/// enough to stand in one event of the log.
pub const REGISTER_BYTES_MAX: usize = 512 * 1024;

/// The longest name and description, in bytes.
const NAME_BYTES_MAX: usize = 200;
const PROSE_BYTES_MAX: usize = 4_000;
/// The most of the TOML parser's own words, which quote the file.
const MESSAGE_CHARS_MAX: usize = 300;
/// A year.
const DEADLINE_HOURS_MAX: u32 = 24 * 366;
/// Three days, where a downstream states no deadline.
const DEADLINE_HOURS: u32 = 72;
/// The most single grants (a verb, a field, a purpose), so that a small file cannot fill the memory: a rule
/// that names no fields is about all of its activity's.
const GRANTS_MAX: usize = 250_000;

/// Why a register was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Larger than [`REGISTER_BYTES_MAX`].
    #[error("the register is larger than 512 KiB")]
    TooLarge,
    /// Its access rules come to more than 250,000 single grants.
    #[error("the register's access rules are too many")]
    TooManyGrants,
    /// Not TOML, an unknown or missing key, a value of another kind.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// Well written, but wrong.
    #[error("line {line}: {key}: {problem}")]
    Invalid {
        /// Counted from 1.
        line: usize,
        /// Where, as in `activity.newsletter.purposes`.
        key: String,
        /// What is wrong.
        problem: Problem,
    },
    /// Applying it would leave stored values that nothing governs.
    #[error("stored values would be stranded: {0}")]
    Strands(String),
}

/// What is wrong with a value in a register.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not a controller's slug.
    #[error("a slug has up to 63 of a-z, 0-9 and -, and does not begin with -")]
    NotASlug,
    /// Not an id.
    #[error("an id has up to 63 of a-z, 0-9, _ and -, and begins with a letter or digit")]
    NotAnId,
    /// Not a principal.
    #[error("a principal is a SPIFFE URI: spiffe://trust-domain/path")]
    NotAPrincipal,
    /// Not a time zone.
    #[error("no such time zone (IANA names, as Europe/Madrid)")]
    NotATimeZone,
    /// Not a domain.
    #[error("a domain has two lower-case labels at least")]
    NotADomain,
    /// Not a region.
    #[error("a region is an ISO 3166-1 code of two capitals, EU or EEA")]
    NotARegion,
    /// Not a number of hours.
    #[error("a deadline is 1 to 8784 hours")]
    NotADeadline,
    /// Nothing where something must stand.
    #[error("must not be empty")]
    Empty,
    /// Too long.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// A control character in words.
    #[error("holds a control character")]
    ControlCharacter,
    /// The second of its name.
    #[error("stands twice: {0}")]
    Duplicate(String),
    /// A reference that leads nowhere.
    #[error("no such {kind}: {id}")]
    Unknown {
        /// What it should have been.
        kind: &'static str,
        /// What it is called.
        id: String,
    },
    /// A downstream that reads under an activity whose recipients do not name it.
    #[error("this downstream is not among the activity's recipients")]
    NotARecipient,
    /// A role that excludes what is granted.
    #[error("the role {role} excludes {verb}", role = .role.name(), verb = .verb.name())]
    RoleExcludes {
        /// The role.
        role: Role,
        /// What was granted.
        verb: Verb,
    },
    /// A field of special category without a ground of Art. 9(2).
    #[error("the field {0} is of a special category: state a special_basis (9.2.a to 9.2.j)")]
    NoSpecialBasis(String),
}

pub(super) fn parse(toml: &str) -> Result<Register, RegisterError> {
    if toml.len() > REGISTER_BYTES_MAX {
        return Err(RegisterError::TooLarge);
    }
    let raw: RawRegister = toml::from_str(toml).map_err(|error| RegisterError::Syntax {
        line: line(toml, error.span()),
        message: error.message().replace('\n', "; ").chars().take(MESSAGE_CHARS_MAX).collect(),
    })?;
    if grants(&raw) > GRANTS_MAX {
        return Err(RegisterError::TooManyGrants);
    }
    Reader { toml }.register(raw)
}

/// How many single grants the access rules come to as written, repetitions counted.
fn grants(raw: &RawRegister) -> usize {
    let of_rule = |activity: &RawActivity, rule: &RawAccess| {
        let fields = rule.fields.as_ref().unwrap_or(&activity.fields).len();
        rule.may.len().saturating_mul(fields).saturating_mul(rule.purposes.len().max(1))
    };
    let rules =
        raw.activity.iter().flat_map(|activity| activity.access.iter().map(move |rule| (activity, rule)));
    rules.fold(0, |sum, (activity, rule)| sum.saturating_add(of_rule(activity, rule)))
}

/// The line, counted from 1, in which a span begins.
fn line(toml: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| toml.as_bytes().get(..span.start)).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

type Checked<T> = Result<T, RegisterError>;

/// Checks what was read, with the file at hand to name lines.
struct Reader<'a> {
    toml: &'a str,
}

impl Reader<'_> {
    fn register(&self, raw: RawRegister) -> Checked<Register> {
        let controller = self.shaped(&raw.controller, "controller", is_slug, Problem::NotASlug)?;
        let name = self.words(&raw.name, "name", NAME_BYTES_MAX)?;
        let time_zone = self.shaped(&raw.time_zone, "time_zone", is_time_zone, Problem::NotATimeZone)?;
        let token_domain = raw
            .token_domain
            .as_ref()
            .map(|domain| self.shaped(domain, "token_domain", is_domain, Problem::NotADomain))
            .transpose()?;
        let fields = self.fields(&raw.field)?;
        let downstreams = self.downstreams(&raw.downstream)?;
        let third_parties = self.third_parties(&raw.third_party, &downstreams)?;
        let roles = self.roles(&raw.role)?;
        let mut roles_of = HashMap::<String, Roles>::new();
        for (principal, role) in &roles {
            roles_of.entry(principal.clone()).or_default().insert(*role);
        }
        let known = Known {
            fields: fields.iter().map(|field| (field.id.as_str(), field.category)).collect(),
            downstreams: downstreams.iter().map(|known| known.id.as_str()).collect(),
            third_parties: third_parties.iter().map(|known| known.id.as_str()).collect(),
            downstream_of: downstreams
                .iter()
                .map(|known| (known.principal.as_str(), known.id.as_str()))
                .collect(),
            roles: &roles,
        };
        let mut ids = HashSet::new();
        let mut activities = Vec::with_capacity(raw.activity.len());
        for activity in &raw.activity {
            self.unique(&mut ids, &activity.id, "activity.id")?;
            activities.push(self.activity(activity, &known)?);
        }
        let decisions = Decisions::compile(&fields, &activities, &downstreams, &roles);
        Ok(Register {
            controller,
            name,
            time_zone,
            token_domain,
            fields,
            downstreams,
            third_parties,
            roles,
            activities,
            roles_of,
            decisions,
        })
    }

    fn fields(&self, raw: &[RawField]) -> Checked<Vec<Field>> {
        let mut ids = HashSet::new();
        let mut all = Vec::with_capacity(raw.len());
        for raw in raw {
            let id = self.id(&raw.id, "field.id")?;
            self.unique(&mut ids, &raw.id, "field.id")?;
            all.push(Field { id, field_type: raw.r#type, category: raw.category, lookup: raw.lookup });
        }
        Ok(all)
    }

    fn downstreams(&self, raw: &[RawDownstream]) -> Checked<Vec<Downstream>> {
        let (mut ids, mut principals) = (HashSet::new(), HashSet::new());
        let mut all = Vec::with_capacity(raw.len());
        for raw in raw {
            let id = self.id(&raw.id, "downstream.id")?;
            self.unique(&mut ids, &raw.id, "downstream.id")?;
            let key = |name: &str| format!("downstream.{id}.{name}");
            let principal = self.principal(&raw.principal, &key("principal"))?;
            self.unique(&mut principals, &raw.principal, &key("principal"))?;
            let deadline_hours = match &raw.deadline_hours {
                Some(hours) if !(1..=DEADLINE_HOURS_MAX).contains(hours.get_ref()) => {
                    return Err(self.invalid(hours.span(), &key("deadline_hours"), Problem::NotADeadline));
                }
                Some(hours) => *hours.get_ref(),
                None => DEADLINE_HOURS,
            };
            all.push(Downstream {
                name: self.words(&raw.name, &key("name"), NAME_BYTES_MAX)?,
                principal,
                region: self.shaped(&raw.region, &key("region"), is_region, Problem::NotARegion)?,
                transfer_basis: raw.transfer_basis,
                deadline_hours,
                id,
            });
        }
        Ok(all)
    }

    fn third_parties(&self, raw: &[RawThirdParty], downstreams: &[Downstream]) -> Checked<Vec<ThirdParty>> {
        let mut ids: HashSet<&str> = downstreams.iter().map(|downstream| downstream.id.as_str()).collect();
        let mut all = Vec::with_capacity(raw.len());
        for raw in raw {
            let id = self.id(&raw.id, "third_party.id")?;
            self.unique(&mut ids, &raw.id, "third_party.id")?;
            let key = |name: &str| format!("third_party.{id}.{name}");
            all.push(ThirdParty {
                name: self.words(&raw.name, &key("name"), NAME_BYTES_MAX)?,
                region: self.shaped(&raw.region, &key("region"), is_region, Problem::NotARegion)?,
                transfer_basis: raw.transfer_basis,
                id,
            });
        }
        Ok(all)
    }

    fn roles(&self, raw: &[RawRole]) -> Checked<Vec<(String, Role)>> {
        let mut all = Vec::with_capacity(raw.len());
        let mut seen = HashSet::new();
        for raw in raw {
            let principal = self.principal(&raw.principal, "role.principal")?;
            if !seen.insert((principal.clone(), raw.role)) {
                return Err(self.invalid(
                    raw.principal.span(),
                    "role.principal",
                    Problem::Duplicate(principal),
                ));
            }
            all.push((principal, raw.role));
        }
        Ok(all)
    }

    fn activity(&self, raw: &RawActivity, known: &Known<'_>) -> Checked<Activity> {
        let id = self.id(&raw.id, "activity.id")?;
        let key = |name: &str| format!("activity.{id}.{name}");
        let purposes = self.ids(&raw.purposes, &key("purposes"))?;
        let fields = self.ids(&raw.fields, &key("fields"))?;
        let legal_basis = raw.legal_basis.get_ref().0.clone();
        for (name, span, is_empty) in [
            ("purposes", raw.id.span(), purposes.is_empty()),
            ("fields", raw.id.span(), fields.is_empty()),
            ("legal_basis", raw.legal_basis.span(), legal_basis.is_empty()),
        ] {
            if is_empty {
                return Err(self.invalid(span, &key(name), Problem::Empty));
            }
        }
        for field in &raw.fields {
            match known.fields.get(field.get_ref().as_str()) {
                None => return Err(self.unknown(field, &key("fields"), "field")),
                Some(Category::Special) if raw.special_basis.is_none() => {
                    let problem = Problem::NoSpecialBasis(field.get_ref().clone());
                    return Err(self.invalid(field.span(), &key("fields"), problem));
                }
                Some(_) => {}
            }
        }
        let recipients = self.recipients(&raw.recipients, &key("recipients"), known)?;
        let mut activity = Activity {
            name: self.words(&raw.name, &key("name"), NAME_BYTES_MAX)?,
            purposes,
            legal_basis,
            special_basis: raw.special_basis,
            fields,
            origin: self.words(&raw.origin, &key("origin"), PROSE_BYTES_MAX)?,
            retention: self.words(&raw.retention, &key("retention"), PROSE_BYTES_MAX)?,
            recipients,
            transfers: self.words(&raw.transfers, &key("transfers"), PROSE_BYTES_MAX)?,
            security: self.words(&raw.security, &key("security"), PROSE_BYTES_MAX)?,
            access: Vec::with_capacity(raw.access.len()),
            id,
        };
        for access in &raw.access {
            let access = self.access(access, &activity, known)?;
            activity.access.push(access);
        }
        Ok(activity)
    }

    /// A recipient that looks like an id must be one; so a slip of the pen is not taken for a name.
    fn recipients(&self, raw: &[Text], key: &str, known: &Known<'_>) -> Checked<Vec<Recipient>> {
        let mut seen = HashSet::new();
        let mut all = Vec::with_capacity(raw.len());
        for raw in raw {
            let name = self.words(raw, key, NAME_BYTES_MAX)?;
            self.unique(&mut seen, raw, key)?;
            all.push(if known.downstreams.contains(name.as_str()) {
                Recipient::Downstream(name)
            } else if known.third_parties.contains(name.as_str()) {
                Recipient::ThirdParty(name)
            } else if is_id(&name) {
                return Err(self.unknown(raw, key, "downstream or third party"));
            } else {
                Recipient::Named(name)
            });
        }
        Ok(all)
    }

    fn access(&self, raw: &RawAccess, activity: &Activity, known: &Known<'_>) -> Checked<Access> {
        let key = |name: &str| format!("activity.{}.access.{name}", activity.id);
        let principal = self.principal(&raw.principal, &key("principal"))?;
        let mut may = Vec::with_capacity(raw.may.len());
        for verb in &raw.may {
            let (verb, span) = (*verb.get_ref(), verb.span());
            let mut roles = known.roles.iter().filter(|(holder, _)| *holder == principal);
            if may.contains(&verb) {
                return Err(self.invalid(span, &key("may"), Problem::Duplicate(verb.name().to_owned())));
            }
            if let Some((_, role)) = roles.find(|(_, role)| !role.allows(verb)) {
                return Err(self.invalid(span, &key("may"), Problem::RoleExcludes { role: *role, verb }));
            }
            let receives = |id: &str| activity.recipients.contains(&Recipient::Downstream(id.to_owned()));
            if verb.reads() && known.downstream_of.get(principal.as_str()).is_some_and(|id| !receives(id)) {
                return Err(self.invalid(raw.principal.span(), &key("principal"), Problem::NotARecipient));
            }
            may.push(verb);
        }
        if may.is_empty() {
            return Err(self.invalid(raw.principal.span(), &key("may"), Problem::Empty));
        }
        let purposes =
            self.subset(&raw.purposes, &activity.purposes, &key("purposes"), "purpose of this activity")?;
        let fields = match &raw.fields {
            None => activity.fields.clone(),
            Some(named) if named.is_empty() => {
                return Err(self.invalid(raw.principal.span(), &key("fields"), Problem::Empty));
            }
            Some(named) => self.subset(named, &activity.fields, &key("fields"), "field of this activity")?,
        };
        Ok(Access { principal, may, purposes, fields })
    }

    fn subset(&self, raw: &[Text], of: &[String], key: &str, kind: &'static str) -> Checked<Vec<String>> {
        let ids = self.ids(raw, key)?;
        match raw.iter().find(|id| !of.contains(id.get_ref())) {
            Some(stranger) => Err(self.unknown(stranger, key, kind)),
            None => Ok(ids),
        }
    }

    fn ids(&self, raw: &[Text], key: &str) -> Checked<Vec<String>> {
        let mut seen = HashSet::new();
        let id = |raw: &Text| {
            let id = self.id(raw, key)?;
            if seen.insert(id.clone()) {
                Ok(id)
            } else {
                Err(self.invalid(raw.span(), key, Problem::Duplicate(id)))
            }
        };
        raw.iter().map(id).collect()
    }

    fn id(&self, raw: &Text, key: &str) -> Checked<String> {
        self.shaped(raw, key, is_id, Problem::NotAnId)
    }

    fn principal(&self, raw: &Text, key: &str) -> Checked<String> {
        self.shaped(raw, key, is_principal, Problem::NotAPrincipal)
    }

    fn shaped(&self, raw: &Text, key: &str, is: fn(&str) -> bool, otherwise: Problem) -> Checked<String> {
        if is(raw.get_ref()) {
            Ok(raw.get_ref().clone())
        } else {
            Err(self.invalid(raw.span(), key, otherwise))
        }
    }

    fn words(&self, raw: &Text, key: &str, bytes_max: usize) -> Checked<String> {
        let words = raw.get_ref();
        let problem = if words.trim().is_empty() {
            Problem::Empty
        } else if words.len() > bytes_max {
            Problem::TooLong(bytes_max)
        } else if words.chars().any(|c| c.is_control() && c != '\n') {
            Problem::ControlCharacter
        } else {
            return Ok(words.trim().to_owned());
        };
        Err(self.invalid(raw.span(), key, problem))
    }

    fn unique<'a>(&self, seen: &mut HashSet<&'a str>, raw: &'a Text, key: &str) -> Checked<()> {
        if seen.insert(raw.get_ref()) {
            return Ok(());
        }
        Err(self.invalid(raw.span(), key, Problem::Duplicate(raw.get_ref().clone())))
    }

    fn unknown(&self, raw: &Text, key: &str, kind: &'static str) -> RegisterError {
        self.invalid(raw.span(), key, Problem::Unknown { kind, id: raw.get_ref().clone() })
    }

    fn invalid(&self, span: Range<usize>, key: &str, problem: Problem) -> RegisterError {
        RegisterError::Invalid { line: line(self.toml, Some(span)), key: key.to_owned(), problem }
    }
}

/// What an activity may refer to.
struct Known<'a> {
    fields: HashMap<&'a str, Category>,
    downstreams: HashSet<&'a str>,
    third_parties: HashSet<&'a str>,
    /// By principal.
    downstream_of: HashMap<&'a str, &'a str>,
    roles: &'a [(String, Role)],
}

const _: () = assert!(GRANTS_MAX == 250_000, "the message of TooManyGrants names the number");
