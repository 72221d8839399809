//! What a dying vault leaves in a core dump: nothing.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom_testkit::recorder::Recorder;
use cloakroom_testkit::recorder::memory::{dump, mappings};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::house::House;
use crate::kills::WATCHED;

/// A vault that aborts leaves no core, whatever the machine does with cores; whoever may debug it can read it.
#[tokio::test]
async fn an_abort_leaves_no_core() {
    // What the vault inherits: cores of any size. It must be the one that turns them off.
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).unwrap();
    let mut house = House::prepare(None);
    house.vault.record(&Recorder::new(house.folder(), &WATCHED));
    house.vault.start();
    house.vault_is_ready().await;
    let id = house.vault.process_id().unwrap();
    assert!(mappings(id).unwrap().iter().any(|mapping| mapping.name == "[stack]"));
    let read = house.folder().join("read");
    assert!(dump(id, &read).unwrap() > 1 << 20, "root and a debugger read it all the same");

    kill_process(Pid::from_raw(id.try_into().unwrap()).unwrap(), Signal::ABORT).unwrap();
    let status = house.vault.wait(Duration::from_secs(20)).await;
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    let cores = files(house.folder()).into_iter().filter(|path| path.ends_with("core"));
    assert_eq!(cores.count(), 0);
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            _ => all.push(entry.path()),
        }
    }
    all
}
