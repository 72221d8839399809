//! The key tree's records: a sealed page and the tree's state.
#![no_main]

use std::sync::LazyLock;

use cloakroom_core::ids::TreeId;
use cloakroom_crypto::page::PageContext;
use cloakroom_crypto::{Key, role};
use cloakroom_keytree::TreeState;

static PAGE_KEY: LazyLock<Key<role::Page>> = LazyLock::new(Key::random);
const CONTEXT: PageContext =
    PageContext { tree: TreeId([1; 16]), subtree: 0, level: 0, index: 0, version: 1 };

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(PAGE_KEY.borrow().open_page(bytes, &CONTEXT).is_err(), "a page opens under a key never used");
    if let Ok((state, again)) = TreeState::again(bytes) {
        assert_eq!(state, again, "read, written and read again, a tree's state differs");
    }
});
