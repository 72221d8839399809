//! What a register says, as types.

use serde::Deserialize;

use crate::field::{Category, FieldType};

/// One kind of personal data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its id.
    pub id: String,
    /// What its values look like.
    pub field_type: FieldType,
    /// The category under which the record lists it.
    pub category: Category,
    /// Whether tokens may be found by value.
    pub lookup: bool,
}

/// A store or vendor that holds copies, hears of erasures and answers for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Downstream {
    /// Its id: it stands in acknowledgements and certificates.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Its SPIFFE URI. Being a recipient lets it read nothing: that takes access of its own.
    pub principal: String,
    /// Where it keeps data: an ISO 3166-1 code of two letters, `EU` or `EEA`.
    pub region: String,
    /// What allows data to go there, where it lies outside the EEA.
    pub transfer_basis: Option<TransferBasis>,
    /// How long it may take to purge, in hours.
    pub deadline_hours: u32,
}

impl Downstream {
    /// Whether data may go there: it lies in the EEA or a transfer basis is stated.
    pub fn may_receive(&self) -> bool {
        is_in_eea(&self.region) || self.transfer_basis.is_some()
    }
}

/// A recipient that gets data by other ways and of which nothing is awaited here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThirdParty {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// As [`Downstream::region`].
    pub region: String,
    /// As [`Downstream::transfer_basis`].
    pub transfer_basis: Option<TransferBasis>,
}

/// Whether a region of two letters, `EU` or `EEA` lies in the European Economic Area: the 27 members of the
/// Union, Iceland, Liechtenstein, Norway.
pub(super) fn is_in_eea(region: &str) -> bool {
    const EEA: &[&str] = &[
        "EU", "EEA", "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU",
        "IE", "IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
    ];
    EEA.contains(&region)
}

/// Who gets data of an activity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipient {
    /// A downstream, by id.
    Downstream(String),
    /// A third party, by id.
    ThirdParty(String),
    /// Anyone else, in words ("Competent authorities").
    Named(String),
}

/// A processing activity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Activity {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The purposes that data is collected for.
    pub purposes: Vec<String>,
    /// What makes it lawful: one ground at least.
    pub legal_basis: Vec<LegalBasis>,
    /// What allows its fields of special category; stated exactly if it has any.
    pub special_basis: Option<SpecialBasis>,
    /// The fields it uses, by id.
    pub fields: Vec<String>,
    /// Where the data comes from.
    pub origin: String,
    /// How long it is kept, in words.
    pub retention: String,
    /// Who gets it.
    pub recipients: Vec<Recipient>,
    /// Transfers to third countries, in words; `none` if there are none.
    pub transfers: String,
    /// The security measures, in words.
    pub security: String,
    /// Who may do what.
    pub access: Vec<Access>,
}

impl Activity {
    /// Whether its words claim that nothing leaves the EEA.
    pub fn says_no_transfers(&self) -> bool {
        let words = self.transfers.trim().to_lowercase();
        ["none", "no transfer", "not planned", "no international"]
            .iter()
            .any(|claim| words.starts_with(claim))
            || words == "no"
    }
}

/// What one principal may do under an activity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// The principal's SPIFFE URI.
    pub principal: String,
    /// What it may do.
    pub may: Vec<Verb>,
    /// For which of the activity's purposes it may read.
    pub purposes: Vec<String>,
    /// Which of the activity's fields this is about; all where the file names none.
    pub fields: Vec<String>,
}

/// What can be done with values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Store values.
    Write,
    /// Read them plain, or masked.
    Read,
    /// Read them masked.
    ReadMasked,
    /// Replace them.
    Rectify,
    /// Forget single tokens.
    Release,
    /// Find tokens by value.
    Lookup,
    /// Record facts that retention counts from.
    RecordFact,
}

impl Verb {
    /// All verbs.
    pub const ALL: &'static [Verb] = &[
        Verb::Write,
        Verb::Read,
        Verb::ReadMasked,
        Verb::Rectify,
        Verb::Release,
        Verb::Lookup,
        Verb::RecordFact,
    ];

    /// The name that registers use.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Write => "write",
            Verb::Read => "read",
            Verb::ReadMasked => "read_masked",
            Verb::Rectify => "rectify",
            Verb::Release => "release",
            Verb::Lookup => "lookup",
            Verb::RecordFact => "record_fact",
        }
    }

    /// Whether the verb needs a purpose.
    pub(super) fn reads(self) -> bool {
        matches!(self, Verb::Read | Verb::ReadMasked)
    }
}

