//! What a mutant does that no sound tree does (`cloakroom_core::mutants`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cloakroom_crypto::Key;
use cloakroom_crypto::role::Page;

use crate::layout::PageAddress;

static DRAWN: Mutex<BTreeMap<PageAddress, Key<Page>>> = Mutex::new(BTreeMap::new());

/// The key that a batch of this process drew first for this page: `new`, where none did.
pub(crate) fn used_again(at: PageAddress, new: Key<Page>) -> Key<Page> {
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    drawn.entry(at).or_insert(new).borrow().to_key()
}
