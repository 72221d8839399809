//! Addresses: tokens, subject ids, erasure ids and purge ids are each one AES-256 block, so that the vault
//! finds what they name without an index, and nobody else learns order, count or time from them.
//!
//! Inside, from the highest bit: kind (4), shard (12), number (48), bits (64). The kind is the format version
//! too: a later layout takes kinds that are free. AES is a permutation, so an address is unique if what it
//! encrypts is, and any 16 bytes decrypt to something: whoever resolves one compares the 64 bits with the
//! record's in constant time. The key is the vault's own, and never in the log.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use zeroize::Zeroize;

use crate::aead::leaving_nothing;
use crate::{Key, KeyRef, base32, role};

/// What an address names; its first four bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressKind {
    /// A value, for services.
    Token = 1,
    /// A subject.
    Subject = 2,
    /// An erasure.
    Erasure = 3,
    /// One token of one erasure, for downstreams. Its bits are the value's number within the erasure in the
    /// high half, and zeros in the low half that are checked when it comes back.
    Purge = 4,
}

impl AddressKind {
    /// What stands before the 26 letters in text.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Token => "tok_",
            Self::Subject => "sub_",
            Self::Erasure => "era_",
            Self::Purge => "prg_",
        }
    }
}

/// What stands in an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    /// What it names.
    pub kind: AddressKind,
    /// Which log, up to [`Address::SHARD_MAX`]; 0 when embedded.
    pub shard: u16,
    /// The event's number in the log, up to [`Address::NUMBER_MAX`].
    pub number: u64,
    /// 64 random bits that the record holds too; see [`AddressKind::Purge`] for the exception.
    pub bits: u64,
}

impl Address {
    /// 12 bits.
    pub const SHARD_MAX: u16 = (1 << 12) - 1;
    /// 48 bits: a million events a second for nine years.
    pub const NUMBER_MAX: u64 = (1 << 48) - 1;

    /// The address of one token's purge: `value` counts the values of the erasure at event `number`.
    pub fn purge(shard: u16, number: u64, value: u32) -> Self {
        Self { kind: AddressKind::Purge, shard, number, bits: u64::from(value) << 32 }
    }

    /// For a purge, which value of the erasure.
    pub fn purge_value(&self) -> Option<u32> {
        (self.kind == AddressKind::Purge).then_some((self.bits >> 32) as u32)
    }
}

/// The key that encrypts addresses. It lies in locked memory; the schedule is made for each block (some
/// 100 ns), since it would lie outside for as long as the vault runs. No `Debug`, no `Clone`.
pub struct AddressKey(Key<role::Address>);

impl AddressKey {
    /// Keeps a copy of the key for as long as the vault runs.
    ///
    /// # Panics
    /// If the arena is full (see [`crate::arena`]).
    pub fn new(key: KeyRef<'_, role::Address>) -> Self {
        Self(key.keep())
    }

    /// The block that says nothing without the key.
    ///
    /// # Panics
    /// If shard or number are above their maximum: the log ends there.
    pub fn encrypt(&self, address: &Address) -> [u8; 16] {
        assert!(address.shard <= Address::SHARD_MAX, "a shard has 12 bits");
        assert!(address.number <= Address::NUMBER_MAX, "an event number has 48 bits");
        let open = (address.kind as u128) << 124
            | u128::from(address.shard) << 112
            | u128::from(address.number) << 64
            | u128::from(address.bits);
        let mut block = open.to_be_bytes();
        leaving_nothing(|| {
            aes::Aes256Enc::new(self.0.borrow().bytes().into()).encrypt_block((&mut block).into());
        });
        block
    }

    /// What the block says, if it is an address of the kind expected. Of random blocks one in 16 is, and says
    /// something random: the caller still compares the bits.
    pub fn decrypt(&self, block: [u8; 16], expected: AddressKind) -> Option<Address> {
        let mut block = block;
        leaving_nothing(|| {
            aes::Aes256Dec::new(self.0.borrow().bytes().into()).decrypt_block((&mut block).into());
        });
        let open = u128::from_be_bytes(block);
        block.zeroize();
        let address = Address {
            kind: expected,
            shard: (open >> 112) as u16 & Address::SHARD_MAX,
            number: (open >> 64) as u64 & Address::NUMBER_MAX,
            bits: open as u64,
        };
        let well_formed = open >> 124 == expected as u128
            && (expected != AddressKind::Purge || address.bits & u64::from(u32::MAX) == 0);
        well_formed.then_some(address)
    }
}

/// An encrypted address as text: the kind's prefix and 26 letters.
pub fn to_text(kind: AddressKind, block: [u8; 16]) -> String {
    format!("{}{}", kind.prefix(), base32::encode(block))
}

/// Reads [`to_text`] back; any other spelling is none.
pub fn from_text(kind: AddressKind, text: &str) -> Option<[u8; 16]> {
    base32::decode(text.strip_prefix(kind.prefix())?)
}

