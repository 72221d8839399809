//! Root holders: one suite for all, and what is each one's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod file;
mod pkcs11;
mod tpm;
