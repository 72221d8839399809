//! Looks for values in files, in whatever way somebody may have written them down.

use std::fs;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, MatchKind};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// A value and what it is.
#[derive(Clone)]
pub(crate) struct Planted {
    pub(crate) what: String,
    pub(crate) value: String,
}

/// One way to write a value down.
struct Written {
    what: String,
    bytes: Vec<u8>,
}

/// What was found where.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) what: String,
    pub(crate) file: PathBuf,
}

/// Finds planted values in files.
pub(crate) struct Scan {
    written: Vec<Written>,
    finder: AhoCorasick,
}

impl Scan {
    pub(crate) fn of(planted: &[Planted]) -> Self {
        let written: Vec<Written> = planted.iter().flat_map(ways).collect();
        let patterns = written.iter().map(|written| &written.bytes);
        // All matches, overlapping ones too: one value may be part of another's.
        let finder = AhoCorasick::builder().match_kind(MatchKind::Standard).build(patterns).unwrap();
        Self { written, finder }
    }

    /// Everything that stands in the files of these folders, each way once for each file, and how many bytes were
    /// looked at.
    pub(crate) fn folders<'a>(&self, folders: impl IntoIterator<Item = &'a Path>) -> (Vec<Found>, u64) {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for file in folders.into_iter().flat_map(crate::house::files) {
            // A file may go while we look: Kafka deletes its own.
            let Ok(text) = fs::read(&file) else { continue };
            bytes += text.len() as u64;
            let mut here: Vec<usize> =
                self.finder.find_overlapping_iter(&text).map(|hit| hit.pattern().as_usize()).collect();
            here.sort_unstable();
            here.dedup();
            let what = here.into_iter().map(|at| self.written[at].what.clone());
            found.extend(what.map(|what| Found { what, file: file.clone() }));
        }
        (found, bytes)
    }

    /// Writes every value in every way into `folder`, each into a file of its own, among other bytes; gives what
    /// must be found.
    pub(crate) fn plant(&self, folder: &Path) -> Vec<(String, PathBuf)> {
        fs::create_dir_all(folder).unwrap();
        let plant = |(at, written): (usize, &Written)| {
            let file = folder.join(format!("control-{at}"));
            fs::write(&file, [b"\x00\xffbefore", written.bytes.as_slice(), b"after\x00"].concat()).unwrap();
            (written.what.clone(), file)
        };
        self.written.iter().enumerate().map(plant).collect()
    }
}

/// Raw, UTF-16, hexadecimal, base64 at each place in its groups of three, and escaped as JSON.
fn ways(planted: &Planted) -> Vec<Written> {
    let (text, bytes) = (planted.value.as_str(), planted.value.as_bytes());
    let utf16 = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let mut ways = vec![
        ("raw", bytes.to_vec()),
        ("utf-16le", utf16(u16::to_le_bytes)),
        ("utf-16be", utf16(u16::to_be_bytes)),
        ("hex", HEXLOWER.encode(bytes).into_bytes()),
        ("HEX", HEXUPPER.encode(bytes).into_bytes()),
        ("json", json(text, false).into_bytes()),
        ("JSON", json(text, true).into_bytes()),
    ];
    for skipped in 0..3 {
        let whole = &bytes[skipped..];
        let whole = &whole[..whole.len() / 3 * 3];
        ways.push(("base64", BASE64_NOPAD.encode(whole).into_bytes()));
        ways.push(("base64url", BASE64URL_NOPAD.encode(whole).into_bytes()));
    }
    let written = |(way, bytes)| Written { what: format!("{} as {way}", planted.what), bytes };
    ways.into_iter().map(written).collect()
}

/// With everything beyond ASCII escaped.
fn json(text: &str, upper: bool) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        let mut units = [0; 2];
        match letter {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            ' '..='~' => escaped.push(letter),
            _ => {
                for unit in letter.encode_utf16(&mut units) {
                    escaped.push_str(&if upper {
                        format!("\\u{unit:04X}")
                    } else {
                        format!("\\u{unit:04x}")
                    });
                }
            }
        }
    }
    escaped
}
