//! Ways in for the fuzz targets of `crates/testkit/fuzz`, which are outside this crate: what this program reads
//! that others wrote. No command uses them.

use std::path::Path;

/// Whether `token` is a certificate that one of `jwks` signed, and what it says can be told.
pub fn certificate(token: &str, jwks: &str) -> bool {
    crate::commands::verify(token, jwks).is_ok_and(|verified| !verified.text().is_empty())
}

/// Whether the CSV can be read to its end by the mapping.
pub fn csv_import(map: &str, csv: &Path) -> bool {
    crate::commands::import::values_in(map, csv).is_ok()
}
