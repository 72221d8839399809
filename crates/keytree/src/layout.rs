//! Where a slot lies: a radix-64 tree per subtree, and one over all subtrees, the directory.
//!
//! Page (level 0, index i) holds slots 64 i to 64 i + 63; page (level l, index i) holds the keys of pages
//! (l - 1, 64 i) to (l - 1, 64 i + 63). The number of levels follows from the end of the subtree alone.
//! The directory is a subtree whose slot s holds the key of the top page of subtree s.

use cloakroom_core::ids::{Slot, Subtree};

/// Children of a page, and slots of a leaf.
pub const FAN_OUT: u64 = 64;

/// The subtree of subtrees.
pub const DIRECTORY: Subtree = Subtree(u32::MAX);

/// Names a page of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageAddress {
    /// The part of the tree, or [`DIRECTORY`].
    pub subtree: Subtree,
    /// 0 for leaves.
    pub level: u8,
    /// Counted from 0 within the level.
    pub index: u64,
}

impl PageAddress {
    /// The leaf that holds `slot`, and its place in there.
    pub fn of(slot: Slot) -> (PageAddress, usize) {
        let leaf = PageAddress { subtree: slot.subtree, level: 0, index: slot.index / FAN_OUT };
        (leaf, place(slot.index))
    }

    /// The page above and this one's place in it, for a page that is not the top of its subtree.
    pub fn parent(self) -> (PageAddress, usize) {
        let above = PageAddress { level: self.level.saturating_add(1), index: self.index / FAN_OUT, ..self };
        (above, place(self.index))
    }

    /// The top page of a subtree with `levels` levels.
    pub fn top(subtree: Subtree, levels: u8) -> PageAddress {
        PageAddress { subtree, level: levels.saturating_sub(1), index: 0 }
    }

    /// The slot of the directory that holds the key of this page's subtree.
    pub fn directory_slot(subtree: Subtree) -> Slot {
        Slot { subtree: DIRECTORY, index: u64::from(subtree.0) }
    }

    /// The record that holds this page.
    pub fn record_key(self) -> Vec<u8> {
        let mut key = vec![b'p'];
        key.extend(self.subtree.0.to_be_bytes());
        key.push(self.level);
        key.extend(self.index.to_be_bytes());
        key
    }
}

/// How many levels a subtree has whose first free slot is `end`: at least one.
pub fn levels(end: u64) -> u8 {
    let mut levels = 1;
    let mut room = FAN_OUT;
    while room < end {
        levels += 1;
        room = room.saturating_mul(FAN_OUT);
    }
    levels
}

/// The record that holds the tree's state.
pub const STATE_KEY: &[u8] = b"s";
/// The prefix of the records that list the starts.
pub const START_PREFIX: &[u8] = b"t";
/// The prefix of the records that hold the subtrees' ends.
pub const END_PREFIX: &[u8] = b"e";

/// The record of the start whose first commit is `first`.
pub fn start_key(first: u64) -> Vec<u8> {
    [START_PREFIX, &first.to_be_bytes()].concat()
}

/// The record of a subtree's end.
pub fn end_key(subtree: Subtree) -> Vec<u8> {
    [END_PREFIX, &subtree.0.to_be_bytes()].concat()
}

fn place(index: u64) -> usize {
    (index % FAN_OUT) as usize // below 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_by_powers_of_64() {
        for (end, expected) in
            [(0, 1), (1, 1), (64, 1), (65, 2), (4096, 2), (4097, 3), (262_145, 4), (u64::MAX, 11)]
        {
            assert_eq!(levels(end), expected, "end {end}");
        }
    }

    #[test]
    fn a_slot_is_found_by_its_path() {
        let (leaf, place) = PageAddress::of(Slot { subtree: Subtree(3), index: 64 * 64 + 65 });
        assert_eq!((leaf.level, leaf.index, place), (0, 65, 1));
        let (above, place) = leaf.parent();
        assert_eq!((above.level, above.index, place), (1, 1, 1));
        assert_eq!(above.parent().0, PageAddress::top(Subtree(3), 3));
    }

    #[test]
    fn records_of_pages_sort_by_subtree_level_index() {
        let page = PageAddress { subtree: Subtree(1), level: 2, index: 3 };
        assert_eq!(page.record_key(), [b'p', 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    }
}
