//! What the recorded process does: lives of a vault with one downstream's copies, in the folder of the bench.

use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom_bus::{Bootstrap, BusConfig, Subscription, topics};
use cloakroom_core::clock::ManualClock;
use cloakroom_core::event::Shape;
use cloakroom_core::mutants::Mutant;
use cloakroom_core::refusal::Code;
use cloakroom_downstream::copies::{Copies, NothingElse, Scope};
use cloakroom_downstream::{DownstreamError, Erasure, Purge, Token};
use cloakroom_engine::{
    BusOptions, DetokenizeRequest, Engine, ErasureRequest, Opened, Options, Plaintext, SubjectRef,
    TokenizeItem, TokenizeRequest, Who,
};
use cloakroom_keytree::{FileHolder, RootHolder};
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::account::{self, Line, Pen};
use crate::owners::{self, Stubborn, die};
use crate::people::{email, full_name, new_name};
use crate::remembering;

const ADMIN: &str = "spiffe://cloakroom.local/person/admin";
pub(crate) const ORDERS: &str = "spiffe://cloakroom.local/service/orders";
const MAIL: &str = "spiffe://cloakroom.local/downstream/mail";
pub(crate) const SEE: &str = "see-tickets";
pub(crate) const PURCHASE: &str = "ticket_purchase";
const DELIVERY: &str = "ticket_delivery";

/// One life, as the bench asks for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Act {
    /// The first: a register is applied.
    Begin,
    /// People come and go, all at once; stops cleanly.
    Load { seed: u64, first: u64, people: u64 },
    /// People are stored, in one request, and nothing else happens.
    Arrive { first: u64, people: u64 },
    /// A key backup is made; then two people arrive, of whom one is forgotten.
    BackUpKeys { first: u64 },
    /// Two people arrive, a key backup is made and kept as a file, and one of them is forgotten.
    KeepKeys { first: u64 },
    /// Every key backup ends: as its window does, or because an operator says so.
    EndKeyBackups { on_time: bool },
    /// One of two people who arrive is forgotten; with a `stubborn` root holder the old root stays.
    Forget { first: u64, stubborn: bool },
    /// People of earlier lives are forgotten while what they are found by is read again, and others after; writes
    /// down what lies in memory.
    Remember,
    /// A process that slept through its replacement wakes.
    FormerOwner,
    /// Somebody takes a tree that has an owner.
    SecondOwner,
    /// Says of every token what it gives.
    Last,
}

impl Act {
    /// How many people arrive in a round of [`Act::Load`], in two requests at once.
    pub(crate) const TOGETHER: u64 = 20;

    /// How many lines the account of a [`Act::Load`] has once both requests of a round are sent.
    #[cfg_attr(not(feature = "mutants"), allow(dead_code))]
    pub(crate) const fn lines_until_both_sent(round: u64) -> u64 {
        // What arrives and a new name say four lines, an erasure of one, a release and an erasure of three
        // two each.
        const A_ROUND: u64 = 4 + 4 + 2 + 2 + 2;
        1 + round * A_ROUND + 2
    }
}

/// The folders of a bench that the vault and the copies write to.
pub(crate) const WATCHED: [&str; 7] =
    ["data", "keys", "roots", "copies", KAFKA, KEY_BACKUPS, account::FOLDER];
/// Those of them that a copy of the machine holds.
pub(crate) const STORES: [&str; 4] = ["data", "keys", "roots", "copies"];
/// Where key backups are kept.
pub(crate) const KEY_BACKUPS: &str = "key-backups";
const WINDOW_MS: u64 = 60 * 60 * 1_000;
/// What the broker had, written down by somebody who listened.
const KAFKA: &str = "kafka";

/// A vault and its copies at work.
pub(crate) struct House {
    pub(crate) engine: Engine,
    copies: Copies,
    pub(crate) pen: Pen,
    clock: Arc<ManualClock>,
}

/// A person who was checked in.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) person: u64,
    /// Not known of people of earlier lives.
    pub(crate) subject: Option<String>,
    pub(crate) email_token: String,
    pub(crate) name_token: String,
    pub(crate) name: String,
}

