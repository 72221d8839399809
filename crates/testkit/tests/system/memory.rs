//! What whoever may read a running vault's memory, and has every file and every log, reads of those who were erased.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use cloakroom_proto::admin::v1::{LegalBasis, RequestErasureRequest, request_erasure_request};
use cloakroom_proto::vault::v1::{LookupItem, LookupRequest};
use cloakroom_testkit::adversary::program::Report;
use cloakroom_testkit::adversary::spelled::{Planted, Scan};
use cloakroom_testkit::daemons::program;
use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::recorder::memory::dump_writable;
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use crate::collector::{Collector, TRACES};
use crate::house::{House, copy_folder};
use crate::load::Hand;

const PEOPLE: usize = 8;
/// The first so many of them are forgotten, two of these alone.
const FORGOTTEN: usize = 5;
const ALONE: usize = 2;

/// A vault at one moment: its memory, a copy of its data and keys, the names of the roots that are held.
struct Moment {
    memory: PathBuf,
    files: Vec<PathBuf>,
    roots: Vec<PathBuf>,
}

/// Nothing where this user may not look: who reads an undumpable process's memory has to be the superuser.
fn moment(house: &House, name: &str) -> Option<Moment> {
    let aside = house.folder().join(name);
    let (vault, memory) = (house.folder().join("vault"), aside.join("memory"));
    let id = house.vault.process_id().unwrap();
    let process = Pid::from_raw(id.try_into().unwrap()).unwrap();
    std::fs::create_dir_all(&aside).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    wait::until_blocking(Duration::from_secs(10), "the vault stands still", || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        status.contains("State:\tT").then_some(())
    });
    let read = dump_writable(id, &memory);
    copy_folder(&vault, &aside.join("vault"));
    kill_process(process, Signal::CONT).unwrap();
    match read {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
        read => assert!(read.unwrap() > 1 << 20, "a vault's memory is larger"),
    }
    let (roots, files) = (house.folder().join("roots"), files_below(&aside.join("vault")));
    let named = files_below(&roots).into_iter().filter(|path| name_of(path).starts_with("root-"));
    let roots = named.map(|path| path.strip_prefix(&roots).unwrap().to_owned()).collect();
    Some(Moment { memory, files, roots })
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

/// The story's people, and who of them is left.
struct Story {
    house: House,
    hand: Hand,
}

impl Story {
    fn texts(&self, people: std::ops::Range<usize>) -> Vec<&str> {
        self.hand.people[people].iter().flat_map(|person| &person.values).map(String::as_str).collect()
    }

    fn addresses(&self, people: std::ops::Range<usize>) -> Vec<&str> {
        self.texts(people).into_iter().filter(|text| text.contains('@')).collect()
    }

    /// Reads and looks up whoever lives, so that their keys are in the cache.
    async fn use_everybody(&self, living: std::ops::Range<usize>) {
        for at in living {
            self.hand.invariant_reads(at).await;
            let value = self.hand.people[at].values[0].clone().into();
            let item = LookupItem { field: "email".to_owned(), value, ..LookupItem::default() };
            let request = LookupRequest {
                controller: self.house.controller.clone(),
                items: vec![item],
                ..LookupRequest::default()
            };
            let found = self.house.client("support").lookup(request).await.unwrap().remove(0);
            assert_eq!(found.result.unwrap().found.len(), 1);
        }
    }

    /// Forgets some alone and the others at once; returns when nobody owes an answer.
    async fn forget(&mut self) {
        for at in 0..ALONE {
            self.hand.erase(at).await;
            let erased = self.hand.people[at].erasure.as_ref().unwrap();
            self.house.completed(&erased.erasure_id).await;
        }
        let mut erasures = JoinSet::new();
        for person in &self.hand.people[ALONE..FORGOTTEN] {
            let request = RequestErasureRequest {
                controller: self.house.controller.clone(),
                who: Some(request_erasure_request::Who::SubjectId(person.subject_id.clone())),
                actor: "dsr-2027-2".to_owned(),
                reason: "case-2".to_owned(),
                legal_basis: LegalBasis::Objection.into(),
                ..RequestErasureRequest::default()
            };
            let dpo = self.house.admin("dpo");
            erasures.spawn(async move { dpo.request_erasure(request).await.unwrap().erasure.unwrap() });
        }
        for erased in erasures.join_all().await {
            self.house.completed(&erased.erasure_id).await;
        }
    }

