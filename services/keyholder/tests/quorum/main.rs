//! Three real keyholders, two of whom give a root back: the suite of all root holders, and what is this one's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod bench;
mod holders;
mod memory;
mod proxy;
mod trio;
mod vault;

mod contract {
    use crate::bench::TrioBench;

    cloakroom_keytree::holder_contract!(TrioBench::start().await);
}
