//! A long order export goes in, is killed once on its way, and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cloakroom_proto::admin::v1::{GetStatusRequest, VerifyLogRequest};
use cloakroom_testkit::daemons::Daemon;
use cloakroom_testkit::seed::Sequence;
use csv::ByteRecord;

use crate::house::House;
use crate::load::Hand;

/// Twice as many as were promised: by the second half all is full that has a size of its own (sled's caches, and the
/// pages that it never lets go of).
const ROWS: u64 = 200_000;
/// Broken rows of the generator, the same in every 2,500 (examples/orders/README.md).
const BROKEN: (u64, u64) = (12, 2_500);
const IMPORT_MAX: Duration = Duration::from_secs(900);
const SAMPLE: Duration = Duration::from_millis(250);
/// What a vault may take. Some 130 MiB are there from the start: locked memory, the broker, tables of the store.
const VAULT_BYTES_MAX: u64 = 192 << 20;
/// What it may keep of each value then: the design's 512 MiB for ten million (P7), without what is there from the start.
const VALUE_BYTES_MAX: u64 = ((512 - 130) << 20) / 10_000_000;
/// What the command line may take.
const CLI_BYTES_MAX: u64 = 64 << 20;
/// What it may keep of each row: whom it has met is recognised in memory only, in a table that doubles at a time.
const CLI_ROW_BYTES_MAX: u64 = 150;
/// Samples of the second half; fewer would say nothing.
const SAMPLES_MIN: usize = 50;

struct Import {
    folder: PathBuf,
    cli: Daemon,
}

/// What a token must stand for wherever it is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StandsFor<'a> {
    subject: &'a [u8],
    column: usize,
    value: &'a [u8],
}

/// Resident memory of both by rows done.
#[derive(Default)]
struct Memory(Vec<(u64, u64, u64)>);

impl Memory {
    /// The most that one took of `max`, and by how much a row it grew in the second half.
    fn check(&self, who: &str, rows: u64, max: u64, row_max: u64, of: impl Fn(&(u64, u64, u64)) -> u64) {
        let most = |until: u64| self.0.iter().filter(|sample| sample.0 <= until).map(&of).max().unwrap();
        let curve: Vec<u64> = (1..=10).map(|tenth| most(rows * tenth / 10) >> 20).collect();
        println!("{who}, MiB at most by tenths of the rows: {curve:?}");
        let late = self.0.iter().filter(|sample| (rows / 2..rows).contains(&sample.0));
        let growth = slope(&late.map(|sample| (sample.0 as f64, of(sample) as f64)).collect::<Vec<_>>());
        println!("{who}, in the second half: {growth:.0} bytes a row, of {row_max}");
        assert!(most(rows) <= max, "{who} took {} MiB", most(rows) >> 20);
        assert!(growth <= row_max as f64, "{who} grows with the rows");
    }
}

/// By least squares: unlike a difference of two peaks, it is not moved by one sample.
fn slope(points: &[(f64, f64)]) -> f64 {
    assert!(points.len() >= SAMPLES_MIN, "{} samples", points.len());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    covariance / points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum::<f64>()
}

impl Import {
    fn prepare(house: &House, rows: u64) -> Self {
        let folder = house.folder().join("import");
        fs::create_dir(&folder).unwrap();
        let orders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/orders");
        let generated = Command::new("python3")
            .arg("-B")
            .arg(orders.join("generate.py"))
            .args(["--rows", &rows.to_string(), "-o"])
            .arg(folder.join("orders.csv"))
            .status();
        assert!(generated.expect("python3").success());
        let map = fs::read_to_string(orders.join("map.toml")).unwrap();
        fs::write(folder.join("map.toml"), map.replace("see-tickets", &house.controller)).unwrap();
        fs::write(folder.join("register.toml"), house.register()).unwrap();
        let arguments = [
            "--vault".into(),
            house.at.vault.to_string().into(),
            "--certs".into(),
            house.folder().join("certs").into_os_string(),
            "--as".into(),
            "orders".into(),
            "import".into(),
            folder.join("orders.csv").into_os_string(),
            "--map".into(),
            folder.join("map.toml").into_os_string(),
            // Rows that would be refused are never sent, so that the vault holds what the file says and no more.
            "--register".into(),
            folder.join("register.toml").into_os_string(),
        ];
        let cli = Daemon::new("cloakroom", arguments, house.folder().join("logs/import.log"));
        Self { folder, cli }
    }

