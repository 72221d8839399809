//! Reads a CSV in chunks whose bounds depend on the file alone, so that a resumed import asks as the first
//! run did. Memory is bounded by one chunk, whatever the file holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloakroom_crypto::hash::sha256;
use csv::{ByteRecord, ReaderBuilder};

use super::ImportError;

/// Rows of more bytes are not read: most likely a quote was opened and never closed.
const ROW_BYTES_MAX: u64 = 4 << 20;

/// A chunk ends early when its cells come to so many bytes: a request holds 4 MiB at most.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What is read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// What is hashed at once.
const BLOCK_BYTES: u64 = 1 << 20;

/// One record after the heading.
pub(super) struct Row {
    /// Counted from 1, the heading not counted.
    pub(super) number: u64,
    /// Its cells, as many as it has.
    pub(super) cells: ByteRecord,
}

impl Row {
    /// A cell as text; empty where it is missing or not UTF-8, both of which are refused before.
    pub(super) fn text(&self, column: usize) -> &str {
        self.cells.get(column).and_then(|cell| std::str::from_utf8(cell).ok()).unwrap_or("")
    }
}

/// The CSV, read from its beginning.
pub(super) struct Rows {
    reader: csv::Reader<Bounded>,
    /// Where the row being read begins.
    begin: Arc<AtomicU64>,
    heading: Vec<String>,
    number: u64,
    /// A row that was read but did not fit into the chunk before.
    ahead: Option<Row>,
}

/// Fails rather than feed a row without end to the parser.
struct Bounded {
    file: File,
    given: u64,
    begin: Arc<AtomicU64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given.saturating_sub(self.begin.load(Ordering::Relaxed)) > ROW_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a row without end"));
        }
        let read = self.file.read(buffer)?;
        self.given = self.given.saturating_add(read as u64);
        Ok(read)
    }
}

impl Rows {
    /// Opens a CSV and reads its heading.
    ///
    /// # Errors
    /// [`ImportError::NoCsv`] for what is something else, with a word on what it looks like.
    pub(super) fn open(path: &Path, delimiter: u8) -> Result<Self, ImportError> {
        let mut file = File::open(path).map_err(ImportError::file(path))?;
        let mut begin = Vec::new();
        (&mut file).take(4096).read_to_end(&mut begin).map_err(ImportError::file(path))?;
        if let Some(looks) = what_else(&begin) {
            return Err(ImportError::NoCsv { path: path.to_owned(), looks });
        }
        let file = File::open(path).map_err(ImportError::file(path))?;
        let begin = Arc::new(AtomicU64::new(0));
        let bounded = Bounded { file, given: 0, begin: begin.clone() };
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(bounded);
        let mut heading = ByteRecord::new();
        let no_csv = |looks| ImportError::NoCsv { path: path.to_owned(), looks };
        if !reader.read_byte_record(&mut heading).map_err(|_| no_csv("its first row has no end"))? {
            return Err(no_csv("it is empty"));
        }
        let heading = heading.iter().map(|cell| std::str::from_utf8(cell).map(str::to_owned));
        let heading = heading.collect::<Result<_, _>>().map_err(|_| no_csv("its heading is not UTF-8"))?;
        begin.store(reader.position().byte(), Ordering::Relaxed);
        Ok(Self { reader, begin, heading, number: 0, ahead: None })
    }

    /// The names of the columns.
    pub(super) fn heading(&self) -> &[String] {
        &self.heading
    }

    /// How far into the file, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    /// The next row; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Row>, ImportError> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        let mut cells = ByteRecord::new();
        let number = self.number.saturating_add(1);
        let read = self.reader.read_byte_record(&mut cells).map_err(|_| ImportError::Row { row: number })?;
        self.begin.store(self.reader.position().byte(), Ordering::Relaxed);
        if !read {
            return Ok(None);
        }
        self.number = number;
        Ok(Some(Row { number, cells }))
    }

    /// The next rows, at most `rows_max`; none at the end.
    pub(super) fn chunk(&mut self, rows_max: usize) -> Result<Vec<Row>, ImportError> {
        let mut chunk: Vec<Row> = Vec::new();
        let mut bytes = 0_usize;
        while chunk.len() < rows_max {
            let Some(row) = self.next()? else { break };
            bytes = bytes.saturating_add(row.cells.as_slice().len());
            if bytes > CHUNK_BYTES_MAX && !chunk.is_empty() {
                self.ahead = Some(row);
                break;
            }
            chunk.push(row);
        }
        Ok(chunk)
    }
}

