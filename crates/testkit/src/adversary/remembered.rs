//! What a process's memory says to whoever can read all of it: keys that lie there, and the table that tokens are
//! found by.
//!
//! The table holds 64 bits of an HMAC of each value that lives (`crates/engine/src/lookup/table.rs`), under a key
//! that nobody but the process has ever had. A debugger finds both: every 32 bytes are tried as the key, and the one
//! under which values that are known to live stand in memory is it. With it every name of a list can be asked for.

use std::collections::HashSet;

use super::cipher::{Ready, Secret, looked_up};

/// Keys and hashes begin at multiples of this, whatever lies around them.
const ALIGNED_BYTES: usize = 8;
/// Random bytes hardly ever repeat themselves so much within 32 as text, numbers and zeros do.
const DISTINCT_BYTES_MIN: u32 = 20;

/// Of which field of which activity values are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The controller's slug.
    pub controller: String,
    /// Under which the values are stored.
    pub activity: String,
    /// As the register names it: one that is compared trimmed and in lower case.
    pub field: String,
}

/// What lies in a process's memory.
#[derive(Default)]
pub struct Remembered {
    words: HashSet<u64>,
    windows: HashSet<Secret>,
    bytes: u64,
}

impl Remembered {
    /// Takes in memory from an address that is a multiple of eight on.
    pub fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let words = bytes.chunks_exact(ALIGNED_BYTES);
        self.words.extend(words.map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))));
        let windows = bytes.windows(32).step_by(ALIGNED_BYTES);
        self.windows.extend(windows.map(|window| window.try_into().expect("32 bytes")).filter(looks_random));
    }

    /// How many bytes were taken in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whatever may be a key.
    pub fn windows(&self) -> &HashSet<Secret> {
        &self.windows
    }

    /// Every key under which each of the `known` values, of which there is one at least, stands in memory.
    pub fn table_keys(&self, asked: &Asked, known: &[String]) -> Vec<Secret> {
        let is_key = |window: &&Secret| {
            let ready = Ready::new(window);
            !known.is_empty() && known.iter().all(|value| self.holds(&ready, asked, value))
        };
        self.windows.iter().filter(is_key).copied().collect()
    }

    /// Which of `names` the table would find, or somebody has asked it for since: whatever has left its hash.
    pub fn found<'a>(&self, key: &Secret, asked: &Asked, names: &'a [String]) -> Vec<&'a str> {
        let ready = Ready::new(key);
        names.iter().map(String::as_str).filter(|name| self.holds(&ready, asked, name)).collect()
    }

    fn holds(&self, ready: &Ready, asked: &Asked, value: &str) -> bool {
        let normal = value.trim().to_lowercase();
        let hash = looked_up(ready, [&asked.controller, &asked.activity, &asked.field, &normal]);
        self.words.contains(&hash)
    }
}

/// Whether 32 bytes may have been drawn at random.
pub(super) fn looks_random(window: &Secret) -> bool {
    let mut seen = [0_u64; 4];
    window.iter().for_each(|byte| seen[usize::from(byte >> 6)] |= 1 << (byte & 63));
    seen.iter().map(|bits| bits.count_ones()).sum::<u32>() >= DISTINCT_BYTES_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_its_key_give_its_names_away() {
        let asked =
            Asked { controller: "acme".to_owned(), activity: "a".to_owned(), field: "email".to_owned() };
        let key: Secret = std::array::from_fn(|i| (i * 37 + 11) as u8);
        let hash = |value: &str| looked_up(&Ready::new(&key), ["acme", "a", "email", value]).to_ne_bytes();
        let memory = [&[7; 16], key.as_slice(), &[0; 8], &hash("ada@x"), &[9; 8], &hash("bob@x")].concat();
        let mut remembered = Remembered::default();
        remembered.take(&memory);
        let names = ["Ada@x ", "bob@x", "eve@x"].map(str::to_owned);
        assert_eq!(remembered.table_keys(&asked, &names[..1]), [key]);
        assert!(remembered.table_keys(&asked, &names).is_empty());
        assert_eq!(remembered.found(&key, &asked, &names), ["Ada@x ", "bob@x"]);
    }
}
