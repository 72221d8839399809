//! An erasure's whole way: called, announced to Apache Kafka, purged by two stores that hold copies, answered.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cloakroom_client::AdminClient;
use cloakroom_client::channel;
use cloakroom_client::proto::admin::v1::{Erasure, ErasureState, GetErasureRequest};
use cloakroom_client::proto::affiliate::v1::RecordConversionRequest;
use cloakroom_client::proto::affiliate::v1::affiliate_service_client::AffiliateServiceClient;
use cloakroom_client::proto::mail::v1::SendTicketRequest;
use cloakroom_client::proto::mail::v1::mail_service_client::MailServiceClient;
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_testkit::kafka::{Kafka, Settings, Tls};
use hdrhistogram::Histogram;
use tonic::transport::Channel;

use crate::bench::Bench;
use crate::chart::{Axis, Chart, Line, Scale};
use crate::child::Child;
use crate::drive::{Load, Pace, Until, Work, drive};
use crate::error::LoadError;
use crate::house::{Certs, Vault, free_ports};
use crate::machine::measured;
use crate::people::{CONTROLLER, Draw, PURPOSE, Place, REGISTER};
use crate::report::{Goal, Kind, median};
use crate::set::Set;
use crate::work::{Connections, Erase, Write};

/// Erasures a second.
const RATE: f64 = 100.0;
/// Erasures that are not measured, before the others: a Java broker is slow at first.
const WARM_UP: u32 = 200;
/// What an erasure takes one after the other, by the clocks of vault and stores.
const PARTS: [&str; 3] = [
    "ms until the keys are destroyed, median",
    "ms more until both stores have purged, median",
    "ms more until the vault has certified it, median",
];
const IN_FLIGHT: usize = 64;
/// People a call while filling.
const FILL: u32 = 50;
/// Copies handed out at once.
const COPIES_IN_FLIGHT: usize = 32;
/// How long the last erasure may take to come back.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const ADDITION: &str = include_str!("../broadcast.toml");
const STORES: [&str; 2] = ["mail", "affiliate"];

const ROUND_TRIP: Kind = Kind {
    id: "P8",
    what: "erasure to both acknowledgements, p99, 100 a second",
    unit: " ms",
    against: "",
    goal: Goal::AtMost(250.0),
};

/// A vault, a broker and two stores with copies of everybody.
struct House {
    vault: Vault,
    stores: Vec<Child>,
    erase: Arc<Announced>,
    officer: AdminClient,
    _kafka: Kafka,
}

impl Bench<'_> {
    /// As many runs as there are rounds. Without Apache Kafka, where it is not `required`, the row says why.
    pub(crate) async fn broadcast(&mut self) -> Result<(), LoadError> {
        let settings = self.settings;
        let calls = (settings.time.as_secs_f64() * RATE).ceil().max(1.0) as u32;
        let rounds = u32::try_from(settings.rounds).unwrap_or(u32::MAX);
        // Of ten people nine can be erased.
        let people = calls.saturating_mul(rounds).saturating_add(WARM_UP).div_ceil(9).saturating_mul(10);
        let folder = settings.folder.join("broadcast");
        let house = match House::open(&settings.program, self.places.certs, &folder, people).await {
            Ok(house) => house,
            Err(error) if settings.all_required => return Err(error),
            Err(error) => {
                self.report.absent(ROUND_TRIP, &error.to_string());
                return Ok(());
            }
        };
        house.run(WARM_UP).await?;
        let mut all = histogram()?;
        for _ in 0..rounds {
            let ((figures, used), seen) = house.measure(calls).await?;
            self.report.step("RequestErasure, 100 a second, two stores", &figures, used);
            self.report.note(ROUND_TRIP, seen.whole.value_at_quantile(0.99) as f64, None);
            for (name, took) in PARTS.into_iter().zip(&seen.parts) {
                self.report.alone(name, median(took));
            }
            all.add(&seen.whole).map_err(|error| LoadError::Broken(error.to_string()))?;
        }
        house.stop().await;
        let shares = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0];
        let points = shares.map(|share| (100.0 * share, all.value_at_quantile(share) as f64));
        self.report.chart(Chart {
            id: "P8",
            title: "erasure called, both stores acknowledged".to_owned(),
            x: Axis::new("% of erasures", Scale::Linear),
            y: Axis::new("ms at most", Scale::Linear),
            lines: vec![Line::new("100 a second", points.to_vec())],
        });
        Ok(())
    }
}

/// How long erasures took, in milliseconds: until both stores had answered, and the parts of that.
struct Seen {
    whole: Histogram<u64>,
    parts: [Vec<f64>; PARTS.len()],
}

fn histogram() -> Result<Histogram<u64>, LoadError> {
    Histogram::new(3).map_err(|error| LoadError::Broken(error.to_string()))
}

