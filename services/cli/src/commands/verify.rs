//! `cloakroom verify`: offline, against keys that were pinned before.

use std::path::{Path, PathBuf};

use clap::Args;
use cloakroom_core::certificate::{Certificate, TYP};
use cloakroom_crypto::{hash, jws};
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, Tone, columns, moment};
use crate::proofs::{self, Check};

/// Checks a certificate of erasure offline and says in plain words what it states
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The certificate, as `certificate` wrote it
    file: PathBuf,
    /// The vault's public keys, pinned before (`keys jwks`)
    #[arg(long, value_name = "JWKS")]
    keys: PathBuf,
    /// Check that it is about this subject; takes --salt too
    #[arg(long, value_name = "SUBJECT_ID", requires = "salt")]
    subject: Option<String>,
    /// The salt that the erasure's answer gave
    #[arg(long, value_name = "HEX", requires = "subject")]
    salt: Option<String>,
}

impl Verify {
    /// Runs the command.
    pub(crate) fn run(&self, output: &Output) -> Result<(), CliError> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(CliError::file(path));
        let verified = verify(&read(&self.file)?, &read(&self.keys)?)?;
        let opened = self.opened(&verified.certificate)?;
        let json = json!({
            "verified": true,
            "kid": verified.kid,
            "claims": verified.claims,
            "checks": verified.checks,
            "proven_in_log": verified.certificate.proof.is_some(),
            "subject_opened": opened,
        });
        output.result(&json, || {
            let mut text =
                format!("{} (signed by key {})\n", output.paint(Tone::Good, "VERIFIED"), verified.kid);
            text.push_str(&Check::text(&verified.checks));
            if verified.certificate.proof.is_none() {
                text.push_str("  none  proofs that the log holds it: it was made before logs could prove\n");
            }
            text.push_str(&verified.text());
            if opened {
                text.push_str("It is about the subject named: the salt opens its commitment.\n");
            }
            text
        })
    }

    fn opened(&self, certificate: &Certificate) -> Result<bool, CliError> {
        let (Some(subject), Some(salt)) = (&self.subject, &self.salt) else { return Ok(false) };
        let salt = HEXLOWER_PERMISSIVE.decode(salt.as_bytes()).ok().and_then(|salt| salt.try_into().ok());
        let salt: [u8; 32] =
            salt.ok_or_else(|| CliError::Usage("--salt is 64 hexadecimal digits".to_owned()))?;
        let commitment = HEXLOWER_PERMISSIVE.encode(&hash::commitment(&salt, subject));
        if commitment == certificate.subject_commitment {
            return Ok(true);
        }
        Err(CliError::Refused(
            "the signature holds, but the certificate is not about this subject".to_owned(),
        ))
    }
}

/// A certificate whose signature holds.
pub(crate) struct Verified {
    /// Which key signed.
    pub(super) kid: String,
    /// What it states.
    pub(crate) certificate: Certificate,
    /// All that was looked at.
    pub(super) checks: Vec<Check>,
    /// The same as it stands there, with whatever a newer vault added.
    pub(super) claims: Value,
}

/// Checks a compact JWS against pinned keys.
///
/// # Errors
/// [`CliError::Refused`] with what does not hold.
pub(crate) fn verify(token: &str, jwks: &str) -> Result<Verified, CliError> {
    let refused = |why: String| CliError::Refused(format!("NOT VERIFIED: {why}"));
    let keys = jws::parse_jwks(jwks).map_err(|error| refused(format!("the pinned keys: {error}")))?;
    let (header, payload) = jws::verify(token.trim(), &keys).map_err(|error| refused(error.to_string()))?;
    if header.typ != TYP {
        return Err(refused(format!("it is no certificate of erasure but {:?}", header.typ)));
    }
    let claims: Value =
        serde_json::from_slice(&payload).map_err(|_| refused("its payload is not JSON".into()))?;
    let certificate = Certificate::deserialize(&claims)
        .map_err(|error| refused(format!("the signature holds, but a claim is missing: {error}")))?;
    if certificate.version != 1 {
        return Err(refused(format!("version {} of certificates is unknown here", certificate.version)));
    }
    let mut checks = vec![Check { name: "signed by a pinned key", held: true }];
    let in_order = certificate.fenced_unix_ms <= certificate.destroyed_unix_ms
        && certificate.destroyed_unix_ms <= certificate.completed_unix_ms;
    if !in_order {
        return Err(refused("its times are out of order".into()));
    }
    checks.push(Check { name: "every claim is there, its times in order", held: true });
    checks.extend(proofs::of_certificate(&certificate, &keys).unwrap_or_default());
    if !Check::all(&checks) {
        return Err(refused(format!("what it says of the log does not hold\n{}", Check::text(&checks))));
    }
    Ok(Verified { kid: header.kid, certificate, checks, claims })
}

