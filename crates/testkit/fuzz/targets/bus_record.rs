//! A record from Kafka: headers, key and value as anybody may send them, and as a trusted signer may.
//! Parts: topic, key, value, then names and values of headers in turn.
#![no_main]

use bytes::Bytes;
use cloakroom_bus::record::{Incoming, Keyring, Position, verify};
use cloakroom_crypto::sign;
use cloakroom_fuzz::{SIGNER, parts};
use cloakroom_proto::bus::v1 as bus;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let parts = parts(bytes);
    let [topic, key, value, headers @ ..] = parts.as_slice() else { return };
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    let (pairs, _) = headers.as_chunks::<2>();
    let headers: Vec<(String, Bytes)> =
        pairs.iter().map(|[name, value]| (text(name), Bytes::copy_from_slice(value))).collect();
    let record = Incoming {
        position: Position::nowhere(text(topic)),
        key: Some(Bytes::copy_from_slice(key)),
        headers,
        value: Bytes::copy_from_slice(value),
    };
    let keyring: Keyring = [("signer", SIGNER.verifying_key().clone())].into_iter().collect();
    assert!(verify(record.clone(), &keyring).is_err(), "a record verifies that nobody signed");
    if let Ok(verified) = verify(signed(record), &keyring) {
        let _ = verified.decode::<bus::Purge>();
        let _ = verified.decode::<bus::Notice>();
        let _ = verified.decode::<bus::Ack>();
        let _ = verified.decode::<bus::Checkpoint>();
        let _ = verified.decode::<bus::DeadLetter>();
    }
    let _ = bus::Purge::decode(*value);
});

fn signed(mut record: Incoming) -> Incoming {
    record.headers.retain(|(name, _)| name != "kid" && name != "sig");
    let mut attributes: Vec<(&str, &[u8])> = record
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("ce_"))
        .map(|(name, value)| (name.as_str(), value.as_ref()))
        .collect();
    attributes.sort_unstable();
    let key = record.key.as_deref().unwrap_or_default();
    let signature = SIGNER.sign(&sign::record_bytes(&record.position.topic, key, &attributes, &record.value));
    record.headers.push(("kid".to_owned(), SIGNER.verifying_key().kid().into()));
    record.headers.push(("sig".to_owned(), Bytes::copy_from_slice(&signature)));
    record
}