impl House {
    async fn open(program: &Path, certs: &Certs, folder: &Path, people: u32) -> Result<Self, LoadError> {
        std::fs::create_dir_all(folder).map_err(LoadError::file(folder))?;
        let kafka = broker(certs, folder).await?;
        let bootstrap = kafka.bootstrap();
        let register =
            REGISTER.replace("recipients = []", "recipients = [\"mail\", \"affiliate\"]") + ADDITION;
        let vault = Vault::start(program, certs, folder, (&register, Some(&bootstrap))).await?;
        let connections = certs.connections(vault.address, 1).await?;
        let people = people.div_ceil(FILL).saturating_mul(FILL);
        let set = Arc::new(filled(connections, people).await?);
        let mut stores = Vec::new();
        let mut at = Vec::new();
        for name in STORES {
            let (child, address) = store(name, program, certs, folder, (&vault, &bootstrap)).await?;
            at.push(channel(&certs.endpoint(address, "load")).await?);
            stores.push(child);
        }
        let [mail, affiliate] = <[Channel; 2]>::try_from(at).map_err(|_| absent("a store"))?;
        let copies = Copies {
            mail: MailServiceClient::new(mail),
            affiliate: AffiliateServiceClient::new(affiliate),
            set: Arc::clone(&set),
            next: AtomicU32::new(0),
        };
        let until = Until::Calls(people.into());
        let load = Load { in_flight: COPIES_IN_FLIGHT, pace: Pace::Closed, until };
        drive(&Arc::new(copies), load, 0).await?;
        let mut officers = vault.officers(crate::stock::CONNECTIONS).await?;
        let officer = officers.pop().ok_or_else(|| absent("an officer"))?;
        let erase = Arc::new(Announced { erase: Erase { officers, set }, called: Mutex::default() });
        Ok(Self { vault, stores, erase, officer, _kafka: kafka })
    }

    /// `calls` erasures at the rate, and how long each took.
    async fn run(&self, calls: u32) -> Result<(crate::drive::Figures, Seen), LoadError> {
        let load = Load { in_flight: IN_FLIGHT, pace: Pace::Open(RATE), until: Until::Calls(calls.into()) };
        let figures = drive(&self.erase, load, 0).await?;
        let called = std::mem::take(&mut *self.erase.called.lock().unwrap_or_else(PoisonError::into_inner));
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut seen = Seen { whole: histogram()?, parts: Default::default() };
        for (erasure_id, called_unix_ms) in called {
            let erasure = self.completed(&erasure_id, deadline).await?;
            let purged = erasure.downstreams.iter().map(|one| one.answered_unix_ms).max().unwrap_or_default();
            let steps = [called_unix_ms, erasure.keys_destroyed_unix_ms, purged, erasure.completed_unix_ms];
            for (part, step) in seen.parts.iter_mut().zip(steps.windows(2)) {
                part.push(step.last().zip(step.first()).map_or(0.0, |(to, from)| (to - from) as f64));
            }
            let took = erasure.completed_unix_ms.saturating_sub(called_unix_ms);
            seen.whole.saturating_record(u64::try_from(took).unwrap_or_default().max(1));
        }
        Ok((figures, seen))
    }

    async fn measure(
        &self,
        calls: u32,
    ) -> Result<((crate::drive::Figures, crate::machine::Used), Seen), LoadError> {
        let ((figures, seen), used) = measured(self.vault.pid(), self.run(calls)).await?;
        Ok(((figures, used), seen))
    }

