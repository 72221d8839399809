//! The adversary as a program: everything that was ever written on the command line, what can be read of it on
//! standard output, as JSON.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is how it answers")]

use std::process::ExitCode;

use cloakroom_testkit::adversary::program::{Loot, run};

const USAGE: &str = "usage: cloakroom-adversary [--with-destroyed] [--every-offset] [--dictionary FILE] \
[--file FILE]... JOURNAL-FOLDER...";

fn main() -> ExitCode {
    let Some(loot) = loot(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&loot).and_then(|report| serde_json::to_string(&report).map_err(Into::into)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn loot(mut arguments: impl Iterator<Item = String>) -> Option<Loot> {
    let mut loot = Loot::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--with-destroyed" => loot.with_destroyed = true,
            "--every-offset" => loot.every_offset = true,
            "--dictionary" => loot.dictionary = Some(arguments.next()?.into()),
            "--file" => loot.files.push(arguments.next()?.into()),
            option if option.starts_with('-') => return None,
            journal => loot.journals.push(journal.into()),
        }
    }
    (!loot.journals.is_empty() || !loot.files.is_empty()).then_some(loot)
}
