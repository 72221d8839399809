//! What every engine must do, written against the traits: it knows no files, no tables, no servers.
//!
//! An engine's tests give a macro ([`log_contract`], [`records_contract`], [`access_contract`]) an expression
//! that makes a fresh [`Place`]; every case becomes a test of its own. A case fails by a panic.
//!
//! [`log_contract`]: crate::log_contract
//! [`records_contract`]: crate::records_contract
//! [`access_contract`]: crate::access_contract
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // assertions

use std::sync::Arc;

use crate::log::Hashes;
use crate::{Answer, StoreError};

pub mod access;
pub mod log;
pub mod records;

/// Where one engine's state lives from one opening to the next.
pub trait Place<T: ?Sized>: Send + Sync {
    /// Opens what is there. Whoever opened it before has dropped it.
    fn open(&self) -> Answer<'_, Result<Arc<T>, StoreError>>;

    /// What would be there if the process that has it open were killed now.
    fn after_kill(&self) -> Self
    where
        Self: Sized;
}

/// What the suite's logs must be opened with: a mixing function that is no cryptography and needs none.
pub const HASHES: Hashes = Hashes { frame: |bytes| mix(bytes, 1), leaf: |bytes| mix(bytes, 2) };

fn mix(bytes: &[u8], kind: u8) -> [u8; 32] {
    let mut mixed = [0; 32];
    for (index, part) in mixed.chunks_exact_mut(4).enumerate() {
        let seed = crc32c::crc32c(&[kind, index as u8]);
        part.copy_from_slice(&crc32c::crc32c_append(seed, bytes).to_le_bytes());
    }
    mixed
}

/// Numbers that look random and are the same in every run (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of which equal seeds throw equal numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound.max(1)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// Makes a test of every named case of a module of [`contract`](crate::contract).
#[doc(hidden)]
#[macro_export]
macro_rules! contract_cases {
    ($module:ident, $place:expr, $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::contract::$module::$case($place).await;
            }
        )*
    };
}
