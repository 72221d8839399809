//! kill -9 at every step of the protocol, and power cuts: what was acknowledged stays so, what was forgotten
//! never comes back, and one root is left. The vault is a real process, stopped at its system calls.
//!
//! - `points`: the steps, recognised by path and call; aiming at one
//! - `hand`: a mixed load that writes down what was acknowledged
//! - `ledger`: what a vault may say, given that
//! - `kills`, `power`, `memory`: the tests
//!
//! `make kill N=1000` runs `kills` longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[allow(dead_code, reason = "the system tests' house, of which this needs the vault alone")]
#[path = "../system/house.rs"]
mod house;

mod hand;
mod kills;
mod ledger;
mod memory;
mod points;
mod power;
