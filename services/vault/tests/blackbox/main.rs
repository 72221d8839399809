//! The daemon as its callers see it: started on free ports with certificates of its own authority, real TLS,
//! the shipped registers, the embedded broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::disallowed_methods,
    reason = "tests: a panic is the answer that they are for"
)]

mod bad_calls;
mod bad_tokens;
mod bad_values;
mod connections;
mod devices;
mod erasures;
mod http;
mod idempotency;
mod log;
mod lookup;
mod main_path;
mod process;
mod python;
mod roots;
mod setting;
mod streams;
mod watching;
