//! One owner, in a token that cannot compare and swap.
//!
//! Whoever starts writes a claim, waits a lease, and goes on only if no claim is newer and no owner has shown
//! life meanwhile: an owner renews by counting up the beats in its claim. Claims are ordered by number, then by
//! their random id. Two cannot both go on: of two claims each is written before its writer's wait, so at the
//! end of the later wait both are there to be seen. What happens between an owner's look at the claims and its
//! call is beyond this; so roots carry their owner's number, and nobody destroys one of a later owner's.

use cloakroom_core::ids::TreeId;
use cloakroom_crypto::random;
use cryptoki::object::ObjectHandle;

use super::token::Token;
use crate::holder::{HolderError, OwnerNumber};

/// The claim's bytes: this version, number, id, state, beats.
const VERSION: u8 = 1;
const ID_BYTES: usize = 16;
const CLAIM_BYTES: usize = 1 + 8 + ID_BYTES + 1 + 8;

/// One process's claim to a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) id: [u8; ID_BYTES],
    /// An owner's; else that of one who waits.
    owns: bool,
    beats: u64,
}

/// All claims to a tree, with where they lie.
pub(super) struct Claims {
    now: Vec<(ObjectHandle, Claim)>,
    /// What a claim was before: left by a process that was killed, or is just changing its claim.
    before: Vec<ObjectHandle>,
}

impl Claim {
    fn newest(self, other: Claim) -> bool {
        (self.number, self.id) > (other.number, other.id)
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CLAIM_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.id);
        bytes.push(self.owns.into());
        bytes.extend_from_slice(&self.beats.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (number, rest) = rest.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (owns, beats) = rest.split_first()?;
        let beats = u64::from_be_bytes(beats.try_into().ok()?);
        Some(Self { number: u64::from_be_bytes(*number), id: *id, owns: *owns == 1, beats })
    }
}

impl Claims {
    /// Reads them.
    pub(super) fn of(token: &Token, tree: TreeId) -> Result<Self, HolderError> {
        let mut claims = Self { now: Vec::new(), before: Vec::new() };
        for (object, bytes) in token.data(&label(tree))? {
            let claim = Claim::read(&bytes).ok_or(HolderError::Damaged("claim"))?;
            claims.take(object, claim);
        }
        Ok(claims)
    }

    fn take(&mut self, object: ObjectHandle, claim: Claim) {
        match self.now.iter_mut().find(|(_, known)| known.id == claim.id) {
            None => self.now.push((object, claim)),
            Some((_, known)) if (known.owns, known.beats) >= (claim.owns, claim.beats) => {
                self.before.push(object);
            }
            Some(known) => {
                self.before.push(known.0);
                *known = (object, claim);
            }
        }
    }

    /// The ids of those who wait.
    pub(super) fn waiting(&self) -> Vec<[u8; ID_BYTES]> {
        self.now.iter().filter(|(_, claim)| !claim.owns).map(|(_, claim)| claim.id).collect()
    }

    /// Whether one of these has become the owner.
    pub(super) fn owned_by_one_of(&self, ids: &[[u8; ID_BYTES]]) -> bool {
        self.now.iter().any(|(_, claim)| claim.owns && ids.contains(&claim.id))
    }

    fn mine(&self, id: [u8; ID_BYTES]) -> Option<(ObjectHandle, Claim)> {
        self.now.iter().find(|(_, claim)| claim.id == id).copied()
    }

    fn others(&self, id: [u8; ID_BYTES]) -> impl Iterator<Item = Claim> {
        self.now.iter().map(|(_, claim)| *claim).filter(move |claim| claim.id != id)
    }

    /// Whether somebody newer owns the tree.
    fn is_replaced(&self, mine: Claim) -> bool {
        self.others(mine.id).any(|other| other.owns && other.newest(mine))
    }
}

/// Writes a claim above all others.
pub(super) fn claim(token: &Token, tree: TreeId, owns: bool) -> Result<(Claim, Claims), HolderError> {
    let before = Claims::of(token, tree)?;
    let claimed = before.now.iter().map(|(_, claim)| claim.number);
    // Also above every root's maker, should somebody have cleared the claims away.
    let made = token.roots(tree)?.into_iter().map(|(_, held)| held.owner.0);
    let number = claimed.chain(made).max().unwrap_or(0).saturating_add(1);
    let mine = Claim { number, id: random::array(), owns, beats: 0 };
    token.add_data(&label(tree), mine.bytes())?;
    Ok((mine, before))
}

