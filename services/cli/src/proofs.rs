//! What the log's own proofs show to whoever does not believe the vault: checkpoints, inclusion, consistency.
//! Everything is computed here, of hashes that were fetched or stand in a certificate.

use cloakroom_client::AdminClient;
use cloakroom_core::certificate::{Certificate, Inclusion, LogProof};
use cloakroom_core::checkpoint::Checkpoint;
use cloakroom_core::merkle::{self, Hash, Span, Tile};
use cloakroom_crypto::sign::VerifyingKey;
use cloakroom_crypto::{hash, note};
use cloakroom_proto::admin::v1::GetLogTileRequest;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Serialize;

use crate::error::CliError;

/// One thing that was looked at, and whether it is as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) held: bool,
}

impl Check {
    fn new(name: &'static str, held: bool) -> Self {
        Self { name, held }
    }

    /// Whether all held.
    pub(crate) fn all(checks: &[Self]) -> bool {
        checks.iter().all(|check| check.held)
    }

    /// A line each.
    pub(crate) fn text(checks: &[Self]) -> String {
        let line =
            |check: &Check| format!("  {}  {}\n", if check.held { "pass" } else { "FAIL" }, check.name);
        checks.iter().map(line).collect()
    }
}

/// A checkpoint that one of `keys` has signed. Which log it is of, it says itself: keys sign for one alone.
///
/// # Errors
/// [`CliError::Refused`].
pub(crate) fn checkpoint(signed: &str, keys: &[VerifyingKey]) -> Result<Checkpoint, CliError> {
    let refused = |why: String| CliError::Refused(format!("NOT VERIFIED: the checkpoint: {why}"));
    let origin = signed.lines().next().unwrap_or_default();
    let (text, _) = note::open(signed, origin, keys).map_err(|error| refused(error.to_string()))?;
    Checkpoint::parse(text).ok_or_else(|| refused("it states no size and root".to_owned()))
}

/// What a certificate proves of the log; none for one that was made before logs could prove.
pub(crate) fn of_certificate(certificate: &Certificate, keys: &[VerifyingKey]) -> Option<Vec<Check>> {
    let proof = certificate.proof.as_ref()?;
    let LogProof { checkpoint: signed, fence, destroyed } = proof;
    let same = (certificate.log.index, &certificate.log.hash) == (fence.index, &fence.hash);
    let opened = checkpoint(signed, keys).ok();
    let is_in = |inclusion: &Inclusion| opened.as_ref().is_some_and(|log| is_included(inclusion, log));
    Some(vec![
        Check::new("the log's checkpoint is signed by a pinned key", opened.is_some()),
        Check::new("the fence is in the log of that checkpoint", is_in(fence) && same),
        Check::new("the destruction of the keys is in it, after the fence", {
            is_in(destroyed) && fence.index < destroyed.index
        }),
    ])
}

fn is_included(inclusion: &Inclusion, log: &Checkpoint) -> bool {
    let read = |hex: &String| Hash::try_from(HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?).ok();
    let path: Option<Vec<Hash>> = inclusion.path.iter().map(read).collect();
    match (read(&inclusion.hash), path) {
        (Some(leaf), Some(path)) => {
            merkle::verify_inclusion(leaf, inclusion.index, log.size, &path, &log.root, hash::node)
        }
        _ => false,
    }
}

/// Whether a log that had `newer` leaves with their root began with what `older` says, shown by tiles.
///
/// # Errors
/// As a call; a log that is shorter now, or has no such tiles, is only not consistent.
pub(crate) async fn is_consistent(
    admin: &AdminClient,
    older: (u64, &Hash),
    newer: (u64, &Hash),
) -> Result<bool, CliError> {
    let Some(spans) = merkle::consistency(older.0, newer.0) else { return Ok(false) };
    let mut path = vec![];
    for span in spans {
        match hash_of(admin, span).await? {
            Some(hash) => path.push(hash),
            None => return Ok(false),
        }
    }
    Ok(merkle::verify_consistency(older, newer, &path, hash::node))
}

