//! Looks for values in clear, in whatever way somebody may have written them down, also in compressed blocks.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, MatchKind};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// A value and what it is.
#[derive(Clone)]
pub struct Planted {
    /// What it is called where it is found.
    pub what: String,
    /// The value.
    pub value: String,
}

/// One way to write a value down.
struct Written {
    what: String,
    bytes: Vec<u8>,
}

/// What was found where.
#[derive(Debug)]
pub struct Found {
    /// What, and spelled how.
    pub what: String,
    /// In which file.
    pub file: PathBuf,
}

/// Finds planted values in files.
pub struct Scan {
    written: Vec<Written>,
    finder: AhoCorasick,
}

impl Scan {
    /// For these values, in every spelling.
    pub fn of(planted: &[Planted]) -> Self {
        let written: Vec<Written> = planted.iter().flat_map(ways).collect();
        let patterns = written.iter().map(|written| &written.bytes);
        // All matches, overlapping ones too: one value may be part of another's.
        let finder = AhoCorasick::builder().match_kind(MatchKind::Standard).build(patterns).unwrap();
        Self { written, finder }
    }

    /// Everything that stands in the files of these folders, each way once for each file, and how many bytes were
    /// looked at.
    pub fn folders<'a>(&self, folders: impl IntoIterator<Item = &'a Path>) -> (Vec<Found>, u64) {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for file in folders.into_iter().flat_map(files) {
            // A file may go while we look: Kafka deletes its own.
            let Ok(text) = fs::read(&file) else { continue };
            bytes += text.len() as u64;
            let what = self.in_bytes(&text);
            found.extend(what.into_iter().map(|what| Found { what, file: file.clone() }));
        }
        (found, bytes)
    }

    /// Everything that stands in these bytes, or in a compressed block among them, each way once.
    pub fn in_bytes(&self, bytes: &[u8]) -> Vec<String> {
        let mut here = self.ways_in(bytes);
        for unpacked in unpacked(bytes) {
            here.extend(self.ways_in(&unpacked));
        }
        here.sort_unstable();
        here.dedup();
        here.into_iter().map(|at| self.written[at].what.clone()).collect()
    }

    fn ways_in(&self, bytes: &[u8]) -> Vec<usize> {
        let mut here: Vec<usize> =
            self.finder.find_overlapping_iter(bytes).map(|hit| hit.pattern().as_usize()).collect();
        here.sort_unstable();
        here.dedup();
        here
    }

    /// Writes every value in every way into `folder`, each into a file of its own, among other bytes; gives what
    /// must be found.
    pub fn plant(&self, folder: &Path) -> Vec<(String, PathBuf)> {
        fs::create_dir_all(folder).unwrap();
        let plant = |(at, written): (usize, &Written)| {
            let file = folder.join(format!("control-{at}"));
            fs::write(&file, [b"\x00\xffbefore", written.bytes.as_slice(), b"after\x00"].concat()).unwrap();
            (written.what.clone(), file)
        };
        self.written.iter().enumerate().map(plant).collect()
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// What gzip, zlib and zstd streams say that may begin somewhere in these bytes; as much of one as opens.
fn unpacked(bytes: &[u8]) -> Vec<Vec<u8>> {
    const UNPACKED_BYTES_MAX: u64 = 16 << 20;
    let begins = (0..bytes.len().saturating_sub(4)).filter_map(|at| {
        let rest = &bytes[at..];
        let reader: Box<dyn Read> = match rest {
            [0x1f, 0x8b, 8, ..] => Box::new(flate2::read::GzDecoder::new(rest)),
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Box::new(flate2::read::ZlibDecoder::new(rest)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(rest).ok()?),
            _ => return None,
        };
        Some(reader)
    });
    let mut found = vec![];
    for reader in begins {
        let mut text = vec![];
        // What is no stream ends in an error; what came before it counts all the same.
        let _ended = reader.take(UNPACKED_BYTES_MAX).read_to_end(&mut text);
        if !text.is_empty() {
            found.push(text);
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_packed_is_found() {
        let scan = Scan::of(&[Planted { what: "name".to_owned(), value: "Zoë Example".to_owned() }]);
        let text = b"before Zo\\u00eb Example after";
        assert_eq!(scan.in_bytes(text), ["name as json"]);
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        gzip.write_all(text).unwrap();
        let packed = [b"some bytes".to_vec(), gzip.finish().unwrap()].concat();
        assert_eq!(scan.in_bytes(&packed), ["name as json"]);
        let zstd = zstd::encode_all("Zoë Example".as_bytes(), 3).unwrap();
        assert_eq!(scan.in_bytes(&[b"..".to_vec(), zstd].concat()), ["name as raw"]);
        assert_eq!(scan.in_bytes(b"\x78\x9cnothing packed at all"), Vec::<String>::new());
    }
}
