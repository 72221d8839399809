//! A certificate that somebody hands over, and a set of keys; also with claims of any kind that a trusted key
//! signed. The first byte says which.
#![no_main]

use cloakroom_core::certificate::TYP;
use cloakroom_crypto::jws;
use cloakroom_fuzz::SIGNER;

const KEYS: &str = include_str!("../../../../services/cli/tests/keys.jwks");

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else { return };
    match which % 3 {
        0 => {
            let token = jws::sign(&SIGNER, TYP, rest);
            cloakroom_cli::fuzz::certificate(&token, &jws::jwks(&[SIGNER.verifying_key().clone()]));
        }
        1 => {
            cloakroom_cli::fuzz::certificate(&String::from_utf8_lossy(rest), KEYS);
        }
        _ => {
            let _ = jws::parse_jwks(&String::from_utf8_lossy(rest));
        }
    }
});