    /// How many rows the state counts.
    fn rows_done(&self) -> u64 {
        let state = fs::read(self.folder.join("orders.import-state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        state["rows"].as_u64().unwrap_or(0)
    }

    /// Watches until it ends, or has done `until` rows.
    async fn watch(&mut self, house: &mut House, until: u64, memory: &mut Memory) {
        let given_up = Instant::now() + IMPORT_MAX;
        while self.cli.is_running() {
            let rows = self.rows_done();
            if rows >= until {
                return;
            }
            if let (Some(vault), Some(cli)) = (house.vault.resident_bytes(), self.cli.resident_bytes()) {
                memory.0.push((rows, vault, cli));
            }
            assert!(house.vault.is_running(), "{}", house.vault.last_words());
            assert!(Instant::now() < given_up, "only {rows} rows: {}", self.cli.last_words());
            tokio::time::sleep(SAMPLE).await;
        }
    }

    fn records(&self, name: &str) -> (ByteRecord, Vec<ByteRecord>) {
        let reader = csv::ReaderBuilder::new().flexible(true).from_path(self.folder.join(name));
        let mut reader = reader.unwrap();
        let heading = reader.byte_headers().unwrap().clone();
        (heading, reader.byte_records().map(Result::unwrap).collect())
    }

    /// Every row is in exactly one of the two files, in its place; one token stands for one value of one person.
    /// Gives the number of different tokens.
    fn check_files(&self, rows: u64) -> u64 {
        let (heading, source) = self.records("orders.csv");
        let (out_heading, taken) = self.records("orders.tokens.csv");
        let (_, rejects) = self.records("orders.rejects.csv");
        let number = |record: &ByteRecord| std::str::from_utf8(&record[0]).unwrap().parse::<u64>().unwrap();
        let rejected: BTreeSet<u64> = rejects.iter().map(number).collect();
        assert_eq!(source.len() as u64, rows);
        if rows.is_multiple_of(BROKEN.1) {
            assert_eq!(rejected.len() as u64, rows / BROKEN.1 * BROKEN.0);
        }
        assert_eq!(taken.len() as u64, rows - rejected.len() as u64);

        let at = |name: &str| heading.iter().position(|known| known == name.as_bytes()).unwrap();
        let out_at = |name: &str| out_heading.iter().position(|known| known == name.as_bytes()).unwrap();
        let tokenized: Vec<(usize, usize)> =
            ["name", "email", "phone", "birth_date", "address"].map(|name| (at(name), out_at(name))).into();
        let further = ["newsletter_email", "affiliate_email"].map(|name| (at("email"), out_at(name)));
        let (order, out_order, subject) = (at("order_id"), out_at("order_id"), out_at("subject_id"));
        let mut values: BTreeMap<&[u8], StandsFor<'_>> = BTreeMap::new();
        let mut people: BTreeMap<String, &[u8]> = BTreeMap::new();
        let sources = (1..).zip(&source).filter(|(number, _)| !rejected.contains(number));
        for ((_, source), taken) in sources.zip(&taken) {
            assert_eq!(source[order], taken[out_order]);
            let email = String::from_utf8(source[at("email")].to_vec()).unwrap();
            let known = email.trim().to_lowercase();
            if !known.is_empty() {
                let first = people.entry(known).or_insert(&taken[subject]);
                assert_eq!(*first, &taken[subject], "one buyer, one subject");
            }
            for (from, into) in tokenized.iter().chain(&further) {
                let (value, token) = (&source[*from], &taken[*into]);
                assert!(*into >= heading.len() || value.is_empty() == token.is_empty());
                if token.is_empty() {
                    continue;
                }
                assert_ne!(token, value);
                let stands_for = StandsFor { subject: &taken[subject], column: *into, value };
                assert_eq!(*values.entry(token).or_insert(stands_for), stands_for, "a token of two values");
            }
        }
        values.len() as u64
    }
}

/// Each row exactly once: in the files, and in the vault, whose slots are as many as the tokens. Memory is flat on
/// both sides, but for the little that must be known of each value and of each person.
#[tokio::test]
async fn import_of_200_000_rows_survives_a_kill_with_each_row_once() {
    let rows =
        std::env::var("IMPORT_ROWS").map_or(ROWS, |text| text.parse().expect("IMPORT_ROWS is a number"));
    let mut house = House::open_vault(None).await;
    // Someone before, so that what the vault makes for itself at its first use is there.
    Hand::new(&house, "hand", Sequence::of(1)).check_in().await;
    let admin = house.admin("admin");
    let before = admin.get_status(GetStatusRequest {}).await.unwrap();

    let mut import = Import::prepare(&house, rows);
    let mut memory = Memory::default();
    let begun = Instant::now();
    import.cli.start();
    import.watch(&mut house, rows * 2 / 5, &mut memory).await;
    assert!(import.cli.is_running(), "{}", import.cli.last_words());
    import.cli.kill9();
    let killed_at = import.rows_done();
    import.cli.start();
    import.watch(&mut house, u64::MAX, &mut memory).await;
    let ended = import.cli.wait(IMPORT_MAX).await;
    assert!(ended.success(), "{}", import.cli.last_words());
    let took = begun.elapsed();
    println!(
        "{rows} rows in {took:.1?}, killed at {killed_at}: {:.0} rows a second",
        rows as f64 / took.as_secs_f64()
    );
    assert!((1..rows).contains(&killed_at));

    let tokens = import.check_files(rows);
    let after = admin.get_status(GetStatusRequest {}).await.unwrap();
    // One more at midnight: the key that idempotency keys are hashed under is replaced.
    let slots = after.slots - before.slots;
    println!("{tokens} tokens, {slots} slots");
    assert!((tokens..=tokens + 1).contains(&slots), "{slots} values stored for {tokens} tokens");
    memory.check("cloakroomd", rows, VAULT_BYTES_MAX, VALUE_BYTES_MAX * tokens / rows, |sample| sample.1);
    memory.check("cloakroom", rows, CLI_BYTES_MAX, CLI_ROW_BYTES_MAX, |sample| sample.2);
    let verdict = house.admin("admin").verify_log(VerifyLogRequest {}).await.unwrap();
    assert_eq!(verdict.problems, Vec::<String>::new());
}
