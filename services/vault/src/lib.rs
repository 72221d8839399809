//! The vault daemon, `cloakroomd`: the engine's use cases behind gRPC and HTTP, three ports, one process.
//!
//! Not here: any decision about data (`cloakroom-engine`), and anything that every daemon needs
//! (`cloakroom-runtime`).
//!
//! - [`config`]: what it is told
//! - [`arguments`]: its command line
//! - [`start`]: from a configuration to a running vault, and to its end; tests start it the same way
//! - `ports`: which services each port has
//! - `grpc`: the services' API, a file for each verb
//! - `admin`: the officers' API over gRPC and HTTP/JSON; `admin/openapi.json` describes the latter
//! - `wire`: what both hold every call to; `refusal`, `admin/problem`: a refusal as gRPC and as HTTP say it
//! - [`keyholders`]: the way to each of a quorum's keyholders
//! - [`kms`]: the KMS that seals the file holder's roots
//! - `gate`: what opens it, and what an administrator may decide while it is closed
//! - `house`: the engine, or why the gate is closed
//! - `measure`: what is counted
//!
//! Invariants: no handler runs without a principal; a value is a `Plaintext` before anything else looks at
//! it; no log line, span, label, status or problem holds one; with the gate closed nothing reads as erased.

mod admin;
pub mod arguments;
pub mod config;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod grpc;
mod house;
pub mod keyholders;
pub mod kms;
mod measure;
mod ports;
mod refusal;
mod start;
mod wire;

pub use error::VaultError;
pub use start::{Ended, Running, start};
