//! A signed note, the checkpoint in it, and the path of a tile: what comes from somebody else's log.
#![no_main]

use cloakroom_core::checkpoint::Checkpoint;
use cloakroom_core::merkle::Tile;
use cloakroom_crypto::note;
use cloakroom_fuzz::SIGNER;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let keys = [SIGNER.verifying_key().clone()];
    let origin = text.lines().next().unwrap_or_default();
    assert!(note::open(text, origin, &keys).is_err(), "a note opens that nobody signed");
    if let Some(checkpoint) = Checkpoint::parse(text) {
        let again = Checkpoint::parse(&checkpoint.text());
        assert!(again.is_some_and(|again| again == checkpoint), "two checkpoints of one text");
        let signed = note::sign(&checkpoint.text(), &checkpoint.origin, &SIGNER);
        let _ = note::open(&signed, &checkpoint.origin, &keys);
    }
    let _ = Tile::parse(text);
});
