//! What a value leaves behind although nobody wrote it down: hashes of it, which a list of names undoes, and
//! keys that lie somewhere in clear.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::cipher::{ANCHOR_BYTES, Address, Ready, Secret};
use super::remembered::{Remembered, looks_random};
use super::{Adversary, DIRECTORY, LEVELS, Origin, Page, Recovered, RootName};

/// Bits of a hash that say whether it is worth looking up.
const SIEVE_BITS: u32 = 27;
/// Tries of a file's windows as keys, at most: among many values a sample of the windows has to do.
const WINDOW_TRIES_MAX: usize = 20_000_000;

/// A tree in a test has commits of fewer numbers, fewer subtrees, and fewer pages on a level.
const VERSIONS_MAX: u64 = 1 << 24;
const SUBTREES_MAX: u32 = 4;
const PAGES_MAX: u64 = 4;

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

    /// The same with everything in a process's memory that may be a key, to the last; where roots are known by name,
    /// also as one of them, and as the key of a page of their trees.
    pub fn with_memory(&mut self, memory: &Remembered, roots: &[RootName]) -> Vec<Recovered> {
        let mut found = self.with_some(memory.windows(), usize::MAX);
        if !roots.is_empty() {
            found.extend(self.with_upper_keys(memory.windows(), roots));
        }
        found
    }

    fn with_upper_keys(&mut self, windows: &HashSet<Secret>, roots: &[RootName]) -> Vec<Recovered> {
        let trees: HashSet<[u8; 16]> = roots.iter().map(|(tree, _)| *tree).collect();
        let mut addresses = vec![];
        for (tree, subtree) in
            trees.iter().flat_map(|tree| (0..SUBTREES_MAX).chain([DIRECTORY]).map(move |at| (*tree, at)))
        {
            let levels = (0..LEVELS).flat_map(|level| (0..PAGES_MAX).map(move |index| (level, index)));
            addresses.extend(levels.map(|(level, index)| Address { tree, subtree, level, index }));
        }
        let (all, _) = self.laid_out();
        // Before a page stands its version, before what a root wraps how long that is.
        let pages: Vec<&Page<'_>> = all.iter().filter(|(at, _)| (1..VERSIONS_MAX).contains(at)).collect();
        let anchors: Vec<&Page<'_>> = all.iter().filter(|(at, _)| at & 0xff == ANCHOR_BYTES as u64).collect();
        let windows: Vec<&Secret> = windows.iter().collect();
        let keys = sifted(&windows, |window| {
            let ready = Ready::new(window);
            let page = pages.iter().find_map(|(version, seen)| {
                let near = seen.first().is_some_and(|begins| ready.may_open(begins));
                near.then(|| ready.page(seen, *version, &addresses)).flatten()
            });
            let root = || {
                let wraps = |(tree, root): &&RootName| {
                    let seen = anchors.iter().flat_map(|(_, seen)| seen);
                    seen.into_iter().any(|bytes| ready.anchor(bytes, tree, root).is_some())
                };
                roots.iter().find(wraps).map(|(tree, root)| Origin::Root { tree: *tree, root: *root })
            };
            let origin = page.map(|(address, _)| Origin::Page(address)).or_else(root)?;
            Some((*window, origin))
        });
        self.effort.tries += (windows.len() * (pages.len() + anchors.len() * roots.len())) as u64;
        self.with_keys(keys)
    }

    fn with_some(&mut self, windows: &HashSet<Secret>, tries_max: usize) -> Vec<Recovered> {
        self.places.bind_rectified();
        let (_, values) = self.laid_out();
        let windows: Vec<&Secret> = windows.iter().take(tries_max / values.len().max(1)).collect();
        let keys = sifted(&windows, |window| {
            let ready = Ready::new(window);
            let mut tried =
                values.iter().flat_map(|(sealed, infos)| infos.iter().map(move |info| (sealed, info)));
            tried
                .any(|(sealed, info)| ready.value(sealed, info).is_some())
                .then_some((*window, Origin::Anywhere))
        });
        self.effort.tries += (windows.len() * values.len()) as u64;
        self.with_keys(keys)
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

/// What `sift` makes of each window, on all processors.
fn sifted<T: Send>(windows: &[&Secret], sift: impl Fn(&Secret) -> Option<T> + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let share = windows.len().div_ceil(threads).max(1);
        let sift = &sift;
        let shares: Vec<std::thread::ScopedJoinHandle<'_, Vec<T>>> = (windows.chunks(share))
            .map(|share| scope.spawn(move || share.iter().filter_map(|window| sift(window)).collect()))
            .collect();
        shares.into_iter().flat_map(|share| share.join().expect("no panic")).collect()
    })
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
