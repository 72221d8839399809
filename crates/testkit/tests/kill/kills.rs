//! kill -9 at every named point and at random calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloakroom_testkit::recorder::{Recorder, Verdict};
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};

use crate::hand::{Callers, Hand, ask};
use crate::house::House;
use crate::ledger::{Person, Wrong};
use crate::points::{Aim, Point, Stage, is_root, named};

/// Named points are fewer; the rest is random.
const KILLS: usize = 100;
/// Kills in one folder, before a fresh one.
const KILLS_A_FOLDER: usize = 34;
const HANDS: usize = 3;
/// Far more than any kill leaves time for.
const CALLS_MAX: u64 = 3_000;
/// Where no random kill has hit by then, the vault is done with what it does in a round.
const ANY_BELOW: u64 = 400;
const WORK_MAX: Duration = Duration::from_secs(120);
pub(crate) const WATCHED: [&str; 3] = ["vault/data", "vault/keys", "roots"];

/// A vault that is killed again and again, and those who call it.
struct Victim {
    house: House,
    recorder: Recorder,
    hands: Vec<Hand>,
    born: bool,
}

/// What all rounds have come to.
#[derive(Default)]
struct Toll {
    kills: BTreeMap<Point, u64>,
    lost: Vec<String>,
    back: Vec<String>,
    people: usize,
    forgotten: usize,
}

/// Whatever step of the protocol a kill cuts off: nothing acknowledged is lost, nothing erased comes back, an
/// erasure is whole or did not happen, the next start ends ready and with one root.
#[tokio::test]
async fn kill_at_every_step_and_at_random_calls() {
    LocalSet::new().run_until(kill_everywhere()).await;
}

async fn kill_everywhere() {
    let kills = std::env::var("KILLS").map_or(KILLS, |text| text.parse().expect("KILLS is a number"));
    let begun = Instant::now();
    let mut random = Sequence::from_variable("KILL_SEED");
    let mut toll = Toll::default();
    let mut births = named(Stage::Birth).into_iter();
    let mut points = in_any_order(kills, &mut random).into_iter().peekable();
    while points.peek().is_some() {
        let mut victim = Victim::new(&mut random);
        // Every fresh folder can be killed once while it is being made.
        victim.be_born(births.next(), &mut toll, &mut random).await;
        for point in points.by_ref().take(KILLS_A_FOLDER) {
            let begun = Instant::now();
            victim.round(point, &mut toll, &mut random).await;
            println!("{:>6} ms {point}", begun.elapsed().as_millis());
        }
        toll.count(&victim);
    }
    for birth in births {
        Victim::new(&mut random).be_born(Some(birth), &mut toll, &mut random).await;
    }
    toll.report(begun.elapsed());
}

/// Every named point once, and random ones up to the number asked for.
fn in_any_order(kills: usize, random: &mut Sequence) -> Vec<Point> {
    let mut points: Vec<Point> = [Stage::Start, Stage::Service].into_iter().flat_map(named).collect();
    let births = named(Stage::Birth).len();
    while points.len() + births < kills {
        points.push(match random.below(4) {
            0 => Point::Any(Stage::Start),
            1 => Point::Any(Stage::Service),
            _ => *random.pick(&named(Stage::Service)),
        });
    }
    for at in (1..points.len()).rev() {
        let other = usize::try_from(random.below(at as u64 + 1)).unwrap();
        points.swap(at, other);
    }
    points
}

impl Victim {
    fn new(random: &mut Sequence) -> Self {
        let mut house = House::prepare(None);
        let recorder = Recorder::new(house.folder(), &WATCHED);
        house.vault.record(&recorder);
        let hands = (0..HANDS).map(|at| Hand::new(&format!("hand{at}"), random.split(), &recorder)).collect();
        Self { house, recorder, hands, born: false }
    }

    async fn be_born(&mut self, killed_at: Option<Point>, toll: &mut Toll, random: &mut Sequence) {
        if let Some(point) = killed_at {
            self.start_to_die(point, random).await;
            toll.hit(point);
        }
        self.start_to_live().await;
        self.house.apply_register().await;
        self.born = true;
    }

    /// From a vault that runs and was checked to one that runs again and is checked.
    async fn round(&mut self, point: Point, toll: &mut Toll, random: &mut Sequence) {
        match point.stage() {
            Stage::Service => {
                let aim = self.aim(point, random);
                self.work(CALLS_MAX).await;
                self.must_have_died(&aim, point).await;
            }
            Stage::Start | Stage::Birth => {
                // Something to recover: what was under way when it died.
                let aim = self.aim(Point::Any(Stage::Service), random);
                self.work(CALLS_MAX).await;
                self.must_have_died(&aim, point).await;
                self.start_to_die(point, random).await;
            }
        }
        toll.hit(point);
        self.start_to_live().await;
        self.check(toll).await;
    }

