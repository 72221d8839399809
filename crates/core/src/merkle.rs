//! The Merkle tree over events: RFC 6962, section 2.1, over hashes that the caller computes.
//!
//! Leaves are counted from 0, so event `n` of the log is leaf `n - 1`. A proof is first a list of [`Span`]s,
//! each a subtree whose hash goes into it; a span falls into perfect subtrees ([`Node`]s), and those are what
//! tiles hold. So nothing here reads, and the same code proves from tiles on both sides of the wire.

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Makes a node's hash of its children's (RFC 6962: `SHA-256(0x01 ‖ left ‖ right)`).
pub type Combine = fn(&Hash, &Hash) -> Hash;

/// A perfect subtree: the leaves `index << level` up to the next such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    /// Its height; 0 for a leaf.
    pub level: u32,
    /// Its place among the nodes of its level, from the left, counted from 0.
    pub index: u64,
}

/// The subtree over some leaves of a tree of a stated size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first leaf.
    pub begin: u64,
    /// The one behind the last.
    pub end: u64,
}

impl Span {
    /// The perfect subtrees it consists of, from the left, each larger than the next.
    pub fn nodes(self) -> Vec<Node> {
        let (mut begin, mut nodes) = (self.begin, vec![]);
        while let Some(level) = self.end.checked_sub(begin).and_then(u64::checked_ilog2) {
            nodes.push(Node { level, index: begin >> level });
            begin += 1 << level;
        }
        nodes
    }

    /// Its hash, from those of its [`Span::nodes`]; none for no leaves.
    pub fn hash(nodes: &[Hash], combine: Combine) -> Option<Hash> {
        nodes.iter().copied().rev().reduce(|right, left| combine(&left, &right))
    }
}

/// The largest power of two below `count`, which is 2 at least.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The subtrees whose hashes prove that leaf `index` is in the tree of `size` leaves, in the proof's order
/// (section 2.1.1); none if it cannot be.
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let (mut begin, mut end, mut path) = (0, size, vec![]);
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            path.push(Span { begin: middle, end });
            end = middle;
        } else {
            path.push(Span { begin, end: middle });
            begin = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// The subtrees whose hashes prove that the tree of `size` leaves begins with the tree of `old_size`, in the
/// proof's order (section 2.1.2); none if it cannot be. Every tree begins with the empty one: no hashes.
pub fn consistency(old_size: u64, size: u64) -> Option<Vec<Span>> {
    if old_size > size {
        return None;
    }
    let (mut begin, mut end, mut path) = (0, size, vec![]);
    while old_size > 0 && old_size < end {
        let middle = begin + split(end - begin);
        if old_size <= middle {
            path.push(Span { begin: middle, end });
            end = middle;
        } else {
            path.push(Span { begin, end: middle });
            begin = middle;
        }
    }
    if begin > 0 {
        path.push(Span { begin, end });
    }
    path.reverse();
    Some(path)
}

/// Whether `path` leads from leaf `index` to the root of the tree of `size` leaves.
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
    combine: Combine,
) -> bool {
    let Some(spans) = inclusion(index, size).filter(|spans| spans.len() == path.len()) else { return false };
    let climbed = spans.iter().zip(path).fold(leaf, |below, (span, beside)| {
        if span.begin > index { combine(&below, beside) } else { combine(beside, &below) }
    });
    climbed == *root
}

/// Whether `path` shows that the tree of `size` leaves begins with the tree of `old_size`.
pub fn verify_consistency(
    (old_size, old_root): (u64, &Hash),
    (size, root): (u64, &Hash),
    path: &[Hash],
    combine: Combine,
) -> bool {
    let Some(spans) = consistency(old_size, size).filter(|spans| spans.len() == path.len()) else {
        return false;
    };
    if old_size == size {
        return old_root == root;
    }
    if old_size == 0 {
        return true;
    }
    // Where the old tree is a subtree of the new one, the proof begins with it and does not repeat it.
    let first_is_old = spans.first().is_some_and(|span| span.begin >= old_size);
    let (mut spans, mut path) = (spans.as_slice(), path);
    let (mut old, mut new) = (*old_root, *old_root);
    if !first_is_old {
        let (Some((_, spans_left)), Some((first, path_left))) = (spans.split_first(), path.split_first())
        else {
            return false;
        };
        (old, new, spans, path) = (*first, *first, spans_left, path_left);
    }
    for (span, beside) in spans.iter().zip(path) {
        if span.begin >= old_size {
            new = combine(&new, beside);
        } else {
            old = combine(beside, &old);
            new = combine(beside, &new);
        }
    }
    old == *old_root && new == *root
}

