//! Loads of several kinds: all verbs at once, and people who come again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::drive::Work;
use crate::error::LoadError;
use crate::people::{Draw, FIELDS, Place};
use crate::set::Set;
use crate::work::{Connections, Erase, Write, check_known, read_or_erased, storing_known};

/// Of a hundred calls so many write, and so many erase; the others read.
const WRITES: usize = 9;
const ERASURES: usize = 1;

/// 90 % reads of one value, 9 % Tokenize of one new person, 1 % RequestErasure. A value is checked as ever, but
/// that of a person whose erasure was asked for while it was read may be ERASED.
pub(crate) struct Mixed {
    pub(crate) connections: Connections,
    pub(crate) set: Arc<Set>,
    pub(crate) write: Write,
    pub(crate) erase: Erase,
}

impl Work for Mixed {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, draw: &mut Draw) -> Result<(), LoadError> {
        let kind = draw.below(100);
        if kind < ERASURES && self.set.condemned() < Set::erasable(self.set.people()) {
            return self.erase.call(connection, draw).await;
        }
        if (ERASURES..ERASURES + WRITES).contains(&kind) {
            return self.write.call(connection, draw).await;
        }
        let (at, place) = self.set.living_at(draw);
        let erased = read_or_erased(&self.connections, connection, (place, self.set.token(place))).await?;
        if erased && at >= self.set.condemned() {
            return Err(LoadError::Wrong {
                verb: "detokenize",
                reference: place.0.to_string(),
                what: "ERASED though nobody asked for it".to_owned(),
            });
        }
        Ok(())
    }
}

/// Tokenize of people whom the vault knows, with the values that it has: it must give the tokens that it gave.
pub(crate) struct Again {
    pub(crate) connections: Connections,
    pub(crate) set: Arc<Set>,
    /// People a call.
    pub(crate) people: u32,
}

impl Work for Again {
    fn items(&self) -> u64 {
        u64::from(self.people).saturating_mul(FIELDS.len() as u64)
    }

    async fn call(&self, connection: usize, draw: &mut Draw) -> Result<(), LoadError> {
        let mut people = BTreeSet::new();
        while people.len() < self.people as usize {
            people.insert(self.set.living(draw).person());
        }
        let places =
            || people.iter().flat_map(|person| (0..FIELDS.len()).map(move |field| Place::of(*person, field)));
        let items = places().map(|place| (place, self.set.subject(place.person())));
        let answer = storing_known(&self.connections, connection, items).await?;
        let tokens = places().map(|place| (place, self.set.token(place)));
        check_known(tokens, answer)?;
        Ok(())
    }
}
