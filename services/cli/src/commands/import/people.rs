//! Recognises a repeated buyer, in memory alone: what told who somebody is is kept as a hash under a key
//! drawn for this run and never written, so nothing of it outlives the process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use cloakroom_core::field::{FieldType, normalise};

use super::mapping::Compare;

/// `sub_` and 26 characters.
const SUBJECT_ID_BYTES: usize = 30;

/// Who somebody is, for as long as this run lasts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Who(u128);

/// Everyone seen so far, up to a bound: some 50 bytes each.
pub(super) struct People {
    /// Two keys: one hash of 64 bits would take two of a few million people for one.
    keys: [RandomState; 2],
    compare: Compare,
    known: HashMap<Who, [u8; SUBJECT_ID_BYTES]>,
    max: usize,
}

/// More different people than the bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl People {
    /// Nobody yet; at most `max`.
    pub(super) fn new(compare: Compare, max: usize) -> Self {
        Self { keys: [RandomState::new(), RandomState::new()], compare, known: HashMap::new(), max }
    }

    /// Whom a cell names; nobody if it is empty.
    pub(super) fn who(&self, cell: &str) -> Option<Who> {
        let normal;
        let text = match self.compare {
            Compare::Exact => cell,
            Compare::Email => {
                normal = normalise(FieldType::Email, cell);
                normal.as_str()
            }
        };
        let [left, right] = &self.keys;
        let hash = (u128::from(left.hash_one(text)) << 64) | u128::from(right.hash_one(text));
        (!text.is_empty()).then_some(Who(hash))
    }

    /// The subject id of somebody seen before.
    pub(super) fn subject(&self, who: Who) -> Option<&str> {
        self.known.get(&who).and_then(|id| std::str::from_utf8(id).ok())
    }

    /// Remembers somebody. An id that is none is not remembered.
    pub(super) fn remember(&mut self, who: Who, subject_id: &str) -> Result<(), TooMany> {
        if self.known.len() >= self.max && !self.known.contains_key(&who) {
            return Err(TooMany);
        }
        if let Ok(id) = subject_id.as_bytes().try_into() {
            self.known.insert(who, id);
        }
        Ok(())
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: &str = "sub_aaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn an_address_is_the_same_in_capitals_and_between_blanks() {
        let mut people = People::new(Compare::Email, 10);
        people.remember(people.who("Ada@Example.org").unwrap(), ADA).unwrap();
        assert_eq!(people.subject(people.who(" ada@example.ORG ").unwrap()), Some(ADA));
        assert_eq!(people.subject(people.who("bob@example.org").unwrap()), None);
        assert!(people.who("").is_none() && people.who("  ").is_none());
        let exact = People::new(Compare::Exact, 10);
        assert!(exact.who("a") != exact.who("A") && exact.who(" ").is_some());
    }

    #[test]
    fn two_runs_share_no_hash() {
        let [one, other] = [(); 2].map(|()| People::new(Compare::Exact, 10));
        assert!(one.who("ada@example.org") != other.who("ada@example.org"));
    }

    #[test]
    fn the_bound_holds_but_for_those_known_already() {
        let mut people = People::new(Compare::Exact, 1);
        let (ada, bob) = (people.who("ada").unwrap(), people.who("bob").unwrap());
        people.remember(ada, ADA).unwrap();
        assert_eq!(people.remember(bob, ADA), Err(TooMany));
        assert_eq!((people.remember(ada, ADA), people.count()), (Ok(()), 1));
    }
}