/// A tree that grows, as what is needed to go on: the roots of its perfect subtrees, one for each bit of its
/// size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Growing {
    size: u64,
    /// From the left, the largest first.
    peaks: Vec<Hash>,
}

impl Growing {
    /// The tree of `size` leaves whose [`Span::nodes`] have these hashes; none if there are more or fewer.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (u64::from(size.count_ones()) == peaks.len() as u64).then_some(Self { size, peaks })
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; `completed` hears of every node above it that is now perfect.
    pub fn push(&mut self, leaf: Hash, combine: Combine, mut completed: impl FnMut(Node, Hash)) {
        let mut hash = leaf;
        for level in 1..=self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            hash = combine(&left, &hash);
            completed(Node { level, index: self.size >> level }, hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Its root; none while it is empty.
    pub fn root(&self, combine: Combine) -> Option<Hash> {
        Span::hash(&self.peaks, combine)
    }
}

/// A part of the tree as it is stored and served: C2SP tlog-tiles of height 8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tile {
    /// Its hashes are nodes of level `8 * level` of the tree.
    pub level: u32,
    /// Its place among the tiles of its level.
    pub index: u64,
    /// How many hashes; less than [`Tile::WIDTH`] at the right edge alone.
    pub width: u64,
}

impl Tile {
    /// Hashes in a full tile.
    pub const WIDTH: u64 = 256;
    /// Levels of the tree in one of tiles.
    pub const HEIGHT: u32 = 8;
    /// Levels that a tree of fewer than 2^64 leaves can have.
    pub const LEVELS: u32 = 8;

    /// Reads what stands behind `tile/` in a path: `<level>/<index>`, then `.p/<width>` if it is not full. The
    /// level may be `entries`, which stands for events instead of hashes: none here.
    pub fn parse(path: &str) -> Option<(Option<u32>, Self)> {
        let (level, rest) = path.split_once('/')?;
        let hashes = match level {
            "entries" => None,
            level => Some(decimal(level).and_then(|level| u32::try_from(level).ok())?),
        };
        if hashes.is_some_and(|level| level >= Self::LEVELS) {
            return None;
        }
        let (index, width) = match rest.split_once(".p/") {
            None => (rest, Self::WIDTH),
            Some((index, width)) => (index, decimal(width).filter(|width| (1..Self::WIDTH).contains(width))?),
        };
        let mut groups = index.split('/').peekable();
        let mut number: u64 = 0;
        while let Some(group) = groups.next() {
            let digits = match groups.peek() {
                Some(_) => group.strip_prefix('x')?,
                None => group,
            };
            let whole = digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
            number = number.checked_mul(1_000)?.checked_add(digits.parse().ok().filter(|_| whole)?)?;
        }
        let tile = Self { level: hashes.unwrap_or(0), index: number, width };
        // One spelling of each.
        (tile.index_path() == index).then_some((hashes, tile))
    }

    /// The index as paths spell it: groups of three digits, all but the last after an `x`.
    fn index_path(self) -> String {
        let mut path = format!("{:03}", self.index % 1_000);
        let mut left = self.index / 1_000;
        while left > 0 {
            path = format!("x{:03}/{path}", left % 1_000);
            left /= 1_000;
        }
        path
    }

    /// The tile that a node of the tree is read from, as small as it may be, and the first of the
    /// `1 << (level % 8)` hashes in it that the node's hash is made of.
    pub fn of(node: Node) -> (Self, u64) {
        let within = node.level % Self::HEIGHT;
        let first = node.index << within;
        let from = first % Self::WIDTH;
        let tile = Self {
            level: node.level / Self::HEIGHT,
            index: first / Self::WIDTH,
            width: from + (1 << within),
        };
        (tile, from)
    }

