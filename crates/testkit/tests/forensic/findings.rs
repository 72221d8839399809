//! What the adversary found, held against what there was to find.

use std::collections::HashSet;

use cloakroom_testkit::adversary::program::{Report, UsedRoot};

use crate::account::{Account, Fate};

/// What the adversary said, of everything and of key backups alone.
pub(crate) struct Findings {
    /// With the roots that are held in the end.
    pub(crate) now: Report,
    /// With every root there ever was, the newest first.
    pub(crate) every: Report,
    /// With the destroyed ones alone, the oldest first.
    pub(crate) destroyed: Report,
    /// Of the log and the files of key backups alone, with the roots that are held in the end.
    pub(crate) kept_now: Report,
    /// The same with every root there ever was.
    pub(crate) kept_every: Report,
    pub(crate) account: Account,
    /// Lives that a restored folder made undone.
    pub(crate) abandoned: HashSet<usize>,
    /// Texts that a durable fence condemned, although nobody was told.
    pub(crate) fenced: HashSet<String>,
    /// Roots in escrow.
    pub(crate) escrowed: usize,
}

/// How many of a kind there were, and how many of them could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    pub(crate) there: usize,
    pub(crate) read: usize,
}

/// The table's cells, each a promise of erasure.md.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cells {
    /// With the roots of the end: none.
    pub(crate) erased: Count,
    /// With the root that came with their erasure, and all later ones: none.
    pub(crate) erased_later_roots: Count,
    pub(crate) never_acknowledged: Count,
    /// With every destroyed root given back, what was never acknowledged: some, as some of it reached the disk.
    pub(crate) never_control: Count,
    pub(crate) abandoned: Count,
    /// With a root from before a start that came before they were sent: none. Within one life an erasure gives
    /// fresh keys to the paths of what dies alone, and a leaf that others share goes on under its key.
    pub(crate) born_later: Count,
    /// What was erased since a key backup that knew it, whose escrow has ended: none.
    pub(crate) backed_up: Count,
    /// What a key backup knew, by its file, with the roots of the end: none.
    pub(crate) kept: Count,
    /// The same with every destroyed root given back: all.
    pub(crate) kept_control: Count,
    /// All.
    pub(crate) unerased: Count,
    /// With every destroyed root given back, what was erased: all.
    pub(crate) control: Count,
    /// Names of which a hash was found: none.
    pub(crate) guessed: usize,
    /// Values that stand somewhere in clear: none.
    pub(crate) in_clear: usize,
    /// Slots that two values name: none.
    pub(crate) shared_slots: usize,
    /// Roots that are held although the last start has not made them: none.
    pub(crate) old_roots: usize,
    /// Files that a start wrote to before it had synced what it found there: none.
    pub(crate) believed: usize,
}

impl Findings {
    pub(crate) fn cells(&self) -> Cells {
        let read = texts(&self.now);
        let (later, control) = (self.read_with_later_roots(), texts(&self.every));
        let count = |pick: &dyn Fn(&str, &Fate) -> bool, found: &HashSet<&str>| {
            let there: Vec<&String> = self
                .account
                .texts
                .iter()
                .filter(|(text, fate)| pick(text, fate))
                .map(|(text, _)| text)
                .collect();
            Count {
                there: there.len(),
                read: there.iter().filter(|text| found.contains(text.as_str())).count(),
            }
        };
        let abandoned = |fate: &Fate| self.abandoned.contains(&fate.life);
        let gone = |fate: &Fate| fate.erased_at.is_some() && !abandoned(fate);
        let never =
            |text: &str, fate: &Fate| !fate.stored && !abandoned(fate) && !self.counts_in_the_log(text);
        let dead = |text: &str, fate: &Fate| {
            !abandoned(fate) && (self.account.is_dead(text) || self.fenced.contains(text))
        };
        let backed_up = |fate: &Fate| self.account.is_backed_up(fate) && !abandoned(fate);
        let born_later = self.born_later();
        Cells {
            backed_up: count(&|_, fate| gone(fate) && backed_up(fate), &read),
            kept: count(&|_, fate| backed_up(fate), &texts(&self.kept_now)),
            kept_control: count(&|_, fate| backed_up(fate), &texts(&self.kept_every)),
            erased: count(&|text, fate| gone(fate) || dead(text, fate), &read),
            erased_later_roots: count(&|_, fate| gone(fate), &later),
            never_acknowledged: count(&never, &read),
            never_control: count(&never, &control),
            abandoned: count(&|_, fate| fate.stored && abandoned(fate), &read),
            born_later: Count { there: texts(&self.destroyed).len(), read: born_later },
            unerased: count(&|_, fate| fate.alive_at_last, &read),
            control: count(&|_, fate| gone(fate), &control),
            guessed: self.now.guessed.len(),
            in_clear: self.now.in_clear.len(),
            // A restored folder hands out again what the abandoned branch had.
            shared_slots: if self.abandoned.is_empty() { self.now.shared_slots } else { 0 },
            old_roots: self
                .now
                .roots
                .iter()
                .filter(|root| root.made_at < self.account.last_start())
                .count()
                .abs_diff(self.escrowed),
            believed: self.account.believed,
        }
    }

