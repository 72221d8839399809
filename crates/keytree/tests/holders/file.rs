//! What is the file holder's own: modes, leftovers of crashes, and what is left of a destroyed root's block.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::{Key, random};
use cloakroom_keytree::holder::contract::{Bench, Trouble};
use cloakroom_keytree::{FileHolder, HolderError, OwnerNumber, RootHolder};
use cloakroom_store::Answer;

mod contract {
    cloakroom_keytree::holder_contract!(super::Folder::default());
}

pub(crate) struct Folder(tempfile::TempDir);

impl Default for Folder {
    fn default() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.0.path().join("roots")
    }
}

impl Folder {
    fn holder(&self) -> Arc<dyn RootHolder> {
        Arc::new(FileHolder::open(&self.path()).unwrap())
    }
}

impl Bench for Folder {
    fn open(&self) -> Answer<'_, Result<Arc<dyn RootHolder>, HolderError>> {
        Answer::now(Ok(self.holder()))
    }

    fn pass(&self, time: Duration) -> Answer<'_, ()> {
        Answer::later(tokio::time::sleep(time))
    }

    fn trouble(&self, trouble: Trouble) -> Answer<'_, Result<(), &'static str>> {
        Answer::now(Err(match trouble {
            Trouble::Slow => "a call ends when the disk has done it; there is no time limit it could exceed",
            Trouble::Unreachable => "a folder is there or its system's error is given",
            Trouble::Full => "its disk's fullness is tested with the log's, in the engine's tests",
            Trouble::Refuses => "what it refuses is others' access, tested below",
        }))
    }

    fn relieve(&self, _: Trouble) -> Answer<'_, ()> {
        Answer::now(())
    }
}

/// A holder that owns a tree with one root.
async fn made() -> (Folder, Arc<dyn RootHolder>, TreeId, OwnerNumber, RootId, PathBuf) {
    let folder = Folder::default();
    let holder = folder.holder();
    let (tree, root) = (TreeId(random::id16()), RootId(random::id16()));
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, root).await.unwrap();
    let file = folder.path().join(tree.to_string()).join(format!("root-{root}"));
    (folder, holder, tree, owner, root, file)
}

#[tokio::test]
async fn destroying_overwrites_the_very_block() {
    let (_folder, holder, tree, owner, root, file) = made().await;
    let link = file.with_extension("link");
    fs::hard_link(&file, &link).unwrap();
    let mut open = fs::File::open(&file).unwrap();
    let key = fs::read(&file).unwrap()[8..].to_vec();
    assert_eq!(key.len(), 32);
    holder.destroy(tree, owner, root).await.unwrap();
    assert!(!file.exists());
    let mut left = vec![];
    open.read_to_end(&mut left).unwrap();
    for left in [left, fs::read(&link).unwrap()] {
        assert_eq!(left.len(), 40, "the same block, neither cut nor moved");
        assert!(left.windows(4).all(|left| key.windows(4).all(|key| key != left)), "nothing of the key");
    }
}

#[tokio::test]
async fn what_others_can_read_is_refused() {
    let (folder, holder, tree, _, root, file) = made().await;
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for open in [0o640, 0o604, 0o660, 0o602] {
        mode(&file, open);
        assert!(matches!(
            holder.unwrap(tree, root, &anchor).await,
            Err(HolderError::Exposed { mode, wanted: 0o600, .. }) if mode == open
        ));
    }
    mode(&file, 0o600);
    holder.unwrap(tree, root, &anchor).await.unwrap();
    drop(holder);
    for exposed in [folder.path().join(tree.to_string()), folder.path()] {
        mode(&exposed, 0o750);
        let refused = match FileHolder::open(&folder.path()) {
            Ok(holder) => holder.own(tree).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(refused, Err(HolderError::Exposed { mode: 0o750, wanted: 0o700, .. })));
        mode(&exposed, 0o700);
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_root_that_others_can_read_can_still_be_destroyed() {
    let (_folder, holder, tree, owner, root, file) = made().await;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(holder.list(tree).await.unwrap().len(), 1);
    holder.destroy(tree, owner, root).await.unwrap();
    assert!(holder.list(tree).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_kill_leaves_is_listed_as_nobodys_or_its_makers_and_can_go() {
    let (folder, holder, tree, owner, root, file) = made().await;
    let beside = |root: RootId, bytes: &[u8]| {
        let path = file.with_file_name(format!("root-{root}"));
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let leftovers = [
        (RootId([1; 16]), &[][..], OwnerNumber(0)),
        (RootId([2; 16]), &[0, 0, 0], OwnerNumber(0)),
        (RootId([3; 16]), &[0, 0, 0, 0, 0, 0, 0, 1, 9, 9], OwnerNumber(1)),
    ];
    for (root, bytes, _) in &leftovers {
        beside(*root, bytes);
    }
    // Cut short between overwriting and unlinking.
    let mut overwritten = fs::read(&file).unwrap();
    overwritten[8..].copy_from_slice(&random::array::<32>());
    fs::write(&file, &overwritten).unwrap();
    for unrelated in ["root-short", "note.next", "owner.next"] {
        fs::write(file.with_file_name(unrelated), "half").unwrap();
    }
    drop(holder);

    let holder = folder.holder();
    let next = holder.own(tree).await.unwrap();
    let mut held: Vec<_> =
        holder.list(tree).await.unwrap().into_iter().map(|held| (held.root, held.owner)).collect();
    held.sort_unstable();
    let mut expected: Vec<_> = leftovers.iter().map(|(root, _, owner)| (*root, *owner)).collect();
    expected.push((root, owner));
    expected.sort_unstable();
    assert_eq!(held, expected);
    for (root, owner) in held {
        assert!(owner <= next, "none looks like a later owner's, so each can go");
        assert!(holder.unwrap(tree, root, &[1, 1]).await.is_err());
        holder.destroy(tree, next, root).await.unwrap();
    }
    assert!(holder.list(tree).await.unwrap().is_empty());
    holder
        .note(
            tree,
            next,
            cloakroom_core::ids::CommitPosition { start: cloakroom_core::ids::StartId([1; 16]), number: 1 },
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_former_owner_is_refused_although_its_lock_was_taken_away() {
    let (folder, holder, tree, owner, root, file) = made().await;
    fs::remove_file(file.with_file_name("lock")).unwrap();
    let second = folder.holder();
    let next = second.own(tree).await.unwrap();
    assert!(next > owner);
    assert!(matches!(holder.destroy(tree, owner, root).await, Err(HolderError::Replaced { .. })));
    assert!(matches!(holder.create(tree, owner, RootId([5; 16])).await, Err(HolderError::Replaced { .. })));
    assert!(file.exists());
}

#[tokio::test]
async fn files_that_do_not_read_are_named() {
    let (folder, holder, tree, _, _, file) = made().await;
    fs::write(file.with_file_name("note"), "not a note").unwrap();
    assert!(matches!(holder.noted(tree).await, Err(HolderError::Damaged("note"))));
    drop(holder);
    fs::write(file.with_file_name("owner"), "many").unwrap();
    assert!(matches!(folder.holder().own(tree).await, Err(HolderError::Damaged("owner number"))));
}
