//! `cloakroom certs init|issue|request`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_runtime::certs::{Authority, Holder, request};
use serde_json::json;

use crate::error::CliError;
use crate::output::Output;

/// How long a development certificate lasts.
const DAYS: i64 = 365;

/// Certificates: a development authority, or requests to a real one
#[derive(Subcommand, Debug)]
pub(crate) enum Certs {
    /// Makes the development authority, if there is none yet
    Init {
        /// Where it lies
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
    },
    /// Issues a certificate from the development authority
    Issue {
        #[command(flatten)]
        holder: Wanted,
        /// For how many days
        #[arg(long, default_value_t = DAYS)]
        days: i64,
    },
    /// Makes a key and a signing request for a real authority
    Request {
        #[command(flatten)]
        holder: Wanted,
    },
}

/// Whose certificate.
#[derive(Args, Debug)]
pub(crate) struct Wanted {
    /// Names the files: NAME.pem, NAME.key
    name: String,
    /// The principal: spiffe://trust-domain/path
    #[arg(long, value_name = "SPIFFE_URI")]
    principal: String,
    /// A DNS name or address that it may serve under; may be given again
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Where the files lie, beside the authority
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
}

impl Wanted {
    fn holder(&self) -> Holder {
        Holder { name: self.name.clone(), principal: Some(self.principal.clone()), hosts: self.host.clone() }
    }
}

impl Certs {
    /// Runs the command.
    pub(crate) fn run(&self, output: &Output) -> Result<(), CliError> {
        let now = SystemClock.now_unix_ms();
        let written = |paths: &[&Path]| {
            let lines = || paths.iter().map(|path| format!("{}\n", path.display())).collect();
            output.result(&json!({ "files": paths }), lines)
        };
        match self {
            Self::Init { dir } => {
                Authority::open_or_create(dir, now)?;
                written(&[&dir.join("ca.pem"), &dir.join("ca.key")])
            }
            Self::Issue { holder, days } => {
                if !holder.dir.join("ca.key").exists() {
                    let dir = holder.dir.display();
                    return Err(CliError::Usage(format!(
                        "{dir} holds no authority: `certs init --dir {dir}` first"
                    )));
                }
                let files =
                    Authority::open_or_create(&holder.dir, now)?.issue(&holder.holder(), now, *days)?;
                written(&[&files.cert, &files.key])
            }
            Self::Request { holder } => {
                let path = request(&holder.dir, &holder.holder())?;
                written(&[&path, &path.with_extension("key")])
            }
        }
    }
}