async fn hash_of(admin: &AdminClient, span: Span) -> Result<Option<Hash>, CliError> {
    let mut hashes = vec![];
    for node in span.nodes() {
        let (tile, from) = Tile::of(node);
        let width = u32::try_from(tile.width).unwrap_or(u32::MAX);
        let request = GetLogTileRequest { level: tile.level, index: tile.index, width };
        let bytes = admin.get_log_tile(request).await?.hashes;
        let (entries, rest) = bytes.as_chunks::<32>();
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let whole = rest.is_empty() && entries.len() as u64 == tile.width;
        let below = entries.get(from..).filter(|_| whole).unwrap_or_default();
        match merkle::perfect(below, hash::node) {
            Some(hash) => hashes.push(hash),
            None => return Ok(None),
        }
    }
    Ok(Span::hash(&hashes, hash::node))
}

#[cfg(test)]
mod tests {
    use cloakroom_core::certificate::Leaf;
    use cloakroom_core::merkle::Growing;
    use cloakroom_crypto::sign::SigningKey;

    use super::*;

    /// A certificate with true proofs in a log of seven events, its fence the third and its destruction the sixth.
    fn proven(key: &SigningKey) -> Certificate {
        let leaves: Vec<Hash> = (0..7_u8).map(|event| hash::leaf(&[event])).collect();
        let mut tree = Growing::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf, hash::node, |_, _| ()));
        let root = tree.root(hash::node).unwrap();
        let log = Checkpoint { origin: "cloakroom/x".into(), size: 7, root };
        let hex = |hash: &Hash| HEXLOWER_PERMISSIVE.encode(hash);
        let span = |span: &Span| {
            let mut part = Growing::default();
            let leaves = &leaves[span.begin as usize..span.end as usize];
            leaves.iter().for_each(|leaf| part.push(*leaf, hash::node, |_, _| ()));
            hex(&part.root(hash::node).unwrap())
        };
        let inclusion = |index: u64| Inclusion {
            index,
            hash: hex(&leaves[index as usize]),
            path: merkle::inclusion(index, 7).unwrap().iter().map(span).collect(),
        };
        let golden = include_str!("../tests/certificate.jws");
        let mut certificate =
            crate::commands::verify(golden, include_str!("../tests/keys.jwks")).unwrap().certificate;
        certificate.log = Leaf { index: 2, hash: hex(&leaves[2]) };
        certificate.proof = Some(LogProof {
            checkpoint: note::sign(&log.text(), &log.origin, key),
            fence: inclusion(2),
            destroyed: inclusion(5),
        });
        certificate
    }

    fn held(certificate: &Certificate, key: &SigningKey) -> Vec<bool> {
        let keys = [key.verifying_key().clone()];
        of_certificate(certificate, &keys).unwrap().iter().map(|check| check.held).collect()
    }

    #[test]
    fn true_proofs_hold_and_each_false_one_fails_alone() {
        let key = SigningKey::generate();
        let certificate = proven(&key);
        assert_eq!(held(&certificate, &key), [true, true, true]);
        assert_eq!(held(&certificate, &SigningKey::generate()), [false, false, false]);
        let changed = |change: fn(&mut Certificate)| {
            let mut changed = certificate.clone();
            change(&mut changed);
            held(&changed, &key)
        };
        assert_eq!(changed(|it| it.log.index = 3), [true, false, true]);
        assert_eq!(changed(|it| it.proof.as_mut().unwrap().fence.index = 3), [true, false, true]);
        assert_eq!(changed(|it| drop(it.proof.as_mut().unwrap().fence.path.pop())), [true, false, true]);
        assert_eq!(
            changed(|it| it.proof.as_mut().unwrap().destroyed.hash.replace_range(..2, "zz")),
            [true, true, false]
        );
        let before = changed(|it| {
            let proof = it.proof.as_mut().unwrap();
            proof.destroyed = proof.fence.clone();
        });
        assert_eq!(before, [true, true, false], "a destruction is not its own fence");
        let size = changed(|it| {
            let proof = it.proof.as_mut().unwrap();
            proof.checkpoint = proof.checkpoint.replacen("\n7\n", "\n8\n", 1);
        });
        assert_eq!(size, [false, false, false]);
    }

    #[test]
    fn an_older_certificate_proves_nothing_of_the_log() {
        let key = SigningKey::generate();
        let certificate = Certificate { proof: None, ..proven(&key) };
        assert_eq!(of_certificate(&certificate, &[]), None);
    }
}
