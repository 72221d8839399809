//! The store on one machine, nothing to install: a segmented log of our own, and sled.
//!
//! - [`folder`]: owning a data folder, room on its disk, seeing what the disk really has
//! - `framing`: length, checksum, bytes: what both logs put into files
//! - `frame`: a frame as bytes
//! - `segment`, `table`: one file of the log and where its events lie
//! - [`log`], `end`, `prune`: the log; finding its end; shortening what is dead
//! - [`records`]: records on sled
//! - [`access`]: the access log
//! - [`reading`]: the files of both, read from beside their owner
//!
//! Invariants:
//! - A segment exists only after all before it was synced: only the last can be torn.
//! - After a failed write or sync an engine answers every later one with an error.

pub mod access;
mod end;
pub mod folder;
mod frame;
mod framing;
#[cfg(feature = "contract")]
#[doc(hidden)]
pub mod fuzz;
pub mod log;
mod prune;
pub mod reading;
pub mod records;
mod segment;
mod table;

pub use access::{AccessLogOptions, EmbeddedAccessLog};
pub use folder::{Folder, settle};
pub use log::{EmbeddedLog, LogOptions};
pub use records::EmbeddedRecords;
