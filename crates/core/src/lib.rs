//! What Cloakroom decides, without doing any of it: ids, the register, subjects, erasures, certificates.
//!
//! Pure: no clock, no randomness, no I/O but [`clock::SystemClock`], which the daemons hand in. So every
//! rule here can be driven by a simulation, with crashes and lost answers between any two steps.
//!
//! - [`ids`]: names of things
//! - [`clock`]: where the time comes from

pub mod clock;
pub mod ids;
