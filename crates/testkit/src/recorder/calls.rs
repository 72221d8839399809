//! What a stopped system call is about: its file, its place, its bytes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::journal::{FileId, What};

/// A call as its registers tell it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
}

/// A call that matters, looked at before the kernel does it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) act: Act,
    /// What it will have done when it succeeds. Lacks what only its result tells.
    pub(super) what: Option<What>,
}

/// What a call is about to do, or has done; paths are relative to the recorder's base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open a file.
    Open {
        /// Where.
        path: PathBuf,
        /// It is not there yet, and will be made.
        creates: bool,
    },
    /// Write to a file.
    Write {
        /// Where.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Cut or grow a file.
    SetLen {
        /// Where.
        path: PathBuf,
    },
    /// `fsync`, `fdatasync`.
    Sync {
        /// Where.
        path: PathBuf,
    },
    /// `fsync` of a folder.
    SyncFolder {
        /// Where.
        path: PathBuf,
    },
    /// Give a file another name.
    Rename {
        /// Its name.
        from: PathBuf,
        /// Its new name.
        to: PathBuf,
    },
    /// Take a name away.
    Unlink {
        /// The name.
        path: PathBuf,
    },
    /// Make or remove a folder.
    Folder {
        /// Where.
        path: PathBuf,
    },
    /// Send something to somebody.
    Send,
}

/// A watched file.
#[derive(Clone, Debug)]
struct Known {
    file: FileId,
    path: PathBuf,
    /// It has no name any more: its inode may become another's.
    nameless: bool,
}

/// Knows the watched files, and looks into the traced threads.
#[derive(Debug)]
pub(super) struct Calls {
    base: PathBuf,
    watched: Vec<PathBuf>,
    /// Whose call it is.
    thread: i32,
    known: HashMap<(u64, u64), Known>,
    next_file: u64,
}

impl Calls {
    /// `watched` are folders, absolute, below `base`. New files get numbers from `next_file` on.
    pub(super) fn new(base: &Path, watched: &[PathBuf], next_file: u64) -> Self {
        let (base, watched) = (base.to_owned(), watched.to_vec());
        Self { base, watched, thread: 0, known: HashMap::new(), next_file }
    }

    /// Tells of a file that lies there already.
    pub(super) fn learn(&mut self, file: FileId, path: PathBuf, found: &Metadata) {
        let known = Known { file, path, nameless: false };
        self.known.insert((found.dev(), found.ino()), known);
    }

