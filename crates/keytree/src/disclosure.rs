//! The disclosure graph: what opens to whoever has every record ever written and some roots. For tests, of this
//! crate and of those that stand on it.

use std::collections::BTreeSet;

use bytes::Bytes;
use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::page::{Page, PageContext};
use cloakroom_crypto::role::{Page as PageRole, Slotted, Value};
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, OpenError};
use cloakroom_proto::record::v1 as record;
use prost::Message;

use crate::layout::{DIRECTORY, FAN_OUT, PageAddress, STATE_KEY};
use crate::{RootHolder, Slot, Subtree};

/// How a key that was found is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trying {
    /// On every version of the page that it was found for.
    ItsPlace,
    /// On every version of every page.
    Everything,
}

/// The pages that opened.
pub struct Loot(Vec<(PageAddress, Page)>);

struct Written {
    address: PageAddress,
    version: u64,
    sealed: Bytes,
}

struct Found {
    key: Key<PageRole>,
    /// The page that its parent holds it for; of a subtree's top page only index 0 is known, it may have grown.
    place: Option<PageAddress>,
}

/// Opens what the roots in `holder` open, then what lies behind that, until nothing new opens. `ever` is every
/// record ever written to the key database.
pub async fn plunder(
    ever: &[(Vec<u8>, Bytes)],
    holder: &dyn RootHolder,
    tree: TreeId,
    trying: Trying,
) -> Loot {
    let mut closed: Vec<Written> = ever.iter().filter_map(|(key, value)| page(key, value)).collect();
    let mut found = vec![];
    for (_, state) in ever.iter().filter(|(key, _)| key == STATE_KEY) {
        let Ok(state) = record::TreeState::decode(state.clone()) else { continue };
        let Some(root) = RootId::from_slice(&state.root_id) else { continue };
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
    pub fn reads(&self, slot: Slot, sealed: &[u8], context: &Context<'_>) -> bool {
        let (leaf, place) = PageAddress::of(slot);
        self.0.iter().filter(|(address, _)| *address == leaf).any(|(_, page)| {
            page.key::<Slotted>(place).is_some_and(|key| key.for_job::<Value>().open(sealed, context).is_ok())
        })
    }

    /// How many pages opened.
    pub fn pages(&self) -> usize {
        self.0.len()
    }

    /// Every slot whose key lies in a page that opened.
    pub fn slots(&self) -> BTreeSet<Slot> {
        let leaves = self.0.iter().filter(|(address, _)| address.subtree != DIRECTORY && address.level == 0);
        leaves
            .flat_map(|(address, page)| {
                let slot = |place| Slot { subtree: address.subtree, index: address.index * FAN_OUT + place };
                (0..FAN_OUT).filter(|place| page.key::<Slotted>(*place as usize).is_some()).map(slot)
            })
            .collect()
    }
}

fn page(key: &[u8], value: &Bytes) -> Option<Written> {
    let (b'p', rest) = key.split_first()? else { return None };
    let (subtree, rest) = rest.split_first_chunk()?;
    let (level, index) = rest.split_first()?;
    let address = PageAddress {
        subtree: Subtree(u32::from_be_bytes(*subtree)),
        level: *level,
        index: u64::from_be_bytes(index.try_into().ok()?),
    };
    let version = u64::from_be_bytes(*value.first_chunk()?);
    Some(Written { address, version, sealed: value.slice(size_of::<u64>()..) })
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
        0 => PageAddress {
            subtree: Subtree((address.index * FAN_OUT + place) as u32),
            level: u8::MAX,
            index: 0,
        },
        level => PageAddress { level: level - 1, index: address.index * FAN_OUT + place, ..address },
    };
    (0..FAN_OUT)
        .filter_map(|place| {
            let key = page.key::<PageRole>(place as usize)?.to_key();
            Some(Found { key, place: Some(child(place)) })
        })
        .collect()
}
