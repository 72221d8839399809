//! Where a keyholder's shares lie: in locked memory, and nowhere else.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::share::{Dealing, Letterbox, Share, ShareContext};
use cloakroom_crypto::{Key, role};
use cloakroom_keytree::holder::quorum::Given;

use crate::trio::{Trio, root, tree};

/// A stretch of a process's memory.
struct Stretch {
    start: u64,
    end: u64,
    /// As `/proc/PID/smaps` says: `lo` is locked, `dd` in no core dump.
    flags: String,
    /// Whether any of it is there at all.
    resident: bool,
}

/// What may be read of a process's memory; `None` where this user may not look.
fn stretches(process: u32) -> Option<Vec<Stretch>> {
    let table = fs::read_to_string(format!("/proc/{process}/smaps")).ok()?;
    let mut found: Vec<Stretch> = vec![];
    for line in table.lines() {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            found.push(Stretch { start, end, flags: String::new(), resident: false });
        } else if first == "Rss:" {
            found.last_mut()?.resident = words.next() != Some("0");
        } else if first == "VmFlags:" {
            found.last_mut()?.flags = words.collect::<Vec<_>>().join(" ");
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Every place in a process's memory where `wanted` lies, with that stretch's flags.
fn places(process: u32, wanted: &[u8]) -> Option<Vec<String>> {
    let memory = File::open(format!("/proc/{process}/mem")).ok()?;
    let finder = AhoCorasick::new([wanted]).unwrap();
    let mut places = vec![];
    for stretch in stretches(process)?.into_iter().filter(|stretch| stretch.resident) {
        let mut bytes = vec![0; usize::try_from(stretch.end - stretch.start).unwrap()];
        if memory.read_exact_at(&mut bytes, stretch.start).is_ok() {
            let hits = finder.find_iter(&bytes).count();
            places.extend(std::iter::repeat_n(stretch.flags.clone(), hits));
        }
    }
    Some(places)
}

fn holds(path: &Path, wanted: &[u8]) -> bool {
    let mut bytes = vec![];
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let hex: String = wanted.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.windows(wanted.len()).any(|window| window == wanted)
        || String::from_utf8_lossy(&bytes).to_lowercase().contains(&hex)
}

#[tokio::test]
async fn a_share_lies_in_locked_memory_and_nowhere_else() {
    let trio = Trio::settled(Duration::from_secs(4)).await;
    let keyholder = trio.keyholders("vault").remove(0);
    let (tree, root) = (tree(), root());
    let standing = keyholder.renew(tree, 1, trio.lease, None).await.unwrap();

    // Where one share is enough, it is the root itself, whose bytes may be known.
    let key = Key::<role::Root>::random();
    let mut bytes = vec![];
    key.write_to(&mut bytes).unwrap();
    let share: Share = key.borrow().deal(1, 1).unwrap().remove(0);
    let dealing = Dealing {
        root,
        owner: 1,
        threshold: 1,
        holders: vec![keyholder.name().to_owned()],
        check: key.borrow().check(&RootContext { tree, root }),
    };
    let sealed = share.seal_to(&standing.letterbox, tree, root).unwrap();
    keyholder.put(tree, 1, 1, Given { dealing, place: 1, sealed }).await.unwrap();
    let letterbox = Letterbox::new();
    for _ in 0..50 {
        let lent = keyholder.lend(tree, 1, root, letterbox.address()).await.unwrap();
        letterbox.open(&lent.sealed, &ShareContext { tree, root, place: 1 }).unwrap();
    }

    let process = trio.process_id(0);
    match places(process, &bytes) {
        None => eprintln!("left out: this user may not read another process's memory"),
        Some(places) => {
            assert_eq!(places.len(), 1, "{places:?}");
            // Where the memory lock's limit is too low, as a test allows, it is at least in no dump.
            assert!(places[0].contains("dd"), "{places:?}");
        }
    }
    keyholder.wipe(tree, 1, 2, root).await.unwrap().unwrap();
    if let Some(places) = places(process, &bytes) {
        assert_eq!(places, Vec::<String>::new(), "wiped is wiped");
    }

    // All its files: what it has open, and what lies where it was started.
    let mut files: Vec<_> = fs::read_dir(trio.own_folder(0)).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(files.iter().any(|file| file.ends_with("output")));
    if let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) {
        let targets = open.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
        files.extend(targets.filter(|target| target.is_file()));
    }
    for file in files {
        assert!(!holds(&file, &bytes), "{}", file.display());
    }
}