/// After the wait: goes on, or takes the claim back.
pub(super) fn settle(token: &Token, tree: TreeId, mine: Claim, before: &Claims) -> Result<(), HolderError> {
    let now = Claims::of(token, tree)?;
    let Some((object, _)) = now.mine(mine.id) else { return Err(HolderError::Owned(tree)) };
    let lives = |other: Claim| {
        let seen = before.mine(other.id).map(|(_, seen)| seen);
        other.owns && seen != Some(other)
    };
    if now.others(mine.id).any(|other| other.newest(mine) || lives(other)) {
        token.remove(object)?;
        return Err(HolderError::Owned(tree));
    }
    token.replace_data(object, &label(tree), Claim { owns: true, ..mine }.bytes())?;
    enter(token, tree, mine)
}

/// An owner's first look round: whoever is older goes, whoever is newer wins.
pub(super) fn enter(token: &Token, tree: TreeId, mine: Claim) -> Result<(), HolderError> {
    let now = Claims::of(token, tree)?;
    for (object, claim) in &now.now {
        if mine.newest(*claim) || (claim.id == mine.id && now.is_replaced(mine)) {
            token.remove(*object)?;
        }
    }
    now.before.iter().try_for_each(|object| token.remove(*object))?;
    if now.is_replaced(mine) { Err(HolderError::Owned(tree)) } else { Ok(()) }
}

/// Refuses whoever is not the owner any more; one whose lease has ended also where somebody only waits: in
/// that one's eyes it is dead.
pub(super) fn check(token: &Token, tree: TreeId, held: Held, lapsed: bool) -> Result<(), HolderError> {
    renewable(token, tree, held, lapsed).map(drop)
}

/// Shows life.
pub(super) fn beat(token: &Token, tree: TreeId, held: Held, lapsed: bool) -> Result<(), HolderError> {
    let (object, mine) = renewable(token, tree, held, lapsed)?;
    let next = Claim { beats: mine.beats.saturating_add(1), ..mine };
    token.replace_data(object, &label(tree), next.bytes())?;
    check(token, tree, held, false)
}

/// What an owner knows its claim by.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) owner: OwnerNumber,
    pub(super) id: [u8; ID_BYTES],
}

fn renewable(
    token: &Token,
    tree: TreeId,
    held: Held,
    lapsed: bool,
) -> Result<(ObjectHandle, Claim), HolderError> {
    let now = Claims::of(token, tree)?;
    let found = now.mine(held.id).filter(|(_, mine)| mine.owns && !now.is_replaced(*mine));
    let outwaited = |mine: Claim| lapsed && now.others(held.id).any(|other| other.newest(mine));
    found.filter(|(_, mine)| !outwaited(*mine)).ok_or(HolderError::Replaced { tree, owner: held.owner })
}

fn label(tree: TreeId) -> String {
    format!("cloakroom claim {tree}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_reads_as_it_was_written() {
        let claim = Claim { number: 7, id: [9; 16], owns: true, beats: 300 };
        let mut golden = vec![1, 0, 0, 0, 0, 0, 0, 0, 7];
        golden.extend_from_slice(&[9; 16]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 1, 44]);
        assert_eq!(claim.bytes(), golden);
        assert_eq!(Claim::read(&golden), Some(claim));
        for len in 0..golden.len() {
            assert_eq!(Claim::read(&golden[..len]), None, "{len} bytes");
        }
        golden[0] = 2;
        assert_eq!(Claim::read(&golden), None, "another version's");
    }

    #[test]
    fn of_two_claims_exactly_one_is_newer() {
        let claim = |number, id| Claim { number, id: [id; 16], owns: false, beats: 0 };
        for (newer, older) in [(claim(2, 0), claim(1, 9)), (claim(2, 1), claim(2, 0))] {
            assert!(newer.newest(older) && !older.newest(newer));
        }
    }
}
