//! Ids that mean something to the vault alone: tokens, subject, erasure and purge ids, all addresses of events.

use cloakroom_core::event::Shape;
use cloakroom_core::ids::EventNumber;
use cloakroom_crypto::address::{self, Address, AddressKey, AddressKind};

/// Turns addresses into the texts that leave the house, and back.
pub(crate) struct Ids {
    key: AddressKey,
}

impl Ids {
    pub(crate) fn new(key: AddressKey) -> Self {
        Self { key }
    }

    /// The id of the event `number`, whose random half is `bits`.
    pub(crate) fn text(&self, kind: AddressKind, number: EventNumber, bits: u64) -> String {
        address::to_text(kind, self.block(kind, number, bits))
    }

    /// A token in its shape; `short` where the shape has no room for an address.
    pub(crate) fn token(
        &self,
        shape: Shape,
        number: EventNumber,
        bits: u64,
        short: &str,
        domain: &str,
    ) -> String {
        match shape {
            Shape::Opaque => self.text(AddressKind::Token, number, bits),
            Shape::Email => address::to_email(self.block(AddressKind::Token, number, bits), domain),
            Shape::Phone | Shape::Digits | Shape::Uuid => short.to_owned(),
        }
    }

    /// The event and random half that an id names; whether such an event exists is for the log to say.
    pub(crate) fn read(&self, kind: AddressKind, text: &str) -> Option<(EventNumber, u64)> {
        self.open(kind, address::from_text(kind, text)?)
    }

    /// The same for a token in the opaque or the e-mail shape.
    pub(crate) fn read_token(&self, text: &str) -> Option<(EventNumber, u64)> {
        if let Some(found) = self.read(AddressKind::Token, text) {
            return Some(found);
        }
        let (block, _) = address::from_email(text)?;
        self.open(AddressKind::Token, block)
    }

    /// The purge id of the fence's value at `index`: the same at every announcement, and like no other's.
    pub(crate) fn purge(&self, fence: EventNumber, index: u32) -> String {
        address::to_text(AddressKind::Purge, self.key.encrypt(&Address::purge(0, fence.0, index)))
    }

    /// The fence and index that a purge id names.
    pub(crate) fn read_purge(&self, text: &str) -> Option<(EventNumber, u32)> {
        let block = address::from_text(AddressKind::Purge, text)?;
        let found = self.key.decrypt(block, AddressKind::Purge)?;
        Some((EventNumber(found.number), found.purge_value()?))
    }

    fn block(&self, kind: AddressKind, number: EventNumber, bits: u64) -> [u8; 16] {
        self.key.encrypt(&Address { kind, shard: 0, number: number.0, bits })
    }

    fn open(&self, kind: AddressKind, block: [u8; 16]) -> Option<(EventNumber, u64)> {
        let found = self.key.decrypt(block, kind)?;
        (found.shard == 0).then_some((EventNumber(found.number), found.bits))
    }
}