/// What a principal is to the controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The data protection officer: asks for erasures, sees certificates.
    Dpo,
    /// Reads logs and certificates, no values.
    Auditor,
    /// Runs the vault, sees no values.
    Operator,
    /// Helps customers, reads masked values alone.
    Support,
    /// A program.
    Service,
}

impl Role {
    /// The name that registers use.
    pub fn name(self) -> &'static str {
        match self {
            Role::Dpo => "dpo",
            Role::Auditor => "auditor",
            Role::Operator => "operator",
            Role::Support => "support",
            Role::Service => "service",
        }
    }

    /// Whether someone in this role may be granted `verb` at all (rights.md, "Who may read").
    pub(super) fn allows(self, verb: Verb) -> bool {
        match self {
            Role::Dpo | Role::Service => true,
            Role::Support => verb != Verb::Read,
            Role::Auditor | Role::Operator => verb == Verb::RecordFact,
        }
    }
}

/// A set of [`Role`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Roles(u8);

impl Roles {
    /// Whether the set holds `role`.
    pub fn contains(self, role: Role) -> bool {
        self.0 & bit(role) != 0
    }

    /// Whether the set holds nothing.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn insert(&mut self, role: Role) {
        self.0 |= bit(role);
    }
}

fn bit(role: Role) -> u8 {
    1 << role as u8
}

macro_rules! grounds {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal, $title:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $code)] $variant,)* }

        impl $name {
            /// The code that registers use.
            pub fn code(self) -> &'static str {
                match self { $($name::$variant => $code,)* }
            }

            /// What it means, for people.
            pub fn title(self) -> &'static str {
                match self { $($name::$variant => $title,)* }
            }
        }
    };
}

grounds!(
    /// The grounds of GDPR Art. 6(1).
    LegalBasis {
        /// Art. 6(1)(a).
        Consent = "6.1.a", "consent";
        /// Art. 6(1)(b).
        Contract = "6.1.b", "contract";
        /// Art. 6(1)(c).
        LegalObligation = "6.1.c", "legal obligation";
        /// Art. 6(1)(d).
        VitalInterests = "6.1.d", "vital interests";
        /// Art. 6(1)(e).
        PublicTask = "6.1.e", "public task";
        /// Art. 6(1)(f).
        LegitimateInterests = "6.1.f", "legitimate interests";
    }
);

grounds!(
    /// The conditions of GDPR Art. 9(2) for special categories of data.
    SpecialBasis {
        /// Art. 9(2)(a).
        ExplicitConsent = "9.2.a", "explicit consent";
        /// Art. 9(2)(b).
        EmploymentLaw = "9.2.b", "employment and social protection law";
        /// Art. 9(2)(c).
        VitalInterests = "9.2.c", "vital interests";
        /// Art. 9(2)(d).
        Association = "9.2.d", "members of an association";
        /// Art. 9(2)(e).
        MadePublic = "9.2.e", "made public by the person";
        /// Art. 9(2)(f).
        LegalClaims = "9.2.f", "legal claims";
        /// Art. 9(2)(g).
        PublicInterest = "9.2.g", "substantial public interest";
        /// Art. 9(2)(h).
        HealthCare = "9.2.h", "health care";
        /// Art. 9(2)(i).
        PublicHealth = "9.2.i", "public health";
        /// Art. 9(2)(j).
        Research = "9.2.j", "archiving and research";
    }
);

grounds!(
    /// What allows data to leave the EEA (GDPR chapter V).
    TransferBasis {
        /// Art. 45.
        Adequacy = "adequacy", "adequacy decision";
        /// Art. 46(2)(c).
        StandardClauses = "scc", "standard contractual clauses";
        /// Art. 47.
        BindingRules = "bcr", "binding corporate rules";
        /// Art. 46(2)(e).
        CodeOfConduct = "code_of_conduct", "approved code of conduct";
        /// Art. 46(2)(f).
        Certification = "certification", "approved certification";
        /// Art. 49.
        Derogation = "derogation", "derogation for a specific situation";
    }
);
