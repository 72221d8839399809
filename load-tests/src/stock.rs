//! A vault with a data set in it, brought there through Tokenize as any service would.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cloakroom_client::AdminClient;

use crate::drive::{Figures, Load, Pace, Until, drive};
use crate::error::LoadError;
use crate::house::{Certs, Vault};
use crate::people::{Draw, FIELDS};
use crate::set::Set;
use crate::work::{Connections, Erase, Write, read_back, read_erased};

/// Connections to each server.
pub(crate) const CONNECTIONS: usize = 4;
/// People a call while loading: 750 values, near the most that a call may have.
const LOAD_PEOPLE: u32 = 250;
/// Calls at once while loading.
const LOAD_IN_FLIGHT: usize = 8;
/// How many answers of each write or erase step are looked at again by reading.
const SAMPLE: usize = 300;

/// A vault and what is known of its contents.
pub(crate) struct Stock {
    pub(crate) vault: Vault,
    pub(crate) set: Arc<Set>,
    pub(crate) connections: Connections,
    officers: Vec<AdminClient>,
    next_person: AtomicU32,
}

impl Stock {
    /// Starts a vault in `folder` and fills it with `people` people, three values each.
    ///
    /// # Errors
    /// As [`Vault::start`] and any call.
    pub(crate) async fn fill(
        program: &Path,
        certs: &Certs,
        folder: &Path,
        people: u32,
    ) -> Result<(Self, Figures), LoadError> {
        let vault = Vault::start(program, certs, folder).await?;
        let connections = certs.connections(vault.address, CONNECTIONS).await?;
        let officers = vault.officers(CONNECTIONS).await?;
        let calls = people.div_ceil(LOAD_PEOPLE);
        let write = Arc::new(Write::new(connections.clone(), LOAD_PEOPLE, 0));
        let until = Until::Calls(calls.into());
        let load = Load { in_flight: LOAD_IN_FLIGHT, pace: Pace::Closed, until };
        let figures = drive(&write, load, 0).await?;
        let set = Arc::new(Set::of(write.take_made(), &mut Draw(u64::from(people))));
        let next_person = AtomicU32::new(calls.saturating_mul(LOAD_PEOPLE));
        Ok((Self { vault, set, connections, officers, next_person }, figures))
    }

    /// Values that it was filled with.
    pub(crate) fn values(&self) -> u64 {
        self.set.people() as u64 * FIELDS.len() as u64
    }

    /// Tokenize of new people under load; a sample of them is read back.
    ///
    /// # Errors
    /// Any wrong answer, any refused call.
    pub(crate) async fn write(&self, people: u32, load: Load, seed: u64) -> Result<Figures, LoadError> {
        let first = self.next_person.load(Ordering::Relaxed);
        let write = Arc::new(Write::new(self.connections.clone(), people, first));
        let figures = drive(&write, load, seed).await?;
        let made = write.take_made();
        let after = made.iter().map(|made| made.first.saturating_add(people)).max().unwrap_or(first);
        self.next_person.store(after, Ordering::Relaxed);
        let every = made.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<_> = made.iter().step_by(every).flat_map(|made| made.places().take(7)).collect();
        read_back(&self.connections, &sample).await?;
        Ok(figures)
    }

    /// RequestErasure under load of people who were there from the beginning; a sample must answer ERASED.
    ///
    /// # Errors
    /// Any wrong answer, any refused call.
    pub(crate) async fn erase(&self, load: Load, seed: u64) -> Result<Figures, LoadError> {
        let before = self.set.condemned();
        let erase = Erase { officers: self.officers.clone(), set: Arc::clone(&self.set) };
        let figures = drive(&Arc::new(erase), load, seed).await?;
        let erased = self.set.condemned_since(before, SAMPLE);
        read_erased(&self.connections, &self.set, &erased).await?;
        Ok(figures)
    }
}
