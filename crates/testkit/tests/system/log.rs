//! An auditor checks the log: by asking the vault, and with nothing but a copy of its folder.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cloakroom_testkit::seed::Sequence;

use crate::house::{House, copy_folder, told};
use crate::load::Hand;

/// What `log verify` said, where it found nothing wrong; or else.
fn verified(house: &House, arguments: &[&str]) -> Result<String, String> {
    let output = house.cloakroom("admin", &[&["log", "verify"], arguments].concat());
    if output.status.success() { Ok(told(&output)) } else { Err(told(&output)) }
}

fn wrong(house: &House, arguments: &[&str], word: &str) {
    let said = verified(house, arguments).unwrap_err();
    assert!(said.contains(word), "{arguments:?}: {said}");
}

/// Keeps what `arguments` writes in a file of that name.
fn kept(house: &House, name: &str, arguments: &[&str]) -> String {
    let path = house.folder().join(name).display().to_string();
    let output = house.cloakroom("admin", &[arguments, &["--out", &path]].concat());
    assert!(output.status.success(), "{}", told(&output));
    path
}

fn newest(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension != "hash"));
    files.sort();
    files.pop().unwrap()
}

/// A copy with one byte of the newest file of one of its folders changed.
fn forged(house: &House, copy: &Path, part: &str) -> PathBuf {
    let forged = house.folder().join(format!("forged-{part}"));
    copy_folder(copy, &forged);
    let path = newest(&forged.join(part));
    let middle = fs::metadata(&path).unwrap().len() / 2;
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    forged
}

#[tokio::test]
async fn an_auditor_verifies_the_log_with_the_vault_and_on_a_copy_without_it() {
    let mut house = House::open_vault(None).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    hand.check_in().await;
    let keys = kept(&house, "keys.jwks", &["keys", "jwks"]);
    let visit = kept(&house, "visit.checkpoint", &["log", "checkpoint"]);
    hand.check_in().await;
    hand.erase(0).await;
    let since = ["--since", &visit, "--keys", &keys];
    let online = verified(&house, &since).unwrap();
    assert!(online.contains("pass  the log begins with the one of the checkpoint kept earlier"), "{online}");

    assert!(house.vault.stop().await.success());
    let (data, copy) = (house.folder().join("vault/data"), house.folder().join("copy"));
    copy_folder(&data, &copy);
    let on = |folder: &Path| [&["--folder", folder.to_str().unwrap()], &since[..]].concat().join("\n");
    let offline = |folder: &Path| {
        let arguments = on(folder);
        verified(&house, &arguments.split('\n').collect::<Vec<_>>())
    };
    let said = offline(&copy).unwrap();
    assert!(said.contains("begins with the log of the checkpoint"), "{said}");
    assert!(offline(&data).unwrap().contains(" events in "));
    for (part, word) in [("log", "behind its last whole frame"), ("access", "behind its last whole entry")] {
        let said = offline(&forged(&house, &copy, part)).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
    assert!(offline(&house.folder().join("certs")).unwrap_err().contains("no log"));

    // Another vault's log is as whole, and is not what this one signed; nor does its key count.
    let mut other = House::open_vault(None).await;
    let another = kept(&other, "keys.jwks", &["keys", "jwks"]);
    assert!(other.vault.stop().await.success());
    let folder = other.folder().join("vault/data");
    let theirs = ["--folder", folder.to_str().unwrap()];
    assert!(verified(&house, &theirs).unwrap().contains("whole"));
    assert!(offline(&folder).unwrap_err().contains("is not the one that its checkpoint signed"));
    let ours = copy.to_str().unwrap();
    wrong(&house, &["--folder", ours, "--since", &visit, "--keys", &another], "was not signed by the vault");
}
