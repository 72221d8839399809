//! Whoever has every byte ever written and some roots: what can be read with them?
//!
//! It knows our formats and labels, tries every key that it can make at every place where one of our pages or
//! records can begin, and goes on with what that opens until nothing new does (erasure.md, "Proving it").
//!
//! - `cipher`: the formats, written again
//! - `places`: where something sealed can begin
//! - [`fingerprints`]: hashes of names from a dictionary, windows of bytes as keys
//! - [`remembered`]: what lies in a process's memory: keys, and the table that tokens are found by
//! - [`spelled`]: values written down in clear, whatever the spelling
//! - [`program`]: the same as a program of its own, over a journal of the recorder

mod cipher;
pub mod fingerprints;
mod places;
pub mod program;
pub mod remembered;
pub mod spelled;

use std::collections::HashMap;

use cipher::{Address, Context, Ready, Secret};
use places::Places;

/// The subtree that holds the top pages of all others.
const DIRECTORY: u32 = u32::MAX;
/// No tree in a test grows higher.
const LEVELS: u8 = 4;

/// A root, as its holder kept it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StolenRoot {
    /// Its tree.
    pub tree: [u8; 16],
    /// Its id.
    pub root: [u8; 16],
    /// The secret itself.
    pub secret: [u8; 32],
}

/// A tree and a root of it, by their names alone.
pub type RootName = ([u8; 16], [u8; 16]);

/// A value that was read, and with which root.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recovered {
    /// What it says.
    pub text: Vec<u8>,
    /// As it was sealed.
    pub sealed: Vec<u8>,
    /// How many roots had been given before the one that it took.
    pub roots_before: usize,
}

/// What was looked at and tried.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Bytes looked at, what was written twice counted twice.
    pub bytes: u64,
    /// Places where something sealed may begin, each content once.
    pub places: u64,
    /// Sealed values, each content once.
    pub values: u64,
    /// Pages that opened.
    pub pages: u64,
    /// Keys that were made.
    pub keys: u64,
    /// Keys tried at places.
    pub tries: u64,
}

/// What a key was found for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Origin {
    Root {
        tree: [u8; 16],
        root: [u8; 16],
    },
    /// Opens the directory.
    Anchor {
        tree: [u8; 16],
    },
    /// Opens a page at a known place.
    Page(Address),
    /// Opens the top page of a subtree, however high that is.
    Top {
        tree: [u8; 16],
        subtree: u32,
    },
    /// Lay in a slot of this subtree.
    Slot {
        tree: [u8; 16],
        subtree: u32,
    },
    /// Lay about somewhere.
    Anywhere,
}

/// The adversary, and its loot so far.
#[derive(Default)]
pub struct Adversary {
    places: Places,
    keys: HashMap<Secret, Origin>,
    recovered: HashMap<Vec<u8>, Recovered>,
    roots: usize,
    effort: Effort,
}

/// What one key opened.
#[derive(Default)]
struct Opened {
    keys: Vec<(Secret, Origin)>,
    values: Vec<(Vec<u8>, Vec<u8>)>,
    pages: u64,
    tries: u64,
}

impl Adversary {
    /// Takes in bytes that were written somewhere, of which so many are `new`: around them stands what was there
    /// already, as something may begin in the one and end in the other.
    pub fn take(&mut self, bytes: &[u8], new: usize) {
        self.effort.bytes += new as u64;
        self.places.take(bytes);
    }

    /// Takes a root too, opens what it opens, then what lies behind that, until nothing new opens. Returns what
    /// it can read that it could not before. All bytes have been taken in by then.
    pub fn with_root(&mut self, root: StolenRoot) -> Vec<Recovered> {
        let found = self.with_keys(vec![(root.secret, Origin::Root { tree: root.tree, root: root.root })]);
        self.roots += 1;
        found
    }

    /// All that can be read so far.
    pub fn recovered(&self) -> impl Iterator<Item = &Recovered> {
        self.recovered.values()
    }

    /// What was looked at and tried so far.
    pub fn effort(&self) -> Effort {
        Effort {
            places: self.places.pages.len() as u64,
            values: self.places.values.len() as u64,
            keys: self.keys.len() as u64,
            ..self.effort
        }
    }

    /// How many slots more than one value names.
    pub fn shared_slots(&self) -> usize {
        self.places.slots.values().filter(|sealed| sealed.len() > 1).count()
    }

