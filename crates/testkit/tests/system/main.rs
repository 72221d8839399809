//! The whole system, as it runs: `cloakroomd`, mail, affiliate and the command line as processes of their own,
//! against a real Apache Kafka, called as their clients call them. What each test promises is its name.
//!
//! - `house`: a set of daemons in a folder of its own
//! - `collector`: what was sent as traces and metrics
//! - `load`: people who are checked in, mailed, attributed and forgotten, and what must be true of them afterwards

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod by_value;
mod collector;
mod house;
mod import;
mod kafka_away;
mod key_backup;
mod kills;
mod late;
mod load;
mod log;
mod memory;
mod rollback;
mod secrecy;
mod witness;
