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
