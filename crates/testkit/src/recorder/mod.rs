//! Everything that a program does to its files, seen at the system call.
//!
//! - [`journal`]: what is written down, and how it is read
//! - [`images`]: a journal played back: every version of every file

pub mod images;
pub mod journal;