pub(crate) async fn act(bench: &Path, act: Act) {
    match act {
        Act::FormerOwner => return owners::a_former_owner_harms_nothing(bench).await,
        Act::SecondOwner => return owners::a_tree_has_one_owner(bench).await,
        _ => {}
    }
    let pen = Pen::open(bench);
    pen.write(&Line::Life);
    let stubborn = matches!(act, Act::Forget { stubborn: true, .. });
    let announces = matches!(act, Act::Load { .. });
    let (options, clock) = options(bench, stubborn, announces);
    let (engine, pace) = match act {
        Act::Remember => remembering::open(options, Arc::clone(&clock)).await,
        _ => (open(options, Arc::clone(&clock)).await, Arc::new(Semaphore::const_new(0))),
    };
    let house = House { engine, copies: copies(bench).await, pen, clock };
    match act {
        Act::Begin => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../examples/registers/see-tickets/register.toml");
            let register = std::fs::read_to_string(path).unwrap();
            house.engine.apply_register(ADMIN, &register, false).await.unwrap();
        }
        Act::Load { seed, first, people } => {
            let heard = Arc::new(AtomicU64::new(0));
            let listener = tokio::spawn(listen(bench.to_owned(), Arc::clone(&heard)));
            house.load(seed, first, people).await;
            let first_comes = async {
                while heard.load(Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), first_comes).await.expect("announcements");
            listener.abort();
        }
        Act::Arrive { first, people } => {
            house.arrive((first..first + people).collect()).await;
        }
        Act::BackUpKeys { first } => {
            drop(house.engine.back_up_keys(ADMIN).await.unwrap());
            let one = house.arrive(vec![first, first + 1]).await.swap_remove(0);
            house.forget(vec![one]).await;
        }
        Act::KeepKeys { first } => {
            let one = house.arrive(vec![first, first + 1]).await.swap_remove(0);
            house.keep_keys(bench).await;
            house.forget(vec![one]).await;
        }
        Act::EndKeyBackups { on_time } => house.end_key_backups(on_time).await,
        Act::Forget { first, stubborn } => {
            let one = house.arrive(vec![first, first + 1]).await.swap_remove(0);
            // With a root that stays the answer does not come.
            let patience = if stubborn { Duration::from_secs(3) } else { Duration::from_secs(60) };
            if tokio::time::timeout(patience, house.forget(vec![one])).await.is_err() {
                die();
            }
        }
        Act::FormerOwner | Act::SecondOwner => {}
        Act::Remember => remembering::remember(&house, bench, &pace).await,
        Act::Last => house.say_last(bench).await,
    }
    house.engine.close().await;
    house.copies.close().await;
}

fn options(bench: &Path, stubborn: bool, announces: bool) -> (Options, Arc<ManualClock>) {
    let files = FileHolder::open(&bench.join("roots")).unwrap();
    let holder: Arc<dyn RootHolder> =
        if stubborn { Arc::new(Stubborn::from(files)) } else { Arc::new(files) };
    let mut options = Options::in_folder(bench, holder);
    options.allow_unlocked = true;
    options.reserve_bytes = 0;
    options.key_backup_window_ms = WINDOW_MS; // these clocks stand still: no escrow ends by itself
    options.admins = vec![ADMIN.to_owned()];
    options.bus = if announces { BusOptions::Embedded } else { BusOptions::Off };
    (options, Arc::new(ManualClock::at(1_790_000_000_000)))
}

async fn open(options: Options, clock: Arc<ManualClock>) -> Engine {
    match Engine::open(options, clock).await.unwrap() {
        Opened::Ready(engine) => engine,
        Opened::Gated(reason) => panic!("the gate is closed: {reason}"),
    }
}

async fn copies(bench: &Path) -> Copies {
    let folder = bench.join("copies");
    Copies::open(&folder.join("data"), &folder.join("roots"), Arc::new(NothingElse)).await.unwrap()
}

/// Writes down every record that the broker has, as it came.
async fn listen(bench: PathBuf, heard: Arc<AtomicU64>) {
    let folder = bench.join(KAFKA);
    std::fs::create_dir_all(&folder).unwrap();
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("records")).unwrap();
    let config = BusConfig::plaintext(Bootstrap::PortFile(bench.join("data/kafka.port")));
    let topics = [topics::erasure(SEE), topics::notice(SEE), topics::ack(SEE), topics::CHECKPOINT.to_owned()];
    let mut subscription = Subscription::open(&config, "listener", topics);
    loop {
        let record = subscription.next().await.unwrap();
        let headers = record.headers.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_ref()]);
        let parts = record.key.as_deref().into_iter().chain(headers).chain([&*record.value]);
        file.write_all(&parts.collect::<Vec<_>>().concat()).unwrap();
        heard.fetch_add(1, Ordering::SeqCst);
    }
}

