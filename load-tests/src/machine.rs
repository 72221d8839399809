//! What the kernel tells: of this machine, and of what a process has used.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cloakroom_core::clock::{Clock, SystemClock};
use serde::Serialize;

use crate::error::LoadError;

/// Above this many runnable processes before anything was started, somebody else is measuring us.
const BUSY_LOAD: f64 = 0.3;

/// Bytes in a MiB.
pub(crate) const MIB: f64 = 1_048_576.0;
/// Between two looks at a process's memory.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Where and when it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// RFC 3339, UTC.
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Runnable processes in the minute before the run.
    pub(crate) load_before: f64,
}

impl Machine {
    /// This one, now.
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Self {
            date: jiff::Timestamp::from_millisecond(SystemClock.now_unix_ms())
                .map(|now| now.to_string())
                .unwrap_or_default(),
            commit: commit(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: after(&read("/proc/cpuinfo"), "model name"),
            memory_mib: memory_kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// Whether somebody else was using the machine, so that figures tell of them too.
    pub(crate) fn is_busy(&self) -> bool {
        self.load_before > BUSY_LOAD
    }
}

/// The commit that is checked out here, with `+` where files differ from it; `unknown` outside a checkout.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let said = Command::new("git").args(arguments).output().ok().filter(|said| said.status.success())?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "--short", "HEAD"]) {
        Some(commit) => {
            let changed =
                git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|it| !it.is_empty());
            format!("{commit}{}", if changed { "+" } else { "" })
        }
        None => "unknown".to_owned(),
    }
}

/// Seconds of processor that a process has used, its threads and the processes that it started together.
///
/// # Errors
/// [`LoadError::File`] if it is gone.
fn processor_seconds(pid: u32) -> Result<f64, LoadError> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    // One that has ended meanwhile is counted no more.
    let of_children: f64 = children.filter_map(|child| own_seconds(child).ok()).sum();
    Ok(own_seconds(pid)? + of_children)
}

fn own_seconds(pid: u32) -> Result<f64, LoadError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = std::fs::read_to_string(&path).map_err(LoadError::file(&path))?;
    // The second field is the name in parentheses, blanks and all; user and system time are the 14th and 15th.
    let ticks = |field: usize| -> Option<u64> {
        stat.rsplit_once(')')?.1.split_whitespace().nth(field.checked_sub(3)?)?.parse().ok()
    };
    match (ticks(14), ticks(15)) {
        (Some(user), Some(system)) => {
            Ok(user.saturating_add(system) as f64 / rustix::param::clock_ticks_per_second() as f64)
        }
        _ => Err(LoadError::file(path)(std::io::ErrorKind::InvalidData.into())),
    }
}

/// Seconds of processor that a step used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    /// By the server under load.
    pub(crate) server_s: f64,
    /// By this process, the generator.
    pub(crate) own_s: f64,
}

/// Does `step` and says what server `pid` and this process used meanwhile.
///
/// # Errors
/// As the step, and if the server is gone.
pub(crate) async fn measured<T>(
    pid: u32,
    step: impl Future<Output = Result<T, LoadError>>,
) -> Result<(T, Used), LoadError> {
    let now = || Ok::<_, LoadError>((processor_seconds(pid)?, own_seconds(std::process::id())?));
    let before = now()?;
    let done = step.await?;
    let after = now()?;
    Ok((done, Used { server_s: after.0 - before.0, own_s: after.1 - before.1 }))
}

/// Bytes that a process has sent towards the disk, by whole pages.
///
/// # Errors
/// [`LoadError::File`] if it is gone.
pub(crate) fn written_bytes(pid: u32) -> Result<u64, LoadError> {
    let path = PathBuf::from(format!("/proc/{pid}/io"));
    let io = std::fs::read_to_string(&path).map_err(LoadError::file(&path))?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    bytes.ok_or_else(|| LoadError::file(path)(std::io::ErrorKind::InvalidData.into()))
}

/// A process's resident memory in bytes.
///
/// # Errors
/// [`LoadError::File`] if it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64, LoadError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = std::fs::read_to_string(&path).map_err(LoadError::file(&path))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| LoadError::file(path)(std::io::ErrorKind::InvalidData.into()))
}

/// Does `step`, and looks at the resident memory of `pid` meanwhile: seconds since the beginning, MiB.
///
/// # Errors
/// As the step, and if the process is gone.
pub(crate) async fn watched<T>(
    pid: u32,
    step: impl Future<Output = Result<T, LoadError>>,
) -> Result<(T, Vec<(f64, f64)>), LoadError> {
    let (begun, mut seen) = (Instant::now(), Vec::new());
    let mut tick = tokio::time::interval(WATCH_EVERY);
    let mut step = std::pin::pin!(step);
    loop {
        tokio::select! {
            done = &mut step => return Ok((done?, seen)),
            _ = tick.tick() => {
                seen.push((begun.elapsed().as_secs_f64(), resident_bytes(pid)? as f64 / MIB));
            }
        }
    }
}

/// File descriptors that a process has open.
///
/// # Errors
/// [`LoadError::File`].
pub(crate) fn open_files(pid: u32) -> Result<usize, LoadError> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    Ok(std::fs::read_dir(&folder).map_err(LoadError::file(&folder))?.count())
}

/// Bytes that a folder takes on the disk, whole blocks, everything below it.
///
/// # Errors
/// [`LoadError::File`].
pub(crate) fn disk_bytes(folder: &Path) -> Result<u64, LoadError> {
    let mut bytes = 0_u64;
    for entry in std::fs::read_dir(folder).map_err(LoadError::file(folder))? {
        let path = entry.map_err(LoadError::file(folder))?.path();
        let about = path.symlink_metadata().map_err(LoadError::file(&path))?;
        let below = if about.is_dir() { disk_bytes(&path)? } else { 0 };
        bytes = bytes.saturating_add(about.blocks().saturating_mul(512)).saturating_add(below);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_what_it_uses() {
        let pid = std::process::id();
        let before = own_seconds(pid).unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 60 {
            std::hint::black_box(before.sqrt());
        }
        assert!(own_seconds(pid).unwrap() > before && processor_seconds(pid).unwrap() > before);
        written_bytes(pid).unwrap();
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
        assert!(processor_seconds(0).is_err());
    }

    #[test]
    fn a_folder_takes_what_all_below_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("file"), vec![1; 100_000]).unwrap();
        let bytes = disk_bytes(folder.path()).unwrap();
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_machine_has_cores_and_memory() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && machine.date.ends_with('Z'));
    }
}
