//! What is in the vault, and what is known of it: a token for each value, a subject id for each person, and
//! who has been erased.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::LoadError;
use crate::people::{Draw, FIELDS, Place};

/// Tokens and subject ids: a prefix of four and 26 letters.
pub(crate) const NAME_BYTES: usize = 30;

/// A token or a subject id, without a heap of its own: a large set has ten million of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name([u8; NAME_BYTES]);

impl Name {
    /// A name that begins with `prefix` and is as long as all are.
    pub(crate) fn of(text: &str, prefix: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().filter(|_| text.starts_with(prefix)).map(Self)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The people of one call of Tokenize: tokens by place from the first person's first value on.
#[derive(Debug)]
pub(crate) struct Made {
    /// The first person's number; the others follow it.
    pub(crate) first: u32,
    /// Three a person.
    pub(crate) tokens: Vec<Name>,
    /// One a person.
    pub(crate) subjects: Vec<Name>,
}

impl Made {
    /// Each value's place and token.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place, &str)> {
        (Place::of(self.first, 0).0..).map(Place).zip(self.tokens.iter().map(Name::text))
    }
}

/// A data set: people 0 to n, all of their values in the vault.
pub(crate) struct Set {
    tokens: Vec<Name>,
    subjects: Vec<Name>,
    /// Everybody, shuffled: erasures take from the front, reads from behind them.
    order: Vec<u32>,
    erased: AtomicUsize,
}

impl Set {
    /// From what calls of Tokenize gave, in any order, beginning at person 0 and without a gap.
    pub(crate) fn of(mut made: Vec<Made>) -> Self {
        made.sort_unstable_by_key(|made| made.first);
        let (mut tokens, mut subjects) = (Vec::new(), Vec::new());
        for made in made {
            tokens.extend(made.tokens);
            subjects.extend(made.subjects);
        }
        Self::shuffled(tokens, subjects)
    }

    /// The same order for the same number of people, always.
    fn shuffled(tokens: Vec<Name>, subjects: Vec<Name>) -> Self {
        let mut order: Vec<u32> = (0..u32::try_from(subjects.len()).unwrap_or(u32::MAX)).collect();
        let mut draw = Draw(order.len() as u64);
        for end in (1..order.len()).rev() {
            order.swap(end, draw.below(end + 1));
        }
        Self { tokens, subjects, order, erased: AtomicUsize::new(0) }
    }

    /// Keeps it in a file: every subject id, then every token.
    ///
    /// # Errors
    /// [`LoadError::File`].
    pub(crate) fn save(&self, path: &Path) -> Result<(), LoadError> {
        let save = || {
            let mut file = BufWriter::new(File::create(path)?);
            self.subjects.iter().chain(&self.tokens).try_for_each(|name| file.write_all(&name.0))?;
            file.flush()
        };
        save().map_err(LoadError::file(path))
    }

    /// The set of `people` that was saved.
    ///
    /// # Errors
    /// [`LoadError::File`], also for one of another size.
    pub(crate) fn load(path: &Path, people: u32) -> Result<Self, LoadError> {
        let people = people as usize;
        let load = || {
            let file = File::open(path)?;
            let names = people.saturating_mul(FIELDS.len() + 1);
            if file.metadata()?.len() != names.saturating_mul(NAME_BYTES) as u64 {
                return Err(ErrorKind::InvalidData.into());
            }
            let mut file = BufReader::with_capacity(1 << 20, file);
            let mut read = |count: usize| {
                let mut names = Vec::with_capacity(count);
                for _ in 0..count {
                    let mut name = [0; NAME_BYTES];
                    file.read_exact(&mut name)?;
                    names.push(Name(name));
                }
                Ok::<_, std::io::Error>(names)
            };
            let subjects = read(people)?;
            Ok(Self::shuffled(read(names - people)?, subjects))
        };
        load().map_err(LoadError::file(path))
    }

    /// How many people it began with.
    pub(crate) fn people(&self) -> usize {
        self.subjects.len()
    }

    /// A value of somebody who has not been erased.
    pub(crate) fn living(&self, draw: &mut Draw) -> Place {
        self.living_at(draw).1
    }

    /// The same, with where the person stands in the order of erasures: below [`Set::condemned`] by now, if
    /// somebody has asked for their erasure meanwhile.
    pub(crate) fn living_at(&self, draw: &mut Draw) -> (usize, Place) {
        let erased = self.condemned();
        let at = erased.saturating_add(draw.below(self.order.len().saturating_sub(erased)));
        let person = self.order.get(at).copied().unwrap_or_default();
        (at, Place::of(person, draw.below(FIELDS.len())))
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
        usize::try_from(place.0).ok().and_then(|at| self.tokens.get(at)).map_or("", Name::text)
    }

    /// A person's subject id; empty for one outside the set.
    pub(crate) fn subject(&self, person: u32) -> &str {
        self.subjects.get(person as usize).map_or("", Name::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn set(people: u32) -> Set {
        let name = |prefix: &str, at: u64| Name::of(&format!("{prefix}{at:026}"), prefix).unwrap();
        let made = (0..people).rev().map(|person| Made {
            first: person,
            tokens: (0..3).map(|field| name("tok_", Place::of(person, field).0)).collect(),
            subjects: vec![name("sub_", person.into())],
        });
        Set::of(made.collect())
    }

    #[test]
    fn tokens_lie_at_their_places_whatever_the_order_they_came_in() {
        let set = set(20);
        assert!(set.token(Place::of(13, 2)).ends_with("0041") && set.subject(13).ends_with("0013"));
        assert_eq!((set.token(Place::of(20, 0)), set.subject(20)), ("", ""));
    }

    #[test]
    fn a_name_has_its_prefix_and_its_length() {
        let text = format!("tok_{:026}", 7);
        assert_eq!(Name::of(&text, "tok_").unwrap().text(), text);
        assert_eq!((Name::of(&text, "sub_"), Name::of(&text[..29], "tok_")), (None, None));
    }

    #[test]
    fn a_set_that_was_kept_is_the_same_set() {
        let folder = tempfile::tempdir().unwrap();
        let (path, set) = (folder.path().join("set"), set(20));
        set.save(&path).unwrap();
        let kept = Set::load(&path, 20).unwrap();
        assert_eq!((kept.tokens, kept.subjects, kept.order), (set.tokens, set.subjects, set.order));
        assert!(Set::load(&path, 21).is_err());
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