    fn aim(&self, point: Point, random: &mut Sequence) -> Aim {
        let passed = match point {
            Point::Any(_) => random.below(ANY_BELOW),
            Point::Named(Stage::Service, ..) => random.below(4),
            Point::Named(..) => 0,
        };
        let aim = Aim::default();
        self.recorder.watch(aim.at(point, passed));
        aim.take();
        aim
    }

    /// Lets all hands work until the vault dies.
    async fn work(&mut self, calls: u64) {
        let (tell, dead) = watch::channel(false);
        let hands = std::mem::take(&mut self.hands).into_iter();
        let working = |hand: Hand| hand.work(Callers::new(&self.house), calls, dead.clone());
        let tasks: Vec<_> = hands.map(|hand| tokio::task::spawn_local(working(hand))).collect();
        let vault = &mut self.house.vault;
        wait::until(WORK_MAX, "the vault's death under load", async || {
            (!vault.is_running() || tasks.iter().all(JoinHandle::is_finished)).then_some(())
        })
        .await;
        tell.send_replace(true);
        for task in tasks {
            self.hands.push(task.await.unwrap());
        }
    }

    /// A start that is killed, or, where a random point lies behind it, a vault that is killed at work.
    async fn start_to_die(&mut self, point: Point, random: &mut Sequence) {
        let aim = self.aim(point, random);
        self.house.vault.start();
        let (health, vault) = (self.house.at.vault_health, &mut self.house.vault);
        let ready = wait::until(crate::house::START_MAX, &format!("{point}"), async || {
            let ready = crate::house::get(health, "/readyz").await.is_some_and(|(status, _)| status == 200);
            (ready || !vault.is_running()).then_some(ready)
        })
        .await;
        if ready && self.born {
            self.work(CALLS_MAX).await;
        }
        self.must_have_died(&aim, point).await;
    }

    async fn must_have_died(&mut self, aim: &Aim, point: Point) {
        let vault = &mut self.house.vault;
        wait::until(Duration::from_secs(20), &format!("a death, {point}"), async || {
            (!vault.is_running()).then_some(())
        })
        .await;
        assert!(aim.has_hit(), "{point}: it died of something else");
    }

    async fn start_to_live(&mut self) {
        self.recorder.watch(|_, _| Verdict::Go);
        self.house.vault.start();
        self.house.vault_is_ready().await;
        assert!(one_root_is_left(&self.house.folder().join("roots")));
    }

    /// Everything that every hand knows, against what the vault says now.
    async fn check(&mut self, toll: &mut Toll) {
        let now = self.recorder.now();
        let mail = self.house.client("mail");
        for hand in &mut self.hands {
            let tokens: Vec<_> = hand.people.iter().flat_map(|person| person.tokens.clone()).collect();
            let mut said = ask(&mail, &self.house.controller, &tokens).await.unwrap().into_iter();
            for person in &mut hand.people {
                let said: Vec<_> = said.by_ref().take(person.tokens.len()).collect();
                toll.take(person.judge(now, &said));
                person.settle(now, &said);
            }
            toll.take(hand.wrong.drain(..));
        }
    }
}

/// Whether a holder's folder has one root left. A tree whose making was cut off may leave one too, and no keys.
pub(crate) fn one_root_is_left(folder: &Path) -> bool {
    let roots = |tree: PathBuf| {
        let names = fs::read_dir(tree).unwrap().map(|file| file.unwrap().file_name());
        names.filter(|name| is_root(&Path::new("roots").join(name))).count()
    };
    let trees = fs::read_dir(folder).unwrap().map(|tree| tree.unwrap().path());
    let counted: Vec<usize> = trees.map(roots).collect();
    counted.contains(&1) && counted.iter().all(|roots| *roots <= 1)
}

impl Toll {
    fn hit(&mut self, point: Point) {
        *self.kills.entry(point).or_default() += 1;
    }

    fn take(&mut self, wrong: impl IntoIterator<Item = Wrong>) {
        for wrong in wrong {
            match wrong {
                Wrong::Lost(what) => self.lost.push(what),
                Wrong::Back(what) => self.back.push(what),
            }
        }
    }

    fn count(&mut self, victim: &Victim) {
        let people = || victim.hands.iter().flat_map(|hand| &hand.people);
        self.people += people().count();
        self.forgotten += people().filter(|person| Person::is_forgotten(person)).count();
    }

    fn report(&self, took: Duration) {
        for (point, times) in &self.kills {
            println!("{times:>5}  {point}");
        }
        for wrong in self.lost.iter().chain(&self.back) {
            println!("{wrong}");
        }
        let kills: u64 = self.kills.values().sum();
        println!("{} people, {} of them forgotten", self.people, self.forgotten);
        println!("{kills} kills in {took:.0?}: {} lost, {} back", self.lost.len(), self.back.len());
        let missed: Vec<_> = [Stage::Birth, Stage::Start, Stage::Service]
            .into_iter()
            .flat_map(named)
            .filter(|point| !self.kills.contains_key(point))
            .map(|point| point.to_string())
            .collect();
        assert_eq!(missed, Vec::<String>::new(), "every named point is hit");
        assert!(self.lost.is_empty() && self.back.is_empty());
    }
}
