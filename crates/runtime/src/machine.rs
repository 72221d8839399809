//! What this machine has and lacks for keeping keys: looked at by `doctor` and at start. Returns data,
//! prints nothing, changes nothing.

use std::path::{Path, PathBuf};

use cloakroom_core::clock::UnixMs;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::RuntimeError;
use crate::identity::refuse_open_to_others;

/// 2026-01-01T00:00:00 UTC. This program is younger: a clock before it is wrong.
const CLOCK_MIN_UNIX_MS: UnixMs = 1_767_225_600_000;

/// Locked memory that the keys of a full page cache need, with room to spare.
pub const LOCKED_BYTES_MIN: u64 = 64 << 20;

/// How much of a finding to mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Works, but a promise is weaker than it could be.
    Warning,
    /// Cannot be relied on.
    Wrong,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `swap`, `locked_memory`, `clock`, `disk`, `file_mode`.
    pub check: &'static str,
    /// How much to mind it.
    pub severity: Severity,
    /// What was found, in words.
    pub found: String,
    /// What to do about it; empty where all is fine.
    pub advice: &'static str,
}

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The time now.
    pub now_unix_ms: UnixMs,
    /// The newest time that the log or a certificate is known to bear; 0 if none.
    pub newest_known_unix_ms: UnixMs,
    /// Folders that are written to, each with the bytes it needs free.
    pub folders: Vec<(PathBuf, u64)>,
    /// Files that only their owner may read.
    pub secret_files: Vec<PathBuf>,
}

/// Looks at everything, in a fixed order.
pub fn inspect(inspection: &Inspection) -> Vec<Finding> {
    let mut findings = vec![
        swap(swap_bytes()),
        locked_memory(locked_bytes_max()),
        clock(inspection.now_unix_ms, inspection.newest_known_unix_ms),
    ];
    findings.extend(inspection.folders.iter().map(|(folder, wanted)| disk(folder, *wanted)));
    findings.extend(inspection.secret_files.iter().map(|file| file_mode(file)));
    findings
}

/// Bytes of swap space in use or free. Keys never reach it (their pages are locked), values on their way can.
pub fn swap_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalswap.saturating_mul(u64::from(system.mem_unit))
}

/// Bytes that this process may lock (RLIMIT_MEMLOCK); `None` without a limit.
pub fn locked_bytes_max() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// A disk's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes altogether.
    pub total_bytes: u64,
}

/// The room on the disk that holds `folder`.
///
/// # Errors
/// [`RuntimeError::File`] if it cannot be asked.
pub fn room(folder: &Path) -> Result<Room, RuntimeError> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| RuntimeError::file(folder)(error.into()))?;
    Ok(Room {
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
    })
}

fn finding(check: &'static str, severity: Severity, found: String, advice: &'static str) -> Finding {
    Finding { check, severity, found, advice }
}

fn swap(bytes: u64) -> Finding {
    match bytes {
        0 => finding("swap", Severity::Fine, "no swap".into(), ""),
        bytes => finding(
            "swap",
            Severity::Warning,
            format!("{} MiB of swap", bytes >> 20),
            "turn swap off or encrypt it with a key that dies with the machine's power: values in flight may be written to it",
        ),
    }
}

fn locked_memory(bytes: Option<u64>) -> Finding {
    match bytes {
        None => finding("locked_memory", Severity::Fine, "no limit".into(), ""),
        Some(bytes) if bytes >= LOCKED_BYTES_MIN => {
            finding("locked_memory", Severity::Fine, format!("{} MiB may be locked", bytes >> 20), "")
        }
        Some(bytes) => finding(
            "locked_memory",
            Severity::Warning,
            format!("only {} KiB may be locked", bytes >> 10),
            "raise RLIMIT_MEMLOCK (LimitMEMLOCK= in systemd, --ulimit memlock in containers) to 64 MiB or more",
        ),
    }
}

fn clock(now: UnixMs, newest_known: UnixMs) -> Finding {
    let severity =
        if now < CLOCK_MIN_UNIX_MS || now < newest_known { Severity::Wrong } else { Severity::Fine };
    let found = match severity {
        Severity::Fine => "plausible".to_owned(),
        _ if now < newest_known => {
            format!("{} ms behind what is already recorded", newest_known.saturating_sub(now))
        }
        _ => "before this program was made".to_owned(),
    };
    let advice = if severity == Severity::Fine {
        ""
    } else {
        "set the clock, and keep it by NTP: deadlines and retention count on it"
    };
    finding("clock", severity, found, advice)
}

fn disk(folder: &Path, wanted: u64) -> Finding {
    match room(folder) {
        Err(error) => {
            finding("disk", Severity::Wrong, error.to_string(), "the folder must exist and be reachable")
        }
        Ok(room) => {
            let found = format!(
                "{}: {} MiB free of {}",
                folder.display(),
                room.free_bytes >> 20,
                room.total_bytes >> 20
            );
            if room.free_bytes >= wanted {
                finding("disk", Severity::Fine, found, "")
            } else {
                finding("disk", Severity::Wrong, found, "make room before the daemon stops taking writes")
            }
        }
    }
}

fn file_mode(file: &Path) -> Finding {
    match refuse_open_to_others(file) {
        Ok(()) => finding("file_mode", Severity::Fine, format!("{}: its owner's alone", file.display()), ""),
        Err(error) => finding(
            "file_mode",
            Severity::Wrong,
            error.to_string(),
            "chmod 600 it, and consider its secret known",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_healthy_machine_has_nothing_to_mind_and_a_sick_one_is_told_what_to_do() {
        assert_eq!(swap(0).severity, Severity::Fine);
        assert_eq!(swap(1 << 30).severity, Severity::Warning);
        assert_eq!(locked_memory(None).severity, Severity::Fine);
        assert_eq!(locked_memory(Some(LOCKED_BYTES_MIN)).severity, Severity::Fine);
        assert_eq!(locked_memory(Some(64 << 10)).severity, Severity::Warning);
        assert_eq!(clock(CLOCK_MIN_UNIX_MS, 0).severity, Severity::Fine);
        assert_eq!(clock(CLOCK_MIN_UNIX_MS - 1, 0).severity, Severity::Wrong);
        assert_eq!(clock(CLOCK_MIN_UNIX_MS, CLOCK_MIN_UNIX_MS + 1).severity, Severity::Wrong);
    }

    #[test]
    fn folders_and_files_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("root");
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o640)).unwrap();
        let inspection = Inspection {
            now_unix_ms: CLOCK_MIN_UNIX_MS,
            folders: vec![
                (folder.path().into(), 1),
                (folder.path().into(), u64::MAX),
                ("/nowhere".into(), 1),
            ],
            secret_files: vec![secret.clone()],
            ..Inspection::default()
        };
        let severities: Vec<_> =
            inspect(&inspection).iter().skip(3).map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Fine, Severity::Wrong, Severity::Wrong, Severity::Wrong]);
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(inspect(&inspection).last().unwrap().severity, Severity::Fine);
    }
}
