//! What two mutants do that no sound engine does (`cloakroom_core::mutants`).

use cloakroom_core::ids::Slot;
use cloakroom_crypto::page::Page;
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::sign::SigningKey;
use cloakroom_crypto::{Key, role};
use cloakroom_store::Batch;

use crate::proposal::NewKey;
use crate::state::State;

/// Puts a key beside what a frame changes, as it is.
pub(crate) fn leave_a_key(changes: &mut Batch, keys: &[(Slot, NewKey)]) {
    for (slot, key) in keys {
        let mut bytes = vec![];
        // A seed is the one kind of key in a slot that can be written out.
        if SigningKey::from_seed(key.for_slot().for_job()).write_to(&mut bytes).is_ok() {
            changes.put([b"!", slot.index.to_be_bytes().as_slice()].concat(), bytes);
        }
    }
}

/// A key that follows from the day's key and what the value is bound to.
pub(crate) fn derived_key(state: &State, context: &Context<'_>) -> Option<NewKey> {
    let days = crate::state::read(&state.day_keys);
    let (subject, bits) = (context.subject_bits.to_le_bytes(), context.bits.to_le_bytes());
    let parts = [context.controller.as_bytes(), &subject, context.field.as_bytes(), &bits];
    let bytes = days.last()?.key.borrow().mac(&parts);
    let root = Key::<role::Root>::read_from(&mut bytes.as_slice()).ok()?;
    let mut page = Page::empty();
    page.set(0, root.borrow());
    page.key::<role::Idempotency>(0).map(|key| NewKey::Idempotency(key.to_key()))
}
