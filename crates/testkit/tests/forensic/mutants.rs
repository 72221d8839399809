//! Every mutant, the story in which it must be caught, and by whom.

#![cfg_attr(not(feature = "mutants"), allow(dead_code))]

use std::path::Path;

use cloakroom_core::mutants::Mutant;

use crate::bench::Bench;
use crate::stories::{self, Unexpected};

pub(crate) type Story = fn(&mut Bench) -> Result<(), Unexpected>;

/// The story that brings a mutant to light.
pub(crate) fn story(mutant: Mutant) -> Story {
    match mutant {
        Mutant::PathsNotRekeyed => stories::a_branch_is_abandoned,
        Mutant::KnownByNumberAlone => stories::halves_of_two_branches,
        Mutant::ClosedWhileRootLives => stories::a_root_stays,
        Mutant::FormerOwnerDestroys => stories::a_former_owner_wakes,
        Mutant::OwnershipNotAsked => stories::two_owners,
        Mutant::KeyBackupWithoutBatch => stories::keys_are_backed_up,
        Mutant::LookupEntryLeft => stories::memory_is_read,
        _ => stories::lives_and_deaths,
    }
}

/// Who caught the mutant in its story: everything that was objected to.
pub(crate) fn caught(mutant: Mutant, story: Story, dictionary: Option<&Path>) -> Vec<&'static str> {
    let mut bench = Bench::new(Some(mutant.name()));
    match story(&mut bench) {
        Err(Unexpected(what)) => vec![what],
        Ok(()) if bench.lives() < 2 => vec![],
        Ok(()) => bench.findings(dictionary).cells().objections(),
    }
}
