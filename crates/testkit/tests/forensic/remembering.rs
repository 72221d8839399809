//! A life whose memory is read: people are forgotten while the table that tokens are found by is still being built
//! after a start, and others once it is whole.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::clock::ManualClock;
use cloakroom_engine::open::Layers;
use cloakroom_engine::{Engine, LookupItem, LookupRequest, Opened, Options, Plaintext};
use cloakroom_store::embedded::EmbeddedLog;
use cloakroom_store::faulty::{PacedLog, Reading};
use cloakroom_store::{Answer, Log};
use cloakroom_testkit::adversary::program::Report;
use cloakroom_testkit::recorder::memory::dump_writable;
use tokio::sync::Semaphore;

use crate::account::{self, Account, Line};
use crate::acts::{House, Known, ORDERS, PURCHASE, SEE};
use crate::findings::Count;
use crate::people::{email, full_name};

/// What lay in memory, below the bench's folder: before the last people are forgotten, and when they are.
pub(crate) const BEFORE: &str = "memory-before";
pub(crate) const AFTER: &str = "memory-after";

/// Lives of [`PEOPLE_A_LIFE`] people come before this one, each with a frame of its own.
pub(crate) const LIVES: u64 = 3;
pub(crate) const PEOPLE_A_LIFE: u64 = 4;

const SUPPORT: &str = "spiffe://cloakroom.local/service/support";
const DEADLINE: Duration = Duration::from_secs(20);

/// Frames are read as the test lets them.
struct Slow(Arc<Semaphore>);

impl Layers for Slow {
    fn log(&mut self, log: Arc<EmbeddedLog>) -> Arc<dyn Log> {
        let pace = Arc::clone(&self.0);
        Arc::new(PacedLog::new(log, move |reading| match reading {
            Reading::Event(_) => Answer::now(()),
            Reading::Frame(_) => {
                let pace = Arc::clone(&pace);
                Answer::later(async move { pace.acquire_owned().await.unwrap().forget() })
            }
        }))
    }
}

/// Lets frames be read one at a time until `done`.
async fn read_on(pace: &Semaphore, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < DEADLINE, "the table does not get on");
        if pace.available_permits() == 0 {
            pace.add_permits(1);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A vault whose table of look-ups is only begun, and what lets it go on.
pub(crate) async fn open(options: Options, clock: Arc<ManualClock>) -> (Engine, Arc<Semaphore>) {
    let pace = Arc::new(Semaphore::new(0));
    let mut slow = Slow(Arc::clone(&pace));
    let opened = tokio::select! {
        opened = Engine::open_over(options, clock, &mut slow) => opened.unwrap(),
        () = read_on(&pace, || false) => panic!("it never opens"),
    };
    match opened {
        Opened::Ready(engine) => (engine, pace),
        Opened::Gated(reason) => panic!("the gate is closed: {reason}"),
    }
}

/// Whom earlier lives have stored, in their order.
fn stored(bench: &Path) -> Vec<Known> {
    let tokens: Vec<(String, String)> = account::lines(bench)
        .into_iter()
        .flat_map(|line| if let Line::Stored(stored) = line { stored } else { vec![] })
        .collect();
    let token = |text: &str| tokens.iter().find(|(stored, _)| stored == text).unwrap().1.clone();
    let known = |person| Known {
        person,
        subject: None,
        email_token: token(&email(person)),
        name_token: token(&full_name(person)),
        name: full_name(person),
    };
    (0..LIVES * PEOPLE_A_LIFE).map(known).collect()
}

pub(crate) async fn remember(house: &House, bench: &Path, pace: &Semaphore) {
    let people = stored(bench);
    let one = |at: usize| vec![people[at].clone()];
    let figures = || house.engine.lookup_figures();
    read_on(pace, || figures().1 >= PEOPLE_A_LIFE).await;
    // One is in the table by now, the other is not.
    house.forget(one(0)).await;
    house.forget(one(11)).await;
    assert!(!figures().0, "the table was whole before they were forgotten");
    pace.add_permits(10_000);
    read_on(pace, || figures().0).await;

    // A look-up leaves nothing behind either. Everybody is read, so that every key is in the cache.
    for known in &people[1..11] {
        assert_eq!(look_up(house, &email(known.person)).await, 1);
        house.read(&known.email_token).await.unwrap();
    }
    dump_writable(std::process::id(), &bench.join(BEFORE)).unwrap();
    house.forget(one(4)).await;
    house.release(&people[5]).await;
    house.pen.write(&Line::Erasing(vec![email(6)]));
    house.pen.write(&Line::Sent(vec![email(1_006)]));
    let items = vec![(people[6].email_token.clone(), Plaintext::from_slice(email(1_006).as_bytes()))];
    house.engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0).unwrap();
    house.purge([people[6].email_token.as_str()]).await; // as the notice of the change would
    house.pen.write(&Line::Stored(vec![(email(1_006), people[6].email_token.clone())]));
    house.pen.write(&Line::Erased(vec![email(6)]));
    dump_writable(std::process::id(), &bench.join(AFTER)).unwrap();
}

