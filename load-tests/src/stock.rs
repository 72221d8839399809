//! A vault with a data set in it, brought there through Tokenize as any service would. Sets are kept between
//! runs; a run works on a copy.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cloakroom_client::AdminClient;
use serde::{Deserialize, Serialize};

use crate::drive::{Figures, Load, Pace, Until, drive};
use crate::error::LoadError;
use crate::house::{Certs, Vault};
use crate::machine::disk_bytes;
use crate::mixed::Mixed;
use crate::people::{Draw, FIELDS, Place, REGISTER};
use crate::set::Set;
use crate::work::{Connections, Erase, Write, found, read_back, read_erased};

/// Connections to each server.
pub(crate) const CONNECTIONS: usize = 4;
/// What the sets are called, by size.
pub(crate) const SIZES: [&str; 3] = ["small", "main", "large"];
/// People a call while loading: 750 values, near the most that a call may have.
const LOAD_PEOPLE: u32 = 250;
/// Calls at once while loading.
const LOAD_IN_FLIGHT: usize = 8;
/// How many answers of each write or erase step are looked at again by reading.
const SAMPLE: usize = 300;
/// Of what is written down here about a set, and of the invented people in it.
const FORMAT: u32 = 1;
/// What a set consists of, all that the vault has written.
const FOLDERS: [&str; 3] = ["data", "keys", "roots"];
const NAMES: &str = "names";
const STAMP: &str = "stamp.json";
/// How long the look-up table of a large set may take.
const WHOLE_WITHIN: Duration = Duration::from_secs(600);

/// What a set is; one with another stamp is made again.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    format: u32,
    people: u32,
    register: String,
}

impl Stamp {
    fn of(people: u32) -> Self {
        Self { format: FORMAT, people, register: REGISTER.to_owned() }
    }

    fn is_on(&self, kept: &Path) -> bool {
        let read = std::fs::read(kept.join(STAMP)).ok();
        read.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok()).is_some_and(|read| read == *self)
    }
}

/// Where everything is.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    /// The vault's program.
    pub(crate) program: &'a Path,
    pub(crate) certs: &'a Certs,
    /// Sets that are kept, a folder each.
    pub(crate) sets: &'a Path,
}

/// A vault and what is known of its contents.
pub(crate) struct Stock {
    pub(crate) vault: Vault,
    pub(crate) set: Arc<Set>,
    pub(crate) connections: Connections,
    /// Bytes that the set took on the disk, with nothing running.
    pub(crate) disk_bytes: u64,
    officers: Vec<AdminClient>,
    next_person: AtomicU32,
}

impl Stock {
    /// A vault in `folder` over a copy of the kept set of `people` people, which is made first if need be.
    /// Returns once values can be looked up.
    ///
    /// # Errors
    /// As [`Vault::start`] and any call.
    pub(crate) async fn open(
        places: Places<'_>,
        folder: &Path,
        people: u32,
        progress: &dyn Fn(&str),
    ) -> Result<Self, LoadError> {
        let people = people.div_ceil(LOAD_PEOPLE).saturating_mul(LOAD_PEOPLE);
        let kept = places.sets.join(format!("people-{people}"));
        if !Stamp::of(people).is_on(&kept) {
            progress(&format!("making a set of {people} people, three values each"));
            let loaded = keep(places, &kept, people).await?;
            progress(&format!("{:.0} values a second", loaded.rate()));
        }
        let disk = copy(&kept, folder)?;
        let set = Arc::new(Set::load(&kept.join(NAMES), people)?);
        let vault = Vault::start(places.program, places.certs, folder, (REGISTER, None)).await?;
        let next_person = AtomicU32::new(people);
        let (connections, officers) = (Vec::new(), Vec::new());
        let mut stock = Self { vault, set, connections, disk_bytes: disk, officers, next_person };
        stock.connect(places.certs).await?;
        stock.whole().await?;
        Ok(stock)
    }

    async fn connect(&mut self, certs: &Certs) -> Result<(), LoadError> {
        self.connections = certs.connections(self.vault.address, CONNECTIONS).await?;
        self.officers = self.vault.officers(CONNECTIONS).await?;
        Ok(())
    }

    /// Values that it was filled with.
    pub(crate) fn values(&self) -> u64 {
        self.set.people() as u64 * FIELDS.len() as u64
    }

    /// Kills the vault as a crash would and starts it again.
    ///
    /// # Errors
    /// As [`Vault::start`].
    pub(crate) async fn crash(&mut self, certs: &Certs) -> Result<(), LoadError> {
        self.vault.crash().await?;
        self.connect(certs).await
    }

    /// Waits until values can be looked up, and finds one.
    ///
    /// # Errors
    /// [`LoadError::Server`] if it takes too long, any call.
    pub(crate) async fn whole(&self) -> Result<(), LoadError> {
        let begun = Instant::now();
        let place = Place::of(self.set.living(&mut Draw(1)).person(), 0);
        while !found(&self.connections, place, self.set.token(place)).await? {
            let waited = begun.elapsed();
            if waited > WHOLE_WITHIN {
                return Err(LoadError::Server {
                    name: "cloakroomd",
                    what: "cannot look up values".to_owned(),
                });
            }
            // Asking takes from what is being waited for.
            tokio::time::sleep((waited / 20).clamp(Duration::from_millis(10), Duration::from_secs(1))).await;
        }
        Ok(())
    }

