//! The whole import against a vault in memory that answers as the real one promises to: per item, the same
//! token for the same value of the same person, the same answer to the same id.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use cloakroom_client::{Answer, ClientError, Refusal};
use cloakroom_core::field::{FieldType, check_bytes};
use cloakroom_proto::vault::v1::{
    ErrorCode, ReleaseRequest, Released, TokenizeRequest, Tokenized, tokenize_item::Subject,
};

use super::*;

#[derive(Default)]
struct InMemory {
    calls: usize,
    next: u64,
    /// Subject, activity, field, value.
    living: BTreeMap<(String, String, String, Vec<u8>), String>,
    answered: HashMap<String, (TokenizeRequest, Vec<Answer<Tokenized>>)>,
}

/// Where a call is lost: before the vault saw it, or on the way back.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    There(usize),
    Back(usize),
    Never,
}

struct FakeVault<'a> {
    inner: RefCell<InMemory>,
    lost: RefCell<Lost>,
    folder: &'a Path,
    /// The three files as they were at each call.
    snapshots: RefCell<Vec<[Vec<u8>; 3]>>,
    may_release: bool,
}

impl<'a> FakeVault<'a> {
    fn new(folder: &'a Path) -> Self {
        let (inner, snapshots) = (RefCell::default(), RefCell::default());
        Self { inner, lost: RefCell::new(Lost::Never), folder, snapshots, may_release: true }
    }

    fn call<T>(&self, act: impl FnOnce(&mut InMemory) -> T) -> Result<T, ClientError> {
        let files = ["state", "out", "rejects"].map(|name| std::fs::read(self.folder.join(name)).unwrap());
        self.snapshots.borrow_mut().push(files);
        let mut inner = self.inner.borrow_mut();
        inner.calls += 1;
        let away = || Err(ClientError::Unreachable { address: "vault".into(), source: "killed".into() });
        let lost = *self.lost.borrow();
        if lost == Lost::There(inner.calls) {
            return away();
        }
        let answer = act(&mut inner);
        if lost == Lost::Back(inner.calls) { away() } else { Ok(answer) }
    }

    fn living(&self) -> BTreeSet<String> {
        self.inner.borrow().living.values().cloned().collect()
    }
}

fn refused(code: ErrorCode, message: &str) -> Refusal {
    Refusal { code, message: message.into(), retryable: false }
}

impl InMemory {
    fn number(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_{:026}", self.next)
    }

    fn tokenize(&mut self, request: TokenizeRequest) -> Vec<Answer<Tokenized>> {
        if let Some((asked, answers)) = self.answered.get(&request.idempotency_key) {
            assert!(*asked == request, "the same id for another batch");
            let alive = |token: &String| self.living.values().any(|living| living == token);
            let again = |answer: &Answer<Tokenized>| match &answer.result {
                Ok(tokenized) if !alive(&tokenized.token) => {
                    Answer { result: Err(refused(ErrorCode::Erased, "")), ..answer.clone() }
                }
                _ => answer.clone(),
            };
            return answers.iter().map(again).collect();
        }
        assert!(request.items.len() <= ITEMS_MAX);
        let mut new = HashMap::new();
        let answers: Vec<_> = (request.items.iter())
            .map(|item| Answer {
                reference: item.reference.clone(),
                result: self.tokenize_one(&request, item, &mut new),
            })
            .collect();
        self.answered.insert(request.idempotency_key.clone(), (request, answers.clone()));
        answers
    }

