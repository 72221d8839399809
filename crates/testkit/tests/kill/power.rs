//! Power cuts: the journal of a vault under load, played onto a disk that loses what was not synced.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cloakroom_testkit::daemons::Daemon;
use cloakroom_testkit::recorder::Recorder;
use cloakroom_testkit::recorder::disk::{Disk, Loss};
use cloakroom_testkit::recorder::images::Images;
use cloakroom_testkit::recorder::journal::{Reader, What};
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::hand::{Callers, Hand, ask};
use crate::house::{self, House};
use crate::kills::{WATCHED, one_root_is_left};
use crate::ledger::{Moment, Person};

const CUTS: usize = 50;
/// As many as find a missing sync for certain: each is stopped at the first.
const MUTANT_CUTS: usize = 40;
/// More than the threads that write: several frames are under way at once.
const HANDS: usize = 4;
const CALLS: u64 = 60;

/// A journal, and what was acknowledged while it was written.
struct Recorded {
    house: House,
    journal: PathBuf,
    people: Vec<Person>,
    /// When it was ready first. Before, there is nothing to lose; sled may find what a power cut left of its own
    /// files' making unreadable.
    born: Moment,
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
    let wrong = recorded.cut(cuts, &mut random, None).await;
    for wrong in &wrong {
        println!("{wrong}");
    }
    let people = recorded.people.len();
    println!("{cuts} power cuts in {} operations and {people} people: {} wrong", recorded.end, wrong.len());
    assert!(wrong.is_empty());
    for unsynced in ["vault/data/log", "vault/keys/tree", "roots"] {
        let wrong = recorded.cut(MUTANT_CUTS, &mut random, Some(unsynced)).await;
        assert!(!wrong.is_empty(), "nobody misses the syncs of {unsynced}");
        println!("without the syncs of {unsynced}: {}", wrong[0]);
    }
}

/// A vault's life: born, under load, killed.
async fn record(random: &mut Sequence) -> Recorded {
    let mut house = House::prepare(None);
    let journal = house.folder().join("journal");
    let recorder = Recorder::with_journal(house.folder(), &WATCHED, &journal).unwrap();
    house.vault.record(&recorder);
    house.vault.start();
    house.vault_is_ready().await;
    let born = recorder.now();
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
    Recorded { house, journal, people, born, end: recorder.now() }
}

impl Recorded {
    /// Cuts the power so many times and says what was wrong then. `unsynced`, a folder, plays a vault that syncs
    /// nothing below it; the first thing that is wrong then is enough.
    async fn cut(&self, cuts: usize, random: &mut Sequence, unsynced: Option<&str>) -> Vec<String> {
        let mut places = self.places(cuts, random).into_iter().peekable();
        let (mut disk, mut images) = (Disk::default(), Images::default());
        let mut wrong = Vec::new();
        for op in Reader::open(&self.journal).unwrap() {
            let op = op.unwrap();
            while places.next_if(|place| *place <= op.at).is_some() {
                let (seed, mut loss) = match random.below(4) {
                    0 => (0, Loss::Everything),
                    _ => {
                        let seed = random.next();
                        (seed, Loss::Some(Sequence::of(seed)))
                    }
                };
                let found = self.after_cut(&disk, op.at, &mut loss).await;
                let where_and_how = format!("cut before operation {}, losing as {seed} has it", op.at);
                wrong.extend(found.into_iter().map(|found| format!("{where_and_how}: {found}")));
            }
            if unsynced.is_some() && !wrong.is_empty() {
                break;
            }
            images.apply(&op);
            let synced = match &op.what {
                What::Sync { file, .. } => images.paths(*file).last().map(PathBuf::as_path),
                What::SyncFolder { path, .. } => Some(path.as_path()),
                _ => None,
            };
            if !synced.zip(unsynced).is_some_and(|(path, unsynced)| path.starts_with(unsynced)) {
                disk.apply(&op);
            }
        }
        wrong
    }

    /// Half of them anywhere, half just before a sync: there is most to lose.
    fn places(&self, cuts: usize, random: &mut Sequence) -> Vec<Moment> {
        let syncs: Vec<Moment> = Reader::open(&self.journal)
            .unwrap()
            .map(Result::unwrap)
            .filter(|op| op.at > self.born)
            .filter(|op| matches!(op.what, What::Sync { .. } | What::SyncFolder { .. }))
            .map(|op| op.at)
            .collect();
        let lived = self.end - self.born;
        let place = |at: usize| match at % 2 {
            0 => self.born + random.below(lived),
            _ => *random.pick(&syncs),
        };
        let mut places: Vec<Moment> = (0..cuts).map(place).collect();
        places.sort_unstable();
        places
    }

    /// Starts a vault on what is left, and says what is wrong with it.
    async fn after_cut(&self, disk: &Disk, now: Moment, loss: &mut Loss) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        disk.cut(loss, place.path()).unwrap();
        symlink(self.house.folder().join("certs"), place.path().join("certs")).unwrap();
        let mut vault = vault_on(place.path(), &self.house.at);
        vault.start();
        if let Err(why) = is_ready(&mut vault, self.house.at.vault_health).await {
            return vec![why];
        }
        let one_root = one_root_is_left(&place.path().join("roots"));
        let known: Vec<Person> = self.people.iter().filter_map(|person| person.known_by(now)).collect();
        let tokens: Vec<_> = known.iter().flat_map(|person| person.tokens.clone()).collect();
        let mail = self.house.client("mail");
        let mut said = ask(&mail, &self.house.controller, &tokens).await.unwrap().into_iter();
        let judged = known.iter().flat_map(|person| {
            let said: Vec<_> = said.by_ref().take(person.tokens.len()).collect();
            person.judge(now, &said)
        });
        let mut wrong: Vec<String> = judged.map(|wrong| format!("{wrong:?}")).collect();
        if !one_root {
            wrong.push("not one root".to_owned());
        }
        wrong
    }
}

/// Waits until a vault is ready, or says why it will not be.
async fn is_ready(vault: &mut Daemon, health: SocketAddr) -> Result<(), String> {
    wait::until(house::START_MAX, "a vault that is ready or says why not", async || {
        if !vault.is_running() {
            return Some(Err(vault.last_words()));
        }
        let (status, body) = house::get(health, "/readyz").await?;
        if status == 200 {
            return Some(Ok(()));
        }
        let said: serde_json::Value = serde_json::from_str(&body).ok()?;
        let gate = said["conditions"]["gate"].as_str()?;
        (gate != "starting").then(|| Err(format!("gate: {gate}")))
    })
    .await
}

fn vault_on(folder: &Path, at: &house::Addresses) -> Daemon {
    let path = folder.join("cloakroomd.toml");
    fs::write(&path, house::vault_config(folder, "vault", at, None)).unwrap();
    Daemon::new("cloakroomd", ["--config".into(), path], folder.join("output"))
}
