//! `cloakroom-mail`.

use std::process::ExitCode;

use cloakroom_downstream::daemon::launch;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    launch("cloakroom-mail", env!("CARGO_PKG_VERSION"), cloakroom_mail::run)
}
