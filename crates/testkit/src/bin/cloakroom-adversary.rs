//! The adversary as a program: everything that was ever written on the command line, what can be read of it on
//! standard output, as JSON.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is how it answers")]

use std::process::ExitCode;

use cloakroom_testkit::adversary::program::{Loot, Roots, run};
use cloakroom_testkit::adversary::remembered::Asked;

const USAGE: &str = "usage: cloakroom-adversary [--roots held|every|destroyed|none] [--dictionary FILE] [--planted FILE] \
[--windows PATH] [--every-offset BYTES] [--except PATH] [--only PATH]... [--memory FILE] \
[--root-named TREE/root-ROOT]... \
[--asked CONTROLLER/ACTIVITY/FIELD KNOWN-FILE] [--file FILE]... JOURNAL-FOLDER...";

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
            "--roots" => {
                loot.roots = match arguments.next()?.as_str() {
                    "held" => Roots::Held,
                    "none" => Roots::Nothing,
                    "every" => Roots::Every,
                    "destroyed" => Roots::Destroyed,
                    _ => return None,
                }
            }
            "--windows" => loot.windows = Some(arguments.next()?.into()),
            "--every-offset" => loot.every_offset = arguments.next()?.parse().ok()?,
            "--planted" => loot.planted = Some(arguments.next()?.into()),
            "--except" => loot.except = Some(arguments.next()?.into()),
            "--only" => loot.only.push(arguments.next()?.into()),
            "--dictionary" => loot.dictionary = Some(arguments.next()?.into()),
            "--root-named" => loot.named.push(arguments.next()?.into()),
            "--memory" => loot.memory = Some(arguments.next()?.into()),
            "--asked" => {
                let of = arguments.next()?;
                let [controller, activity, field] =
                    of.split('/').map(str::to_owned).collect::<Vec<_>>().try_into().ok()?;
                loot.asked = Some((Asked { controller, activity, field }, arguments.next()?.into()));
            }
            "--file" => loot.files.push(arguments.next()?.into()),
            option if option.starts_with('-') => return None,
            journal => loot.journals.push(journal.into()),
        }
    }
    (!loot.journals.is_empty() || !loot.files.is_empty()).then_some(loot)
}