    /// Of what was sent and never acknowledged: whether its frame is in the log, so that it counts.
    fn counts_in_the_log(&self, text: &str) -> bool {
        let sealed = self.every.recovered.iter().filter(|read| read.text == text);
        sealed
            .filter_map(|read| data_encoding::HEXLOWER.decode(read.sealed.as_bytes()).ok())
            .any(|sealed| self.account.log.windows(sealed.len()).any(|window| window == sealed))
    }

    /// What could be read with roots that were made after it was erased, or with that erasure.
    fn read_with_later_roots(&self) -> HashSet<&str> {
        let roots = &self.every.roots;
        let too_early = |text: &str, root: &UsedRoot| {
            let Some(erased_at) = self.account.texts.get(text).and_then(|fate| fate.erased_at) else {
                return false;
            };
            // The root that was held when the erasure was answered is the newest one made before.
            let held = roots.iter().filter(|other| other.tree == root.tree && other.made_at < erased_at);
            held.map(|other| other.made_at).max().is_some_and(|held_at| root.made_at >= held_at)
        };
        let read = self.every.recovered.iter();
        let read = read.filter_map(|read| Some((read.text.as_str(), roots.get(read.roots_before)?)));
        read.filter(|(text, root)| too_early(text, root)).map(|(text, _)| text).collect()
    }

    /// How much was read with a root that was made before a start which came before it was sent.
    fn born_later(&self) -> usize {
        let later = self.destroyed.recovered.iter().filter(|read| {
            let sent = self.account.texts.get(&read.text).map(|fate| fate.sent_at);
            let made = self.destroyed.roots.get(read.roots_before).map(|root| root.made_at);
            let (Some(sent), Some(made)) = (sent, made) else { return false };
            self.account.starts.iter().any(|start| made < *start && *start < sent)
        });
        later.count()
    }
}

fn texts(report: &Report) -> HashSet<&str> {
    report.recovered.iter().map(|read| read.text.as_str()).collect()
}

impl Cells {
    /// What proves nothing because there was nothing to find.
    pub(crate) fn hollow(&self) -> Vec<&'static str> {
        [
            (self.erased.there, "nothing was erased"),
            (self.never_acknowledged.there, "everything was acknowledged"),
            (self.never_control.read, "nothing that was never acknowledged reached the disk"),
            (self.abandoned.there, "nothing was abandoned"),
            (self.born_later.there, "destroyed roots open nothing"),
            (self.unerased.there, "everything was erased"),
            (self.backed_up.there, "nothing was erased since a key backup"),
        ]
        .into_iter()
        .filter_map(|(there, what)| (there == 0).then_some(what))
        .collect()
    }

    /// What differs from what must be; nothing if all is well.
    pub(crate) fn objections(&self) -> Vec<&'static str> {
        let none = |count: Count| count.read == 0;
        let all = |count: Count| count.read == count.there;
        [
            (none(self.erased), "adversary: something of the erased was read"),
            (none(self.erased_later_roots), "adversary: something of the erased was read with a later root"),
            (none(self.never_acknowledged), "adversary: what was never acknowledged was read"),
            (none(self.abandoned), "adversary: something of an abandoned branch was read"),
            (none(self.born_later), "adversary: a root from before a start opened what was born after it"),
            (none(self.backed_up), "adversary: something erased since a key backup was read after its end"),
            (none(self.kept), "adversary: a key backup opened something after its end"),
            (all(self.kept_control), "control: a key backup does not open what it knew by its root"),
            (all(self.unerased), "kill: an unerased value could not be read"),
            (all(self.control), "control: a destroyed root does not open what it should"),
            (self.guessed == 0, "dictionary: a name was guessed from a hash"),
            (self.in_clear == 0, "canary: a value stands in clear"),
            (self.shared_slots == 0, "kill: two values name one slot"),
            (self.old_roots == 0, "kill: a root is held that the last start has not made"),
            (self.believed == 0, "kill: a start wrote before it had synced what it found"),
        ]
        .into_iter()
        .filter_map(|(holds, what)| (!holds).then_some(what))
        .collect()
    }
}
