//! Holds the arrows of ARCHITECTURE.md, "Which way dependencies point": which crate of ours may depend on
//! which, and under which crate a third party's package may stand. It reads the manifests alone (`cargo
//! metadata --no-deps`: no network, no resolution, a few milliseconds); what a third party drags in behind
//! our backs is the matter of `deny.toml`, which sees the resolved graph.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::process::Command;

use serde_json::Value;

/// Who may depend on whom, short names. A member of the workspace without a row is an error.
const ARROWS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("crypto", &["core"]),
    ("proto", &[]),
    ("store", &["core", "proto"]),
    ("keytree", &["core", "crypto", "store", "proto"]),
    ("bus", &["core", "proto", "crypto"]),
    ("engine", &["core", "crypto", "store", "keytree", "bus", "proto"]),
    ("runtime", &["core"]),
    ("client", &["core", "proto"]),
    ("downstream", &["core", "crypto", "store", "keytree", "bus", "client", "runtime", "proto"]),
    ("vault", &["core", "engine", "client", "proto", "runtime"]),
    ("mail", &["downstream", "client", "proto", "runtime"]),
    ("affiliate", &["downstream", "client", "proto", "runtime"]),
    ("cli", &["core", "crypto", "engine", "client", "proto", "runtime"]),
    ("keyholder", &["core", "crypto", "proto", "runtime"]),
    // It starts a vault as an operator would: certificates of the development authority, by a clock.
    ("load-tests", &["client", "crypto", "core", "runtime"]),
];

/// The crate that may depend on any of ours and that only tests may depend on.
const TESTS_ONLY: &str = "testkit";

/// A test as a program: it starts the servers that tests start, and drives the peers that the vault is measured
/// against. Nobody is given it.
const TEST_PROGRAM: &str = "load-tests";
const PEERS: [&str; 1] = ["tokio-postgres"];

/// Third parties that stand under one crate alone, because what they do must be doable nowhere else.
const UNDER_ONE_ROOF: &[(&str, &str)] = &[
    ("sled", "store"),
    ("tokio-postgres", "store"),
    ("postgres", "store"),
    ("sqlx", "store"),
    ("rdkafka", "bus"),
    ("rdkafka-sys", "bus"),
    ("aes", "crypto"),
    ("aes-gcm", "crypto"),
    ("hkdf", "crypto"),
];

/// Third parties that a crate must do without: `core` decides without I/O, `engine` knows no wire.
const NEVER: &[(&str, &str)] = &[("core", "tokio"), ("engine", "tonic")];

/// One dependency as a manifest states it.
#[derive(Debug, Clone)]
struct Edge {
    from: String,
    to: String,
    /// Both ends are crates of this workspace.
    inside: bool,
    /// Only tests, examples and benchmarks see it.
    of_tests: bool,
}

/// The packages of this workspace, as cargo tells them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn short(package: &Value) -> &str {
    let name = package["name"].as_str().expect("a name");
    name.strip_prefix("cloakroom-").unwrap_or(name)
}

fn edges() -> Vec<Edge> {
    let mut edges = Vec::new();
    for package in &packages() {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            edges.push(Edge {
                from: short(package).to_owned(),
                to: short(dependency).to_owned(),
                inside: dependency["path"].is_string(),
                of_tests: dependency["kind"] == "dev",
            });
        }
    }
    edges
}

