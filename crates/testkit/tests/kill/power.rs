//! Power cuts: the journal of a vault under load, played onto a disk that loses what was not synced.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use cloakroom_testkit::daemons::Daemon;
use cloakroom_testkit::recorder::Recorder;
use cloakroom_testkit::recorder::disk::{Disk, Loss};
use cloakroom_testkit::recorder::journal::{Reader, What};
use cloakroom_testkit::seed::Sequence;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::hand::{Callers, Hand, ask};
use crate::house::{self, House};
use crate::kills::{WATCHED, roots};
use crate::ledger::{Moment, Person, Wrong};

const CUTS: usize = 50;
/// More than the threads that write: several frames are under way at once.
const HANDS: usize = 4;
const CALLS: u64 = 60;

/// A journal, and what was acknowledged while it was written.
struct Recorded {
    house: House,
    journal: std::path::PathBuf,
    people: Vec<Person>,
    end: Moment,
}

/// Wherever the power goes: what was acknowledged by then is there, what was forgotten is not, one root is left,
/// the vault is ready.
#[tokio::test]
async fn power_cuts_and_kill_of_what_was_not_synced() {
    LocalSet::new().run_until(cut_everywhere()).await;
}

async fn cut_everywhere() {
    let cuts = std::env::var("CUTS").map_or(CUTS, |text| text.parse().expect("CUTS is a number"));
    let mut random = Sequence::from_variable("POWER_SEED");
    let recorded = record(&mut random).await;
    let places = places(&recorded, cuts, &mut random);
    let mut wrong = Vec::new();
    let mut disk = Disk::default();
    let mut places = places.into_iter().peekable();
    for op in Reader::open(&recorded.journal).unwrap() {
        let op = op.unwrap();
        while places.next_if(|place| *place <= op.at).is_some() {
            let (seed, mut loss) = match random.below(4) {
                0 => (0, Loss::Everything),
                _ => {
                    let seed = random.next();
                    (seed, Loss::Some(Sequence::of(seed)))
                }
            };
            println!("a cut before operation {}, losing as {seed} has it", op.at);
            let found = after_cut(&recorded, &disk, op.at, &mut loss).await;
            wrong.extend(found);
        }
        disk.apply(&op);
    }
    for wrong in &wrong {
        println!("{wrong:?}");
    }
    let people = recorded.people.len();
    println!("{cuts} power cuts in {} operations and {people} people: {} wrong", recorded.end, wrong.len());
    assert!(wrong.is_empty());
}

/// A vault's life: born, under load, killed.
async fn record(random: &mut Sequence) -> Recorded {
    let mut house = House::prepare(None);
    let journal = house.folder().join("journal");
    let recorder = Recorder::with_journal(house.folder(), &WATCHED, &journal).unwrap();
    house.vault.record(&recorder);
    house.vault.start();
    house.vault_is_ready().await;
    house.apply_register().await;
    let (_alive, dead) = watch::channel(false);
    let tasks: Vec<_> = (0..HANDS)
        .map(|at| Hand::new(&format!("hand{at}"), random.split(), &recorder))
        .map(|hand| tokio::task::spawn_local(hand.work(Callers::new(&house), CALLS, dead.clone())))
        .collect();
    let mut people = Vec::new();
    for task in tasks {
        let hand = task.await.unwrap();
        assert_eq!(hand.wrong, []);
        people.extend(hand.people);
    }
    house.vault.kill9();
    Recorded { house, journal, people, end: recorder.now() }
}

/// Half of them anywhere, half just before a sync: there is most to lose.
fn places(recorded: &Recorded, cuts: usize, random: &mut Sequence) -> Vec<Moment> {
    let syncs: Vec<Moment> = Reader::open(&recorded.journal)
        .unwrap()
        .map(Result::unwrap)
        .filter(|op| matches!(op.what, What::Sync { .. } | What::SyncFolder { .. }))
        .map(|op| op.at)
        .collect();
    let mut places: Vec<Moment> = (0..cuts)
        .map(|at| if at % 2 == 0 { random.below(recorded.end) } else { *random.pick(&syncs) })
        .collect();
    places.sort_unstable();
    places
}

async fn after_cut(recorded: &Recorded, disk: &Disk, now: Moment, loss: &mut Loss) -> Vec<Wrong> {
    let place = tempfile::tempdir().unwrap();
    disk.cut(loss, place.path()).unwrap();
    symlink(recorded.house.folder().join("certs"), place.path().join("certs")).unwrap();
    let at = recorded.house.at;
    let mut vault = vault_on(place.path(), &at);
    vault.start();
    let ready =
        tokio::task::spawn_local(async move { house::ready(at.vault_health, "the vault").await }).await;
    assert!(ready.is_ok(), "after a cut before operation {now} no vault is ready\n{}", vault.last_words());
    assert_eq!(roots(&place.path().join("roots")), 1, "one root is left");
    let known: Vec<Person> = recorded.people.iter().filter_map(|person| person.known_by(now)).collect();
    let tokens: Vec<_> = known.iter().flat_map(|person| person.tokens.clone()).collect();
    let mail = recorded.house.client("mail");
    let mut said = ask(&mail, &recorded.house.controller, &tokens).await.unwrap().into_iter();
    let judged = known.iter().flat_map(|person| {
        let said: Vec<_> = said.by_ref().take(person.tokens.len()).collect();
        person.judge(now, &said)
    });
    let wrong = judged.collect();
    vault.kill9();
    wrong
}

fn vault_on(folder: &Path, at: &house::Addresses) -> Daemon {
    let path = folder.join("cloakroomd.toml");
    fs::write(&path, house::vault_config(folder, "vault", at, None)).unwrap();
    Daemon::new("cloakroomd", ["--config".into(), path], folder.join("log"))
}
