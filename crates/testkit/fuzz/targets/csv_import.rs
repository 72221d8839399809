//! A CSV and its mapping, and the values in it under each type of field. Parts: mapping, CSV.
#![no_main]

use std::io::Write;

use cloakroom_fuzz::parts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [map, csv] = parts(bytes)[..] else { return };
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(csv).expect("a file");
    cloakroom_cli::fuzz::csv_import(&String::from_utf8_lossy(map), file.path());
});
