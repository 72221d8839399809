//! Who calls.

use std::fmt;
use std::sync::Arc;

use cloakroom_core::text::is_spiffe_id;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A caller: the SPIFFE id of its certificate, `spiffe://trust-domain/path`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

impl Principal {
    /// Reads a SPIFFE id ([`is_spiffe_id`]).
    pub fn parse(uri: &str) -> Option<Self> {
        is_spiffe_id(uri).then(|| Self(uri.into()))
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
    use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};

    use super::*;

    fn named(names: Vec<SanType>, extensions: Vec<CustomExtension>) -> Option<String> {
        let mut params = CertificateParams::default();
        (params.subject_alt_names, params.custom_extensions) = (names, extensions);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Principal::of_certificate(certificate.der()).map(|principal| principal.to_string())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_certificate_names_its_holder_by_one_spiffe_uri() {
        let (shop, host) = ("spiffe://cloakroom.local/shop", SanType::DnsName("shop".try_into().unwrap()));
        assert_eq!(named(vec![host.clone(), uri(shop)], vec![]).as_deref(), Some(shop));
        // Any second URI, also one of another scheme: who is meant is nobody's to choose.
        for other in ["spiffe://cloakroom.local/dpo", shop, "https://shop.example"] {
            assert_eq!(named(vec![uri(shop), uri(other)], vec![]), None, "{other}");
            assert_eq!(named(vec![uri(other), uri(shop)], vec![]), None, "{other}");
        }
        for none in ["https://shop.example/x", "SPIFFE://cloakroom.local/shop", "spiffe://cloakroom.local"] {
            assert_eq!(named(vec![uri(none)], vec![]), None, "{none}");
        }
        assert_eq!(named(vec![host], vec![]), None);
    }

    #[test]
    fn a_certificate_with_two_extensions_of_names_names_nobody() {
        let shop = "spiffe://cloakroom.local/shop";
        let mut content = vec![0x30, shop.len() as u8 + 2, 0x86, shop.len() as u8];
        content.extend_from_slice(shop.as_bytes());
        let extension = || CustomExtension::from_oid_content(&[2, 5, 29, 17], content.clone());
        assert_eq!(named(vec![], vec![extension()]).as_deref(), Some(shop), "alone it would do");
        assert_eq!(named(vec![uri("spiffe://cloakroom.local/dpo")], vec![extension()]), None);
        assert_eq!(named(vec![], vec![extension(), extension()]), None);
    }
}
