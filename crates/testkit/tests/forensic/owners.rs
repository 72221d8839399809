//! Root holders that will not destroy, owners that come twice.

use std::path::Path;
use std::sync::Arc;

use cloakroom_core::ids::{RootId, StartId, TreeId};
use cloakroom_crypto::Key;
use cloakroom_crypto::role::Value;
use cloakroom_keytree::start::Found;
use cloakroom_keytree::{FileHolder, HolderError, OwnerNumber, RootHolder, TreeOptions};
use cloakroom_store::embedded::EmbeddedRecords;
use cloakroom_store::{Answer, Batch, Records};

/// Ends the process as `kill -9` does.
pub(crate) fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// The file holder, but for destroying: of that it does the first, which is the start's, and no more.
pub(crate) struct Stubborn {
    files: FileHolder,
    destroyed: std::sync::atomic::AtomicBool,
}

impl From<FileHolder> for Stubborn {
    fn from(files: FileHolder) -> Self {
        Self { files, destroyed: false.into() }
    }
}

impl RootHolder for Stubborn {
    cloakroom_keytree::root_holder_through!(files: kind destroy_class own create wrap unwrap list note noted);

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        if self.destroyed.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Answer::now(Err(HolderError::Refused("it would rather not".to_owned())));
        }
        self.files.destroy(tree, owner, root)
    }
}

const NOBODY: StartId = StartId([1; 16]);
const SUCCESSOR: StartId = StartId([2; 16]);

fn records(bench: &Path) -> Arc<dyn Records> {
    Arc::new(EmbeddedRecords::open(&bench.join("keys/owners")).unwrap())
}

fn holder(bench: &Path) -> Arc<dyn RootHolder> {
    Arc::new(FileHolder::open(&bench.join("roots")).unwrap())
}

/// A process sleeps, somebody takes its lock away and starts another, and then it wakes and goes on.
pub(crate) async fn a_former_owner_harms_nothing(bench: &Path) {
    let records = records(bench);
    let look = || Found::look(Arc::clone(&records), holder(bench), TreeOptions::default());
    let mut former = look().await.unwrap().start(NOBODY, None, &[], None).await.unwrap().writer;
    let tree = former.tree().id();
    std::fs::remove_file(bench.join("roots").join(tree.to_string()).join("lock")).unwrap();
    let mut now = look().await.unwrap().start(SUCCESSOR, None, &[], None).await.unwrap().writer;
    let subtree = now.new_subtree();
    let (slot, key) = (now.next_slot(subtree), Key::<Value>::random());
    now.insert(&[(slot, key.borrow().for_slot())], Batch::default(), None).await.unwrap();
    let _refused = former.destroy_former().await;
    let held = holder(bench).list(tree).await.unwrap();
    let current = now.state().root;
    assert!(
        held.iter().any(|held| held.root == current),
        "a former owner destroyed the root of the tree that lives"
    );
}

/// Whoever comes second is refused while the first lives.
pub(crate) async fn a_tree_has_one_owner(bench: &Path) {
    let records = records(bench);
    let first = Found::look(Arc::clone(&records), holder(bench), TreeOptions::default()).await.unwrap();
    let first = first.start(NOBODY, None, &[], None).await.unwrap();
    let second = Found::look(records, holder(bench), TreeOptions::default()).await;
    assert!(second.is_err(), "a tree that has an owner was given to another");
    drop(first);
}
