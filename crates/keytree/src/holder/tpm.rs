//! Roots in the non-volatile memory of a TPM 2.0 on this machine.
//!
//! A root is an NV index: whose it is, and its 32 bytes, which are read to wrap and unwrap alone. Destroying
//! undefines the index. The lock that makes one owner, the owners' numbers and the notes lie beside, in a folder
//! of this machine, as with the file holder: non-volatile memory wears out under a note a second.
//!
//! - [`nv`]: the indexes

mod nv;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, TreeId};
use cloakroom_crypto::role::Page;
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::{Key, KeyRef};
use cloakroom_store::Answer;

use self::nv::{Place, Tpm};
use super::desk::Desk;
use super::{FileHolder, HeldRoot, HolderError, OwnerNumber, RootHolder, SecretSource};

/// Makers of discrete TPM chips, as the property TPM_PT_MANUFACTURER names them (TCG TPM vendor id registry):
/// Infineon, STMicroelectronics, Nuvoton, Atmel, Nationz. Whoever else answers is firmware on a common flash
/// chip (Intel, AMD) or software on a common disk (IBM's reference, which swtpm is, and the clouds' own), where
/// an undefined index may stay readable.
const CHIP_MAKERS: [&[u8; 4]; 5] = [b"IFX\0", b"STM ", b"NTC\0", b"ATML", b"NTZ\0"];

/// Which TPM, and how it is used.
#[derive(Clone, Debug)]
pub struct TpmOptions {
    /// How to reach it, in tpm2-tss's words: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
    pub tcti: String,
    /// The folder for lock, owners' numbers and notes. All that use one TPM on a machine name the same one.
    pub state: PathBuf,
    /// The first NV index to use, within 0x01000000 to 0x01ffffff.
    pub first_index: u32,
    /// How many; a tree takes two for a moment in each batch.
    pub indexes: u32,
    /// Where the owner hierarchy's password is found, if it has one.
    pub owner_auth: Option<SecretSource>,
    /// Where the password of the indexes is found. Without one whoever may use the TPM may read the root; with
    /// one it crosses the bus encrypted.
    pub index_auth: Option<SecretSource>,
    /// How long a call may take before the TPM counts as unreachable.
    pub answer_within: Duration,
}

/// Keeps roots in a TPM.
pub struct TpmHolder {
    desk: Desk<Tpm>,
    is_chip: bool,
    beside: Arc<FileHolder>,
    /// Locked while an index is made: an unwritten one seen under it is a killed process's.
    making: PathBuf,
}

impl TpmHolder {
    /// Asks the TPM what it is. Blocks for at most `answer_within`.
    ///
    /// # Errors
    /// [`HolderError::Unreachable`] where no TPM answers, [`HolderError::Exposed`] where others can look into
    /// the state's folder.
    pub fn open(options: TpmOptions) -> Result<Self, HolderError> {
        let beside = Arc::new(FileHolder::open(&options.state)?);
        let making = options.state.join("making");
        let desk = Desk::start("tpm", options.answer_within, move || Tpm::new(&options))?;
        let maker = desk.call_and_wait(Tpm::maker)?;
        let is_chip = CHIP_MAKERS.iter().any(|chip| same_maker(**chip, maker));
        Ok(Self { desk, is_chip, beside, making })
    }
}

/// Makers pad their four letters with blanks or zeros.
fn same_maker(one: [u8; 4], other: [u8; 4]) -> bool {
    let letters = |maker: [u8; 4]| maker.map(|letter| if letter == 0 { b' ' } else { letter });
    letters(one) == letters(other)
}

fn lock(path: &Path) -> Result<File, HolderError> {
    let failed = |source| HolderError::Io { what: "locking the TPM's indexes", source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

impl RootHolder for TpmHolder {
    fn kind(&self) -> &'static str {
        "tpm"
    }

    fn destroy_class(&self) -> &'static str {
        if self.is_chip { "tpm" } else { "overwritten" }
    }

    fn own(&self, tree: TreeId) -> Answer<'_, Result<OwnerNumber, HolderError>> {
        let beside = Arc::clone(&self.beside);
        self.desk.call(move |tpm| {
            // Above every root's maker, should the folder have been lost.
            let makers = tpm.roots(tree)?.into_iter().map(|(_, held)| held.owner);
            beside.own_above(tree, makers.max().unwrap_or(OwnerNumber(0)))
        })
    }

    fn create(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        let (beside, making) = (Arc::clone(&self.beside), self.making.clone());
        self.desk.call(move |tpm| {
            let _alone = lock(&making)?;
            beside.check_owner(tree, owner)?;
            tpm.make(Place { tree, held: HeldRoot { root, owner } }, &Key::random())
        })
    }

    fn wrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        key: KeyRef<'a, Page>,
    ) -> Answer<'a, Result<Bytes, HolderError>> {
        let key = key.to_key();
        self.desk.call(move |tpm| {
            Ok(tpm.read(tree, root)?.borrow().wrap(&RootContext { tree, root }, key.borrow()))
        })
    }

    fn unwrap<'a>(
        &'a self,
        tree: TreeId,
        root: RootId,
        anchor: &'a [u8],
    ) -> Answer<'a, Result<Key<Page>, HolderError>> {
        let anchor = anchor.to_vec();
        self.desk.call(move |tpm| {
            let opened = tpm.read(tree, root)?.borrow().unwrap(&RootContext { tree, root }, &anchor);
            opened.map_err(|_| HolderError::DoesNotOpen(root))
        })
    }

    fn destroy(&self, tree: TreeId, owner: OwnerNumber, root: RootId) -> Answer<'_, Result<(), HolderError>> {
        let beside = Arc::clone(&self.beside);
        self.desk.call(move |tpm| {
            beside.check_owner(tree, owner)?;
            tpm.undefine(tree, root)
        })
    }

    fn list(&self, tree: TreeId) -> Answer<'_, Result<Vec<HeldRoot>, HolderError>> {
        self.desk.call(move |tpm| Ok(tpm.roots(tree)?.into_iter().map(|(_, held)| held).collect()))
    }

    fn note(
        &self,
        tree: TreeId,
        owner: OwnerNumber,
        commit: CommitPosition,
    ) -> Answer<'_, Result<(), HolderError>> {
        self.beside.note(tree, owner, commit)
    }

    fn noted(&self, tree: TreeId) -> Answer<'_, Result<Option<CommitPosition>, HolderError>> {
        self.beside.noted(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_told_from_software_however_they_pad() {
        let is_chip = |maker: &[u8; 4]| CHIP_MAKERS.iter().any(|chip| same_maker(**chip, *maker));
        for chip in [b"IFX\0", b"IFX ", b"STM ", b"STM\0", b"NTC\0", b"ATML"] {
            assert!(is_chip(chip));
        }
        for other in [b"IBM ", b"INTC", b"AMD\0", b"MSFT", b"GOOG", b"AMZN", b"VMW\0", b"\0\0\0\0"] {
            assert!(!is_chip(other));
        }
    }
}
