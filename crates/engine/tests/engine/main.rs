//! The engine as its daemon uses it, on real disks, without a bus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod house;
mod restart;
mod verbs;
