//! Whoever has every byte ever written and some roots: what can be opened with them?

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::role::{Page as PageRole, Slotted, Value};
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, OpenError};
use cloakroom_keytree::layout::{DIRECTORY, PageAddress, STATE_KEY};
use cloakroom_keytree::{RootHolder, Slot, Subtree};
use cloakroom_proto::record::v1 as record;
use prost::Message;

use crate::disk::Disk;

/// How a key that was found is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trying {
    /// On every version of the page that it was found for.
    ItsPlace,
    /// On every version of every page.
    Everything,
}

/// The pages that opened.
pub(crate) struct Loot(Vec<(PageAddress, Page)>);

struct Written {
    address: PageAddress,
    version: u64,
    sealed: bytes::Bytes,
}

struct Found {
    key: Key<PageRole>,
    /// The page that its parent holds it for; of a subtree's top page only index 0 is known, it may have grown.
    place: Option<PageAddress>,
}

/// Opens what the roots in `holder` open, then what lies behind that, until nothing new opens.
pub(crate) async fn plunder(disk: &Disk, holder: &dyn RootHolder, tree: TreeId, trying: Trying) -> Loot {
    let ever = disk.ever();
    let mut closed: Vec<Written> = ever.iter().filter_map(|(key, value)| page(key, value)).collect();
    let mut found = vec![];
    for (_, state) in ever.iter().filter(|(key, _)| key == STATE_KEY) {
        let state = record::TreeState::decode(state.clone()).unwrap();
        let root = RootId::from_slice(&state.root_id).unwrap();
        if let Ok(key) = holder.unwrap(tree, root, &state.anchor).await {
            found.push(Found { key, place: None });
        }
    }
    let mut loot = vec![];
    while let Some(Found { key, place }) = found.pop() {
        let mut still_closed = vec![];
        for written in closed {
            let wanted = trying == Trying::Everything
                || match place {
                    None => written.address.subtree == DIRECTORY,
                    Some(place) if place.level == u8::MAX => {
                        written.address.subtree == place.subtree && written.address.index == 0
                    }
                    Some(place) => written.address == place,
                };
            match wanted.then(|| open(&key, tree, &written)) {
                Some(Ok(page)) => {
                    found.extend(keys_of(written.address, &page));
                    loot.push((written.address, page));
                }
                _ => still_closed.push(written),
            }
        }
        closed = still_closed;
    }
    Loot(loot)
}

impl Loot {
    /// Whether the value that was sealed under the key in `slot` can be read.
    pub(crate) fn reads(&self, slot: Slot, sealed: &[u8], context: &Context<'_>) -> bool {
        let (leaf, place) = PageAddress::of(slot);
        self.0.iter().filter(|(address, _)| *address == leaf).any(|(_, page)| {
            page.key::<Slotted>(place).is_some_and(|key| key.for_job::<Value>().open(sealed, context).is_ok())
        })
    }

    pub(crate) fn pages(&self) -> usize {
        self.0.len()
    }
}

fn page(key: &[u8], value: &bytes::Bytes) -> Option<Written> {
    let key: &[u8; 14] = key.try_into().ok()?;
    let (b'p', rest) = (key[0], &key[1..]) else { return None };
    let address = PageAddress {
        subtree: Subtree(u32::from_be_bytes(rest[..4].try_into().unwrap())),
        level: rest[4],
        index: u64::from_be_bytes(rest[5..].try_into().unwrap()),
    };
    let version = u64::from_be_bytes(value[..8].try_into().unwrap());
    Some(Written { address, version, sealed: value.slice(8..) })
}

fn open(key: &Key<PageRole>, tree: TreeId, written: &Written) -> Result<Page, OpenError> {
    let PageAddress { subtree, level, index } = written.address;
    let context = PageContext { tree, subtree: subtree.0, level, index, version: written.version };
    key.borrow().open_page(&written.sealed, &context)
}

fn keys_of(address: PageAddress, page: &Page) -> Vec<Found> {
    if address.subtree != DIRECTORY && address.level == 0 {
        return vec![]; // value keys, read by `Loot::reads`
    }
    let child = |place: u64| match address.level {
        0 => PageAddress { subtree: Subtree((address.index * 64 + place) as u32), level: u8::MAX, index: 0 },
        level => PageAddress { level: level - 1, index: address.index * 64 + place, ..address },
    };
    (0..64)
        .filter_map(|place| {
            let key = page.key::<PageRole>(place as usize)?.to_key();
            Some(Found { key, place: Some(child(place)) })
        })
        .collect()
}
