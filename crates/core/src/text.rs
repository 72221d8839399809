//! What people and programs type beside values: codes, references, idempotency keys, principals. None of it
//! may be prose, because prose ends up holding somebody's name (design: "No fingerprints").

/// The longest code, reference or idempotency key, in bytes: enough for a URL-like ticket id.
pub const TEXT_BYTES_MAX: usize = 128;

/// The longest SPIFFE id (SPIFFE-ID, section 2.3).
const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// Why a code, reference or key was refused. Carries nothing of what was typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidText {
    /// A code is needed and nothing was given.
    #[error("empty")]
    Empty,
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("longer than 128 bytes")]
    TooLong,
    /// Something else than letters, digits and `. _ : / -`.
    #[error("only letters, digits and ._:/- are allowed")]
    NotACode,
    /// A control character.
    #[error("holds a control character")]
    ControlCharacter,
}

/// Checks a code that must be given, such as `actor`: `[A-Za-z0-9._:/-]{1,128}`. A blank or an `@` cannot
/// pass, so neither a sentence nor an address can.
///
/// # Errors
/// [`InvalidText`] says which rule failed.
pub fn check_code(code: &str) -> Result<(), InvalidText> {
    if code.is_empty() {
        return Err(InvalidText::Empty);
    }
    check_optional_code(code)
}

/// The same for a code that may be left empty, such as a service's `reason`.
///
/// # Errors
/// [`InvalidText`] says which rule failed.
pub fn check_optional_code(code: &str) -> Result<(), InvalidText> {
    if code.len() > TEXT_BYTES_MAX {
        return Err(InvalidText::TooLong);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    if code.bytes().all(allowed) { Ok(()) } else { Err(InvalidText::NotACode) }
}

/// Checks an idempotency key: up to 128 bytes of any text, empty for none.
///
/// # Errors
/// [`InvalidText::TooLong`] or [`InvalidText::ControlCharacter`].
pub fn check_idempotency_key(key: &str) -> Result<(), InvalidText> {
    check_short(key)
}

/// Checks an item's reference or subject label, which is only echoed: up to 128 bytes of any text.
///
/// # Errors
/// [`InvalidText::TooLong`] or [`InvalidText::ControlCharacter`].
pub fn check_reference(reference: &str) -> Result<(), InvalidText> {
    check_short(reference)
}

/// Whether `text` is a SPIFFE id: at most 2,048 bytes of `spiffe://trust-domain/path`, as SPIFFE-ID section 2
/// has it: a trust domain of lower-case letters, digits, `.`, `-`, `_`, and a path of segments of letters,
/// digits, `.`, `-`, `_`, none of them empty, `.` or `..`. One spelling alone: what differs is another id.
pub fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let mark = |byte: u8| matches!(byte, b'.' | b'-' | b'_');
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || mark(byte);
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || mark(byte);
    text.len() <= SPIFFE_ID_BYTES_MAX
        && !domain.is_empty()
        && domain.bytes().all(in_domain)
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(in_path))
}

fn check_short(text: &str) -> Result<(), InvalidText> {
    if text.len() > TEXT_BYTES_MAX {
        Err(InvalidText::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(InvalidText::ControlCharacter)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_hold_no_prose_and_no_addresses() {
        for good in ["CASE-1234", "dpo/anna", "a", "zendesk:99.1_2", &"x".repeat(128)] {
            assert_eq!(check_code(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", InvalidText::Empty),
            ("asked by mail", InvalidText::NotACode),
            ("jane@example.com", InvalidText::NotACode),
            ("é", InvalidText::NotACode),
            ("a\n", InvalidText::NotACode),
        ] {
            assert_eq!(check_code(bad), Err(why), "{bad:?}");
        }
        assert_eq!(check_code(&"x".repeat(129)), Err(InvalidText::TooLong));
        assert_eq!(check_optional_code(""), Ok(()));
    }

    #[test]
    fn a_spiffe_id_has_a_domain_and_a_path() {
        for good in ["spiffe://cloakroom.local/shop", "spiffe://a_b-c.d/ns/prod/sa/Mail.v2"] {
            assert!(is_spiffe_id(good), "{good}");
        }
        let long = format!("spiffe://d/{}", "x".repeat(SPIFFE_ID_BYTES_MAX));
        let bad = [
            "",
            "spiffe://",
            "spiffe://domain",
            "spiffe://domain/",
            "spiffe:///path",
            "https://d/p",
            "spiffe://Domain/p",
            "spiffe://d/p/",
            "spiffe://d//p",
            "spiffe://d/../p",
            "spiffe://d/p?q",
            "spiffe://d/p#f",
            "spiffe://d:1/p",
            "spiffe://u@d/p",
            "spiffe://d/%41",
            "SPIFFE://d/p",
            " spiffe://d/p",
            &long,
        ];
        for bad in bad {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }

    #[test]
    fn keys_and_references_are_short_and_plain() {
        assert_eq!(check_idempotency_key("import 7, row 12"), Ok(()));
        assert_eq!(check_reference(""), Ok(()));
        assert_eq!(check_reference(&"é".repeat(65)), Err(InvalidText::TooLong));
        assert_eq!(check_idempotency_key("a\0b"), Err(InvalidText::ControlCharacter));
    }
}
