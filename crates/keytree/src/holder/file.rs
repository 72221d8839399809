//! The file holder: roots as files on this machine.
//!
//! `<folder>/<tree id>/` holds `lock` (an flock for the owner's life), `owner` (the newest owner's number),
//! `note` (the newest key commit noted) and one `root-<root id>` for each root: the owner's number and the
//! 32 bytes. Destroying overwrites the 32 bytes, syncs, unlinks and syncs the folder; what an SSD or a
//! copy-on-write file system keeps of the old blocks is beyond it, and its class says `overwritten`, no more.
//! A root that a KMS seals ([`super::Sealer`]) lies there as what the KMS made of the 32 bytes.
//! The owner's number stays readable to the end: a destruction that a kill cut short is finished by the next.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_core::mutants::Mutant;
use cloakroom_crypto::role::{Page, Root};
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Answer;

use super::sealer::{self, Sealer};
use super::{HeldRoot, HolderError, OwnerNumber, RootHolder};

const ROOT_PREFIX: &str = "root-";
/// What a root's file begins with: its owner's number.
const OWNER_BYTES: usize = 8;
/// An unsealed root; what a KMS makes of one is longer.
const ROOT_BYTES: u64 = 32;
const SECRET_FILE: u32 = 0o600;
const SECRET_FOLDER: u32 = 0o700;

/// Keeps roots as files below one folder.
pub struct FileHolder {
    folder: PathBuf,
    sealer: Option<Box<dyn Sealer>>,
    /// Held for this process's life: dropping a file drops its lock.
    owned: Mutex<HashMap<TreeId, (File, OwnerNumber)>>,
}

/// A root as its file holds it.
enum AtRest {
    Plain(Key<Root>),
    Sealed(Vec<u8>),
}

