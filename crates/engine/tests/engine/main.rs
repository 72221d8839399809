//! The engine as its daemon uses it, on real disks, without a bus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod access;
mod acks;
mod backup;
mod branches;
mod concurrent;
mod damage;
mod faults;
mod golden;
mod graph;
mod holder;
mod house;
mod key_backups;
mod lease;
mod ledger;
mod lookup;
mod power;
mod prove;
mod restart;
mod restore;
mod slow;
mod verbs;
mod witness;
