//! A stranger with nothing but the .proto files and the OpenAPI document.

use std::path::Path;
use std::process::Command;

use crate::setting::{ALONE, Setting};

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_made_from_the_proto_files_tokenizes_reads_and_erases() {
    let Some(python) = std::env::var_os("TEST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "TEST_PYTHON is not set: scripts/test.sh sets it");
        eprintln!(
            "skipped: `scripts/setup.sh test` makes the interpreter, `scripts/test.sh` (make test) names it"
        );
        return;
    };
    let house = Setting::new().await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(here.join("tests/python/stranger.py"))
        .args(["--proto".as_ref(), here.join("../../proto").as_os_str()])
        .args(["--generated".as_ref(), generated.path().as_os_str()])
        .args(["--certs".as_ref(), house.certs().as_os_str()])
        .args(["--vault", &house.running().vault_address.to_string()])
        .args(["--admin", &house.running().admin_address.to_string()])
        .args(["--controller", ALONE]);
    let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    assert!(out.ends_with("all held\n"), "{out}\n{err}");
}