    /// Waits until both stores have purged: the vault itself says when that was.
    async fn completed(&self, erasure_id: &str, deadline: Instant) -> Result<Erasure, LoadError> {
        loop {
            let request = GetErasureRequest { erasure_id: erasure_id.to_owned() };
            let erasure = self.officer.get_erasure(request).await?.erasure.unwrap_or_default();
            let purged = |store: &&str| {
                erasure.downstreams.iter().any(|one| one.downstream == **store && one.status == "PURGED")
            };
            if erasure.state() == ErasureState::Completed && STORES.iter().all(purged) {
                return Ok(erasure);
            }
            if Instant::now() > deadline {
                let what = format!("{:?}, not purged by both", erasure.state());
                let reference = erasure_id.to_owned();
                return Err(LoadError::Wrong { verb: "request_erasure", reference, what });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn stop(self) {
        for store in self.stores {
            store.stop().await;
        }
        self.vault.stop().await;
    }
}

fn absent(what: &str) -> LoadError {
    LoadError::Server { name: "Apache Kafka", what: what.to_owned() }
}

/// Apache Kafka with mutual TLS, as the tests start it.
async fn broker(certs: &Certs, folder: &Path) -> Result<Kafka, LoadError> {
    let [cert, key, ca] = certs.files("kafka");
    let keystore = folder.join("kafka.pem");
    let read = |path: &Path| std::fs::read_to_string(path).map_err(LoadError::file(path));
    std::fs::write(&keystore, read(&key)? + &read(&cert)?).map_err(LoadError::file(&keystore))?;
    let settings = Settings { tls: Some(Tls { keystore, truststore: ca }), ..Settings::default() };
    // It panics where Java or its jars are missing, and says so on stderr.
    let started = tokio::task::spawn_blocking(move || Kafka::start_with(&settings)).await;
    started.map_err(|_| absent("does not start here (scripts/setup.sh bench)"))
}

async fn filled(connections: Connections, people: u32) -> Result<Set, LoadError> {
    let write = Arc::new(Write::new(connections, FILL, 0));
    let until = Until::Calls((people / FILL).into());
    drive(&write, Load { in_flight: 4, pace: Pace::Closed, until }, 0).await?;
    Ok(Set::of(write.take_made()))
}

/// A downstream of the house, its program beside the vault's.
async fn store(
    name: &'static str,
    vault_program: &Path,
    certs: &Certs,
    folder: &Path,
    (vault, bootstrap): (&Vault, &str),
) -> Result<(Child, SocketAddr), LoadError> {
    let program = vault_program.with_file_name(format!("cloakroom-{name}"));
    if !program.exists() {
        let program = program.display();
        return Err(LoadError::Usage(format!(
            "{program} is not there: cargo build --release -p cloakroom-{name}"
        )));
    }
    let [listen, health, sink] = free_ports()?;
    let [cert, key, ca] = certs.files(name);
    let tls = format!("{{ cert = {cert:?}, key = {key:?}, ca = {ca:?} }}");
    let mut text = format!(
        "listen = \"{listen}\"\ndata = {:?}\nroots = {:?}\n\
         callers = [\"spiffe://cloakroom.local/service/load\"]\nhealth = {{ listen = \"{health}\" }}\n\
         tls = {tls}\nvault = {{ address = \"{}\", admin = \"{}\" }}\n\
         kafka = {{ bootstrap = \"{bootstrap}\", tls = {tls} }}\nmemory = {{ allow_unlocked = true }}\n",
        folder.join(name).join("data"),
        folder.join(name).join("roots"),
        vault.address,
        vault.admin,
    );
    let own = match name {
        "mail" => format!("own = {{ sink = \"{sink}\", ticket_purpose = \"{PURPOSE}\" }}\n"),
        _ => format!("own = {{ purpose = \"{PURPOSE}\" }}\n"),
    };
    let _ = text.write_str(&own); // into memory
    let config = folder.join(format!("{name}.toml"));
    std::fs::write(&config, text).map_err(LoadError::file(&config))?;
    let arguments = [OsString::from("--config"), config.into()];
    let mut child = Child::start(name, &program, &arguments, folder.join(format!("{name}.log")))?;
    child.ready(health).await?;
    Ok((child, listen))
}

/// Hands both stores a copy of the next person.
struct Copies {
    mail: MailServiceClient<Channel>,
    affiliate: AffiliateServiceClient<Channel>,
    set: Arc<Set>,
    next: AtomicU32,
}

impl Work for Copies {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, _: usize, _: &mut Draw) -> Result<(), LoadError> {
        let person = self.next.fetch_add(1, Ordering::Relaxed);
        let token = |field| self.set.token(Place::of(person, field)).to_owned();
        let order = format!("order-{person}");
        let ticket = SendTicketRequest {
            controller: CONTROLLER.to_owned(),
            email_token: token(0),
            name_token: token(1),
            order_reference: order.clone(),
            event_name: "Midsummer".to_owned(),
            event_date: "2027-06-23".to_owned(),
            idempotency_key: order.clone(),
        };
        self.mail.clone().send_ticket(ticket).await.map_err(LoadError::call("send_ticket"))?;
        let conversion = RecordConversionRequest {
            controller: CONTROLLER.to_owned(),
            order_reference: order,
            affiliate_code: "AFF-LOAD".to_owned(),
            email_token: token(0),
            name_token: token(1),
            amount_minor: 10_000,
            currency: "EUR".to_owned(),
        };
        let recorded = self.affiliate.clone().record_conversion(conversion).await;
        recorded.map_err(LoadError::call("record_conversion"))?;
        Ok(())
    }
}

/// RequestErasure, noting when each was called.
struct Announced {
    erase: Erase,
    /// Erasure ids, and milliseconds since the epoch.
    called: Mutex<Vec<(String, i64)>>,
}

impl Work for Announced {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, _: &mut Draw) -> Result<(), LoadError> {
        let called_unix_ms = SystemClock.now_unix_ms();
        let erasure = self.erase.erased(connection).await?;
        let mut called = self.called.lock().unwrap_or_else(PoisonError::into_inner);
        called.push((erasure.erasure_id, called_unix_ms));
        Ok(())
    }
}