fn take(known: &mut Vec<Known>, random: &mut Sequence) -> Known {
    known.swap_remove(usize::try_from(random.below(known.len() as u64)).unwrap())
}

impl House {
    async fn load(&self, seed: u64, first: u64, people: u64) {
        let mut random = Sequence::of(seed);
        let mut known: Vec<Known> = vec![];
        let mut next = first;
        while next < first + people {
            let groups: Vec<Vec<u64>> = (0..2_u64)
                .map(|group| next + group * Act::TOGETHER / 2)
                .map(|from| {
                    (from..from + Act::TOGETHER / 2).filter(|person| *person < first + people).collect()
                })
                .collect();
            next += Act::TOGETHER;
            let (some, others) = tokio::join!(self.arrive(groups[0].clone()), self.arrive(groups[1].clone()));
            known.extend(some.into_iter().chain(others));
            self.read(&random.pick(&known).email_token).await.unwrap();
            let renamed = usize::try_from(random.below(known.len() as u64)).unwrap();
            self.rename(&mut known[renamed]).await;
            self.forget(vec![take(&mut known, &mut random)]).await;
            self.release(&take(&mut known, &mut random)).await;
            let batch = (0..3).map(|_| take(&mut known, &mut random)).collect();
            self.forget(batch).await;
        }
    }

    /// Checks people in, in one request, and gives the mail downstream copies of their addresses.
    async fn arrive(&self, people: Vec<u64>) -> Vec<Known> {
        let item = |person: u64, field: &str, value: &str| TokenizeItem {
            reference: String::new(),
            subject: SubjectRef::New(person.to_string()),
            field: field.to_owned(),
            value: Plaintext::from_slice(value.as_bytes()),
            shape: Some(Shape::Opaque),
        };
        let items = people.iter().flat_map(|person| {
            [item(*person, "email", &email(*person)), item(*person, "full_name", &full_name(*person))]
        });
        let request = TokenizeRequest {
            controller: SEE.to_owned(),
            activity: PURCHASE.to_owned(),
            idempotency_key: format!("order-{people:?}"),
            items: items.collect(),
        };
        self.pen.write(&Line::Sent(
            people.iter().flat_map(|person| [email(*person), full_name(*person)]).collect(),
        ));
        let answers = self.engine.tokenize(ORDERS, request).await.unwrap();
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        let known: Vec<Known> = people
            .iter()
            .zip(answers.chunks(2))
            .map(|(person, tokens)| Known {
                person: *person,
                subject: Some(tokens[0].subject_id.clone()),
                email_token: tokens[0].token.clone(),
                name_token: tokens[1].token.clone(),
                name: full_name(*person),
            })
            .collect();
        let stored = known.iter().flat_map(|one| {
            [(email(one.person), one.email_token.clone()), (one.name.clone(), one.name_token.clone())]
        });
        self.pen.write(&Line::Stored(stored.collect()));
        for one in &known {
            self.copy(&one.email_token, &email(one.person)).await.unwrap();
        }
        known
    }

    /// Keeps a copy of a value.
    async fn copy(&self, token: &str, text: &str) -> Result<(), DownstreamError> {
        let token = Token::parse(token).unwrap();
        let of = Scope { controller: SEE, purpose: DELIVERY };
        let seen = self.copies.sequence(&token).await.unwrap();
        self.copies.put(&token, of, &Plaintext::from_slice(text.as_bytes()), seen).await
    }

    /// Makes a key backup, and writes it where an operator would.
    async fn keep_keys(&self, bench: &Path) {
        let (made, mut backup) = self.engine.back_up_keys(ADMIN).await.unwrap();
        let folder = bench.join(KEY_BACKUPS);
        std::fs::create_dir_all(&folder).unwrap();
        let mut bytes = vec![];
        backup.rewind().unwrap();
        backup.read_to_end(&mut bytes).unwrap();
        std::fs::write(folder.join(made.id), bytes).unwrap();
        self.pen.write(&Line::KeysKept);
    }

    async fn end_key_backups(&self, on_time: bool) {
        assert_ne!(self.engine.figures().key_backups, 0, "a start has ended them");
        if on_time {
            self.clock.advance_ms(i64::try_from(WINDOW_MS).unwrap());
        } else {
            self.engine.end_key_backup(ADMIN, "").await.unwrap();
        }
        let ended = async || (self.engine.figures().key_backups == 0).then_some(());
        wait::until(Duration::from_secs(30), "the end of the key backups", ended).await;
    }

