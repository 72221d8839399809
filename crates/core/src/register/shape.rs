//! What ids, principals, time zones, domains and regions look like.

use jiff::tz::TimeZoneDatabase;

use crate::text::is_spiffe_id;

/// The longest id: topics, metrics and certificates carry ids.
const ID_BYTES_MAX: usize = 63;
/// SPIFFE allows 2,048 bytes; a certificate's subject alternative name that long helps nobody.
const PRINCIPAL_BYTES_MAX: usize = 512;
/// What leaves room in 254 bytes for a token before the `@` (RFC 5321, section 4.5.3.1.3).
const DOMAIN_BYTES_MAX: usize = 200;

pub(super) fn is_slug(text: &str) -> bool {
    is_id(text) && !text.contains('_')
}

pub(super) fn is_id(text: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= ID_BYTES_MAX
        && text.bytes().next().is_some_and(lower)
        && text.bytes().all(|byte| lower(byte) || byte == b'_' || byte == b'-')
}

pub(super) fn is_principal(text: &str) -> bool {
    text.len() <= PRINCIPAL_BYTES_MAX && is_spiffe_id(text)
}

pub(super) fn is_time_zone(text: &str) -> bool {
    TimeZoneDatabase::bundled().get(text).is_ok()
}

pub(super) fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= DOMAIN_BYTES_MAX && text.contains('.') && text.split('.').all(is_label)
}

pub(super) fn is_region(text: &str) -> bool {
    text == "EEA" || (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()))
}
