//! Invented people: every value is a pure function of whose and what it is, so that the right answer to any
//! read is known without keeping it.

/// The controller of [`REGISTER`].
pub(crate) const CONTROLLER: &str = "load";
/// Its one activity.
pub(crate) const ACTIVITY: &str = "orders";
/// The purpose that the load reads for.
pub(crate) const PURPOSE: &str = "load";
/// The register of [`CONTROLLER`].
pub(crate) const REGISTER: &str = include_str!("../register.toml");
/// What is kept of everybody.
pub(crate) const FIELDS: [&str; 3] = ["email", "full_name", "phone"];
/// The longest value: with the padding's one byte it fills the smallest bucket of the vault.
pub(crate) const VALUE_BYTES_MAX: usize = 31;

/// One value: `3 × person + field`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(crate) u64);

impl Place {
    /// Field `field` of `person`.
    pub(crate) fn of(person: u32, field: usize) -> Self {
        Self(u64::from(person).saturating_mul(3).saturating_add(field as u64))
    }

    /// Whose value it is.
    pub(crate) fn person(self) -> u32 {
        u32::try_from(self.0 / 3).unwrap_or(u32::MAX)
    }

    /// The field's name.
    pub(crate) fn field(self) -> &'static str {
        FIELDS.get((self.0 % 3) as usize).copied().unwrap_or_default()
    }

    /// The value itself.
    pub(crate) fn value(self) -> Text {
        let (person, mark) = (self.person(), mix(self.0));
        match self.0 % 3 {
            0 => Text::new().add(b"p").hex(person, b'0').add(b".").hex(mark, b'0').add(b"@load.example"),
            1 => Text::new().add(b"Adelina Maria ").hex(person, b'k').add(b" ").hex(mark, b'k'),
            _ => Text::new().add(b"+999 ").decimal(person).add(b" ").decimal(mark),
        }
    }
}

/// What keeps two values apart that differ in one bit of their place.
fn mix(place: u64) -> u32 {
    (Draw(place ^ 0x5bd1_e995_2545_f491).next() >> 32) as u32
}

/// A short text without a heap of its own: half of the checking is making what to compare with.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    bytes: [u8; VALUE_BYTES_MAX],
    len: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; VALUE_BYTES_MAX], len: 0 }
    }

    fn add(mut self, more: &[u8]) -> Self {
        let end = self.len.saturating_add(more.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
            self.len = end;
        }
        self
    }

    /// Eight digits of base 16, the first ten of them from `zero` on as ASCII has them, the rest letters.
    fn hex(self, number: u32, zero: u8) -> Self {
        let digit = |place: usize| {
            let digit = ((number >> (28 - 4 * place)) & 15) as u8;
            if zero == b'0' && digit > 9 { b'a' - 10 + digit } else { zero + digit }
        };
        self.add(&std::array::from_fn::<u8, 8, _>(digit))
    }

    /// Ten decimal digits.
    fn decimal(self, number: u32) -> Self {
        let mut rest = number;
        let mut digits = [b'0'; 10];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.add(&digits)
    }

    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Numbers that look random and come again with the same seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 for an empty range.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_value_is_its_own_and_fits_the_smallest_bucket() {
        let values: HashSet<Vec<u8>> = (0..3000).map(|at| Place(at).value().as_bytes().to_vec()).collect();
        assert_eq!(values.len(), 3000);
        assert!(values.iter().all(|value| (20..=VALUE_BYTES_MAX).contains(&value.len())));
    }

    #[test]
    fn values_are_what_their_fields_take() {
        use cloakroom_core::field::{FieldType, check_bytes};
        for place in (0..300).chain(3 * (u64::from(u32::MAX) - 9)..3 * u64::from(u32::MAX)).map(Place) {
            let field = match place.field() {
                "email" => FieldType::Email,
                "full_name" => FieldType::FullName,
                _ => FieldType::Phone,
            };
            assert_eq!(check_bytes(field, place.value().as_bytes()).err(), None, "{place:?}");
        }
    }

    #[test]
    fn a_place_knows_its_person_and_field() {
        for person in [0, 7, u32::MAX] {
            for (at, name) in FIELDS.iter().enumerate() {
                let place = Place::of(person, at);
                assert_eq!((place.person(), place.field()), (person, *name));
            }
        }
    }

    #[test]
    fn draws_stay_below_their_end() {
        let mut draw = Draw(1);
        let drawn: HashSet<usize> = (0..200).map(|_| draw.below(7)).collect();
        assert_eq!(drawn, (0..7).collect());
        assert_eq!(draw.below(0), 0);
    }
}
