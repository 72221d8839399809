//! What a value leaves behind although nobody wrote it down: hashes of it, which a list of names undoes, and
//! keys that lie somewhere in clear.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::cipher::{Ready, Secret};
use super::remembered::{Remembered, looks_random};
use super::{Adversary, Origin, Recovered};

/// Bits of a hash that say whether it is worth looking up.
const SIEVE_BITS: u32 = 27;
/// Tries of a file's windows as keys, at most: among many values a sample of the windows has to do.
const WINDOW_TRIES_MAX: usize = 20_000_000;

/// A dictionary's names under every hash that one might think of.
pub struct Dictionary {
    names: Vec<String>,
    /// The first eight bytes of each hash, and whose it is.
    hashes: HashMap<u64, u32>,
    sieve: Vec<u64>,
}

impl Dictionary {
    /// Hashes every name: SHA-256 as it stands, in lower case and after its length, and HMAC-SHA-256 under each
    /// of `keys`.
    pub fn new(names: Vec<String>, keys: &[[u8; 32]]) -> Self {
        let keys: Vec<Ready> = keys.iter().map(Ready::new).collect();
        let mut dictionary =
            Self { names: vec![], hashes: HashMap::new(), sieve: vec![0; 1 << (SIEVE_BITS - 6)] };
        for (number, name) in (0..).zip(&names) {
            let length = u32::try_from(name.len()).expect("short").to_le_bytes();
            dictionary.enter(Sha256::digest(name).into(), number);
            dictionary.enter(Sha256::digest(name.to_lowercase()).into(), number);
            dictionary.enter(Sha256::new().chain_update(length).chain_update(name).finalize().into(), number);
            for key in &keys {
                dictionary.enter(key.mac(name.as_bytes()), number);
            }
        }
        dictionary.names = names;
        dictionary
    }

    fn enter(&mut self, hash: [u8; 32], name: u32) {
        let head = u64::from_be_bytes(*hash.first_chunk().expect("32 bytes"));
        let (word, bit) = sieve_place(head);
        self.sieve[word] |= bit;
        self.hashes.insert(head, name);
    }

    /// The names of which some hash, or its first eight bytes, stands in `bytes`.
    pub fn find(&self, bytes: &[u8]) -> HashSet<&str> {
        let mut found = HashSet::new();
        let mut head = 0_u64;
        for (at, byte) in bytes.iter().enumerate() {
            head = head << 8 | u64::from(*byte);
            let (word, bit) = sieve_place(head);
            if at >= 7
                && self.sieve[word] & bit != 0
                && let Some(name) = self.hashes.get(&head)
            {
                found.insert(self.names[*name as usize].as_str());
            }
        }
        found
    }
}

fn sieve_place(head: u64) -> (usize, u64) {
    let place = head >> (64 - SIEVE_BITS);
    ((place >> 6) as usize, 1 << (place & 63))
}

impl Adversary {
    /// Takes every 32 bytes in a row for a value's key: one that lies in clear in a file or in memory. Only for
    /// small samples.
    pub fn with_windows(&mut self, bytes: &[u8]) -> Vec<Recovered> {
        let windows: HashSet<Secret> =
            bytes.windows(32).filter_map(|window| window.try_into().ok()).filter(looks_random).collect();
        self.with_some(&windows, WINDOW_TRIES_MAX)
    }

    /// The same with everything in a process's memory that may be a key, to the last.
    pub fn with_memory(&mut self, memory: &Remembered) -> Vec<Recovered> {
        self.with_some(memory.windows(), usize::MAX)
    }

