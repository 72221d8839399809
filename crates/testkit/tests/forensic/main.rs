//! The proof that what was erased is gone (erasure.md, "Proving it"): a vault and a downstream's copies live and
//! die under the recorder, and the adversary gets every byte that they ever wrote.
//!
//! - `stories`: what happens before the adversary comes
//! - `acts`, `owners`, `people`: what the recorded process does in it, and with whom
//! - `remembering`: a life whose memory is read, and what must not be in it
//! - `account`: what was asked and answered
//! - `bench`: the folder and the recorder
//! - `findings`: the adversary's answers, and what they must be
//! - `mutants`: what must be caught, in which story
//! - `table`: what `make forensic` runs and prints

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic is how a test fails, and the table is for people"
)]

mod account;
mod acts;
mod bench;
mod findings;
mod mutants;
mod owners;
mod people;
mod remembering;
mod stories;
#[cfg(feature = "mutants")]
mod table;

use std::path::Path;

use acts::Act;
use bench::{ACT, BENCH, Bench, MUTANT};
use cloakroom_core::mutants::Mutant;

/// The recorded process, started by the other tests; by itself it does nothing.
#[test]
#[ignore = "a part that the other tests start as a process of its own"]
fn the_actor() {
    let (Ok(act), Ok(bench)) = (std::env::var(ACT), std::env::var(BENCH)) else { return };
    plant(std::env::var(MUTANT).ok().as_deref());
    let act: Act = serde_json::from_str(&act).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(acts::act(Path::new(&bench), act));
}

/// Makes this process a mutant.
fn plant(name: Option<&str>) {
    let Some(name) = name else { return };
    let mutant = Mutant::ALL.iter().find(|mutant| mutant.name() == name).unwrap();
    #[cfg(feature = "mutants")]
    mutant.plant();
    assert!(mutant.lives(), "built without mutants");
}

#[test]
fn nothing_of_the_erased_is_read_and_everything_else_is() {
    for (story, hollow) in [
        (
            stories::lives_and_deaths as mutants::Story,
            ["nothing was abandoned", "nothing was erased since a key backup"].as_slice(),
        ),
        (
            stories::key_backups_end,
            &[
                "everything was acknowledged",
                "nothing that was never acknowledged reached the disk",
                "nothing was abandoned",
            ],
        ),
        (
            stories::keys_are_backed_up,
            &[
                "everything was acknowledged",
                "nothing that was never acknowledged reached the disk",
                "nothing was abandoned",
                "nothing was erased since a key backup",
            ],
        ),
        (
            stories::a_branch_is_abandoned,
            &[
                "nothing was erased",
                "everything was acknowledged",
                "nothing that was never acknowledged reached the disk",
                "nothing was erased since a key backup",
            ],
        ),
    ] {
        let mut bench = Bench::new(None);
        story(&mut bench).unwrap();
        let cells = bench.findings(None).cells();
        println!("{cells:#?}");
        assert_eq!(cells.objections(), Vec::<&str>::new());
        assert_eq!(cells.hollow(), hollow, "there was something else to find");
    }
}

#[test]
fn memory_holds_nothing_of_the_erased() {
    let mut bench = Bench::new(None);
    stories::lives_to_remember(&mut bench).unwrap();
    let cells = bench.memories().cells();
    println!("{cells:#?}");
    assert_eq!(cells.objections(), Vec::<&str>::new());
}

#[test]
fn what_must_be_refused_is() {
    for story in [
        stories::a_root_stays,
        stories::halves_of_two_branches,
        stories::a_former_owner_wakes,
        stories::two_owners,
    ] as [mutants::Story; 4]
    {
        let mut bench = Bench::new(None);
        story(&mut bench).unwrap();
    }
}
