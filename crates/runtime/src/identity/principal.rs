//! Who calls.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A caller: the SPIFFE id of its certificate, `spiffe://trust-domain/path`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

/// The longest SPIFFE id (SPIFFE-ID 2.3).
const BYTES_MAX: usize = 2048;

impl Principal {
    /// Reads a SPIFFE id as SPIFFE-ID section 2 has it: a trust domain of lower-case letters, digits, `.`,
    /// `-`, `_`, and a path of segments of letters, digits, `.`, `-`, `_`, none of them empty, `.` or `..`.
    pub fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= BYTES_MAX)?;
        let (domain, path) = rest.split_once('/')?;
        let mark = |byte: u8| matches!(byte, b'.' | b'-' | b'_');
        let domain_holds = !domain.is_empty()
            && domain.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || mark(byte));
        let path_holds = path.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
        });
        (domain_holds && path_holds).then(|| Self(uri.into()))
    }

    /// The one URI of a certificate. A certificate with several URIs names nobody (X509-SVID section 2).
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let only = uris.next().filter(|_| uris.next().is_none())?;
        Self::parse(only)
    }

    /// The SPIFFE id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_has_a_domain_and_a_path() {
        for good in ["spiffe://cloakroom.local/shop", "spiffe://a_b-c.d/ns/prod/sa/Mail.v2"] {
            assert_eq!(Principal::parse(good).unwrap().as_str(), good);
        }
        let long = format!("spiffe://d/{}", "x".repeat(BYTES_MAX));
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
            &long,
        ];
        for bad in bad {
            assert_eq!(Principal::parse(bad), None, "{bad}");
        }
    }
}
