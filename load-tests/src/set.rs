//! What is in the vault, and what is known of it: a token for each value, a subject id for each person, and
//! who has been erased.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::people::{Draw, Place};

/// The people of one call of Tokenize: tokens by place from the first person's first value on.
#[derive(Debug)]
pub(crate) struct Made {
    /// The first person's number; the others follow it.
    pub(crate) first: u32,
    /// Three a person.
    pub(crate) tokens: Vec<Box<str>>,
    /// One a person.
    pub(crate) subjects: Vec<Box<str>>,
}

impl Made {
    /// Each value's place and token.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place, &str)> {
        (Place::of(self.first, 0).0..).map(Place).zip(self.tokens.iter().map(|token| &**token))
    }
}

/// A data set: people 0 to n, all of their values in the vault.
pub(crate) struct Set {
    tokens: Vec<Box<str>>,
    subjects: Vec<Box<str>>,
    /// Everybody, shuffled: erasures take from the front, reads from behind them.
    order: Vec<u32>,
    erased: AtomicUsize,
}

impl Set {
    /// From what calls of Tokenize gave, in any order, beginning at person 0 and without a gap.
    pub(crate) fn of(mut made: Vec<Made>, draw: &mut Draw) -> Self {
        made.sort_unstable_by_key(|made| made.first);
        let (mut tokens, mut subjects) = (Vec::new(), Vec::new());
        for made in made {
            tokens.extend(made.tokens);
            subjects.extend(made.subjects);
        }
        let mut order: Vec<u32> = (0..u32::try_from(subjects.len()).unwrap_or(u32::MAX)).collect();
        for end in (1..order.len()).rev() {
            order.swap(end, draw.below(end + 1));
        }
        Self { tokens, subjects, order, erased: AtomicUsize::new(0) }
    }

    /// How many people it began with.
    pub(crate) fn people(&self) -> usize {
        self.subjects.len()
    }

    /// A value of somebody who has not been erased.
    pub(crate) fn living(&self, draw: &mut Draw) -> Place {
        let erased = self.erased.load(Ordering::Acquire);
        let living = self.order.get(erased..).unwrap_or_default();
        let person = living.get(draw.below(living.len())).copied().unwrap_or_default();
        Place::of(person, draw.below(3))
    }

    /// How many of so many people can be erased: nine of ten, for reads need somebody.
    pub(crate) fn erasable(people: usize) -> usize {
        people / 10 * 9
    }

    /// The next person to erase; none once all that can be are.
    pub(crate) fn condemn(&self) -> Option<u32> {
        let most = Self::erasable(self.people());
        let taken = self.erased.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
            (at < most).then_some(at.saturating_add(1))
        });
        self.order.get(taken.ok()?).copied()
    }

    /// How many have been condemned.
    pub(crate) fn condemned(&self) -> usize {
        self.erased.load(Ordering::Acquire)
    }

    /// Some of those condemned since `since` of them were.
    pub(crate) fn condemned_since(&self, since: usize, most: usize) -> Vec<u32> {
        self.order.get(since..self.condemned()).unwrap_or_default().iter().take(most).copied().collect()
    }

    /// The token of a value; empty for a place outside the set.
    pub(crate) fn token(&self, place: Place) -> &str {
        usize::try_from(place.0).ok().and_then(|at| self.tokens.get(at)).map_or("", |token| token)
    }

    /// A person's subject id; empty for one outside the set.
    pub(crate) fn subject(&self, person: u32) -> &str {
        self.subjects.get(person as usize).map_or("", |subject| subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn set(people: u32) -> Set {
        let text = |kind: &str, at: u64| format!("{kind}{at}").into_boxed_str();
        let made = (0..people).rev().map(|person| Made {
            first: person,
            tokens: (0..3).map(|field| text("t", Place::of(person, field).0)).collect(),
            subjects: vec![text("s", person.into())],
        });
        Set::of(made.collect(), &mut Draw(1))
    }

    #[test]
    fn tokens_lie_at_their_places_whatever_the_order_they_came_in() {
        let set = set(20);
        assert_eq!((set.token(Place::of(13, 2)), set.subject(13)), ("t41", "s13"));
        assert_eq!((set.token(Place::of(20, 0)), set.subject(20)), ("", ""));
    }

    #[test]
    fn nobody_is_erased_twice_and_nobody_erased_is_read() {
        let set = set(20);
        let erased: HashSet<u32> = std::iter::from_fn(|| set.condemn()).collect();
        assert_eq!(erased.len(), 18, "nine of ten, then no more");
        assert_eq!(set.condemned_since(0, 99).into_iter().collect::<HashSet<_>>(), erased);
        let mut draw = Draw(2);
        let read: HashSet<u32> = (0..200).map(|_| set.living(&mut draw).person()).collect();
        assert_eq!(read.len(), 2);
        assert!(read.is_disjoint(&erased));
    }
}