    fn tokenize_one(
        &mut self,
        request: &TokenizeRequest,
        item: &cloakroom_proto::vault::v1::TokenizeItem,
        new: &mut HashMap<String, String>,
    ) -> Result<Tokenized, Refusal> {
        let field = match item.field.as_str() {
            "email" => FieldType::Email,
            "full_name" => FieldType::FullName,
            "phone" => FieldType::Phone,
            "birth_date" => FieldType::BirthDate,
            "postal_address" => FieldType::PostalAddress,
            _ => return Err(refused(ErrorCode::Denied, "")),
        };
        check_bytes(field, &item.value).map_err(|error| refused(ErrorCode::Invalid, error.code()))?;
        let subject_id = match item.subject.clone().unwrap() {
            Subject::SubjectId(id) => id,
            Subject::NewSubject(label) => new.entry(label).or_insert_with(|| self.number("sub")).clone(),
        };
        let key = (subject_id.clone(), request.activity.clone(), item.field.clone(), item.value.to_vec());
        let token = match self.living.get(&key) {
            Some(token) => token.clone(),
            None => self.number("tok"),
        };
        self.living.insert(key, token.clone());
        Ok(Tokenized { token, subject_id })
    }
}

impl Vault for FakeVault<'_> {
    async fn tokenize(&self, request: TokenizeRequest) -> Result<Vec<Answer<Tokenized>>, ClientError> {
        self.call(|vault| vault.tokenize(request))
    }

    async fn release(&self, request: ReleaseRequest) -> Result<Vec<Answer<Released>>, ClientError> {
        let one = |vault: &mut InMemory, token: &String| {
            if !self.may_release {
                return Err(refused(ErrorCode::Denied, ""));
            }
            let before = vault.living.len();
            vault.living.retain(|_, living| living != token);
            if vault.living.len() < before {
                Ok(Released { epoch: 1 })
            } else {
                Err(refused(ErrorCode::Erased, ""))
            }
        };
        self.call(|vault| {
            let items = request.items.iter();
            items.map(|item| Answer { reference: String::new(), result: one(vault, &item.token) }).collect()
        })
    }
}

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

fn import(folder: &Path, csv: PathBuf, map: PathBuf) -> Import {
    let at = |name| Some(folder.join(name));
    let (out, rejects, state) = (at("out"), at("rejects"), at("state"));
    Import { file: csv, map, out, rejects, state, register: None, people_max: 10_000 }
}

/// The first `rows` of the example export.
fn example(folder: &Path, rows: usize) -> Import {
    let all = std::fs::read(format!("{EXAMPLES}/orders/orders.csv")).unwrap();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(all.as_slice());
    let mut record = csv::ByteRecord::new();
    for _ in 0..=rows {
        reader.read_byte_record(&mut record).unwrap();
    }
    let end = usize::try_from(reader.position().byte()).unwrap();
    let csv = folder.join("orders.csv");
    std::fs::write(&csv, &all[..end]).unwrap();
    import(folder, csv, format!("{EXAMPLES}/orders/map.toml").into())
}