impl FileHolder {
    /// Opens the folder, which is made where it is missing.
    ///
    /// # Errors
    /// [`HolderError::Exposed`] where others can look into it.
    pub fn open(folder: &Path) -> Result<Self, HolderError> {
        make_folder(folder)?;
        // A root whose folder a power cut takes back is a root lost, and every key with it. A folder above that
        // this process may not even list is one that it did not make this one in.
        match folder.parent().filter(|above| !above.as_os_str().is_empty()).map_or(Ok(()), sync_folder) {
            Err(HolderError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
        Ok(Self { folder: folder.to_owned(), sealer: None, owned: Mutex::default() })
    }

    /// Has every root sealed that is made from now on. One that lies there unsealed is still read: the next
    /// batch replaces it.
    #[must_use]
    pub fn sealed_by(self, sealer: Box<dyn Sealer>) -> Self {
        Self { sealer: Some(sealer), ..self }
    }

    fn tree_folder(&self, tree: TreeId) -> PathBuf {
        self.folder.join(tree.to_string())
    }

    fn root_path(&self, tree: TreeId, root: RootId) -> PathBuf {
        self.tree_folder(tree).join(format!("{ROOT_PREFIX}{root}"))
    }

    /// Owns the tree with a number above `floor`, too.
    pub(super) fn own_above(&self, tree: TreeId, floor: OwnerNumber) -> Result<OwnerNumber, HolderError> {
        let folder = self.tree_folder(tree);
        make_folder(&folder)?;
        sync_folder(&self.folder)?;
        let lock = secret_file(OpenOptions::new().write(true).create(true), &folder.join("lock"))
            .map_err(io("opening the lock"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if Mutant::OwnershipNotAsked.lives() => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(HolderError::Owned(tree)),
            Err(errno) => return Err(io("locking")(errno.into())),
        }
        let owner = OwnerNumber(self.newest_owner(tree)?.max(floor).0.saturating_add(1));
        replace(&folder.join("owner"), owner.0.to_string().as_bytes())?;
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).insert(tree, (lock, owner));
        Ok(owner)
    }

    /// The number given last; 0 before the first.
    fn newest_owner(&self, tree: TreeId) -> Result<OwnerNumber, HolderError> {
        match fs::read_to_string(self.tree_folder(tree).join("owner")) {
            Ok(text) => {
                text.trim().parse().map(OwnerNumber).map_err(|_| HolderError::Damaged("owner number"))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(OwnerNumber(0)),
            Err(error) => Err(io("reading the owner number")(error)),
        }
    }

    /// Refuses whoever is not the tree's owner now: a process that slept through its replacement, also where
    /// somebody took its lock's file away.
    pub(super) fn check_owner(&self, tree: TreeId, owner: OwnerNumber) -> Result<(), HolderError> {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = owned.get(&tree).is_some_and(|(_, given)| *given == owner);
        drop(owned);
        if ours && self.newest_owner(tree)? == owner || Mutant::FormerOwnerDestroys.lives() {
            return Ok(());
        }
        Err(HolderError::Replaced { tree, owner })
    }

    async fn make(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Result<(), HolderError> {
        self.check_owner(tree, owner)?;
        let key = Key::<Root>::random();
        let made = match &self.sealer {
            None => AtRest::Plain(key),
            Some(sealer) => AtRest::Sealed(sealer::seal(&**sealer, (tree, root), key).await?),
        };
        self.write(tree, owner, root, &made)
    }

    fn write(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        root: RootId,
        made: &AtRest,
    ) -> Result<(), HolderError> {
        self.check_owner(tree, owner)?;
        let path = self.root_path(tree, root);
        let mut file = secret_file(OpenOptions::new().write(true).create_new(true), &path)
            .map_err(io("making a root's file"))?;
        file.write_all(&owner.0.to_be_bytes()).map_err(io("writing a root"))?;
        match made {
            AtRest::Plain(key) => key.write_to(&mut file),
            AtRest::Sealed(sealed) => file.write_all(sealed),
        }
        .map_err(io("writing a root"))?;
        file.sync_all().map_err(io("syncing a root"))?;
        sync_folder(&self.tree_folder(tree))
    }

    async fn root(&self, tree: TreeId, root: RootId) -> Result<Key<Root>, HolderError> {
        match (self.read(tree, root)?, &self.sealer) {
            (AtRest::Plain(key), _) => Ok(key),
            (AtRest::Sealed(sealed), Some(sealer)) => sealer::unseal(&**sealer, (tree, root), &sealed).await,
            (AtRest::Sealed(_), None) => {
                Err(HolderError::Refused(format!("root {root} is sealed by a KMS and none is configured")))
            }
        }
    }

    fn read(&self, tree: TreeId, root: RootId) -> Result<AtRest, HolderError> {
        let path = self.root_path(tree, root);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(HolderError::NoSuchRoot(root));
            }
            Err(error) => return Err(io("opening a root's file")(error)),
        };
        let found = file.metadata().map_err(io("looking at a root's file"))?;
        check_mode(&path, &found, SECRET_FILE)?;
        file.read_exact(&mut [0; OWNER_BYTES]).map_err(io("reading a root"))?;
        if found.len() <= ROOT_BYTES.saturating_add(OWNER_BYTES as u64) {
            return Key::read_from(&mut file).map(AtRest::Plain).map_err(io("reading a root"));
        }
        let mut sealed = Vec::new();
        file.read_to_end(&mut sealed).map_err(io("reading a root"))?;
        Ok(AtRest::Sealed(sealed))
    }

    /// Who made a root; nobody (0), where a process was killed before it had written that.
    fn maker(&self, tree: TreeId, root: RootId) -> Result<OwnerNumber, HolderError> {
        let mut owner = [0; OWNER_BYTES];
        match File::open(self.root_path(tree, root)).and_then(|file| file.read_exact_at(&mut owner, 0)) {
            Ok(()) => Ok(OwnerNumber(u64::from_be_bytes(owner))),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(OwnerNumber(0)),
            Err(error) => Err(io("reading a root's owner")(error)),
        }
    }

    fn destroy_now(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Result<(), HolderError> {
        self.check_owner(tree, owner)?;
        let path = self.root_path(tree, root);
        let file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io("opening a root's file")(error)),
        };
        let length = file.metadata().map_err(io("looking at a root's file"))?.len();
        let mut at = OWNER_BYTES as u64;
        loop {
            let noise = cloakroom_crypto::random::array::<{ ROOT_BYTES as usize }>();
            file.write_all_at(&noise, at).map_err(io("overwriting a root"))?;
            at = at.saturating_add(ROOT_BYTES);
            if at >= length {
                break;
            }
        }
        file.sync_all().map_err(io("syncing an overwritten root"))?;
        fs::remove_file(&path).map_err(io("unlinking a root"))?;
        sync_folder(&self.tree_folder(tree))
    }

    fn list_now(&self, tree: TreeId) -> Result<Vec<HeldRoot>, HolderError> {
        let mut held = Vec::new();
        for entry in fs::read_dir(self.tree_folder(tree)).map_err(io("listing roots"))? {
            let name = entry.map_err(io("listing roots"))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(ROOT_PREFIX)) else { continue };
            let Some(root) = parse_id(id).map(RootId) else { continue };
            held.push(HeldRoot { root, owner: self.maker(tree, root)? });
        }
        Ok(held)
    }

