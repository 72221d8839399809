//! Compact JWS (RFC 7515) with EdDSA (RFC 8037), and key sets (RFC 7517): certificates that any JOSE library
//! verifies. Stricter than they ask: three header members and no others, and the key must be known by `kid`.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sign::{SigningKey, VerifyingKey};

const ALGORITHM: &str = "EdDSA";
const KEY_TYPE: &str = "OKP";
const CURVE: &str = "Ed25519";

/// A token's protected header. A token with any other member (`crit`, `jwk`, `b64`, ...) is refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Always `EdDSA`.
    pub alg: String,
    /// Which key signed, see [`VerifyingKey::kid`].
    pub kid: String,
    /// What the payload is, for the caller to compare.
    pub typ: String,
}

/// Why a token or key set was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum JwsError {
    /// Not three base64url parts with a header of the three members.
    #[error("not a compact JWS")]
    Malformed,
    /// Signed with something else than EdDSA, or not at all.
    #[error("algorithm is not EdDSA")]
    Algorithm,
    /// None of the keys given is the one that signed.
    #[error("signed by unknown key {0:?}")]
    UnknownKey(String),
    /// The signature does not verify.
    #[error("signature does not verify")]
    Refused,
    /// Not a key set, or one with an Ed25519 key that is none.
    #[error("not a set of keys")]
    KeySet,
}

/// Signs a JSON payload, as it is.
pub fn sign(key: &SigningKey, typ: &str, payload_json: &[u8]) -> String {
    let header = Header { alg: ALGORITHM.into(), kid: key.verifying_key().kid(), typ: typ.into() };
    let header = serde_json::json!(header).to_string();
    let mut token = BASE64URL_NOPAD.encode(header.as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(payload_json, &mut token);
    let signature = key.sign(token.as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    token
}

/// Checks a token against the keys that are trusted; gives header and payload only if it verifies.
///
/// # Errors
/// [`JwsError`].
pub fn verify(token: &str, keys: &[VerifyingKey]) -> Result<(Header, Vec<u8>), JwsError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| JwsError::Malformed)?;
    if header.alg != ALGORITHM {
        return Err(JwsError::Algorithm);
    }
    let payload = decode(payload)?;
    let signature = decode(signature)?;
    let key = keys
        .iter()
        .find(|key| key.kid() == header.kid)
        .ok_or_else(|| JwsError::UnknownKey(header.kid.clone()))?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| JwsError::Refused)?;
    Ok((header, payload))
}

fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| JwsError::Malformed)
}

#[derive(Serialize, Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Serialize)]
struct PublicKey {
    alg: String,
    crv: String,
    kid: String,
    kty: String,
    #[serde(rename = "use")]
    used_for: String,
    x: String,
}

/// The keys as a JSON Web Key Set.
pub fn jwks(keys: &[VerifyingKey]) -> String {
    let keys = keys
        .iter()
        .map(|key| PublicKey {
            alg: ALGORITHM.into(),
            crv: CURVE.into(),
            kid: key.kid(),
            kty: KEY_TYPE.into(),
            used_for: "sig".into(),
            x: BASE64URL_NOPAD.encode(key.as_bytes()),
        })
        .map(|key| serde_json::json!(key))
        .collect();
    serde_json::json!(KeySet { keys }).to_string()
}

