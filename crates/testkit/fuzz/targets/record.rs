//! Events as the log holds them.
#![no_main]

use bytes::Bytes;
use cloakroom_core::ids::EventNumber;
use cloakroom_engine::codec;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(event) = codec::decode(EventNumber(1), Bytes::copy_from_slice(bytes)) {
        let again = codec::decode(EventNumber(1), codec::encode(&event));
        assert!(again.is_ok_and(|again| again == event), "read, written and read again, an event differs");
    }
});