    /// What the call will do to a watched file, or send; `None` if it is nobody's business.
    ///
    /// # Errors
    /// If the process cannot be looked into, or changes a watched file in a way that no recorder could see.
    pub(super) fn entered(
        &mut self,
        thread: i32,
        call: Registers,
        with_bytes: bool,
    ) -> io::Result<Option<Call>> {
        self.thread = thread;
        let [a, b, c, d, e, _] = call.arguments;
        Ok(match call.number {
            libc::SYS_open => self.open(libc::AT_FDCWD, a, b)?,
            libc::SYS_creat => self.open(libc::AT_FDCWD, a, (libc::O_CREAT | libc::O_TRUNC) as u64)?,
            libc::SYS_openat => self.open(a as i32, b, c)?,
            libc::SYS_openat2 => {
                let how = self.read(c, 8)?;
                let flags = how.try_into().map(u64::from_le_bytes).map_err(|_| lost("openat2"))?;
                self.open(a as i32, b, flags)?
            }
            libc::SYS_write => self.write(a as i32, None, &[(b, c)], with_bytes)?,
            libc::SYS_pwrite64 => self.write(a as i32, Some(d), &[(b, c)], with_bytes)?,
            libc::SYS_writev => {
                let parts = self.parts(b, c)?;
                self.write(a as i32, None, &parts, with_bytes)?
            }
            libc::SYS_pwritev | libc::SYS_pwritev2 => {
                let parts = self.parts(b, c)?;
                let offset = (call.number == libc::SYS_pwritev || d != u64::MAX).then_some(d);
                self.write(a as i32, offset, &parts, with_bytes)?
            }
            libc::SYS_ftruncate => self.of_file(a as i32).map(|(known, _)| Call {
                act: Act::SetLen { path: known.path },
                what: Some(What::SetLen { file: known.file, length: b }),
            }),
            libc::SYS_fallocate => self.of_file(a as i32).map(|(known, _)| Call {
                act: Act::SetLen { path: known.path },
                what: Some(What::Allocate { file: known.file, offset: c, length: d, mode: b as u32 }),
            }),
            libc::SYS_rename => self.rename((libc::AT_FDCWD, a), (libc::AT_FDCWD, b))?,
            libc::SYS_renameat | libc::SYS_renameat2 => {
                if call.number == libc::SYS_renameat2 && e as u32 & libc::RENAME_EXCHANGE != 0 {
                    return Err(lost("an exchange of names"));
                }
                self.rename((a as i32, b), (c as i32, d))?
            }
            libc::SYS_unlink => self.unlink(libc::AT_FDCWD, a)?,
            libc::SYS_unlinkat if c as i32 & libc::AT_REMOVEDIR != 0 => self.folder(a as i32, b, true)?,
            libc::SYS_unlinkat => self.unlink(a as i32, b)?,
            libc::SYS_mkdir => self.folder(libc::AT_FDCWD, a, false)?,
            libc::SYS_mkdirat => self.folder(a as i32, b, false)?,
            libc::SYS_rmdir => self.folder(libc::AT_FDCWD, a, true)?,
            libc::SYS_fsync | libc::SYS_fdatasync => self.sync(a as i32, call.number == libc::SYS_fdatasync),
            libc::SYS_sync_file_range => self.of_file(a as i32).map(|(known, _)| Call {
                act: Act::Sync { path: known.path },
                what: Some(What::SyncRange { file: known.file }),
            }),
            libc::SYS_sendto | libc::SYS_sendmsg => Some(Call { act: Act::Send, what: None }),
            number => self.unseen(number, call.arguments)?,
        })
    }

    /// What the call has done, once it has returned `result`; `None` if it failed. `since` is the journal's next
    /// number when it began.
    pub(super) fn returned(
        &mut self,
        thread: i32,
        call: Call,
        result: i64,
        since: u64,
    ) -> io::Result<Option<What>> {
        self.thread = thread;
        if result < 0 {
            return Ok(None);
        }
        let Some(mut what) = call.what else { return Ok(None) };
        match &mut what {
            What::Open { file, path, created, .. } => {
                let Some(opened) = self.look(result as i32) else { return Ok(None) };
                if !opened.is_file() {
                    return Ok(None);
                }
                let at = (opened.dev(), opened.ino());
                let known = self.known.get(&at).filter(|known| !*created && !known.nameless);
                let (found, new) = match known {
                    Some(known) => (known.file, false),
                    None => (FileId(self.next_file), true),
                };
                self.next_file += u64::from(new);
                *created = new;
                *file = found;
                self.known.insert(at, Known { file: found, path: path.clone(), nameless: false });
            }
            What::Write { bytes, .. } => bytes.truncate(usize::try_from(result).unwrap_or(0)),
            What::Sync { since: at, .. } | What::SyncFolder { since: at, .. } => *at = since,
            What::Rename { from, to } => self.renamed(from, to),
            What::Unlink { file, path } => {
                for known in self.known.values_mut() {
                    known.nameless |= known.file == *file && known.path == *path;
                }
            }
            _ => {}
        }
        Ok(Some(what))
    }

