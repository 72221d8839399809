//! A folder with a vault and a downstream's copies, the recorder that sees every byte they write, and the
//! adversary that gets all of it in the end.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use cloakroom_testkit::adversary::program::Report;
use cloakroom_testkit::daemons::program;
use cloakroom_testkit::recorder::{Act as Call, Phase, Recorder, Verdict};

use crate::account::{self, Account};
use crate::acts::{Act, KEY_BACKUPS, STORES, WATCHED};
use crate::findings::Findings;
use crate::people::email;
use crate::remembering::{self, Memories};

/// What the actor's process is told by.
pub(crate) const ACT: &str = "FORENSIC_ACT";
pub(crate) const BENCH: &str = "FORENSIC_BENCH";
pub(crate) const MUTANT: &str = "FORENSIC_MUTANT";

pub(crate) struct Bench {
    own: tempfile::TempDir,
    recorder: Recorder,
    mutant: Option<&'static str>,
    lives: usize,
    /// Lives that a restored folder made undone.
    abandoned: HashSet<usize>,
    /// Texts that a durable fence condemned, although nobody was told.
    fenced: HashSet<String>,
    /// Roots that key backups need: they are held although the last start has not made them.
    escrowed: usize,
}

impl Bench {
    pub(crate) fn new(mutant: Option<&'static str>) -> Self {
        let own = tempfile::tempdir().unwrap();
        let recorder =
            Recorder::with_journal(&own.path().join("bench"), &WATCHED, &own.path().join("journal")).unwrap();
        Self {
            own,
            recorder,
            mutant,
            lives: 0,
            abandoned: HashSet::new(),
            fenced: HashSet::new(),
            escrowed: 0,
        }
    }

    /// Where the vault lies.
    pub(crate) fn folder(&self) -> PathBuf {
        self.own.path().join("bench")
    }

    fn journal(&self) -> PathBuf {
        self.own.path().join("journal")
    }

    /// Lets the actor live, under the recorder.
    pub(crate) fn life(&mut self, act: &Act) -> ExitStatus {
        self.lives += 1;
        self.recorder.watch(|_, _| Verdict::Go);
        self.start(act)
    }

    /// The same, killed where `kills` says so; it is asked before and after each call that changes, syncs or
    /// sends something.
    pub(crate) fn life_until(
        &mut self,
        act: &Act,
        mut kills: impl FnMut(Phase, &Call) -> bool + Send + 'static,
    ) -> ExitStatus {
        self.lives += 1;
        self.recorder.watch(move |phase, call| if kills(phase, call) { Verdict::Kill } else { Verdict::Go });
        self.start(act)
    }