/// Why this edge must not be, or nothing.
fn objection(edge: &Edge) -> Option<String> {
    let Edge { from, to, .. } = edge;
    // Tests may reach for anything: an adversary needs the cipher, a contract suite the engine.
    if edge.of_tests {
        return None;
    }
    if from == TEST_PROGRAM && (to == TESTS_ONLY || PEERS.contains(&to.as_str())) {
        return None;
    }
    if edge.inside && to == TESTS_ONLY {
        return Some(format!("{from} → {to}: {to} is a dev-dependency only"));
    }
    if from == TESTS_ONLY {
        return None;
    }
    if edge.inside {
        return match ARROWS.iter().find(|(name, _)| name == from) {
            None => Some(format!("{from} → {to}: {from} has no row in ARROWS")),
            Some((_, allowed)) if !allowed.contains(&to.as_str()) => {
                Some(format!("{from} → {to}: not an arrow of the architecture; {from} may use {allowed:?}"))
            }
            Some(_) => None,
        };
    }
    if let Some((_, roof)) = UNDER_ONE_ROOF.iter().find(|(name, roof)| name == to && roof != from) {
        return Some(format!("{from} → {to}: only {roof} may use {to}"));
    }
    NEVER
        .iter()
        .any(|(name, banned)| name == from && banned == to)
        .then(|| format!("{from} → {to}: {from} does without {to}"))
}

#[test]
fn dependencies_point_only_where_the_architecture_lets_them() {
    let objections: Vec<String> = edges().iter().filter_map(objection).collect();
    assert!(objections.is_empty(), "forbidden dependencies:\n  {}", objections.join("\n  "));
}

#[test]
fn every_crate_of_the_workspace_has_a_row() {
    for package in &packages() {
        let name = short(package);
        assert!(
            name == TESTS_ONLY || ARROWS.iter().any(|(from, _)| *from == name),
            "{name} has no row in ARROWS: say in ARCHITECTURE.md what it may depend on, then here"
        );
    }
}

/// Faults planted on purpose (`src/mutants.rs`) are in a program only if somebody asks for them by hand.
#[test]
fn no_manifest_turns_mutants_on() {
    const MUTANTS: &str = "mutants";
    let names = |list: &Value, what: &str| {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).any(|name| name.contains(what))
    };
    let mut known = Vec::new();
    for package in &packages() {
        let name = short(package);
        for (feature, turns_on) in package["features"].as_object().expect("features") {
            assert!(
                feature == MUTANTS || !names(turns_on, MUTANTS),
                "{name}: feature {feature} turns mutants on"
            );
            if feature == MUTANTS {
                known.push(name.to_owned());
            }
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            assert!(!names(&dependency["features"], MUTANTS), "{name} depends on mutants");
        }
    }
    known.sort();
    assert_eq!(known, ["core", TESTS_ONLY], "whoever has such a feature: say why here");
}

/// Without this, an empty or misread list of edges would pass for a clean one.
#[test]
fn the_manifests_are_really_read() {
    let edges = edges();
    for (from, to) in [("store", "core"), ("store", "sled"), ("bus", "rdkafka"), ("crypto", "aes-gcm")] {
        assert!(edges.iter().any(|e| e.from == from && e.to == to), "{from} → {to} should be there");
    }
}

#[test]
fn each_kind_of_forbidden_edge_is_named() {
    let edge =
        |from: &str, to: &str, inside, of_tests| Edge { from: from.into(), to: to.into(), inside, of_tests };
    for (from, to, inside) in [
        ("store", "crypto", true),
        ("downstream", "engine", true),
        ("engine", "testkit", true),
        ("newcomer", "core", true),
        ("engine", "sled", false),
        ("downstream", "rdkafka", false),
        ("keytree", "aes-gcm", false),
        ("core", "tokio", false),
        ("engine", "tonic", false),
        ("load-tests", "sled", false),
        ("vault", "tokio-postgres", false),
    ] {
        let said = objection(&edge(from, to, inside, false)).unwrap_or_default();
        assert!(said.starts_with(&format!("{from} → {to}:")), "{from} → {to} went unnoticed: {said:?}");
    }
    for allowed in [
        edge("engine", "store", true, false),
        edge("store", "sled", false, false),
        edge("bus", "testkit", true, true),
        edge("testkit", "engine", true, false),
        edge("engine", "sled", false, true),
        edge("load-tests", "testkit", true, false),
        edge("load-tests", "tokio-postgres", false, false),
    ] {
        assert_eq!(objection(&allowed), None);
    }
}
