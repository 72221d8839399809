//! Everything that a program does to its files, seen at the system call.
//!
//! - [`Recorder`]: follows a program, writes its journal, tells a test of every call and kills where that says so
//! - [`journal`]: what is written down, and how it is read
//! - [`images`]: a journal played back: every version of every file
//! - [`disk`]: a journal played onto a disk that loses what was not synced
//! - [`memory`]: what lies in a process's memory
//! - [`filter`]: which calls stop the program
//!
//! It is ptrace with a seccomp filter, because that is at the kernel's door: sled's own threads are seen, and
//! rustix, which calls the kernel without libc and so past any preloaded library. It needs neither FUSE nor a
//! mount, and no right but to trace one's own child. Only the calls that the filter names stop, so a recorded
//! vault still does some thousand writes a second. What it could not follow (a shared mapping of a watched file,
//! io_uring, a copy inside the kernel) ends the program and the test.
//!
//! On Linux and x86-64 alone: the calls' numbers and registers are that machine's.

pub mod disk;
pub mod images;
pub mod journal;
pub mod memory;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod calls;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod filter;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod live;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tracer;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use self::{
    calls::Act,
    live::{Recorder, Traced},
    tracer::{Phase, Verdict},
};
