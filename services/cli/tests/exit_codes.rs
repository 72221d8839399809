//! What scripts rely on: 0 done, 1 refused or not found, 2 wrong usage, 3 unreachable; results on stdout alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Exit code, stdout, stderr.
fn cloakroom(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    for (variable, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLOAKROOM_"))
    {
        command.env_remove(variable);
    }
    let done = command
        .env("HOME", folder)
        .env_remove("XDG_CONFIG_HOME")
        .current_dir(folder)
        .args(arguments)
        .output();
    let done = done.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

#[test]
fn done_is_0() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, keys) = (format!("{HERE}/tests/certificate.jws"), format!("{HERE}/tests/keys.jwks"));
    let (code, said, _) = cloakroom(folder.path(), &["verify", &certificate, "--keys", &keys]);
    assert_eq!(code, 0);
    assert!(said.starts_with("VERIFIED") && said.contains("GDPR Art. 17.1.b"), "{said}");
    let (code, said, _) =
        cloakroom(folder.path(), &["--output", "json", "verify", &certificate, "--keys", &keys]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["claims"]["epoch"]), (0, &serde_json::json!(12)));
    let (code, said, _) = cloakroom(folder.path(), &["completions", "bash"]);
    assert!(code == 0 && said.contains("_cloakroom"));
}

#[test]
fn refused_is_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("other.jwks"), "{\"keys\":[]}").unwrap();
    let certificate = format!("{HERE}/tests/certificate.jws");
    let (code, said, why) = cloakroom(folder.path(), &["verify", &certificate, "--keys", "other.jwks"]);
    assert_eq!((code, said.as_str()), (1, ""));
    assert!(why.contains("NOT VERIFIED"), "{why}");

    std::fs::write(folder.path().join("orders.csv"), "PK\x03\x04").unwrap();
    let map = format!("{HERE}/../../examples/orders/map.toml");
    let (code, _, why) = cloakroom(folder.path(), &["import", "orders.csv", "--map", &map]);
    assert!(code == 1 && why.contains("not a CSV") && why.contains("spreadsheet"), "{why}");
}

#[test]
fn wrong_usage_is_2() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, word) in [
        (&["forget"][..], "unrecognized"),
        (&["keys", "status"], "--certs"),
        (&["--certs", "nowhere", "--as", "dpo", "keys", "status"], "nowhere"),
        (&["verify", "none.jws", "--keys", "none.jwks"], "none.jws"),
        (&["certs", "issue", "shop", "--principal", "spiffe://a/b"], "certs init"),
    ] {
        let (code, said, why) = cloakroom(folder.path(), arguments);
        assert_eq!((code, said.as_str()), (2, ""), "{arguments:?}: {why}");
        assert!(why.contains(word), "{arguments:?}: {why}");
    }
}

#[test]
fn unreachable_is_3() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, why) = cloakroom(folder.path(), &["certs", "init"]);
    assert_eq!(code, 0, "{why}");
    let (code, said, why) =
        cloakroom(folder.path(), &["certs", "issue", "dpo", "--principal", "spiffe://a/person/dpo"]);
    assert!(code == 0 && said.contains("certs/dpo.pem"), "{why}");
    let nobody = format!("127.0.0.1:{}", cloakroom_testkit::ports::free());
    let at = ["--certs", "certs", "--as", "dpo", "--vault", &nobody, "--admin", &nobody];
    for command in [&["keys", "status"][..], &["describe", "--controller", "x", "tok_x"], &["doctor"]] {
        let (code, _, why) = cloakroom(folder.path(), &[&at, command].concat());
        assert_eq!(code, 3, "{command:?}: {why}");
        assert!(why.contains(&nobody), "{why}");
    }
}

#[test]
fn a_certificate_of_the_development_authority_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    cloakroom(
        folder.path(),
        &["certs", "request", "shop", "--principal", "spiffe://a/shop", "--host", "shop.example"],
    );
    let mode = std::fs::metadata(folder.path().join("certs/shop.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(folder.path().join("certs/shop.csr").exists());
}
