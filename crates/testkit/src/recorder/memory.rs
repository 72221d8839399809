//! What lies in a process's memory, read as its debugger would.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// At once, so that a large mapping needs no copy of its own size.
const CHUNK_BYTES: usize = 1 << 20;

/// A page that holds nothing but zeros tells nothing: an allocator may reserve a gigabyte of them.
const PAGE_BYTES: usize = 4_096;

/// A mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it begins.
    pub begin: u64,
    /// The byte after its last.
    pub end: u64,
    /// As `/proc/PID/maps` writes them: `rw-p`.
    pub rights: String,
    /// The file behind it, or `[heap]` and the like; empty where there is none.
    pub name: String,
}

/// The readable mappings of a process, but for the kernel's own (`[vvar]`, `[vsyscall]`).
///
/// # Errors
/// If the process is gone or not ours to look into.
pub fn mappings(process_id: u32) -> io::Result<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{process_id}/maps"))?;
    let readable = |mapping: &Mapping| mapping.rights.starts_with('r') && !mapping.name.starts_with("[v");
    Ok(text.lines().filter_map(mapping).filter(readable).collect())
}

fn mapping(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let (rights, rest) = rest.split_once(' ')?;
    // Offset, device and inode stand before the name, which may hold blanks.
    let name = rest.splitn(4, ' ').nth(3).unwrap_or_default().trim_start();
    Some(Mapping {
        begin: u64::from_str_radix(begin, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        rights: rights.to_owned(),
        name: name.to_owned(),
    })
}

/// Gives `take` every readable byte of a process: the mapping, the address of each piece, and the piece. A piece
/// ends where a mapping does or after 1 MiB; what the process unmaps meanwhile is left out. The process goes on:
/// stop it first (`SIGSTOP`) for one moment's state.
///
/// # Errors
/// As [`mappings`].
pub fn read_all(process_id: u32, mut take: impl FnMut(&Mapping, u64, &[u8])) -> io::Result<()> {
    let memory = File::open(format!("/proc/{process_id}/mem"))?;
    let mut piece = vec![0; CHUNK_BYTES];
    for mapping in mappings(process_id)? {
        let mut at = mapping.begin;
        while at < mapping.end {
            let wanted = usize::try_from(mapping.end - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            match memory.read_at(&mut piece[..wanted], at) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    take(&mapping, at, &piece[..length]);
                    at += length as u64;
                }
            }
        }
    }
    Ok(())
}

/// Writes everything that a process holds to a file, as `gcore` would but for the headers: the bytes of all
/// mappings, one behind the other, without pages of zeros. It asks nobody's leave, unlike the kernel's own core
/// dumps, which the vault turns off. Returns how many bytes that were.
///
/// # Errors
/// As [`read_all`], and if the file cannot be written.
pub fn dump(process_id: u32, to: &Path) -> io::Result<u64> {
    dump_of(process_id, to, |_| true)
}

/// The same of what the process may have written alone: what it was loaded from is on the disk.
///
/// # Errors
/// As [`dump`].
pub fn dump_writable(process_id: u32, to: &Path) -> io::Result<u64> {
    dump_of(process_id, to, |mapping| mapping.rights.contains('w'))
}

fn dump_of(process_id: u32, to: &Path, wanted: impl Fn(&Mapping) -> bool) -> io::Result<u64> {
    let mut file = BufWriter::new(File::create(to)?);
    let mut written = Ok(0);
    read_all(process_id, |mapping, _, piece| {
        if wanted(mapping)
            && let Ok(bytes) = &mut written
        {
            for page in piece.chunks(PAGE_BYTES).filter(|page| page.iter().any(|byte| *byte != 0)) {
                match file.write_all(page) {
                    Ok(()) => *bytes += page.len() as u64,
                    Err(error) => return written = Err(error),
                }
            }
        }
    })?;
    file.flush()?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_holds_what_we_hold() {
        let needle: Vec<u8> = (0..64_u8).map(|byte| byte.wrapping_mul(37) ^ 0x5a).collect();
        let place = needle.as_ptr() as u64;
        let mut found = false;
        read_all(std::process::id(), |mapping, at, piece| {
            assert!(at >= mapping.begin && at + piece.len() as u64 <= mapping.end);
            if let Some(begin) = place.checked_sub(at).and_then(|begin| usize::try_from(begin).ok()) {
                found |= piece.get(begin..begin + 64) == Some(&needle);
            }
        })
        .unwrap();
        assert!(found);
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("dump");
        assert_eq!(dump(std::process::id(), &to).unwrap(), fs::metadata(&to).unwrap().len());
    }

    #[test]
    fn a_line_of_maps_is_read() {
        let line = "7f00-7f10 r--p 00000000 fe:00 1234                       /usr/lib/a b.so";
        let expected = Mapping {
            begin: 0x7f00,
            end: 0x7f10,
            rights: "r--p".to_owned(),
            name: "/usr/lib/a b.so".to_owned(),
        };
        assert_eq!(mapping(line), Some(expected));
        assert_eq!(mapping("7f00-7f10 rw-p 00000000 00:00 0 ").unwrap().name, "");
    }
}
