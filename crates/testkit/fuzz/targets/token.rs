//! Tokens and ids in every shape, as callers send them.
#![no_main]

use std::sync::LazyLock;

use cloakroom_crypto::address::{self, AddressKey, AddressKind};
use cloakroom_crypto::{Key, short};

static CIPHER: LazyLock<AddressKey> = LazyLock::new(|| AddressKey::new(Key::random().borrow()));
const KINDS: [AddressKind; 4] =
    [AddressKind::Token, AddressKind::Subject, AddressKind::Erasure, AddressKind::Purge];

libfuzzer_sys::fuzz_target!(|text: &str| {
    for kind in KINDS {
        if let Some(block) = address::from_text(kind, text) {
            assert_eq!(address::to_text(kind, block), text, "two spellings of one id");
            if let Some(found) = CIPHER.decrypt(block, kind) {
                assert_eq!(CIPHER.encrypt(&found), block, "two ids of one address");
            }
        }
    }
    if let Some((block, domain)) = address::from_email(text) {
        assert_eq!(address::to_email(block, domain), text, "two spellings of one e-mail token");
    }
    let length = text.chars().count();
    assert!(short::digits(length).is_none_or(|token| token.len() == length));
});