    fn with_some(&mut self, windows: &HashSet<Secret>, tries_max: usize) -> Vec<Recovered> {
        self.places.bind_rectified();
        let (_, values) = self.laid_out();
        let windows: Vec<&Secret> = windows.iter().take(tries_max / values.len().max(1)).collect();
        let opens = |window: &Secret| {
            let ready = Ready::new(window);
            values.iter().any(|(sealed, infos)| infos.iter().any(|info| ready.value(sealed, info).is_some()))
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let keys: Vec<Secret> = std::thread::scope(|scope| {
            let share = windows.len().div_ceil(threads).max(1);
            let shares = windows.chunks(share).map(|share| {
                scope.spawn(|| share.iter().filter(|window| opens(window)).map(|window| **window).collect())
            });
            let shares: Vec<std::thread::ScopedJoinHandle<'_, Vec<Secret>>> = shares.collect();
            shares.into_iter().flat_map(|share| share.join().expect("no panic")).collect()
        });
        self.effort.tries += (windows.len() * values.len()) as u64;
        self.with_keys(keys.into_iter().map(|key| (key, Origin::Anywhere)).collect())
    }

    /// Tries every key that was found so far at every single offset of `bytes`, whatever stands there, as the key of
    /// the page that it is for; one that is for none as that of a directory. Returns how many pages opened. Only
    /// for small samples.
    pub fn at_every_offset(&mut self, bytes: &[u8]) -> usize {
        let mut opened = 0;
        for (secret, origin) in &self.keys {
            let (ready, mut addresses) = (Ready::new(secret), origin.addresses());
            if addresses.is_empty() {
                addresses = Origin::Anchor { tree: [0; 16] }.addresses();
            }
            for at in 8..bytes.len() {
                let version = bytes[at - 8..].first_chunk().copied().map_or(0, u64::from_be_bytes);
                opened += usize::from(ready.page(&[&bytes[at..]], version, &addresses).is_some());
            }
            self.effort.tries += bytes.len() as u64;
        }
        opened
    }

    /// Tries what could have been derived instead of drawn: SHA-256 of what a value is bound to, and its HMAC
    /// under each key of the vault's own.
    pub fn with_derived_keys(&mut self) -> Vec<Recovered> {
        self.places.bind_rectified();
        let masters: Vec<Ready> = self.system_keys().iter().map(Ready::new).collect();
        let mut keys = vec![];
        for (sealed, contexts) in &self.places.values {
            for context in contexts {
                let info = context.info();
                let unkeyed = std::iter::once(Sha256::digest(&info).into());
                let keyed =
                    masters.iter().flat_map(|master| [master.mac(&info), master.mac(&context.as_mac())]);
                keys.extend(
                    unkeyed.chain(keyed).filter(|key| Ready::new(key).value(sealed, &info).is_some()),
                );
            }
        }
        self.effort.tries += self.places.values.len() as u64 * (1 + 2 * masters.len() as u64);
        self.with_keys(keys.into_iter().map(|key| (key, Origin::Anywhere)).collect())
    }

    /// The keys that lay in system subtrees: of addresses, signatures and idempotency keys. A tree that has one
    /// subtree alone is a downstream's, and that is no system's.
    pub fn system_keys(&self) -> Vec<[u8; 32]> {
        let vaults: HashSet<[u8; 16]> = self
            .keys
            .values()
            .filter_map(|origin| match origin {
                Origin::Slot { tree, subtree } if *subtree > 0 => Some(*tree),
                _ => None,
            })
            .collect();
        let system =
            |origin: &Origin| matches!(origin, Origin::Slot { tree, subtree: 0 } if vaults.contains(tree));
        self.keys.iter().filter(|(_, origin)| system(origin)).map(|(secret, _)| *secret).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_a_name_is_the_name() {
        let names: Vec<String> = (0..5_000).map(|i| format!("Zoë Nr. {i}")).collect();
        let dictionary = Dictionary::new(names, &[[7; 32]]);
        let hash: [u8; 32] = Sha256::digest("Zoë Nr. 4711").into();
        let written = [b"before".as_slice(), &hash[..8], b"after"].concat();
        assert_eq!(dictionary.find(&written), HashSet::from(["Zoë Nr. 4711"]));
        let keyed = Ready::new(&[7; 32]).mac("Zoë Nr. 12".as_bytes());
        assert_eq!(dictionary.find(&keyed), HashSet::from(["Zoë Nr. 12"]));
        assert_eq!(dictionary.find(&Sha256::digest("Zoë Nr. 5000")), HashSet::new());
    }
}
