//! What a process that holds keys does at start: leave no core dump, let nobody look inside.

use std::{fs, io};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use thiserror::Error;

/// What [`harden`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hardened {
    /// Swap devices and files in use. Keys are locked in memory, but values on their way and whatever
    /// libraries copy are not: a warning is due.
    pub swap: Vec<String>,
}

/// Why a process could not be hardened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HardenError {
    /// RLIMIT_CORE could not be set to 0.
    #[error("cannot forbid core dumps")]
    CoreLimit(#[source] io::Error),
    /// PR_SET_DUMPABLE could not be set to 0.
    #[error("cannot make the process undumpable")]
    Dumpable(#[source] io::Error),
}

/// No core dumps (RLIMIT_CORE 0, for children too), not dumpable (so no other process of the same user can
/// attach or read its memory), and a look at swap. Afterwards /proc/self belongs to root: open files counted
/// there (`/proc/self/fd`) are no longer readable for an ordinary user, even the process itself.
///
/// # Errors
/// [`HardenError`]; a daemon does not start then.
pub fn harden() -> Result<Hardened, HardenError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| HardenError::CoreLimit(error.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| HardenError::Dumpable(error.into()))?;
    Ok(Hardened { swap: swaps_in(&fs::read_to_string("/proc/swaps").unwrap_or_default()) })
}

/// The first column of /proc/swaps below its heading.
fn swaps_in(table: &str) -> Vec<String> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_read_from_the_kernels_table() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(swaps_in(heading).is_empty());
        assert_eq!(swaps_in(&format!("{heading}/dev/sda2  partition 8 0 -2\n/swap file 1 0 -3\n")), ["/dev/sda2", "/swap"]);
    }
}