/// What a file that is no CSV looks like, judged by its beginning.
fn what_else(begin: &[u8]) -> Option<&'static str> {
    const SIGNS: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "it is a ZIP archive, as a spreadsheet is; save it as CSV"),
        (b"\xd0\xcf\x11\xe0", "it is an old spreadsheet; save it as CSV"),
        (b"%PDF", "it is a PDF"),
        (b"\x1f\x8b", "it is compressed by gzip; unpack it"),
        (b"\xff\xfe", "it is UTF-16; save it as UTF-8"),
        (b"\xfe\xff", "it is UTF-16; save it as UTF-8"),
        (b"{", "it looks like JSON"),
        (b"[", "it looks like JSON"),
        (b"<", "it looks like HTML or XML"),
    ];
    if begin.is_empty() {
        return Some("it is empty");
    }
    let signed = SIGNS.iter().find(|(sign, _)| begin.starts_with(sign)).map(|(_, looks)| *looks);
    let heading = begin.split(|byte| *byte == b'\n').next().unwrap_or(begin);
    signed.or_else(|| heading.contains(&0).then_some("its heading holds NUL bytes"))
}

/// What tells this file from any other: SHA-256 over its blocks, each hashed with the hash so far.
pub(super) fn fingerprint(path: &Path) -> Result<[u8; 32], ImportError> {
    let mut file = File::open(path).map_err(ImportError::file(path))?;
    let mut hash = sha256(b"");
    loop {
        let mut block = hash.to_vec();
        (&mut file).take(BLOCK_BYTES).read_to_end(&mut block).map_err(ImportError::file(path))?;
        if block.len() == hash.len() {
            return Ok(hash);
        }
        hash = sha256(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn refusal(bytes: &[u8]) -> String {
        Rows::open(file(bytes).path(), b',').err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn what_is_no_csv_is_refused_with_a_word_on_what_it_is() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04\x14\0", "spreadsheet"),
            (b"%PDF-1.7", "PDF"),
            (b"\xff\xfea\0,\0b\0", "UTF-16"),
            (b"\x7fELF\x02\0\0", "NUL"),
            (b"caf\xe9,email\n", "not UTF-8"),
            (b"{\"a\": 1}", "JSON"),
            (b"<!DOCTYPE html>", "HTML"),
            (b"\n\n", "empty"),
        ] {
            assert!(refusal(bytes).contains(word), "{word}: {}", refusal(bytes));
        }
        assert_eq!(refusal(b"a,b\n"), "");
    }

    #[test]
    fn rows_are_counted_as_records_of_any_width() {
        let file = file(b"\xef\xbb\xbfa,b\r\n1,\"two\nlines\"\r\n\r\nx\n\xff,y,z");
        let mut rows = Rows::open(file.path(), b',').unwrap();
        assert_eq!(rows.heading(), ["a", "b"]);
        let read: Vec<_> =
            std::iter::from_fn(|| rows.next().unwrap()).map(|row| (row.number, row.cells.len())).collect();
        assert_eq!(read, [(1, 2), (2, 1), (3, 3)]);
    }

    #[test]
    fn a_quote_that_is_never_closed_stops_the_import_and_does_not_fill_memory() {
        let mut text = b"a,b\n1,2\n\"open,".to_vec();
        text.resize(24 << 20, b'x');
        let file = file(&text);
        let mut rows = Rows::open(file.path(), b',').unwrap();
        assert_eq!(rows.next().unwrap().unwrap().number, 1);
        assert!(matches!(rows.next(), Err(ImportError::Row { row: 2 })));
        assert!(rows.reader.get_ref().given < 6 << 20);
    }

    #[test]
    fn chunks_end_at_rows_and_at_bytes_and_lose_nothing() {
        let long = "x".repeat(CHUNK_BYTES_MAX / 2);
        let file = file(format!("a\n1\n2\n3\n{long}\n{long}\n{long}\n").as_bytes());
        let mut rows = Rows::open(file.path(), b',').unwrap();
        let mut sizes = Vec::new();
        loop {
            let chunk = rows.chunk(2).unwrap();
            if chunk.is_empty() {
                break;
            }
            sizes.push(chunk.iter().map(|row| row.number).collect::<Vec<_>>());
        }
        assert_eq!(sizes, [vec![1, 2], vec![3, 4], vec![5, 6]]);
        let mut rows = Rows::open(file.path(), b',').unwrap();
        assert_eq!(rows.chunk(10).unwrap().len(), 4);
        assert_eq!(rows.chunk(10).unwrap().len(), 2);
    }

    #[test]
    fn a_fingerprint_sees_every_byte() {
        let mut bytes = vec![7; (2 << 20) + 5];
        let one = fingerprint(file(&bytes).path()).unwrap();
        assert_eq!(one, fingerprint(file(&bytes).path()).unwrap());
        for place in [0, 1 << 20, (2 << 20) + 4] {
            bytes[place] = 8;
            assert_ne!(one, fingerprint(file(&bytes).path()).unwrap(), "{place}");
            bytes[place] = 7;
        }
    }
}
