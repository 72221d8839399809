//! A recorder at work: one journal over all starts of a program.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::calls::{Act, Calls};
use super::images::Images;
use super::journal::{FileId, Op, Reader, What, Writer};
use super::tracer::{Phase, Tracer, Verdict, Watcher};
use crate::daemons::program;

type Hook = Box<dyn FnMut(Phase, &Act) -> Verdict + Send>;

/// Follows programs that write to the folders it watches, one after the other. Clones are the same recorder.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    base: PathBuf,
    watched: Vec<PathBuf>,
    book: Mutex<Book>,
    hook: Mutex<Option<Hook>>,
}

/// What is known over all starts.
struct Book {
    journal: Option<Writer>,
    /// What the journal says lies there; empty without one.
    images: Images,
    folders: Vec<PathBuf>,
    next_file: u64,
    next: u64,
}

impl Recorder {
    /// Watches these folders below `base`, which need not exist yet, and keeps no journal.
    pub fn new(base: &Path, watched: &[&str]) -> Self {
        let watched = watched.iter().map(|folder| base.join(folder)).collect();
        let book =
            Book { journal: None, images: Images::default(), folders: Vec::new(), next_file: 0, next: 0 };
        let shared =
            Shared { base: base.to_owned(), watched, book: Mutex::new(book), hook: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The same with a journal in `journal`, which is continued where it is there.
    ///
    /// # Errors
    /// Of the file system; [`io::ErrorKind::InvalidData`] if there is something else.
    pub fn with_journal(base: &Path, watched: &[&str], journal: &Path) -> io::Result<Self> {
        let recorder = Self::new(base, watched);
        let writer = Writer::open(journal)?;
        let mut book = recorder.book();
        book.next = writer.next();
        for op in Reader::open(journal)? {
            book.follow(&op?);
        }
        book.journal = Some(writer);
        drop(book);
        Ok(recorder)
    }

    /// Has `hook` called before and after each call that changes, syncs or sends something; it runs while the
    /// caller waits, and must not use this recorder. The former one is dropped.
    pub fn watch(&self, hook: impl FnMut(Phase, &Act) -> Verdict + Send + 'static) {
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// Writes down what the test knows, in the order of things. Returns its number.
    ///
    /// # Panics
    /// If the journal cannot be written.
    pub fn note(&self, text: impl Into<String>) -> u64 {
        self.book().add(0, What::Note(text.into())).expect("a journal that can be written")
    }

    /// The number that the next operation will have: all below have happened.
    pub fn now(&self) -> u64 {
        self.book().next
    }

    /// Starts `command`'s program under this recorder.
    ///
    /// # Errors
    /// If it cannot be started or traced.
    pub fn start(&self, command: &Command) -> io::Result<Traced> {
        let mut traced = Command::new(program("cloakroom-traced"));
        traced.arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => traced.env(variable, value),
                None => traced.env_remove(variable),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            traced.current_dir(folder);
        }
        self.start_with(traced)
    }

    /// As [`Recorder::start`], of a command that runs `cloakroom-traced` itself and says where output goes.
    pub(crate) fn start_with(&self, command: Command) -> io::Result<Traced> {
        let end = Arc::new(End::default());
        let (tell, told) = mpsc::channel();
        let (recorder, ends) = (self.clone(), Arc::clone(&end));
        // Only the thread that traces may wait for what it traces.
        thread::Builder::new().name("tracer".to_owned()).spawn(move || {
            let tracer = match Tracer::start(command, recorder) {
                Ok(tracer) => tracer,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(tracer.process_id()));
            ends.set(tracer.follow().map_err(|error| error.to_string()));
        })?;
        let process_id = told.recv().map_err(io::Error::other)??;
        Ok(Traced { process_id, end })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("base", &self.shared.base).finish_non_exhaustive()
    }
}

impl Watcher for Recorder {
    fn begins(&mut self, process_id: i32) -> io::Result<Calls> {
        let Shared { base, watched, .. } = &*self.shared;
        let mut book = self.book();
        book.add(pid(process_id), What::Started)?;
        let mut found = Vec::new();
        for folder in watched {
            take_stock(folder, &mut found)?;
        }
        let stock = book.settle(base, &found)?;
        let mut calls = Calls::new(base, watched, book.next_file);
        for (file, path, looked) in stock {
            calls.learn(file, path, &looked);
        }
        Ok(calls)
    }

    fn wants_bytes(&self) -> bool {
        self.book().journal.is_some()
    }

    fn now(&self) -> u64 {
        Recorder::now(self)
    }

    fn moment(&mut self, phase: Phase, act: &Act) -> Verdict {
        let mut hook = self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner);
        hook.as_mut().map_or(Verdict::Go, |hook| hook(phase, act))
    }

    fn done(&mut self, process_id: i32, what: What) -> io::Result<()> {
        self.book().add(pid(process_id), what).map(drop)
    }
}

impl Book {
    fn add(&mut self, pid: u32, what: What) -> io::Result<u64> {
        let op = Op { at: self.next, pid, what };
        self.follow(&op);
        if let Some(journal) = &mut self.journal {
            journal.append(pid, op.what)?;
        }
        Ok(op.at)
    }