    /// Tokenize of new people under load; a sample of them is read back.
    ///
    /// # Errors
    /// Any wrong answer, any refused call.
    pub(crate) async fn write(&self, people: u32, load: Load, seed: u64) -> Result<Figures, LoadError> {
        let write = Arc::new(Write::new(self.connections.clone(), people, self.next_person()));
        let figures = drive(&write, load, seed).await?;
        self.written(&write).await?;
        Ok(figures)
    }

    /// The first person whom the vault does not know.
    pub(crate) fn next_person(&self) -> u32 {
        self.next_person.load(Ordering::Relaxed)
    }

    /// Notes who is known now, and reads a sample of them back.
    ///
    /// # Errors
    /// Any wrong answer, any refused call.
    pub(crate) async fn written(&self, write: &Write) -> Result<(), LoadError> {
        self.next_person.store(write.next(), Ordering::Relaxed);
        let made = write.take_made();
        let every = made.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<_> = made.iter().step_by(every).flat_map(|made| made.places().take(7)).collect();
        read_back(&self.connections, &sample).await
    }

    /// RequestErasure under load of people who were there from the beginning; a sample must answer ERASED.
    ///
    /// # Errors
    /// Any wrong answer, any refused call.
    pub(crate) async fn erase(&self, load: Load, seed: u64) -> Result<Figures, LoadError> {
        let before = self.set.condemned();
        let figures = drive(&Arc::new(self.eraser()), load, seed).await?;
        self.erased_since(before).await?;
        Ok(figures)
    }

    /// All verbs at once, as [`Mixed`] has them; samples of what was written and erased are looked at again.
    ///
    /// # Errors
    /// Any wrong answer, any refused call.
    pub(crate) async fn mixed(&self, load: Load, seed: u64) -> Result<Figures, LoadError> {
        let before = self.set.condemned();
        let work = Arc::new(Mixed {
            connections: self.connections.clone(),
            set: Arc::clone(&self.set),
            write: Write::new(self.connections.clone(), 1, self.next_person()),
            erase: self.eraser(),
        });
        let figures = drive(&work, load, seed).await?;
        self.written(&work.write).await?;
        self.erased_since(before).await?;
        Ok(figures)
    }

    /// The verb alone.
    fn eraser(&self) -> Erase {
        Erase { officers: self.officers.clone(), set: Arc::clone(&self.set) }
    }

    /// A sample of those erased since `before` of them were must answer ERASED.
    ///
    /// # Errors
    /// Any other answer.
    pub(crate) async fn erased_since(&self, before: usize) -> Result<(), LoadError> {
        let erased = self.set.condemned_since(before, SAMPLE);
        read_erased(&self.connections, &self.set, &erased).await
    }
}

/// Fills a vault with `people` and keeps what it has written.
async fn keep(places: Places<'_>, kept: &Path, people: u32) -> Result<Figures, LoadError> {
    let fresh = kept.with_extension("new");
    for folder in [kept, &fresh] {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LoadError::file(folder)(error));
            }
            _ => {}
        }
    }
    let vault = Vault::start(places.program, places.certs, &fresh, (REGISTER, None)).await?;
    let connections = places.certs.connections(vault.address, CONNECTIONS).await?;
    let write = Arc::new(Write::new(connections, LOAD_PEOPLE, 0));
    let until = Until::Calls((people / LOAD_PEOPLE).into());
    let figures = drive(&write, Load { in_flight: LOAD_IN_FLIGHT, pace: Pace::Closed, until }, 0).await?;
    vault.stop().await;
    Set::of(write.take_made()).save(&fresh.join(NAMES))?;
    let stamp =
        serde_json::to_vec(&Stamp::of(people)).map_err(|error| LoadError::Broken(error.to_string()))?;
    std::fs::write(fresh.join(STAMP), stamp).map_err(LoadError::file(&fresh))?;
    std::fs::rename(&fresh, kept).map_err(LoadError::file(kept))?;
    Ok(figures)
}

/// Copies a kept set, on file systems that can without its bytes, and waits until the disk has it. What the
/// vault's part of it takes there.
fn copy(kept: &Path, folder: &Path) -> Result<u64, LoadError> {
    std::fs::create_dir_all(folder).map_err(LoadError::file(folder))?;
    let mut bytes = 0_u64;
    for name in FOLDERS {
        bytes = bytes.saturating_add(disk_bytes(&kept.join(name))?);
        let copied =
            Command::new("cp").args(["-a", "--reflink=auto"]).arg(kept.join(name)).arg(folder).output();
        let copied = copied.map_err(LoadError::system("copying a set"))?;
        if !copied.status.success() {
            return Err(LoadError::Usage(String::from_utf8_lossy(&copied.stderr).trim().to_owned()));
        }
    }
    let file = std::fs::File::open(folder).map_err(LoadError::file(folder))?;
    rustix::fs::syncfs(&file).map_err(|error| LoadError::file(folder)(error.into()))?;
    Ok(bytes)
}