async fn look_up(house: &House, value: &str) -> usize {
    let item = LookupItem { field: EMAIL.to_owned(), value: Plaintext::from_slice(value.as_bytes()) };
    let request = LookupRequest {
        controller: SEE.to_owned(),
        reason: String::new(),
        items: vec![item],
        trace: [0; 16],
    };
    house.engine.lookup(SUPPORT, request).await.unwrap().remove(0).unwrap().found.len()
}

/// The field that tokens are found by, and under which activity its values are.
pub(crate) const EMAIL: &str = "email";

/// As the adversary is told.
pub(crate) fn asked() -> String {
    format!("{SEE}/{PURCHASE}/{EMAIL}")
}

/// What the adversary read in memory, and the account of what there was.
pub(crate) struct Memories {
    pub(crate) before: Report,
    pub(crate) after: Report,
    pub(crate) account: Account,
}

/// What of it is which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MemoryCells {
    pub(crate) bytes: u64,
    /// Keys of the table of look-ups that were found: one.
    pub(crate) table_keys: usize,
    /// Erased addresses that the table, or what a search has left behind, knows: none.
    pub(crate) table_erased: Count,
    /// Living ones: all.
    pub(crate) table_living: Count,
    /// Before they were erased, those that were erased last: all.
    pub(crate) table_control: Count,
    /// Erased values of which a key lies somewhere: none.
    pub(crate) keys_erased: Count,
    /// Living addresses, each of which has been read: all.
    pub(crate) keys_living: Count,
    /// Before they were erased, those that were erased last: all.
    pub(crate) keys_control: Count,
}

impl Memories {
    pub(crate) fn cells(&self) -> MemoryCells {
        let texts = &self.account.texts;
        let erased: Vec<&str> = texts
            .iter()
            .filter(|(_, fate)| fate.erased_at.is_some())
            .map(|(text, _)| text.as_str())
            .collect();
        let is_address = |text: &&&str| text.contains('@');
        let erased_addresses: Vec<&str> = erased.iter().filter(is_address).copied().collect();
        let living: Vec<&str> = texts
            .iter()
            .filter(|(_, fate)| fate.erased_at.is_none())
            .map(|(text, _)| text.as_str())
            .collect();
        let living: Vec<&str> = living.iter().filter(is_address).copied().collect();
        let last = [4, 5, 6].map(email);
        let last: Vec<&str> = last.iter().map(String::as_str).collect();
        let table = |report: &Report, of: &[&str]| Count {
            there: of.len(),
            read: of.iter().filter(|text| report.remembered.iter().any(|found| found == *text)).count(),
        };
        let keys = |report: &Report, of: &[&str]| Count {
            there: of.len(),
            read: of.iter().filter(|text| report.recovered.iter().any(|read| read.text == **text)).count(),
        };
        MemoryCells {
            bytes: self.after.memory_bytes,
            table_keys: self.after.table_keys,
            table_erased: table(&self.after, &erased_addresses),
            table_living: table(&self.after, &living),
            table_control: table(&self.before, &last),
            keys_erased: keys(&self.after, &erased),
            keys_living: keys(&self.after, &living),
            keys_control: keys(&self.before, &last),
        }
    }
}

impl MemoryCells {
    /// What differs from what must be; nothing if all is well.
    pub(crate) fn objections(&self) -> Vec<&'static str> {
        let none = |count: Count| count.there > 0 && count.read == 0;
        let all = |count: Count| count.there > 0 && count.read == count.there;
        [
            (self.table_keys == 1, "control: the table's key does not lie in memory once"),
            (none(self.table_erased), "memory: the table knows something of the erased"),
            (all(self.table_living), "control: the table does not know the living"),
            (all(self.table_control), "control: the table did not know those who were erased after"),
            (none(self.keys_erased), "memory: a key of the erased lies there"),
            (all(self.keys_living), "control: no key of the living lies there"),
            (all(self.keys_control), "control: no key of those who were erased after lay there"),
        ]
        .into_iter()
        .filter_map(|(holds, what)| (!holds).then_some(what))
        .collect()
    }
}