    async fn rename(&self, one: &mut Known) {
        let (former, name) = (one.name.clone(), new_name(one.person));
        if former == name {
            return;
        }
        self.pen.write(&Line::Sent(vec![name.clone()]));
        self.pen.write(&Line::Erasing(vec![former.clone()]));
        let items = vec![(one.name_token.clone(), Plaintext::from_slice(name.as_bytes()))];
        self.engine.rectify(ORDERS, SEE, items).await.unwrap().remove(0).unwrap();
        one.name = name;
        self.pen.write(&Line::Stored(vec![(one.name.clone(), one.name_token.clone())]));
        self.pen.write(&Line::Erased(vec![former]));
    }

    /// Forgets people, all at once.
    pub(crate) async fn forget(&self, people: Vec<Known>) {
        let texts: Vec<String> =
            people.iter().flat_map(|one| [email(one.person), one.name.clone()]).collect();
        self.pen.write(&Line::Erasing(texts.clone()));
        let mut erasures = JoinSet::new();
        for one in &people {
            let engine = self.engine.clone();
            let who = one.subject.clone().map_or_else(|| Who::Token(one.email_token.clone()), Who::SubjectId);
            erasures.spawn(async move {
                let request = ErasureRequest {
                    controller: SEE.to_owned(),
                    who,
                    activities: vec![],
                    actor: "dsr-2026-1".to_owned(),
                    reason: "case-1".to_owned(),
                    legal_basis: 1,
                    idempotency_key: String::new(),
                };
                engine.request_erasure(ADMIN, request).await.unwrap();
            });
        }
        while let Some(erased) = erasures.join_next().await {
            erased.unwrap();
        }
        self.purge(people.iter().map(|one| one.email_token.as_str())).await;
        for one in &people {
            // Somebody asked for the value just before it died, and only now comes back with it.
            let late = self.copy(&one.email_token, &email(one.person)).await;
            assert!(
                matches!(late, Err(DownstreamError::Purged)) || Mutant::CopyAfterPurge.lives(),
                "{late:?}"
            );
        }
        self.pen.write(&Line::Erased(texts));
    }

    /// Forgets one token; the person's name stays.
    pub(crate) async fn release(&self, one: &Known) {
        self.pen.write(&Line::Erasing(vec![email(one.person)]));
        self.engine.release(ORDERS, SEE, vec![one.email_token.clone()]).await.unwrap().remove(0).unwrap();
        self.purge([one.email_token.as_str()]).await;
        self.pen.write(&Line::Erased(vec![email(one.person)]));
    }

    pub(crate) async fn purge(&self, tokens: impl IntoIterator<Item = &str>) {
        let erasure = |token: &str| Erasure {
            controller: SEE.to_owned(),
            purge_id: format!("prg_{}", &token[4..]),
            token: Token::parse(token).unwrap(),
            field: "email".to_owned(),
            activity: PURCHASE.to_owned(),
            deadline_unix_ms: 0,
        };
        let purges: Vec<Erasure> = tokens.into_iter().map(erasure).collect();
        self.copies.purge(&purges).await.unwrap();
    }

    /// What a token gives, or why not: erased, or of a branch that was abandoned.
    pub(crate) async fn read(&self, token: &str) -> Result<String, Code> {
        let request = DetokenizeRequest {
            controller: SEE.to_owned(),
            purpose: DELIVERY.to_owned(),
            reason: String::new(),
            masked: false,
            tokens: vec![token.to_owned()],
            trace: [0; 16],
        };
        match self.engine.detokenize(MAIL, request).await.unwrap().remove(0) {
            Ok(text) => Ok(String::from_utf8(text.as_bytes().to_vec()).unwrap()),
            Err(refusal) if matches!(refusal.code, Code::Erased | Code::NotFound) => Err(refusal.code),
            Err(refusal) => panic!("{token}: {refusal:?}"),
        }
    }

    async fn say_last(&self, bench: &Path) {
        for line in account::lines(bench) {
            let Line::Stored(stored) = line else { continue };
            for (_, token) in stored {
                let text = match self.read(&token).await {
                    Ok(text) => Some(text),
                    Err(Code::NotFound) => continue,
                    Err(_) => {
                        self.purge([token.as_str()]).await; // its announcement would do that
                        None
                    }
                };
                self.pen.write(&Line::Final { token, text });
            }
        }
    }
}