fn small(folder: &Path, rows: &str) -> Import {
    let (csv, map) = (folder.join("small.csv"), folder.join("map.toml"));
    std::fs::write(&csv, format!("id,email,phone\n{rows}")).unwrap();
    let token = |name| format!("[[token]]\ncolumn = '{name}'\nactivity = 'a'\nfield = '{name}'\n");
    let head = "version = 1\ncontroller = 'shop'\n[subject]\nidentified_by = 'email'\ncompare = 'email'\n";
    let keep = "[columns]\nkeep = ['id']\n";
    std::fs::write(&map, format!("{head}{keep}{}{}", token("email"), token("phone"))).unwrap();
    import(folder, csv, map)
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

fn records(bytes: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

fn tokens(bytes: &[u8]) -> BTreeSet<String> {
    records(bytes).into_iter().flatten().filter(|cell| cell.starts_with("tok_")).collect()
}

#[tokio::test]
async fn the_example_goes_in_and_its_broken_rows_are_named_as_its_readme_says() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let summary = example(folder.path(), 2500).through(&vault).await.unwrap();
    assert_eq!((summary.rows, summary.taken, summary.rejected), (2500, 2488, 12));
    let rejects = String::from_utf8(read(folder.path(), "rejects")).unwrap();
    let wanted = [
        "row,column,reason",
        "83,,columns",
        "244,,columns",
        "391,,columns",
        "612,name,not-utf8",
        "805,address,not-utf8",
        "1007,event,not-utf8",
        "1203,name,card-number",
        "1404,phone,card-number",
        "1666,name,control-character",
        "1871,email,malformed",
        "2099,birth_date,malformed",
        "2333,phone,malformed",
    ];
    assert_eq!(rejects.lines().collect::<Vec<_>>(), wanted);

    let out = read(folder.path(), "out");
    let written = records(&out);
    assert_eq!(written.len(), 2489);
    assert_eq!(
        written[0].join(","),
        "order_id,event,event_date,name,email,phone,birth_date,address,amount,currency,affiliate_code,newsletter,subject_id,newsletter_email,affiliate_email"
    );
    assert_eq!(vault.living(), tokens(&out), "what the vault holds is what the rows carry");
    assert_eq!(
        summary.tokens,
        written.iter().flatten().filter(|cell| cell.starts_with("tok_")).count() as u64
    );
    // Row 7 is row 1's buyer again, her address in capitals.
    assert_eq!(written[7][12], written[1][12]);
    assert_ne!(written[2][12], written[1][12]);
    let text = String::from_utf8(out).unwrap();
    let inner = vault.inner.borrow();
    let values = inner.living.keys().map(|(.., value)| std::str::from_utf8(value).unwrap());
    for value in values.filter(|value| value.len() > 12).step_by(5) {
        assert!(!text.contains(value), "a value in the output");
    }
}

#[tokio::test]
async fn a_register_refuses_the_same_rows_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let mut import = example(folder.path(), 2500);
    import.register = Some(format!("{EXAMPLES}/registers/see-tickets/register.toml").into());
    let summary = import.through(&vault).await.unwrap();
    assert_eq!((summary.taken, summary.rejected), (2488, 12));
    let asked = vault.inner.borrow();
    let refused =
        asked.answered.values().flat_map(|(_, answers)| answers).filter(|answer| answer.result.is_err());
    assert_eq!(refused.count(), 0);
    assert_eq!(vault.living(), tokens(&read(folder.path(), "out")));
}

/// Killed before or after any call, then started again: the same files as without, byte for byte.
#[tokio::test]
async fn killed_at_any_call_each_row_goes_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let whole = FakeVault::new(folder.path());
    example(folder.path(), 450).through(&whole).await.unwrap();
    let wanted = (read(folder.path(), "out"), read(folder.path(), "rejects"));
    let calls = whole.inner.borrow().calls;
    assert!(calls >= 6, "{calls}");
    for lost in (1..=calls).flat_map(|at| [Lost::There(at), Lost::Back(at)]) {
        let folder = tempfile::tempdir().unwrap();
        let vault = FakeVault::new(folder.path());
        *vault.lost.borrow_mut() = lost;
        let import = example(folder.path(), 450);
        let error = import.through(&vault).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        *vault.lost.borrow_mut() = Lost::Never;
        import.through(&vault).await.unwrap();
        assert_eq!((read(folder.path(), "out"), read(folder.path(), "rejects")), wanted);
        assert_eq!(vault.living(), tokens(&wanted.0));
    }
}

/// Killed between any two bytes that are written: the state is older than the files.
#[tokio::test]
async fn killed_at_any_write_each_row_goes_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let import = example(folder.path(), 450);
    import.through(&vault).await.unwrap();
    let last = ["state", "out", "rejects"].map(|name| read(folder.path(), name));
    let mut snapshots = vault.snapshots.borrow().clone();
    snapshots.push(last.clone());
    snapshots.dedup();
    let mut resumed = 0;
    for pair in snapshots.windows(2) {
        let [[state, out, rejects], [_, out_after, rejects_after]] = pair else { unreachable!() };
        let step = ((out_after.len() - out.len()) / 7).max(1);
        for cut in (out.len()..=out_after.len()).step_by(step) {
            // The rejects file is written after the other one: it only grows once that is whole.
            let rejects = if cut == out_after.len() { rejects_after } else { rejects };
            std::fs::write(folder.path().join("state"), state).unwrap();
            std::fs::write(folder.path().join("out"), &out_after[..cut]).unwrap();
            std::fs::write(folder.path().join("rejects"), rejects).unwrap();
            import.through(&vault).await.unwrap();
            assert_eq!(read(folder.path(), "out"), last[1]);
            assert_eq!(read(folder.path(), "rejects"), last[2]);
            assert_eq!(vault.living(), tokens(&last[1]));
            resumed += 1;
        }
    }
    assert!(resumed >= 14, "{resumed}");
}

