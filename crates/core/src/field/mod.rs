//! What one value of personal data may look like, how it is shown to those who may not see it whole, and
//! when two spellings of it are the same.
//!
//! Values are kept exactly as given: nothing here trims or repairs what is stored. Checks are lenient where
//! people are various (names, addresses) and strict where a value has a grammar (dates, IBAN, IP).
//!
//! | type | control characters (C0, DEL, C1) | otherwise |
//! | --- | --- | --- |
//! | `free_text` | kept exactly, NUL included | anything |
//! | `postal_address` | tab, LF and CR kept, the rest refused | anything |
//! | all others | refused | one line of the type's own grammar |
//!
//! An empty value is a value of every type. Card numbers are refused in every type ([`crate::card`]).

mod check;
mod mask;
mod normalise;

pub use check::{InvalidValue, VALUE_BYTES_MAX, check, check_bytes};
pub use mask::mask;
pub use normalise::normalise;

use serde::Deserialize;

/// The kind of text that a field holds: decides what is accepted, how it is masked and how it is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FieldType {
    /// An e-mail address, also an internationalised one (RFC 6531).
    Email,
    /// A person's name in any script, of any length.
    FullName,
    /// A telephone number, with or without country code.
    Phone,
    /// A date of birth: `1984-05-31`, `31.05.1984`, `05/31/1984`, or only a year or a month.
    BirthDate,
    /// An address, on one or several lines.
    PostalAddress,
    /// Anything that somebody typed.
    FreeText,
    /// One line of anything.
    Text,
    /// ASCII digits, with blanks and dashes between them.
    Digits,
    /// The number of a passport, an identity card or a tax id.
    DocumentNumber,
    /// An international bank account number (ISO 13616) with valid check digits.
    Iban,
    /// An IPv4 or IPv6 address.
    IpAddress,
    /// A machine's word: a consent state, an affiliate or order code. Printable ASCII, up to 256 bytes.
    Code,
}

impl FieldType {
    /// All types, in the order of the documentation.
    pub const ALL: &'static [FieldType] = &[
        FieldType::Email,
        FieldType::FullName,
        FieldType::Phone,
        FieldType::BirthDate,
        FieldType::PostalAddress,
        FieldType::FreeText,
        FieldType::Text,
        FieldType::Digits,
        FieldType::DocumentNumber,
        FieldType::Iban,
        FieldType::IpAddress,
        FieldType::Code,
    ];

    /// The name that registers use.
    pub fn name(self) -> &'static str {
        match self {
            FieldType::Email => "email",
            FieldType::FullName => "full_name",
            FieldType::Phone => "phone",
            FieldType::BirthDate => "birth_date",
            FieldType::PostalAddress => "postal_address",
            FieldType::FreeText => "free_text",
            FieldType::Text => "text",
            FieldType::Digits => "digits",
            FieldType::DocumentNumber => "document_number",
            FieldType::Iban => "iban",
            FieldType::IpAddress => "ip_address",
            FieldType::Code => "code",
        }
    }
}

/// The category of personal data that a field belongs to, as the record of Art. 30 groups them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Category {
    /// Who somebody is.
    Identification,
    /// How to reach somebody.
    Contact,
    /// How somebody pays, never a card number.
    Payment,
    /// Special categories of GDPR Art. 9: an activity needs a basis of its own for them.
    Special,
    /// What somebody typed: may hold anything.
    FreeText,
}

impl Category {
    /// The name that registers use.
    pub fn name(self) -> &'static str {
        match self {
            Category::Identification => "identification",
            Category::Contact => "contact",
            Category::Payment => "payment",
            Category::Special => "special",
            Category::FreeText => "free_text",
        }
    }
}

/// Marks of writing direction that pasted numbers and addresses bring along; they carry no meaning there.
pub(crate) fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
