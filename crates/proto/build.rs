//! Compiles the .proto files with protox, so that nobody needs protoc, and gives every generated type a
//! `Debug` that names the type and nothing in it.

use std::fmt::Write as _;
use std::path::PathBuf;

use prost_types::{DescriptorProto, FileDescriptorSet};

const PACKAGES: [&str; 7] = ["vault", "admin", "bus", "record", "mail", "affiliate", "keyholder"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed={}", root.display());

    let files = PACKAGES.map(|package| root.join(format!("cloakroom/{package}/v1/{package}.proto")));
    let descriptors = protox::compile(&files, [&root])?;
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    for package in PACKAGES {
        std::fs::write(out.join(format!("debug_{package}.rs")), redacted_debug(&descriptors, package))?;
    }

    let mut config = prost_build::Config::new();
    // Values travel as `Bytes` from socket to cipher. Debug is written below.
    config.bytes(["."]).skip_debug(messages(&descriptors).map(|(path, _)| path));
    tonic_prost_build::configure().build_transport(true).compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Every message and oneof of `descriptors`: its full name, and its Rust path within its package.
fn messages(descriptors: &FileDescriptorSet) -> impl Iterator<Item = (String, String)> {
    let mut found = Vec::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            descend(file.package(), "", message, &mut found);
        }
    }
    found.into_iter()
}

fn descend(
    proto_prefix: &str,
    rust_prefix: &str,
    message: &DescriptorProto,
    found: &mut Vec<(String, String)>,
) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let path = format!("{proto_prefix}.{}", message.name());
    found.push((format!(".{path}"), format!("{rust_prefix}{}", message.name())));
    let module = format!("{rust_prefix}{}::", snake(message.name()));
    for oneof in &message.oneof_decl {
        found.push((format!(".{path}.{}", oneof.name()), format!("{module}{}", pascal(oneof.name()))));
    }
    for nested in &message.nested_type {
        descend(&path, &module, nested, found);
    }
}

fn redacted_debug(descriptors: &FileDescriptorSet, package: &str) -> String {
    let mut code = String::new();
    let prefix = format!(".cloakroom.{package}.v1.");
    for (path, rust) in messages(descriptors).filter(|(path, _)| path.starts_with(&prefix)) {
        let name = path.trim_start_matches('.');
        let _ = writeln!(
            code,
            "impl ::core::fmt::Debug for {rust} {{ fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{ f.write_str(\"{name}(..)\") }} }}"
        );
    }
    code
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn pascal(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let (first, rest) = word.split_at(1);
            [first.to_ascii_uppercase(), rest.to_owned()]
        })
        .collect()
}
