//! What tests need and nothing else may use: real servers, free ports, waiting without sleeping, a clock.
//!
//! A dev-dependency only.
//!
//! - [`adversary`]: whoever has every byte ever written and some roots: what can be read with them?
//! - [`daemons`]: the programs of this house as children of a test: started, killed, started again
//! - [`kafka`]: Apache Kafka itself, on free ports, gone when the test is
//! - [`kms`]: OpenBao itself
//! - [`ports`]: free ports
//! - [`recorder`]: everything that a program does to its files, seen at the system call
//! - [`seed`]: randomness that can be played again
//! - [`wait`]: waiting for a condition, with a deadline
//! - [`unique`]: names that nobody else uses
//! - [`ManualClock`]: a clock that tests set

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod adversary;
pub mod daemons;
pub mod kafka;
pub mod kms;
pub mod ports;
pub mod recorder;
pub mod seed;
pub mod wait;

use std::hash::{BuildHasher, RandomState};

pub use cloakroom_core::clock::ManualClock;

/// `prefix`, a dash and eight random hexadecimal digits: a name that no other test, process or run uses.
pub fn unique(prefix: &str) -> String {
    let random = RandomState::new().hash_one(std::process::id());
    format!("{prefix}-{:08x}", random & 0xffff_ffff)
}
