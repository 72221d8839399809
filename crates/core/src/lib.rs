//! What Cloakroom decides, without doing any of it: ids, the register, subjects, erasures, certificates.
//!
//! Pure: no clock, no randomness, no I/O but [`clock::SystemClock`], which the daemons hand in. So every
//! rule here can be driven by a simulation, with crashes and lost answers between any two steps.
//!
//! - [`ids`]: names of things
//! - [`clock`]: where the time comes from
//! - [`register`]: what a controller's register of processing activities allows
//! - [`field`]: what values look like, how they are masked and compared
//! - [`card`]: payment card numbers, which no field may hold
//! - [`event`]: what has happened
//! - [`subject`], [`erasure`]: what events make of a person and of a request to forget one
//! - [`start`]: what a start decides, and what a batch destroys
//! - [`certificate`]: what an erasure certificate says
//! - [`mutants`]: faults planted on purpose, which the proof must catch; none in a program that is built as usual
//! - [`merkle`], [`checkpoint`]: the tree over the log's events, its proofs, and what is signed of it
//! - [`refusal`]: why something is not done
//! - [`text`]: codes, references and keys that come beside values

pub mod card;
pub mod certificate;
pub mod checkpoint;
pub mod clock;
pub mod erasure;
pub mod event;
pub mod field;
pub mod ids;
pub mod merkle;
pub mod mutants;
pub mod refusal;
pub mod register;
pub mod start;
pub mod subject;
pub mod text;
