//! What tests need and nothing else may use: real servers, free ports, waiting without sleeping, a clock.
//!
//! A dev-dependency only.
//!
//! - [`kafka`]: Apache Kafka itself, on free ports, gone when the test is
//! - [`ports`]: free ports
//! - [`wait`]: waiting for a condition, with a deadline
//! - [`ManualClock`]: a clock that tests set

pub mod kafka;
pub mod ports;
pub mod wait;

pub use cloakroom_core::clock::ManualClock;
