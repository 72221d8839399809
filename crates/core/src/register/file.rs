//! `register.toml` as it is written, before anything in it is believed. Unknown keys are errors.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use toml::Spanned;

use super::model::{LegalBasis, Role, SpecialBasis, TransferBasis, Verb};
use crate::field::{Category, FieldType};

/// Words with their place in the file.
pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegister {
    pub(super) controller: Text,
    pub(super) name: Text,
    pub(super) time_zone: Text,
    pub(super) token_domain: Option<Text>,
    #[serde(default)]
    pub(super) field: Vec<RawField>,
    #[serde(default)]
    pub(super) downstream: Vec<RawDownstream>,
    #[serde(default)]
    pub(super) third_party: Vec<RawThirdParty>,
    #[serde(default)]
    pub(super) role: Vec<RawRole>,
    #[serde(default)]
    pub(super) activity: Vec<RawActivity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawField {
    pub(super) id: Text,
    pub(super) r#type: FieldType,
    pub(super) category: Category,
    #[serde(default)]
    pub(super) lookup: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDownstream {
    pub(super) id: Text,
    pub(super) name: Text,
    pub(super) principal: Text,
    pub(super) region: Text,
    pub(super) transfer_basis: Option<TransferBasis>,
    pub(super) deadline_hours: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawThirdParty {
    pub(super) id: Text,
    pub(super) name: Text,
    pub(super) region: Text,
    pub(super) transfer_basis: Option<TransferBasis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    pub(super) principal: Text,
    pub(super) role: Role,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawActivity {
    pub(super) id: Text,
    pub(super) name: Text,
    pub(super) purposes: Vec<Text>,
    pub(super) legal_basis: Spanned<LegalBases>,
    pub(super) special_basis: Option<SpecialBasis>,
    pub(super) fields: Vec<Text>,
    pub(super) origin: Text,
    pub(super) retention: Text,
    pub(super) recipients: Vec<Text>,
    pub(super) transfers: Text,
    pub(super) security: Text,
    #[serde(default)]
    pub(super) access: Vec<RawAccess>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccess {
    pub(super) principal: Text,
    pub(super) may: Vec<Spanned<Verb>>,
    #[serde(default)]
    pub(super) purposes: Vec<Text>,
    pub(super) fields: Option<Vec<Text>>,
}

/// One ground or a list of them.
pub(super) struct LegalBases(pub(super) Vec<LegalBasis>);

impl<'de> Deserialize<'de> for LegalBases {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = LegalBases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of 6.1.a to 6.1.f, or a list of them")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<LegalBases, E> {
                LegalBasis::deserialize(de::value::StrDeserializer::new(one)).map(|one| LegalBases(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, many: A) -> Result<LegalBases, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(many)).map(LegalBases)
            }
        }

        from.deserialize_any(OneOrMany)
    }
}
