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
    /// PR_SET_THP_DISABLE could not be set to 1.
    #[error("cannot do without huge pages")]
    HugePages(#[source] io::Error),
}

/// No core dumps (RLIMIT_CORE 0, for children too), not dumpable (so no other process of the same user can
/// attach or read its memory), and a look at swap. Afterwards /proc/self belongs to root: open files counted
/// there (`/proc/self/fd`) are no longer readable for an ordinary user, even the process itself. No huge pages
/// either: where the system gives them unasked, each makes 2 MiB resident for one value in it.
///
/// # Errors
/// [`HardenError`]; a daemon does not start then.
pub fn harden() -> Result<Hardened, HardenError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| HardenError::CoreLimit(error.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| HardenError::Dumpable(error.into()))?;
    nix::sys::prctl::set_thp_disable(true).map_err(|error| HardenError::HugePages(error.into()))?;
    Ok(Hardened { swap: swaps_in(&fs::read_to_string("/proc/swaps").unwrap_or_default()) })
}

/// The first column of /proc/swaps below its heading.
fn swaps_in(table: &str) -> Vec<String> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::{env, fs::File};

    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    /// Hardens a process of its own: this test's program again, this test alone.
    #[test]
    fn a_hardened_process_dumps_nothing() {
        const CHILD: &str = "CLOAKROOM_TEST_HARDENED";
        if env::var_os(CHILD).is_some() {
            harden().unwrap();
            assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
            assert!(nix::sys::prctl::get_thp_disable().unwrap());
            return;
        }
        let test = "process::tests::a_hardened_process_dumps_nothing";
        let output = File::create("/dev/null").unwrap();
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, "1")
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        assert!(child.success());
        assert_ne!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable, "this one is as it was");
    }

    #[test]
    fn swap_is_read_from_the_kernels_table() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(swaps_in(heading).is_empty());
        assert_eq!(
            swaps_in(&format!("{heading}/dev/sda2  partition 8 0 -2\n/swap file 1 0 -3\n")),
            ["/dev/sda2", "/swap"]
        );
    }
}