impl Verified {
    /// Every claim in plain words.
    pub(crate) fn text(&self) -> String {
        let said = &self.certificate;
        let scope = match said.scope.as_slice() {
            [all] if all == "all" => "everything of one person".to_owned(),
            activities => format!("what was collected of one person under {}", activities.join(", ")),
        };
        let mut rows = vec![
            ("erasure", said.erasure_id.clone()),
            ("controller", said.controller.clone()),
            ("erased", format!("{scope}: {} values", said.values_destroyed)),
            ("person", format!("known to whoever has the salt: commitment {}", said.subject_commitment)),
            ("asked by", format!("{} (case {})", said.actor, said.reason)),
            ("legal basis", format!("GDPR Art. {}", said.legal_basis)),
            ("unreadable since", moment(said.fenced_unix_ms)),
            (
                "keys destroyed",
                format!("{}, replaced by the root of epoch {}", moment(said.destroyed_unix_ms), said.epoch),
            ),
            ("how", destroyed(&said.destroy_class)),
            (
                "final at",
                format!(
                    "{}: from then on no copy of the keys can yield the values",
                    moment(said.final_at_unix_ms)
                ),
            ),
            ("all purged", moment(said.completed_unix_ms)),
        ];
        let purged: Vec<_> = said
            .downstreams
            .iter()
            .map(|downstream| {
                let mut words = format!(
                    "{}, {} copies, {}",
                    downstream.status,
                    downstream.copies_purged,
                    moment(downstream.answered_unix_ms)
                );
                if !downstream.evidence.is_empty() {
                    words.push_str(&format!(" ({})", downstream.evidence));
                }
                if let Some(expires) = downstream.expires_unix_ms {
                    words.push_str(&format!(", the last copy ends {}", moment(expires)));
                }
                (downstream.downstream.as_str(), words)
            })
            .collect();
        rows.extend(purged);
        rows.push(("log", format!("leaf {} with hash {}", said.log.index, said.log.hash)));
        if let Some(proof) = &said.proof {
            let (origin, size) = (proof.checkpoint.lines().next(), proof.checkpoint.lines().nth(1));
            let (origin, size) = (origin.unwrap_or_default(), size.unwrap_or_default());
            let words = format!("with leaf {} in {origin} of {size} events", proof.destroyed.index);
            rows.push(("proven", words));
        }
        let mut rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, words)| vec![format!("  {name}"), words]).collect();
        rows.extend(self.more().map(|(name, value)| vec![format!("  {name}"), value.to_string()]));
        columns(&rows)
    }

    /// Claims that this program does not know.
    fn more(&self) -> impl Iterator<Item = (&String, &Value)> {
        let known = serde_json::to_value(&self.certificate).unwrap_or_default();
        let claims = self.claims.as_object().into_iter().flatten();
        claims.filter(move |(name, _)| known.get(name).is_none())
    }
}

fn destroyed(class: &str) -> String {
    let words = match class {
        "overwritten" => {
            "file replaced, overwritten and unlinked; on SSD or copy-on-write disks old blocks may remain"
        }
        "hsm" => "destroyed in a hardware security module",
        "tpm" => "destroyed in a hardware TPM",
        "quorum" => "dropped by a quorum of keyholders",
        _ => return class.to_owned(),
    };
    format!("{class}: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakroom_crypto::sign::SigningKey;

    /// Signed by another implementation (Python's cryptography) with the key of RFC 8037, A.1.
    const GOLDEN: &str = include_str!("../../tests/certificate.jws");
    const KEYS: &str = include_str!("../../tests/keys.jwks");

    #[test]
    fn the_golden_certificate_verifies_and_every_claim_is_said() {
        let verified = verify(GOLDEN, KEYS).unwrap();
        assert_eq!(verified.kid, "21fe31dfa154a261");
        let text = verified.text();
        let said: Value = verified.claims.clone();
        for claim in [
            "erasure_id",
            "controller",
            "subject_commitment",
            "actor",
            "reason",
            "legal_basis",
            "destroy_class",
        ] {
            assert!(text.contains(said[claim].as_str().unwrap()), "{claim}\n{text}");
        }
        for words in [
            "everything of one person: 7 values",
            "epoch 12",
            "2027-01-15T08:00:00.2Z",
            "PURGED, 2 copies",
            "NOTHING_HELD",
            "leaf 4711",
            "a_later_claim",
            "42",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn a_changed_byte_or_another_key_does_not_verify() {
        let middle = GOLDEN.len() / 2;
        let mut changed = GOLDEN.to_owned().into_bytes();
        changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let other = jws::jwks(&[SigningKey::generate().verifying_key().clone()]);
        for (token, keys) in [(changed.as_str(), KEYS), (GOLDEN, other.as_str()), ("", KEYS), (GOLDEN, "{}")]
        {
            let error = verify(token, keys).err().unwrap();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().starts_with("NOT VERIFIED"), "{error}");
        }
    }

    fn signed(change: impl FnOnce(&mut Value), typ: &str) -> Result<Verified, CliError> {
        let key = SigningKey::generate();
        let mut claims = verify(GOLDEN, KEYS).unwrap().claims;
        change(&mut claims);
        let token = jws::sign(&key, typ, claims.to_string().as_bytes());
        verify(&token, &jws::jwks(&[key.verifying_key().clone()]))
    }

    #[test]
    fn a_signature_alone_is_not_enough() {
        assert!(signed(|_| (), TYP).is_ok());
        assert!(signed(|_| (), "something-else+jwt").is_err());
        assert!(signed(|claims| claims["version"] = json!(2), TYP).is_err());
        assert!(signed(|claims| claims["destroyed_unix_ms"] = json!(1), TYP).is_err());
        assert!(signed(|claims| claims["epoch"] = Value::Null, TYP).is_err());
    }

    #[test]
    fn the_salt_opens_the_commitment_and_no_other() {
        let certificate = verify(GOLDEN, KEYS).unwrap().certificate;
        let asked = |subject: &str, salt: &str| Verify {
            file: PathBuf::new(),
            keys: PathBuf::new(),
            subject: Some(subject.to_owned()),
            salt: Some(salt.to_owned()),
        };
        let salt: String = (0x80..0xa0).map(|byte| format!("{byte:02x}")).collect();
        assert!(asked("sub_x", &salt).opened(&certificate).unwrap());
        assert_eq!(asked("sub_y", &salt).opened(&certificate).unwrap_err().exit_code(), 1);
        assert_eq!(asked("sub_x", "salt").opened(&certificate).unwrap_err().exit_code(), 2);
    }
}