    fn follow(&mut self, op: &Op) {
        self.next = op.at + 1;
        if let What::Open { file, .. } | What::Found { file, .. } = &op.what {
            self.next_file = self.next_file.max(file.0 + 1);
        }
        match &op.what {
            What::MakeFolder { path } => self.folders.push(path.clone()),
            What::RemoveFolder { path } => self.folders.retain(|folder| folder != path),
            _ => {}
        }
        if self.journal.is_some() || matches!(op.what, What::Found { .. } | What::Open { .. }) {
            self.images.apply(op);
        }
    }

    /// Notes what lies there and the journal does not know; says what each file is.
    fn settle(&mut self, base: &Path, found: &[PathBuf]) -> io::Result<Vec<(FileId, PathBuf, fs::Metadata)>> {
        let mut stock = Vec::new();
        let missing: Vec<_> = self.images.names().map(|(path, _)| path.to_owned()).collect();
        for path in missing.into_iter().filter(|path| !found.contains(&base.join(path))) {
            self.add(0, What::Missing { path })?;
        }
        for place in found {
            let path = place.strip_prefix(base).map_err(io::Error::other)?.to_owned();
            let looked = fs::symlink_metadata(place)?;
            if looked.is_dir() {
                if !self.folders.contains(&path) {
                    self.add(0, What::MakeFolder { path })?;
                }
                continue;
            }
            let known = self.images.named(&path);
            let file = match (known, &self.journal) {
                (Some(file), None) => file,
                (Some(file), Some(_)) if self.images.contents(file) == Some(&fs::read(place)?) => file,
                (_, journal) => {
                    let bytes = if journal.is_some() { fs::read(place)? } else { Vec::new() };
                    let file = FileId(self.next_file);
                    self.add(0, What::Found { file, path: path.clone(), bytes })?;
                    file
                }
            };
            stock.push((file, path, looked));
        }
        Ok(stock)
    }
}

/// Every folder and file below and with `folder`, the upper ones first; nothing if it is not there.
fn take_stock(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    found.push(folder.to_owned());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            take_stock(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

fn pid(process_id: i32) -> u32 {
    process_id.unsigned_abs()
}

/// A program that a recorder follows. It dies with this value.
#[derive(Debug)]
pub struct Traced {
    process_id: i32,
    end: Arc<End>,
}

/// How it ended, told across threads; the recorder's own failure is one way.
#[derive(Debug, Default)]
struct End {
    ended: Mutex<Option<Result<ExitStatus, String>>>,
    told: Condvar,
}

impl End {
    fn set(&self, ended: Result<ExitStatus, String>) {
        *self.lock() = Some(ended);
        self.told.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<ExitStatus, String>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traced {
    /// Its process.
    pub fn process_id(&self) -> u32 {
        pid(self.process_id)
    }

    /// How it has ended, if it has.
    ///
    /// # Panics
    /// If the recorder lost it.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.end.lock().as_ref().map(|ended| *ended.as_ref().expect("the recorder follows everything"))
    }

    /// Kills it as a crash would. Returns when it and its journal have ended.
    ///
    /// # Panics
    /// If the recorder lost it.
    pub fn kill9(&self) -> ExitStatus {
        {
            let ended = self.end.lock();
            if ended.is_none() {
                let _ = Pid::from_raw(self.process_id).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        self.wait()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If the recorder lost it.
    pub fn wait(&self) -> ExitStatus {
        let mut ended = self.end.lock();
        loop {
            match &*ended {
                Some(how) => return *how.as_ref().expect("the recorder follows everything"),
                None => ended = self.end.told.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let mut ended = self.end.lock();
        if ended.is_none() {
            let _ = Pid::from_raw(self.process_id).map(|pid| kill_process(pid, Signal::KILL));
        }
        while ended.is_none() {
            ended = self.end.told.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The programs of a shell are processes of their own: they are followed too.
    const SCRIPT: &str = "
        mkdir a/inner
        echo one > a/inner/first
        echo two >> a/inner/first
        mv a/inner/first a/inner/second
        dd if=/dev/zero of=a/third bs=1000 count=3 conv=fsync status=none
        truncate -s 5 a/third
        echo secret > a/fourth
        rm a/fourth
        echo unwatched > elsewhere";

    fn shell(base: &Path, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(base);
        command
    }

    fn played(journal: &Path) -> (Vec<What>, Images) {
        let mut images = Images::default();
        let ops: Vec<Op> = Reader::open(journal).unwrap().map(Result::unwrap).collect();
        for op in &ops {
            let _change = images.apply(op);
        }
        (ops.into_iter().map(|op| op.what).collect(), images)
    }

    #[test]
    fn a_journal_knows_every_file_as_the_disk_does_and_what_was_unlinked() {
        let (base, journal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(base.path().join("a")).unwrap();
        let recorder = || Recorder::with_journal(base.path(), &["a"], journal.path()).unwrap();
        let status = recorder().start(&shell(base.path(), SCRIPT)).unwrap().wait();
        assert!(status.success(), "{status}");
        let (whats, images) = played(journal.path());
        let text = |path: &str| images.contents(images.named(Path::new(path)).unwrap()).unwrap();
        assert_eq!(text("a/inner/second"), b"one\ntwo\n");
        assert_eq!(text("a/third"), [0; 5]);
        assert_eq!(images.names().count(), 2);
        assert!(images.files().any(|file| images.contents(file) == Some(b"secret\n")));
        assert!(whats.iter().any(|what| matches!(what, What::Sync { .. })));

        // Behind its back: found at the next start. What stayed the same is not told again.
        fs::write(base.path().join("a/inner/second"), "changed").unwrap();
        fs::remove_file(base.path().join("a/third")).unwrap();
        recorder().start(&shell(base.path(), "echo >> a/inner/second")).unwrap().wait();
        let (again, images) = played(journal.path());
        assert_eq!(
            images.contents(images.named(Path::new("a/inner/second")).unwrap()).unwrap(),
            b"changed\n"
        );
        assert_eq!(images.names().count(), 1);
        let found = again[whats.len()..].iter().filter(|what| matches!(what, What::Found { .. })).count();
        assert_eq!(found, 1);
    }

    #[test]
    fn a_kill_before_a_call_leaves_it_undone_and_after_it_done() {
        for (phase, left) in [(Phase::Before, ""), (Phase::After, "said\n")] {
            let base = tempfile::tempdir().unwrap();
            fs::create_dir(base.path().join("a")).unwrap();
            let recorder = Recorder::new(base.path(), &["a"]);
            recorder.watch(move |at, act| match act {
                Act::Write { .. } if at == phase => Verdict::Kill,
                _ => Verdict::Go,
            });
            let script = "echo said > a/file; echo more > a/next";
            let status = recorder.start(&shell(base.path(), script)).unwrap().wait();
            assert!(!status.success());
            assert_eq!(fs::read_to_string(base.path().join("a/file")).unwrap(), left);
            assert!(!base.path().join("a/next").exists());
        }
    }

    #[test]
    #[should_panic(expected = "follows everything")]
    fn what_cannot_be_followed_ends_the_program() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("a")).unwrap();
        let recorder = Recorder::new(base.path(), &["a"]);
        recorder.start(&shell(base.path(), "echo > a/one; ln a/one a/two; sleep 100")).unwrap().wait();
    }
}