    fn start(&self, act: &Act) -> ExitStatus {
        std::fs::create_dir_all(self.folder()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_actor", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("RUST_BACKTRACE", "0"); // one that is meant to fail says why in a line
        command.env(ACT, serde_json::to_string(act).unwrap()).env(BENCH, self.folder());
        match self.mutant {
            Some(name) => command.env(MUTANT, name),
            None => command.env_remove(MUTANT),
        };
        self.recorder.start(&command).unwrap().wait()
    }

    /// So many roots are in escrow at the end.
    pub(crate) fn escrowed(&mut self, roots: usize) {
        self.escrowed = roots;
    }

    /// These are condemned by a durable fence: the next start must forget them.
    pub(crate) fn fenced(&mut self, texts: impl IntoIterator<Item = String>) {
        self.fenced.extend(texts);
    }

    /// The number of the life that was lived last.
    pub(crate) fn lives(&self) -> usize {
        self.lives
    }

    /// A copy of what lies there now, but for the account.
    pub(crate) fn save(&self) -> tempfile::TempDir {
        let aside = tempfile::tempdir().unwrap();
        for folder in STORES {
            copy(&self.folder().join(folder), &aside.path().join(folder));
        }
        aside
    }

    /// Puts a copy back in place of what lies there. The lives since are abandoned.
    pub(crate) fn restore(&mut self, saved: &Path, lives_then: usize) {
        for folder in STORES {
            let place = self.folder().join(folder);
            let _was_there = std::fs::remove_dir_all(&place);
            copy(&saved.join(folder), &place);
        }
        self.abandoned.extend(lives_then + 1..=self.lives);
    }

    /// Puts one folder of a copy in place of what lies there.
    pub(crate) fn restore_half(&self, saved: &Path, folder: &str) {
        let place = self.folder().join(folder);
        std::fs::remove_dir_all(&place).unwrap();
        copy(&saved.join(folder), &place);
    }

    /// Takes so many bytes from the end of the log, as a power cut would.
    pub(crate) fn tear_log(&self, bytes: u64) {
        let log = self.folder().join("data/log");
        let mut segments: Vec<PathBuf> =
            std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
        segments.sort();
        let newest = std::fs::OpenOptions::new().write(true).open(segments.pop().unwrap()).unwrap();
        let length = newest.metadata().unwrap().len();
        newest.set_len(length - bytes).unwrap();
    }

    /// Gives everything to the adversary.
    pub(crate) fn findings(&self, dictionary: Option<&Path>) -> Findings {
        let account = Account::read(&self.journal());
        let planted = self.planted(&account);
        let mut besides =
            ["--windows", "data/projections", "--every-offset", "4096", "--planted"].map(Path::new).to_vec();
        besides.push(&planted);
        if let Some(dictionary) = dictionary {
            besides.extend([Path::new("--dictionary"), dictionary]);
        }
        let kept = |roots| {
            let alone = ["--only", "data/log", "--only", KEY_BACKUPS].map(Path::new);
            if account.kept.is_empty() { Report::default() } else { self.ask(roots, &alone) }
        };
        Findings {
            escrowed: self.escrowed,
            kept_now: kept("held"),
            kept_every: kept("every"),
            now: self.ask("held", &besides),
            every: self.ask("every", &[]),
            destroyed: self.ask("destroyed", &[]),
            account,
            abandoned: self.abandoned.clone(),
            fenced: self.fenced.clone(),
        }
    }

    /// Gives it everything but roots, and what lay in memory in the life that was asked to remember.
    pub(crate) fn memories(&self) -> Memories {
        let account = Account::read(&self.journal());
        let (planted, known) = (self.planted(&account), self.own.path().join("known"));
        std::fs::write(&known, [1, 2, 3].map(email).join("\n")).unwrap();
        let asked = remembering::asked();
        let read = |dump: &str| {
            let dump = self.folder().join(dump);
            let planted: [&Path; 2] = ["--planted".as_ref(), &planted];
            let memory: [&Path; 2] = ["--memory".as_ref(), &dump];
            let table: [&Path; 3] = ["--asked".as_ref(), asked.as_ref(), &known];
            self.ask("none", &[planted.as_slice(), &memory, &table].concat())
        };
        Memories { before: read(remembering::BEFORE), after: read(remembering::AFTER), account }
    }

    /// Every text that was ever sent, in a file.
    fn planted(&self, account: &Account) -> PathBuf {
        let planted = self.own.path().join("planted");
        let texts: Vec<&str> = account.texts.keys().map(String::as_str).collect();
        std::fs::write(&planted, texts.join("\n")).unwrap();
        planted
    }

    fn ask(&self, roots: &str, also: &[&Path]) -> Report {
        let mut adversary = Command::new(program("cloakroom-adversary"));
        adversary.args(["--roots", roots, "--except", account::FOLDER]).args(also).arg(self.journal());
        let output = adversary.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Says yes at the `nth` of the calls.
#[cfg_attr(not(feature = "mutants"), allow(dead_code))]
pub(crate) fn at_call(nth: u64) -> impl FnMut(Phase, &Call) -> bool {
    let mut seen = 0;
    move |_, _| {
        seen += 1;
        seen == nth
    }
}

/// Says yes before the first write to `last` that follows a write to `first`, after the account's line number
/// `line`.
pub(crate) fn at_write_then(
    line: u64,
    first: &'static str,
    last: &'static str,
) -> impl FnMut(Phase, &Call) -> bool {
    let (mut first, mut seen) = (at_write(line, Phase::After, first), false);
    move |now, call| {
        seen |= first(now, call);
        let Call::Write { path, .. } = call else { return false };
        seen && now == Phase::Before && path.starts_with(last)
    }
}

/// Says yes when `folder` has been written to, or is about to be, after the account's line number `line`.
pub(crate) fn at_write(line: u64, phase: Phase, folder: &'static str) -> impl FnMut(Phase, &Call) -> bool {
    let mut lines = 0;
    move |now, call| {
        let Call::Write { path, .. } = call else { return false };
        lines += u64::from(now == Phase::After && path.starts_with(account::FOLDER));
        lines >= line && now == phase && path.starts_with(folder)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
}