/// A token as an e-mail address: 26 letters, at a domain that the controller keeps for tokens.
pub fn to_email(block: [u8; 16], domain: &str) -> String {
    format!("{}@{domain}", base32::encode(block))
}

/// Reads [`to_email`] back: the block, and the domain for the caller to compare.
pub fn from_email(text: &str) -> Option<([u8; 16], &str)> {
    let (letters, domain) = text.split_once('@')?;
    Some((base32::decode(letters)?, domain)).filter(|_| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    const KINDS: [AddressKind; 4] =
        [AddressKind::Token, AddressKind::Subject, AddressKind::Erasure, AddressKind::Purge];

    fn known_key() -> AddressKey {
        AddressKey::new(Key::fixed(std::array::from_fn(|i| i as u8)).borrow())
    }

    /// NIST SP 800-38A, F.1.5 (ECB-AES256), block 3, whose first four bits happen to be an erasure's.
    #[test]
    fn aes_256_vector() {
        let key = hex!("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let key = AddressKey::new(Key::fixed(key).borrow());
        let address = Address {
            kind: AddressKind::Erasure,
            shard: 0x0c8,
            number: 0x1c46_a35c_e411,
            bits: 0xe5fb_c119_1a0a_52ef,
        };
        let block = hex!("b6ed21b99ca6f4f9f153e7b1beafed1d");
        assert_eq!(key.encrypt(&address), block);
        assert_eq!(key.decrypt(block, AddressKind::Erasure), Some(address));
    }

    /// Computed with another implementation (Python's cryptography and base64).
    #[test]
    fn golden_texts() {
        let text = |kind, bits| {
            let address = Address { kind, shard: 0xabc, number: 0x1234_5678_9abc, bits };
            to_text(kind, known_key().encrypt(&address))
        };
        assert_eq!(text(AddressKind::Token, 0x1112131415161718), "tok_252czk53g4se3lcyenhxu64f7q");
        assert_eq!(text(AddressKind::Subject, 0x1112131415161718), "sub_mr4sdsjn27jxba5rogeh3gxsxe");
        assert_eq!(text(AddressKind::Erasure, 0x1112131415161718), "era_vg4wwp2mjtiebs6476mbach2ka");
        assert_eq!(text(AddressKind::Purge, 9 << 32), "prg_5czccg4qfbfcffypbapjhp7jj4");
        assert_eq!(Address::purge(0xabc, 0x1234_5678_9abc, 9).bits, 9 << 32);
        assert_eq!(Address::purge(0, 1, 9).purge_value(), Some(9));
    }

    #[test]
    fn a_purge_with_other_low_bits_is_none() {
        let key = known_key();
        let odd = Address { kind: AddressKind::Purge, shard: 0, number: 7, bits: 9 << 32 | 1 };
        assert_eq!(key.decrypt(key.encrypt(&odd), AddressKind::Purge), None);
    }

    #[test]
    fn other_texts_are_none() {
        let text = "tok_252czk53g4se3lcyenhxu64f7q";
        assert!(from_text(AddressKind::Token, text).is_some());
        assert_eq!(from_text(AddressKind::Subject, text), None);
        for other in
            ["252czk53g4se3lcyenhxu64f7q", "TOK_252czk53g4se3lcyenhxu64f7q", "tok_252czk53g4se3lcyenhxu64f7Q"]
        {
            assert_eq!(from_text(AddressKind::Token, other), None, "{other}");
        }
    }

    #[test]
    fn email_shape() {
        let block = *b"foobafoobafoobaf";
        let text = to_email(block, "t.acme.example");
        assert_eq!(text, "mzxw6ytbmzxw6ytbmzxw6ytbmy@t.acme.example");
        assert_eq!(from_email(&text), Some((block, "t.acme.example")));
        for other in ["mzxw6ytbmzxw6ytbmzxw6ytbmy", "mzxw6ytbmzxw6ytbmzxw6ytbmy@", "x@t.acme.example", "@"] {
            assert_eq!(from_email(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn decrypts_to_what_was_encrypted(
            kind in prop::sample::select(&KINDS[..3]),
            shard in 0..=Address::SHARD_MAX,
            number in 0..=Address::NUMBER_MAX,
            bits: u64,
        ) {
            let key = AddressKey::new(Key::random().borrow());
            let address = Address { kind, shard, number, bits };
            let block = key.encrypt(&address);
            prop_assert_eq!(from_text(kind, &to_text(kind, block)), Some(block));
            for expected in KINDS {
                let found = key.decrypt(block, expected);
                prop_assert_eq!(found, (expected == kind).then_some(address));
            }
        }

        #[test]
        fn a_purge_comes_back(number in 0..=Address::NUMBER_MAX, value: u32) {
            let key = AddressKey::new(Key::random().borrow());
            let purge = Address::purge(1, number, value);
            prop_assert_eq!(key.decrypt(key.encrypt(&purge), AddressKind::Purge), Some(purge));
        }
    }
}
