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

#[derive(Serialize, Deserialize)]
struct PublicKey {
    kty: String,
    crv: String,
    alg: String,
    #[serde(rename = "use")]
    used_for: String,
    kid: String,
    x: String,
}

/// The keys as a JSON Web Key Set.
pub fn jwks(keys: &[VerifyingKey]) -> String {
    let keys = keys
        .iter()
        .map(|key| PublicKey {
            kty: KEY_TYPE.into(),
            crv: CURVE.into(),
            alg: ALGORITHM.into(),
            used_for: "sig".into(),
            kid: key.kid(),
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