    /// Gives the adversary what lies in memory and every file of some moments, and what the vault has said.
    fn ask(&self, now: &Moment, files_of: &[&Moment]) -> Report {
        let folder = self.house.folder();
        let (planted, known) = (folder.join("planted"), folder.join("known"));
        let everybody = 0..self.hand.people.len();
        std::fs::write(&planted, self.texts(everybody).join("\n")).unwrap();
        std::fs::write(&known, self.addresses(FORGOTTEN..PEOPLE).join("\n")).unwrap();
        let said = [folder.join("logs/cloakroomd.log"), folder.join(TRACES)];
        let mut adversary = Command::new(program("cloakroom-adversary"));
        adversary.args(["--roots", "none", "--memory"]).arg(&now.memory).arg("--planted").arg(&planted);
        adversary.arg("--asked").arg(format!("{}/ticket_purchase/email", self.house.controller)).arg(&known);
        for file in files_of.iter().flat_map(|moment| &moment.files).chain(&said) {
            adversary.arg("--file").arg(file);
        }
        for root in files_of.iter().flat_map(|moment| &moment.roots) {
            adversary.arg("--root-named").arg(root);
        }
        let output = adversary.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Those of `texts` whose sealed value a key in memory opened.
fn read<'a>(report: &Report, texts: &[&'a str]) -> Vec<&'a str> {
    texts.iter().filter(|text| report.recovered.iter().any(|read| read.text == **text)).copied().collect()
}

/// Those of `texts` that the table of look-ups knows, or a search in it has left.
fn remembered<'a>(report: &Report, texts: &[&'a str]) -> Vec<&'a str> {
    texts.iter().filter(|text| report.remembered.iter().any(|found| found == *text)).copied().collect()
}

/// Keys, the table that tokens are found by, and with them every file, old copies of the keys too: nothing of the
/// erased opens, everything of the living does, and what was erased did while it lived.
#[tokio::test]
async fn the_memory_of_a_running_vault_opens_nothing_of_the_erased() {
    let mut house = House::prepare(Some(Kafka::shared()));
    let collector = Collector::start(house.folder()).await;
    house.tell_everything(collector);
    house.vault.start();
    house.vault_is_ready().await;
    house.apply_register().await;
    house.mail.start();
    house.affiliate.start();
    house.downstreams_are_ready().await;
    let hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    let mut story = Story { house, hand };
    for _ in 0..PEOPLE {
        story.hand.check_in().await;
    }
    story.use_everybody(0..PEOPLE).await;
    let Some(before) = moment(&story.house, "before") else {
        eprintln!("left out: this user may not read another process's memory");
        return;
    };
    story.forget().await;
    for _ in 0..PEOPLE {
        story.hand.check_in().await;
    }
    story.use_everybody(FORGOTTEN..2 * PEOPLE).await;
    let after = moment(&story.house, "after").unwrap();

    let (erased, living) = (story.texts(0..FORGOTTEN), story.texts(FORGOTTEN..PEOPLE));
    let (erased_addresses, addresses) = (story.addresses(0..FORGOTTEN), story.addresses(FORGOTTEN..PEOPLE));
    let control = story.ask(&before, &[&before]);
    assert_eq!(read(&control, &erased), erased, "they lived");
    assert_eq!(remembered(&control, &erased_addresses), erased_addresses, "they lived");
    assert!(control.pages > 0, "keys of pages lie there");
    let report = story.ask(&after, &[&before, &after]);
    let Report { memory_bytes, pages, keys, tries, .. } = report;
    println!("{memory_bytes} bytes of memory, {pages} pages opened, {keys} keys, {tries} tries");
    assert_eq!(read(&report, &erased), Vec::<&str>::new());
    assert_eq!(read(&report, &living), living);
    assert_eq!(report.table_keys, 1);
    assert_eq!(remembered(&report, &erased_addresses), Vec::<&str>::new());
    assert_eq!(remembered(&report, &addresses), addresses);
    assert_eq!(report.in_clear, Vec::<String>::new(), "in files, logs and traces");

    // What nobody wipes are the buffers that messages came in: nowhere else is a value of theirs.
    let mut memory = std::fs::read(&after.memory).unwrap();
    let came = blank_messages(&mut memory, &erased);
    println!("{came} times a value of the erased stands in a message as it came");
    let planted = |text: &&str| Planted { what: (*text).to_owned(), value: (*text).to_owned() };
    let scan = Scan::of(&erased.iter().map(planted).collect::<Vec<_>>());
    assert_eq!(scan.in_bytes(&memory), Vec::<String>::new());
}

/// Makes each of `texts` illegible where it is a field of a Protobuf message: where its length stands before it. The
/// tag before that may be gone, as later messages overwrite a buffer from its front. Returns how often.
fn blank_messages(memory: &mut [u8], texts: &[&str]) -> usize {
    let finder = AhoCorasick::new(texts).unwrap();
    let hits: Vec<_> = finder.find_overlapping_iter(&*memory).map(|hit| hit.range()).collect();
    let mut blanked = 0;
    for hit in hits {
        let length = hit.start.checked_sub(1).map(|at| usize::from(memory[at]));
        if length == Some(hit.len()) {
            memory[hit].fill(0);
            blanked += 1;
        }
    }
    blanked
}
