//! Randomness that can be played again.

use std::hash::{BuildHasher, RandomState};

/// A sequence that follows from its seed (SplitMix64). For tests alone: anyone can foretell it.
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// The sequence of `seed`.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// Takes the seed from the variable `name`, or draws one, and prints it: the same seed gives the same test.
    ///
    /// # Panics
    /// If the variable holds no number.
    pub fn from_variable(name: &str) -> Self {
        let seed = match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a decimal number")),
            Err(_) => RandomState::new().hash_one(name),
        };
        #[allow(clippy::print_stdout, reason = "whoever reads a failure must find its seed")]
        {
            println!("{name}={seed}");
        }
        Self::of(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "endless: an iterator would promise an end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of `all`.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = self.below(all.len() as u64);
        &all[usize::try_from(at).expect("an index")]
    }

    /// A sequence of its own, for another task.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_sequence_again() {
        let drawn = |seed| {
            let mut sequence = Sequence::of(seed);
            [sequence.next(), sequence.split().next(), sequence.below(10)]
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        assert!(drawn(7)[2] < 10);
    }
}
