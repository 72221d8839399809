//! Requests to the admin endpoint, up to what they would ask of the engine. Parts: one byte for the route, the
//! query, the body.
#![no_main]

use cloakroom_fuzz::parts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [route, query, body] = parts(bytes)[..] else { return };
    let target = [b"/v1/erasures?", query].concat();
    let Ok(request) = http::Request::builder().uri(target).body(body.to_vec().into()) else { return };
    cloakroom_vault::fuzz::http_request(route.first().copied().unwrap_or_default() % 6, request);
});
