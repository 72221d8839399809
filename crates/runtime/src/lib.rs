//! What every daemon of Cloakroom is made of besides its own work, so that each `main` reads like a
//! table of contents: configuration, who is calling, one listener, telemetry, health, an orderly end.
//!
//! Not here: anything about personal data, and anything of the store, the keys or the bus.
//!
//! - [`config`]: a TOML file, `CLOAKROOM_*` variables and flags become one checked value
//! - [`identity`]: mutual TLS; the caller is the SPIFFE URI of its certificate; certificates reload
//! - [`serve`]: one listener for gRPC and HTTP alike, bounded, draining
//! - [`limits`]: bounded calls with immediate refusal, deadlines
//! - [`answer`]: a refusal in the caller's own protocol
//! - [`health`]: `/livez`, `/readyz`, `/metrics`
//! - [`telemetry`]: what is logged, traced and measured, and where it goes
//! - [`shutdown`]: the first signal drains, the second ends the process
//! - [`certs`]: the development authority, and requests to a real one
//! - [`machine`]: what this machine has and lacks for keeping keys
//!
//! Invariants: no request reaches a service behind TLS without a [`identity::Principal`] in its
//! extensions; a certificate that does not load never replaces one that does; nothing is queued
//! without a bound.

pub mod answer;
pub mod certs;
pub mod config;
mod error;
pub mod health;
pub mod identity;
pub mod limits;
pub mod machine;
mod observe;
pub mod serve;
pub mod shutdown;
pub mod telemetry;

pub use error::RuntimeError;