    fn open(&self, folder: i32, path_at: u64, flags: u64) -> io::Result<Option<Call>> {
        let Some(path) = self.path(folder, path_at)? else { return Ok(None) };
        let flags = flags as i32;
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            return Err(lost("a file without a name"));
        }
        let before = fs::symlink_metadata(self.base.join(&path)).ok();
        if before.as_ref().is_some_and(Metadata::is_dir) {
            return Ok(None);
        }
        let created = before.is_none();
        if created && flags & libc::O_CREAT == 0 {
            return Ok(None);
        }
        let truncated = flags & libc::O_TRUNC != 0;
        let act = Act::Open { path: path.clone(), creates: created };
        Ok(Some(Call { act, what: Some(What::Open { file: FileId(0), path, created, truncated }) }))
    }

    fn write(
        &self,
        to: i32,
        offset: Option<u64>,
        parts: &[(u64, u64)],
        with_bytes: bool,
    ) -> io::Result<Option<Call>> {
        let Some(opened) = self.look(to) else { return Ok(None) };
        if opened.file_type().is_socket() {
            return Ok(Some(Call { act: Act::Send, what: None }));
        }
        let Some(known) = self.known(&opened) else { return Ok(None) };
        let offset = match offset {
            Some(offset) => offset,
            None => self.position(to, opened.len())?,
        };
        let length = parts.iter().map(|(_, length)| length).sum();
        let mut bytes = Vec::new();
        for (at, length) in parts.iter().filter(|_| with_bytes) {
            bytes.extend(self.read(*at, usize::try_from(*length).map_err(io::Error::other)?)?);
        }
        if with_bytes && bytes.len() as u64 != length {
            return Err(lost("bytes of a write"));
        }
        let act = Act::Write { path: known.path.clone(), offset, length };
        Ok(Some(Call { act, what: Some(What::Write { file: known.file, offset, bytes }) }))
    }

    fn sync(&self, of: i32, data_only: bool) -> Option<Call> {
        let opened = self.look(of)?;
        if opened.is_dir() {
            let path = fs::read_link(self.descriptor(of)).ok().and_then(|path| self.relative(&path))?;
            let what = Some(What::SyncFolder { path: path.clone(), since: 0 });
            return Some(Call { act: Act::SyncFolder { path }, what });
        }
        let known = self.known(&opened)?;
        let what = Some(What::Sync { file: known.file, since: 0, data_only });
        Some(Call { act: Act::Sync { path: known.path.clone() }, what })
    }

    fn rename(&self, from: (i32, u64), to: (i32, u64)) -> io::Result<Option<Call>> {
        match (self.path(from.0, from.1)?, self.path(to.0, to.1)?) {
            (Some(from), Some(to)) => {
                let act = Act::Rename { from: from.clone(), to: to.clone() };
                Ok(Some(Call { act, what: Some(What::Rename { from, to }) }))
            }
            (None, None) => Ok(None),
            _ => Err(lost("a rename out of or into the watched folders")),
        }
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        for known in self.known.values_mut() {
            if known.path == to {
                known.nameless = true;
            } else if let Ok(below) = known.path.strip_prefix(from) {
                known.path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            }
        }
    }

    fn unlink(&self, folder: i32, path_at: u64) -> io::Result<Option<Call>> {
        let Some(path) = self.path(folder, path_at)? else { return Ok(None) };
        let Ok(found) = fs::symlink_metadata(self.base.join(&path)) else { return Ok(None) };
        let Some(known) = self.known(&found) else { return Ok(None) };
        let what = Some(What::Unlink { file: known.file, path: path.clone() });
        Ok(Some(Call { act: Act::Unlink { path }, what }))
    }

    fn folder(&self, folder: i32, path_at: u64, removed: bool) -> io::Result<Option<Call>> {
        Ok(self.path(folder, path_at)?.map(|path| {
            let act = Act::Folder { path: path.clone() };
            let what = if removed { What::RemoveFolder { path } } else { What::MakeFolder { path } };
            Call { act, what: Some(what) }
        }))
    }

    /// Calls that would change a watched file behind the recorder's back.
    fn unseen(&self, number: i64, arguments: [u64; 6]) -> io::Result<Option<Call>> {
        let [a, _, c, _, e, _] = arguments;
        let of_file = |descriptor: u64| self.of_file(descriptor as i32).is_some();
        let unseen = match number {
            libc::SYS_mmap => of_file(e).then_some("a shared mapping of a watched file"),
            libc::SYS_copy_file_range | libc::SYS_splice => of_file(c).then_some("a copy to a watched file"),
            libc::SYS_sendfile => of_file(a).then_some("a copy to a watched file"),
            libc::SYS_truncate => self.path(libc::AT_FDCWD, a)?.map(|_| "truncate by name"),
            libc::SYS_link => self.path(libc::AT_FDCWD, arguments[1])?.map(|_| "a hard link"),
            libc::SYS_linkat => self.path(c as i32, arguments[3])?.map(|_| "a hard link"),
            libc::SYS_symlink => self.path(libc::AT_FDCWD, arguments[1])?.map(|_| "a symbolic link"),
            libc::SYS_symlinkat => self.path(arguments[1] as i32, c)?.map(|_| "a symbolic link"),
            _ => None,
        };
        unseen.map_or(Ok(None), |what| Err(lost(what)))
    }

    fn of_file(&self, descriptor: i32) -> Option<(Known, Metadata)> {
        let opened = self.look(descriptor)?;
        Some((self.known(&opened)?.clone(), opened))
    }

    fn known(&self, found: &Metadata) -> Option<&Known> {
        let known = self.known.get(&(found.dev(), found.ino()))?;
        (found.is_file() && !(known.nameless && found.nlink() > 0)).then_some(known)
    }

    fn look(&self, descriptor: i32) -> Option<Metadata> {
        fs::metadata(self.descriptor(descriptor)).ok()
    }

    fn descriptor(&self, descriptor: i32) -> PathBuf {
        format!("/proc/{}/fd/{descriptor}", self.thread).into()
    }

    /// Where a write without an offset of its own goes.
    fn position(&self, descriptor: i32, length: u64) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", self.thread))?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = value("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
        let position = value("pos:").and_then(|position| position.parse().ok());
        let (Some(flags), Some(position)) = (flags, position) else { return Err(lost("a file's position")) };
        Ok(if flags & libc::O_APPEND != 0 { length } else { position })
    }

    /// The path that lies at `at` in the process, if it is a watched one, relative to the base.
    fn path(&self, folder: i32, at: u64) -> io::Result<Option<PathBuf>> {
        let mut bytes = Vec::new();
        let end = loop {
            let more = self.read(at + bytes.len() as u64, 256)?;
            let nul = more.iter().position(|byte| *byte == 0).map(|nul| bytes.len() + nul);
            let enough = more.is_empty() || bytes.len() > libc::PATH_MAX as usize;
            bytes.extend(more);
            match nul {
                Some(nul) => break nul,
                None if enough => return Err(lost("a path")),
                None => {}
            }
        };
        let mut path = PathBuf::from(OsStr::from_bytes(&bytes[..end]));
        if path.is_relative() {
            let folder = match folder {
                libc::AT_FDCWD => fs::read_link(format!("/proc/{}/cwd", self.thread)),
                folder => fs::read_link(self.descriptor(folder)),
            };
            path = folder?.join(path);
        }
        Ok(self.relative(&path))
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        let watched = self.watched.iter().any(|watched| path.starts_with(watched));
        watched.then(|| path.strip_prefix(&self.base).ok().map(Path::to_owned)).flatten()
    }

    fn parts(&self, at: u64, count: u64) -> io::Result<Vec<(u64, u64)>> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let bytes = self.read(at, count * 16)?;
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        Ok(bytes.chunks_exact(16).map(|part| (number(&part[..8]), number(&part[8..]))).collect())
    }

    /// Up to so many bytes of the process's memory; fewer where the mapping ends.
    fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let memory = File::open(format!("/proc/{}/mem", self.thread))?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match memory.read_at(&mut bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

fn lost(what: &str) -> io::Error {
    io::Error::other(format!("the recorder cannot follow: {what}"))
}