/// The Ed25519 keys of a key set; keys of other kinds are passed over (RFC 7517, section 5). Names are not
/// taken from the set: they follow from the keys.
///
/// # Errors
/// [`JwsError::KeySet`].
pub fn parse_jwks(json: &str) -> Result<Vec<VerifyingKey>, JwsError> {
    let set: KeySet = serde_json::from_str(json).map_err(|_| JwsError::KeySet)?;
    let is_ours = |key: &serde_json::Value| key["kty"] == KEY_TYPE && key["crv"] == CURVE;
    set.keys
        .iter()
        .filter(|key| is_ours(key))
        .map(|key| {
            let x = key["x"].as_str().ok_or(JwsError::KeySet)?;
            let x = BASE64URL_NOPAD.decode(x.as_bytes()).map_err(|_| JwsError::KeySet)?;
            VerifyingKey::from_bytes(&x).map_err(|_| JwsError::KeySet)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;
    use crate::Key;

    const TYP: &str = "erasure-certificate+jwt";

    fn known_key() -> SigningKey {
        let seed = hex!("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"); // RFC 8037, A.1
        SigningKey::from_seed(Key::fixed(seed).borrow())
    }

    fn known_keys() -> Vec<VerifyingKey> {
        vec![SigningKey::generate().verifying_key().clone(), known_key().verifying_key().clone()]
    }

    /// A token as anyone could put together, signed by the known key.
    fn forged(header: &str) -> String {
        let signed =
            format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(b"{}"));
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&known_key().sign(signed.as_bytes())))
    }

    /// Computed with another implementation (Python's cryptography).
    #[test]
    fn golden_token() {
        let token = "eyJhbGciOiJFZERTQSIsImtpZCI6IjIxZmUzMWRmYTE1NGEyNjEiLCJ0eXAiOiJlcmFzdXJlLWNlcnRpZmljYXRlK2p3\
                     dCJ9.eyJlcG9jaCI6N30.DzoGbFomIkatkeJT9w-NM7Hc2GrKEmrLJejnlCn7Yy09wfzg5EBNhniPJ0A-rcOLIrPSvbjBux\
                     XorYwuhkCQDA";
        assert_eq!(sign(&known_key(), TYP, br#"{"epoch":7}"#), token);
        let (header, payload) = verify(token, &known_keys()).unwrap();
        assert_eq!((header.typ.as_str(), payload.as_slice()), (TYP, br#"{"epoch":7}"#.as_slice()));
    }

    #[test]
    fn any_changed_character_is_refused() {
        let token = sign(&known_key(), TYP, br#"{"epoch":7}"#);
        for place in 0..token.len() {
            for other in [b'A', b'z', b'.', b'='] {
                let mut changed = token.clone().into_bytes();
                if changed[place] == other {
                    continue;
                }
                changed[place] = other;
                assert!(
                    verify(&String::from_utf8(changed).unwrap(), &known_keys()).is_err(),
                    "place {place}"
                );
            }
        }
    }

    #[test]
    fn the_key_must_be_known_by_its_name() {
        let token = sign(&known_key(), TYP, b"{}");
        let kid = known_key().verifying_key().kid();
        assert_eq!(verify(&token, &[]), Err(JwsError::UnknownKey(kid)));
        let token = forged(r#"{"alg":"EdDSA","kid":"0000000000000000","typ":"t"}"#);
        assert!(matches!(verify(&token, &known_keys()), Err(JwsError::UnknownKey(_))));
    }

    #[test]
    fn headers_that_ask_for_something_else_are_refused() {
        let token = |alg: &str, more: &str| {
            forged(&format!(r#"{{"alg":"{alg}","kid":"21fe31dfa154a261","typ":"t"{more}}}"#))
        };
        assert!(verify(&token("EdDSA", ""), &known_keys()).is_ok());
        assert_eq!(verify(&token("none", ""), &known_keys()), Err(JwsError::Algorithm));
        assert_eq!(verify(&token("HS256", ""), &known_keys()), Err(JwsError::Algorithm));
        for more in [r#","crit":["x"]"#, r#","b64":false"#, r#","jwk":{}"#, r#","kid":"21fe31dfa154a261""#] {
            assert_eq!(verify(&token("EdDSA", more), &known_keys()), Err(JwsError::Malformed), "{more}");
        }
        assert_eq!(verify(&forged(r#"{"alg":"EdDSA"}"#), &known_keys()), Err(JwsError::Malformed));
        for token in ["", ".", "..", "a.b", "e30.e30.", "e30.e30.e30.e30"] {
            assert_eq!(verify(token, &known_keys()), Err(JwsError::Malformed), "{token:?}");
        }
    }

    #[test]
    fn keys_go_out_and_come_back() {
        let keys = known_keys();
        let json = jwks(&keys);
        assert_eq!(parse_jwks(&json).unwrap(), keys);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            json["keys"][1],
            serde_json::json!({
                "alg": "EdDSA", "crv": "Ed25519", "kid": "21fe31dfa154a261", "kty": "OKP", "use": "sig",
                "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", // RFC 8037, A.2
            })
        );
    }

    #[test]
    fn other_kinds_of_keys_are_passed_over_and_bad_ones_refused() {
        assert_eq!(
            parse_jwks(r#"{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"},{"kty":"OKP","crv":"X25519"}]}"#),
            Ok(vec![])
        );
        for bad in [r#"{"kty":"OKP","crv":"Ed25519"}"#, r#"{"kty":"OKP","crv":"Ed25519","x":"AQ"}"#] {
            assert_eq!(parse_jwks(&format!(r#"{{"keys":[{bad}]}}"#)), Err(JwsError::KeySet), "{bad}");
        }
        assert_eq!(parse_jwks("[]"), Err(JwsError::KeySet));
    }
}