    fn with_keys(&mut self, mut new: Vec<(Secret, Origin)>) -> Vec<Recovered> {
        self.places.bind_rectified();
        let mut found = vec![];
        loop {
            new.retain(|(secret, origin)| self.keys.insert(*secret, *origin).is_none());
            if new.is_empty() {
                return found;
            }
            let opened = self.try_all(&new);
            new.clear();
            for opened in opened {
                self.effort.pages += opened.pages;
                self.effort.tries += opened.tries;
                new.extend(opened.keys);
                for (sealed, text) in opened.values {
                    let recovered = Recovered { text, sealed: sealed.clone(), roots_before: self.roots };
                    if self.recovered.insert(sealed, recovered.clone()).is_none() {
                        found.push(recovered);
                    }
                }
            }
        }
    }

    /// Tries each key everywhere, on all processors.
    fn try_all(&self, keys: &[(Secret, Origin)]) -> Vec<Opened> {
        let (pages, values) = self.laid_out();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = keys.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let (pages, values) = (&pages, &values);
            let shares: Vec<_> = (keys.chunks(share))
                .map(|keys| {
                    scope.spawn(move || {
                        keys.iter().map(|(secret, origin)| try_one(secret, *origin, pages, values)).collect()
                    })
                })
                .collect();
            let join =
                |share: std::thread::ScopedJoinHandle<'_, Vec<Opened>>| share.join().expect("no panic");
            shares.into_iter().flat_map(join).collect()
        })
    }

    fn laid_out(&self) -> (Vec<Page<'_>>, Vec<Value<'_>>) {
        let pages = self.places.pages.iter();
        let pages = pages.map(|(at, seen)| (at.0, seen.iter().map(Vec::as_slice).collect())).collect();
        let values = self.places.values.iter();
        let values =
            values.map(|(sealed, bound)| (sealed.as_slice(), bound.iter().map(Context::info).collect()));
        (pages, values.collect())
    }
}

/// A version, and what was seen where it was written.
type Page<'a> = (u64, Vec<&'a [u8]>);
/// As it is sealed, and with what it may be bound to.
type Value<'a> = (&'a [u8], Vec<Vec<u8>>);

/// Tries one key at every place where a page can begin, and at every sealed value.
fn try_one(secret: &Secret, origin: Origin, pages: &[Page<'_>], values: &[Value<'_>]) -> Opened {
    let (ready, mut opened) = (Ready::new(secret), Opened::default());
    if let Origin::Root { tree, root } = origin {
        for (_, seen) in pages {
            opened.tries += 1;
            let anchor = seen.iter().find_map(|bytes| ready.anchor(bytes, &tree, &root));
            opened.keys.extend(anchor.map(|anchor| (anchor, Origin::Anchor { tree })));
        }
    }
    let addresses = origin.addresses();
    if !addresses.is_empty() {
        for (version, seen) in pages {
            opened.tries += 1;
            if let Some((address, keys)) = ready.page(seen, *version, &addresses) {
                opened.pages += 1;
                opened.keys.extend(keys.into_iter().map(|(place, key)| (key, address.child(place))));
            }
        }
    }
    for (sealed, infos) in values {
        opened.tries += 1;
        if let Some(text) = infos.iter().find_map(|info| ready.value(sealed, info)) {
            opened.values.push((sealed.to_vec(), text));
        }
    }
    opened
}

impl Origin {
    /// Where the page that this key seals may lie.
    fn addresses(self) -> Vec<Address> {
        let tops = |tree, subtree| {
            (0..LEVELS).map(move |level| Address { tree, subtree, level, index: 0 }).collect()
        };
        match self {
            Origin::Root { .. } | Origin::Slot { .. } | Origin::Anywhere => vec![],
            Origin::Anchor { tree } => tops(tree, DIRECTORY),
            Origin::Top { tree, subtree } => tops(tree, subtree),
            Origin::Page(address) => vec![address],
        }
    }
}

impl Address {
    /// What the key at a place of this page is for.
    fn child(self, place: u8) -> Origin {
        let index = self.index * 64 + u64::from(place);
        match (self.subtree, self.level) {
            (DIRECTORY, 0) => {
                Origin::Top { tree: self.tree, subtree: u32::try_from(index).unwrap_or(DIRECTORY) }
            }
            (subtree, 0) => Origin::Slot { tree: self.tree, subtree },
            (_, level) => Origin::Page(Address { level: level - 1, index, ..self }),
        }
    }
}
