//! Whether a backup's log is the one that the checkpoint kept with it speaks of.

use cloakroom_core::checkpoint::{Checkpoint, origin};
use cloakroom_core::event::{Body, SystemKeyKind};
use cloakroom_core::ids::{EventNumber, TreeId};
use cloakroom_core::merkle::{Growing, Hash};
use cloakroom_crypto::sign::VerifyingKey;
use cloakroom_crypto::{hash, note};
use cloakroom_store::Frame;

use crate::codec;

/// Grows the log's Merkle tree while it is read, and holds the vault's word against it.
pub(super) struct Signed<'a> {
    note: &'a str,
    claimed: Option<Checkpoint>,
    tree: Growing,
    /// The root where the tree was as large as the checkpoint says.
    root: Option<Hash>,
    /// What the log says that its vault signs with.
    keys: Vec<VerifyingKey>,
    of: Option<TreeId>,
}

impl<'a> Signed<'a> {
    /// What `note` claims is taken as its claim; who signed it is told by the log.
    pub(super) fn new(note: &'a str) -> Self {
        let text = note.find("\n\n").and_then(|at| note.get(..=at));
        let claimed = text.and_then(Checkpoint::parse);
        Self { note, claimed, tree: Growing::default(), root: None, keys: vec![], of: None }
    }

    /// Takes the next frame in, with its events' leaf hashes.
    pub(super) fn read(&mut self, frame: &Frame, leaves: &[Hash]) {
        if self.keys.is_empty() {
            for (number, bytes) in (frame.first_event.0..).zip(&frame.events) {
                match codec::decode(EventNumber(number), bytes.clone()).map(|event| event.body) {
                    Ok(Body::Started(started)) => self.of = self.of.or(Some(started.tree)),
                    Ok(Body::SystemKeyMade(made)) if made.kind == SystemKeyKind::Signing => {
                        self.keys.extend(VerifyingKey::from_bytes(&made.verifying_key).ok());
                    }
                    _ => {}
                }
            }
        }
        for leaf in leaves {
            self.tree.push(*leaf, hash::node, |_, _| ());
            if self.claimed.as_ref().is_some_and(|claimed| claimed.size == self.tree.size()) {
                self.root = self.tree.root(hash::node);
            }
        }
    }

    /// What is wrong, if anything.
    pub(super) fn verdict(self) -> Option<&'static str> {
        let Some(claimed) = self.claimed else { return Some("its checkpoint does not read") };
        if note::open(self.note, &claimed.origin, &self.keys).is_err() {
            return Some("its checkpoint was not signed by the vault that wrote its log");
        }
        let ours = self.of.map(origin).is_some_and(|of| of == claimed.origin);
        (!ours || self.root != Some(claimed.root))
            .then_some("its log is not the one that its checkpoint signed")
    }
}