    fn note_now(&self, tree: TreeId, owner: OwnerNumber, commit: CommitPosition) -> Result<(), HolderError> {
        self.check_owner(tree, owner)?;
        if self.noted_now(tree)?.is_some_and(|noted| noted.number >= commit.number) {
            return Ok(());
        }
        replace(
            &self.tree_folder(tree).join("note"),
            format!("{} {}", commit.start, commit.number).as_bytes(),
        )
    }

    fn noted_now(&self, tree: TreeId) -> Result<Option<CommitPosition>, HolderError> {
        match fs::read_to_string(self.tree_folder(tree).join("note")) {
            Ok(text) => {
                let parsed = text.trim().split_once(' ').and_then(|(start, number)| {
                    Some(CommitPosition { start: StartId(parse_id(start)?), number: number.parse().ok()? })
                });
                parsed.map(Some).ok_or(HolderError::Damaged("note"))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("reading the note")(error)),
        }
    }
}

impl RootHolder for FileHolder {
    fn kind(&self) -> &'static str {
        if self.sealer.is_some() { "file sealed by a KMS" } else { "file" }
    }

    /// The same sealed or not: sealing is no move.
    fn place(&self) -> String {
        let folder = std::path::absolute(&self.folder);
        format!("file {}", folder.as_ref().unwrap_or(&self.folder).display())
    }

    fn destroy_class(&self) -> &'static str {
        "overwritten"
    }

    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        Answer::now(self.own_above(tree, OwnerNumber(0)))
    }

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        Answer::later(self.make(tree, owner, root))
    }

    fn wrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        key: KeyRef<'a, Page>,
    ) -> Answer<'a, Result<Bytes, HolderError>> {
        Answer::later(async move {
            let held = self.root(tree, root).await?;
            Ok(held.borrow().wrap(&RootContext { tree, root }, key))
        })
    }

    fn unwrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        anchor: &'a [u8],
    ) -> Answer<'a, Result<Key<Page>, HolderError>> {
        Answer::later(async move {
            let held = self.root(tree, root).await?;
            let opened = held.borrow().unwrap(&RootContext { tree, root }, anchor);
            opened.map_err(|_| HolderError::DoesNotOpen(root))
        })
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        Answer::now(self.destroy_now(tree, owner, root))
    }

    fn list(&self, tree: TreeId) -> Answer<'_, Result<Vec<HeldRoot>, HolderError>> {
        Answer::now(self.list_now(tree))
    }

    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>> {
        Answer::now(self.note_now(tree, owner, commit))
    }

    fn noted(&self, tree: TreeId) -> Answer<'_, Result<Option<CommitPosition>, HolderError>> {
        Answer::now(self.noted_now(tree))
    }
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> HolderError {
    move |source| HolderError::Io { what, source }
}

fn parse_id(hex: &str) -> Option<[u8; 16]> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

fn secret_file(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    options.mode(SECRET_FILE).open(path)
}

fn make_folder(folder: &Path) -> Result<(), HolderError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(SECRET_FOLDER)
        .create(folder)
        .map_err(io("making the roots' folder"))?;
    check_mode(folder, &fs::metadata(folder).map_err(io("looking at the roots' folder"))?, SECRET_FOLDER)
}

/// Refuses a secret that others can read.
#[cfg(any(feature = "pkcs11", feature = "tpm"))]
pub(super) fn check_secret(path: &Path, file: &File) -> Result<(), HolderError> {
    check_mode(path, &file.metadata().map_err(io("looking at a secret's file"))?, SECRET_FILE)
}

fn check_mode(path: &Path, found: &fs::Metadata, wanted: u32) -> Result<(), HolderError> {
    let mode = found.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Err(HolderError::Exposed { path, mode, wanted })
}

/// Writes a small file so that after a crash it is the old or the new one.
fn replace(path: &Path, contents: &[u8]) -> Result<(), HolderError> {
    let next = path.with_extension("next");
    let mut file = secret_file(OpenOptions::new().write(true).create(true).truncate(true), &next)
        .map_err(io("writing beside a file"))?;
    file.write_all(contents).map_err(io("writing beside a file"))?;
    file.sync_all().map_err(io("syncing a file"))?;
    fs::rename(&next, path).map_err(io("replacing a file"))?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<(), HolderError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("syncing a folder"))
}
