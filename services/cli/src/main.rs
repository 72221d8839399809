//! The program `cloakroom`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloakroom_cli::main()
}
