//! `make forensic`: a thousand people, the adversary, every mutant, and a table that says so.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use cloakroom_core::mutants::Mutant;
use cloakroom_testkit::recorder::Phase;
use cloakroom_testkit::seed::Sequence;

use crate::acts::Act;
use crate::bench::{Bench, at_call, at_write};
use crate::findings::{Cells, Count};
use crate::mutants::{caught, story};
use crate::people::{NAMES, name};
use crate::remembering::{Memories, MemoryCells};
use crate::stories;

/// People, over all lives.
const PEOPLE: u64 = 1_000;
/// Lives that people come and go in.
const LIVES: u64 = 10;
/// The life after which a key backup is made; the lives that follow, crashes and all, have its root in escrow.
const KEPT_AFTER: u64 = 4;

/// A life of a thousand: some end cleanly, some are killed wherever they are, some are abandoned.
fn a_thousand_people(random: &mut Sequence) -> Bench {
    let mut bench = Bench::new(None);
    assert!(bench.life(&Act::Begin).success());
    for life in 0..LIVES {
        let people = PEOPLE / LIVES;
        let act = Act::Load { seed: random.next(), first: life * people, people };
        match life % 4 {
            0 => assert!(bench.life(&act).success()),
            1 => drop(bench.life_until(&act, at_call(1_000 + random.below(4_000)))),
            // Two calls are under way, the frame of one is handed to the system, and then the power goes.
            2 => {
                let both_sent = Act::lines_until_both_sent(random.below(people / Act::TOGETHER));
                bench.life_until(&act, at_write(both_sent, Phase::After, "data/log"));
                bench.tear_log(30);
            }
            _ => {
                let (saved, lives) = (bench.save(), bench.lives());
                bench.life_until(&act, at_call(1_000 + random.below(4_000)));
                bench.restore(saved.path(), lives);
            }
        }
        if life == KEPT_AFTER {
            assert!(bench.life(&Act::KeepKeys { first: PEOPLE }).success());
        }
    }
    assert!(bench.life(&Act::EndKeyBackups { on_time: false }).success());
    assert!(bench.life(&Act::Last).success());
    bench
}

fn dictionary(folder: &Path) -> PathBuf {
    let path = folder.join("names");
    let names: Vec<String> = (0..NAMES).map(name).collect();
    std::fs::write(&path, names.join("\n")).unwrap();
    path
}

/// Every mutant, and who caught it; a few at a time.
fn all_mutants(dictionary: &Path) -> Vec<(Mutant, Vec<&'static str>)> {
    let left = Mutex::new(Mutant::ALL.to_vec());
    let found = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = left.lock().unwrap().pop() else { return };
                    let names = (mutant == Mutant::UnkeyedHash).then_some(dictionary);
                    let by = caught(mutant, story(mutant), names);
                    found.lock().unwrap().push((mutant, by));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(mutant, _)| *mutant as usize);
    found
}

fn row(what: &str, count: Count, wanted: &str) {
    println!("  {what:<58} {:>6} of {:>6}   must be {wanted}", count.read, count.there);
}

fn print(cells: &Cells) {
    row("read of the erased, with the roots of the end", cells.erased, "0");
    row("read of the erased, with their epoch's root and all later", cells.erased_later_roots, "0");
    row("read of what was never acknowledged", cells.never_acknowledged, "0");
    row("control: the same, with the destroyed roots given back", cells.never_control, "above 0");
    row("read of an abandoned branch", cells.abandoned, "0");
    row("read with a root from before the start it was sent after", cells.born_later, "0");
    row("read of those erased since a key backup that has ended", cells.backed_up, "0");
    row("read by the key backup's file, with the roots of the end", cells.kept, "0");
    row("control: the same, with the destroyed roots given back", cells.kept_control, "all");
    row("read of the unerased", cells.unerased, "all");
    row("control: erased, with the destroyed roots given back", cells.control, "all");
    for (what, found) in [
        ("names guessed from a hash, of a million", cells.guessed),
        ("values in clear, in any spelling", cells.in_clear),
        ("slots that two values name", cells.shared_slots),
        ("roots that the last start has not made", cells.old_roots),
        ("files written before they were synced at a start", cells.believed),
    ] {
        println!("  {what:<58} {found:>6}             must be 0");
    }
}

/// People are forgotten, and what then lies in memory.
fn remembered() -> Memories {
    let mut bench = Bench::new(None);
    stories::lives_to_remember(&mut bench).unwrap();
    bench.memories()
}

fn print_memory(cells: &MemoryCells) {
    println!("\nthe memory of a vault, {} bytes, without any root", cells.bytes);
    println!("  {:<58} {:>6}             must be 1", "keys of the table of look-ups", cells.table_keys);
    row("known to the table, or left by a search: of the erased", cells.table_erased, "0");
    row("known to the table: of the living", cells.table_living, "all");
    row("control: known before they were erased", cells.table_control, "all");
    row("read by a key that lies there: of the erased", cells.keys_erased, "0");
    row("read by a key that lies there: of the living that were read", cells.keys_living, "all");
    row("control: read so before they were erased", cells.keys_control, "all");
}

#[test]
#[ignore = "minutes: `make forensic`"]
fn the_proof() {
    let began = Instant::now();
    let mut random = Sequence::from_variable("FORENSIC_SEED");
    let folder = tempfile::tempdir().unwrap();
    let dictionary = dictionary(folder.path());
    let findings = a_thousand_people(&mut random).findings(Some(&dictionary));
    let lived = began.elapsed();
    let memories = remembered().cells();
    let mutants = all_mutants(&dictionary);
    // What the lives said of themselves is said by now: the table stands in one piece.
    println!("\n{PEOPLE} people, {LIVES} lives, {} s", lived.as_secs());
    let efforts = [
        ("held roots", &findings.now),
        ("every root", &findings.every),
        ("destroyed roots", &findings.destroyed),
    ];
    for (roots, report) in efforts {
        println!(
            "  {roots:<16} {:>4} roots {:>12} bytes {:>7} places {:>6} values {:>6} pages {:>7} keys {:>12} tries",
            report.roots.len(),
            report.bytes,
            report.places,
            report.values,
            report.pages,
            report.keys,
            report.tries
        );
    }
    let cells = findings.cells();
    print(&cells);
    print_memory(&memories);
    let differs = cells.objections().into_iter().chain(cells.hollow()).chain(memories.objections());
    let mut objections: Vec<String> = differs.map(str::to_owned).collect();
    println!("\nmutants, and who caught them");
    for (mutant, by) in mutants {
        let said = if by.is_empty() { "NOBODY".to_owned() } else { by.join("; ") };
        println!("  {:<68} {said}", mutant.name());
        if by.is_empty() {
            objections.push(format!("nobody caught: {}", mutant.name()));
        }
    }
    println!("\n{} s in all", began.elapsed().as_secs());
    assert_eq!(objections, Vec::<String>::new());
}

#[test]
#[ignore = "minutes: a part of `make forensic`"]
fn every_mutant_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let only = std::env::var("FORENSIC_ONLY").ok();
    let wanted = |mutant: &&Mutant| only.as_ref().is_none_or(|only| mutant.name().contains(only.as_str()));
    for mutant in Mutant::ALL.iter().filter(wanted) {
        let names = (*mutant == Mutant::UnkeyedHash).then(|| dictionary(folder.path()));
        let by = caught(*mutant, story(*mutant), names.as_deref());
        println!("{:<68} {}", mutant.name(), by.join("; "));
    }
}