    /// The same tile at its widest in a tree of `size` leaves; none if not even this much of it is there.
    pub fn widest(self, size: u64) -> Option<Self> {
        let there = size.checked_shr(self.level * Self::HEIGHT).unwrap_or(0);
        let width = there.saturating_sub(self.index.checked_mul(Self::WIDTH)?).min(Self::WIDTH);
        (self.width <= width && self.width > 0).then_some(Self { width, ..self })
    }
}

/// The hash of a perfect subtree from those of its leaves, `1 << level` of them.
pub fn perfect(leaves: &[Hash], combine: Combine) -> Option<Hash> {
    if !leaves.len().is_power_of_two() {
        return None;
    }
    let mut tree = Growing::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf, combine, |_, _| ()));
    tree.root(combine)
}

/// A number in its one spelling.
fn decimal(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|number: &u64| number.to_string() == digits)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hex_literal::hex;
    use sha2::{Digest, Sha256};

    use super::*;

    fn leaf(bytes: &[u8]) -> Hash {
        Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
    }

    fn combine(left: &Hash, right: &Hash) -> Hash {
        Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
    }

    /// The leaves of Certificate Transparency's reference vectors, and the roots of their first 1 to 8.
    const LEAVES: [&[u8]; 8] = [
        b"",
        &hex!("00"),
        &hex!("10"),
        &hex!("2021"),
        &hex!("3031"),
        &hex!("40414243"),
        &hex!("5051525354555657"),
        &hex!("606162636465666768696a6b6c6d6e6f"),
    ];
    const ROOTS: [Hash; 8] = [
        hex!("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        hex!("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        hex!("aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        hex!("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        hex!("4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        hex!("76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        hex!("ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        hex!("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ];

    /// MTH as section 2.1 defines it.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [one] => *one,
            more => {
                let (left, right) = more.split_at(split(more.len() as u64) as usize);
                combine(&defined(left), &defined(right))
            }
        }
    }

    fn many(count: u64) -> Vec<Hash> {
        (0..count).map(|number| leaf(&number.to_be_bytes())).collect()
    }

    fn hashes(spans: &[Span], leaves: &[Hash]) -> Vec<Hash> {
        spans.iter().map(|span| defined(&leaves[span.begin as usize..span.end as usize])).collect()
    }

    #[test]
    fn reference_roots() {
        let mut tree = Growing::default();
        assert_eq!(tree.root(combine), None);
        for (bytes, root) in LEAVES.into_iter().zip(ROOTS) {
            tree.push(leaf(bytes), combine, |_, _| ());
            assert_eq!(tree.root(combine), Some(root));
        }
    }

    /// The paths of the same reference (leaf and size counted from 1 there).
    #[test]
    fn reference_proofs() {
        let leaves: Vec<Hash> = LEAVES.into_iter().map(leaf).collect();
        let path = hashes(&inclusion(5, 8).unwrap(), &leaves);
        assert_eq!(
            path,
            [
                hex!("bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"),
                hex!("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
                hex!("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
            ]
        );
        let path = hashes(&consistency(6, 8).unwrap(), &leaves);
        assert_eq!(
            path,
            [
                hex!("0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"),
                hex!("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
                hex!("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
            ]
        );
        assert!(verify_consistency((6, &ROOTS[5]), (8, &ROOTS[7]), &path, combine));
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved_and_nothing_else_is() {
        let all = many(40);
        for size in 1..=40_u64 {
            let leaves = &all[..size as usize];
            let root = defined(leaves);
            for index in 0..size {
                let path = hashes(&inclusion(index, size).unwrap(), leaves);
                let leaf = leaves[index as usize];
                assert!(verify_inclusion(leaf, index, size, &path, &root, combine), "{index} of {size}");
                let other = leaves[((index + 1) % size) as usize];
                assert!(size == 1 || !verify_inclusion(other, index, size, &path, &root, combine));
                assert!(!verify_inclusion(leaf, index, size, &path, &[0; 32], combine));
                assert!(!verify_inclusion(leaf, index + size, size, &path, &root, combine));
                let longer = [&path[..], &[[0; 32]]].concat();
                assert!(!verify_inclusion(leaf, index, size, &longer, &root, combine));
                assert!(path.is_empty() || !verify_inclusion(leaf, index, size, &path[1..], &root, combine));
            }
            assert_eq!(inclusion(size, size), None);
        }
    }

    #[test]
    fn every_small_tree_is_shown_to_begin_with_every_smaller_one_and_no_other() {
        let all = many(40);
        for size in 1..=40_u64 {
            let root = defined(&all[..size as usize]);
            for old_size in 1..=size {
                let old = defined(&all[..old_size as usize]);
                let path = hashes(&consistency(old_size, size).unwrap(), &all[..size as usize]);
                let holds = |old: &Hash, root: &Hash, path: &[Hash]| {
                    verify_consistency((old_size, old), (size, root), path, combine)
                };
                assert!(holds(&old, &root, &path), "{old_size} in {size}");
                assert!(!holds(&[0; 32], &root, &path) && !holds(&old, &[0; 32], &path));
                assert!(!holds(&old, &root, &[&path[..], &[[0; 32]]].concat()));
                for place in 0..path.len() {
                    let mut changed = path.clone();
                    changed[place][7] ^= 1;
                    assert!(!holds(&old, &root, &changed), "{old_size} in {size}, place {place}");
                }
            }
            assert!(verify_consistency((0, &[0; 32]), (size, &root), &[], combine));
            assert_eq!(consistency(size + 1, size), None);
        }
    }

    #[test]
    fn a_tree_goes_on_from_its_peaks_and_tells_of_every_node() {
        let leaves = many(600);
        let mut nodes = HashMap::new();
        let mut tree = Growing::default();
        for (index, leaf) in leaves.iter().enumerate() {
            nodes.insert(Node { level: 0, index: index as u64 }, *leaf);
            tree.push(*leaf, combine, |node, hash| assert_eq!(nodes.insert(node, hash), None));
            let size = index as u64 + 1;
            let peaks: Vec<Hash> =
                Span { begin: 0, end: size }.nodes().iter().map(|node| nodes[node]).collect();
            assert_eq!(Growing::from_peaks(size, peaks).unwrap(), tree);
        }
        assert_eq!(tree.root(combine), Some(defined(&leaves)));
        assert_eq!(Growing::from_peaks(3, vec![[0; 32]]), None);
        for (begin, end) in [(0, 600), (512, 600), (256, 512), (576, 600), (599, 600)] {
            let parts: Vec<Hash> = Span { begin, end }.nodes().iter().map(|node| nodes[node]).collect();
            let whole = Span::hash(&parts, combine).unwrap();
            assert_eq!(whole, defined(&leaves[begin as usize..end as usize]), "{begin}..{end}");
        }
        // A node of any level from the tile that holds its level's hashes.
        for (node, hash) in &nodes {
            let (tile, from) = Tile::of(*node);
            let base = tile.level * Tile::HEIGHT;
            let entries: Vec<Hash> = (tile.index * Tile::WIDTH..)
                .take(tile.width as usize)
                .map(|index| nodes[&Node { level: base, index }])
                .collect();
            assert_eq!(perfect(&entries[from as usize..], combine), Some(*hash), "{node:?}");
        }
    }

    #[test]
    fn tiles_have_one_spelling() {
        let read = |path: &str| Tile::parse(path);
        let tile = |level, index, width| Tile { level, index, width };
        assert_eq!(read("0/000"), Some((Some(0), tile(0, 0, 256))));
        assert_eq!(read("1/x001/x234/067.p/8"), Some((Some(1), tile(1, 1_234_067, 8))));
        assert_eq!(read("entries/x039/062.p/255"), Some((None, tile(0, 39_062, 255))));
        for wrong in [
            "",
            "0",
            "0/",
            "0/0",
            "0/0000",
            "00/000",
            "8/000",
            "-1/000",
            "0/x000/001",
            "0/001/002",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/+00",
            "x/000",
            "0/000/",
            "0//000",
            "0/x999/x999/x999/x999/x999/x999/x999/999",
            "ENTRIES/000",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_tile_is_as_wide_as_the_tree_is_large() {
        let tile = |level, index, width| Tile { level, index, width };
        assert_eq!(tile(0, 0, 1).widest(0), None);
        assert_eq!(tile(0, 0, 1).widest(3), Some(tile(0, 0, 3)));
        assert_eq!(tile(0, 0, 256).widest(255), None);
        assert_eq!(tile(0, 0, 7).widest(600), Some(tile(0, 0, 256)));
        assert_eq!(tile(0, 2, 88).widest(600), Some(tile(0, 2, 88)));
        assert_eq!(tile(1, 0, 2).widest(600), Some(tile(1, 0, 2)));
        assert_eq!(tile(1, 0, 3).widest(600), None);
        assert_eq!(tile(7, u64::MAX, 1).widest(u64::MAX), None);
    }
}