#[tokio::test]
async fn what_a_refused_row_shares_with_an_earlier_one_lives_and_the_rest_of_it_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let mut rows = String::from("1,ada@example.org,+442079460000\n2,bob@example.org,words\n");
    // Rows 3 and 4 are one new buyer; row 3 falls, row 4 carries the same address.
    rows.push_str("3,eve@example.org,words\n4,EVE@example.org,\n4,eve@example.org,\n");
    for _ in 0..ITEMS_MAX {
        rows.push_str("0,,\n");
    }
    // A later chunk: Ada again, once with an address spelled as before, once otherwise.
    rows.push_str("5,ada@example.org,words\n6, Ada@example.org,words\n7,ada@example.org,+442079460001\n");
    let summary = small(folder.path(), &rows).through(&vault).await.unwrap();
    assert_eq!(summary.rejected, 4);
    let out = read(folder.path(), "out");
    assert_eq!(vault.living(), tokens(&out));
    let written = records(&out);
    let (first, last) = (&written[1], written.last().unwrap());
    assert_eq!((&first[1], &first[3]), (&last[1], &last[3]), "Ada's address kept its token");
    assert_ne!(first[2], last[2]);
}

/// A buyer whose row was refused is not remembered: a resumed import, which reads the rows taken alone, would
/// not know them, and would ask for the chunk under way once more under another id.
#[tokio::test]
async fn a_refused_buyer_who_comes_again_goes_in_once_though_killed_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let rows = format!("1,ada@example.org,words\n{}2,ada@example.org,\n", "0,,\n".repeat(ITEMS_MAX));
    let import = small(folder.path(), &rows);
    *vault.lost.borrow_mut() = Lost::Back(3); // asked, given back, and asked again in a later chunk
    assert_eq!(import.through(&vault).await.unwrap_err().exit_code(), 3);
    *vault.lost.borrow_mut() = Lost::Never;
    let summary = import.through(&vault).await.unwrap();
    assert_eq!((summary.taken, summary.rejected), (1001, 1));
    let subjects = vault.inner.borrow().living.len();
    assert_eq!((subjects, vault.living()), (1, tokens(&read(folder.path(), "out"))));
}

#[tokio::test]
async fn a_caller_who_may_not_release_is_told_what_stays() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault { may_release: false, ..FakeVault::new(folder.path()) };
    let summary = small(folder.path(), "1,ada@example.org,words\n").through(&vault).await.unwrap();
    assert_eq!((summary.rejected, summary.left_behind), (1, 1));
}

#[tokio::test]
async fn more_people_than_the_bound_stop_the_import_and_a_higher_bound_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let rows: String = (0..1200).map(|n| format!("{n},p{n}@example.org,\n")).collect();
    let mut import = small(folder.path(), &rows);
    import.people_max = 700;
    let error = import.through(&vault).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    import.people_max = 1200;
    let summary = import.through(&vault).await.unwrap();
    assert_eq!((summary.resumed_at_row, summary.taken, summary.people), (500, 1200, 1200));
    assert_eq!(vault.living().len(), 1200);
}

#[tokio::test]
async fn a_finished_import_started_again_asks_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let vault = FakeVault::new(folder.path());
    let import = small(folder.path(), "1,ada@example.org,\n2,,\n");
    let first = import.through(&vault).await.unwrap();
    let calls = vault.inner.borrow().calls;
    let again = import.through(&vault).await.unwrap();
    assert_eq!(vault.inner.borrow().calls, calls);
    assert_eq!((again.rows, again.tokens), (first.rows, first.tokens));
    assert_eq!(records(&read(folder.path(), "out")).len(), 3);
}
