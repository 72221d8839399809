//! The body of a frame of the log, whole or pruned.
#![no_main]

use bytes::Bytes;
use cloakroom_store::embedded::fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((frame, body)) = fuzz::frame(&Bytes::copy_from_slice(bytes)) {
        let again = fuzz::frame(&body);
        assert!(
            again.is_some_and(|(again, _)| again == frame),
            "read, written and read again, a frame differs"
        );
    }
});
