//! A root in shares: any `threshold` of them give it back, fewer say nothing about it (Shamir, "How to share a
//! secret", 1979; over GF(256), each byte by itself). The field's arithmetic is `vsss-rs`'s, in constant time; the
//! polynomials are evaluated here, because there they would lie in ordinary memory.
//!
//! A share travels sealed to the [`Letterbox`] of the process that it is for, so that the buffers of the wire,
//! which nobody wipes, hold ciphertext alone:
//! `{format 1, suite 1} ‖ ephemeral X25519 key (32) ‖ AES-256-GCM(key, share) ‖ tag (16)`, where
//! `key = HKDF(X25519(ephemeral, letterbox), label ‖ ephemeral key ‖ letterbox ‖ context)` and the associated data
//! is the context. Who sent it, the wire's mutual TLS says.

use bytes::Bytes;
use cloakroom_core::ids::{RootId, TreeId};
use curve25519_dalek::constants::X25519_BASEPOINT;
use curve25519_dalek::montgomery::MontgomeryPoint;
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

use crate::aead::{self, FORMAT, HEADER_BYTES, SUITE, TAG_BYTES, leaving_nothing};
use crate::arena::{KEY_BYTES, Slot};
use crate::parts::Parts;
use crate::root::RootContext;
use crate::{Key, KeyRef, OpenError, labels, random, role};

/// The public half of a [`Letterbox`].
pub type LetterboxAddress = [u8; 32];

/// What tells a root from every other without saying anything of it: HKDF-Expand under a label of its own.
pub type RootCheck = [u8; 32];

/// Why a root cannot be dealt, or shares do not go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DealError {
    /// Nobody could put it together, or anybody alone could not be asked to.
    #[error("a root cannot be dealt to {count} of whom {threshold} give it back")]
    Threshold {
        /// How many are needed.
        threshold: u8,
        /// How many get one.
        count: u8,
    },
    /// None at all, two for one place, or one for place 0, which is the root's own.
    #[error("these shares do not go together")]
    Places,
}

/// One share of a root, in locked memory, wiped on drop. No `Debug`, `Clone`, `Eq` or `Serialize`:
///
/// ```compile_fail,E0277
/// fn printed<T: std::fmt::Debug>() {}
/// printed::<cloakroom_crypto::share::Share>();
/// ```
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<cloakroom_crypto::share::Share>();
/// ```
pub struct Share {
    place: u8,
    bytes: Slot<KEY_BYTES>,
}

/// How a root was dealt; the same at everybody who has a share of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dealing {
    /// The root.
    pub root: RootId,
    /// The number of the owner that made it.
    pub owner: u64,
    /// So many shares give it back.
    pub threshold: u8,
    /// Who was given one, by name; the first has place 1.
    pub holders: Vec<String>,
    /// What the root put together again is known by.
    pub check: RootCheck,
}

/// Which share of which root, bound into what is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareContext {
    /// The tree.
    pub tree: TreeId,
    /// The root.
    pub root: RootId,
    /// The share's place, from 1.
    pub place: u8,
}

impl ShareContext {
    fn bytes(&self) -> Vec<u8> {
        Parts::new(labels::SHARE)
            .add(&[FORMAT])
            .add(&[SUITE])
            .add(&self.tree.0)
            .add(&self.root.0)
            .add(&[self.place])
            .bytes()
    }
}

impl KeyRef<'_, role::Root> {
    /// What a root put together again is known by.
    pub fn check(&self, context: &RootContext) -> RootCheck {
        let info = Parts::new(labels::ROOT_CHECK).add(&context.tree.0).add(&context.root.0).bytes();
        let mut check = [0; 32];
        leaving_nothing(|| aead::expand(self.bytes(), &[&info], &mut check));
        check
    }

    /// Deals the root: shares for the places 1 to `count`, of which any `threshold` give it back. A root dealt
    /// again gets other shares, which do not go together with these.
    ///
    /// # Errors
    /// [`DealError::Threshold`] unless `threshold` is between 1 and `count`.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn deal(&self, threshold: u8, count: u8) -> Result<Vec<Share>, DealError> {
        if threshold == 0 || threshold > count {
            return Err(DealError::Threshold { threshold, count });
        }
        let higher: Vec<Slot<KEY_BYTES>> = (1..threshold)
            .map(|_| {
                let mut coefficients = Slot::zeroed();
                random::fill(&mut *coefficients);
                coefficients
            })
            .collect();
        let polynomial = || std::iter::once(self.bytes()).chain(higher.iter().map(|slot| &**slot));
        Ok((1..=count).map(|place| share_at(place, polynomial())).collect())
    }
}

/// Horner's rule, all bytes side by side; `polynomial` begins with what stands at 0.
fn share_at<'a>(place: u8, polynomial: impl DoubleEndedIterator<Item = &'a [u8; KEY_BYTES]>) -> Share {
    let mut bytes = Slot::<KEY_BYTES>::zeroed();
    leaving_nothing(|| {
        for coefficients in polynomial.rev() {
            for (byte, coefficient) in bytes.iter_mut().zip(coefficients) {
                *byte = (Gf256(*byte) * Gf256(place) + Gf256(*coefficient)).0;
            }
        }
    });
    Share { place, bytes }
}

/// Lagrange's interpolation at `place`.
fn interpolate(shares: &[&Share], place: u8) -> Result<Slot<KEY_BYTES>, DealError> {
    let apart = shares.iter().enumerate().all(|(at, share)| {
        share.place != 0 && shares.iter().skip(at + 1).all(|other| other.place != share.place)
    });
    if shares.is_empty() || !apart {
        return Err(DealError::Places);
    }
    let mut bytes = Slot::<KEY_BYTES>::zeroed();
    leaving_nothing(|| {
        for share in shares {
            let weight = shares
                .iter()
                .filter(|other| other.place != share.place)
                .map(|other| (Gf256(place) - Gf256(other.place)) / (Gf256(share.place) - Gf256(other.place)))
                .fold(Gf256(1), |product, factor| product * factor);
            for (byte, part) in bytes.iter_mut().zip(share.bytes.iter()) {
                *byte = (Gf256(*byte) + weight * Gf256(*part)).0;
            }
        }
    });
    Ok(bytes)
}

impl Key<role::Root> {
    /// Puts a root together. `None` where these shares do not give the root of this `check`: too few, of two
    /// dealings, or changed.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn combine(shares: &[&Share], context: &RootContext, check: &RootCheck) -> Option<Self> {
        let root = Key::from_slot(interpolate(shares, 0).ok()?);
        bool::from(root.borrow().check(context).ct_eq(check)).then_some(root)
    }
}

impl Share {
    /// Its place, from 1.
    pub fn place(&self) -> u8 {
        self.place
    }

    /// The share that the same dealing had for `place`, out of as many as put its root together.
    ///
    /// # Errors
    /// [`DealError::Places`]
    ///
    /// # Panics
    /// If the arena is full.
    pub fn again(shares: &[&Share], place: u8) -> Result<Self, DealError> {
        if place == 0 {
            return Err(DealError::Places); // that would be the root
        }
        Ok(Self { place, bytes: interpolate(shares, place)? })
    }

    /// Seals it to `letterbox`. Each sealing has a key of its own.
    ///
    /// # Errors
    /// [`OpenError::Malformed`] for an address that is no letterbox's.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn seal_to(
        &self,
        letterbox: &LetterboxAddress,
        tree: TreeId,
        root: RootId,
    ) -> Result<Bytes, OpenError> {
        let context = ShareContext { tree, root, place: self.place }.bytes();
        let mut text = Slot::<KEY_BYTES>::zeroed();
        text.copy_from_slice(&*self.bytes);
        let ephemeral = Letterbox::new();
        let tag = leaving_nothing(|| {
            let key = agreed(&ephemeral.secret, letterbox, [&ephemeral.address, letterbox], &context)?;
            Ok(aead::encrypt(&key, &context, text.as_mut_slice()))
        })?;
        let mut sealed = Vec::with_capacity(HEADER_BYTES + 2 * KEY_BYTES + TAG_BYTES);
        sealed.extend_from_slice(&[FORMAT, SUITE]);
        sealed.extend_from_slice(&ephemeral.address);
        sealed.extend_from_slice(text.as_slice());
        sealed.extend_from_slice(&tag);
        Ok(sealed.into())
    }
}

/// The key that both ends of a sealing agree on (RFC 7748, section 6.1; RFC 5869). Call it inside
/// [`leaving_nothing`].
fn agreed(
    secret: &[u8; KEY_BYTES],
    other: &[u8; KEY_BYTES],
    [ephemeral, letterbox]: [&LetterboxAddress; 2],
    context: &[u8],
) -> Result<Zeroizing<[u8; KEY_BYTES]>, OpenError> {
    let mut shared = MontgomeryPoint(*other).mul_clamped(*secret);
    if bool::from(shared.0.ct_eq(&[0; 32])) {
        return Err(OpenError::Malformed); // a point of small order: no secret comes of it
    }
    let info = Parts::new(labels::SHARE_KEY).add(ephemeral).add(letterbox).add(context).bytes();
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let expanded = Hkdf::<Sha256>::new(None, &shared.0).expand(&info, key.as_mut_slice());
    shared.zeroize();
    assert!(expanded.is_ok(), "one block");
    Ok(key)
}

/// Where a process gets shares sealed to it: an X25519 key that lives and dies with the process.
pub struct Letterbox {
    secret: Slot<KEY_BYTES>,
    address: LetterboxAddress,
}

impl Default for Letterbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Letterbox {
    /// A new one.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn new() -> Self {
        let mut secret = Slot::<KEY_BYTES>::zeroed();
        random::fill(&mut *secret);
        let address = leaving_nothing(|| X25519_BASEPOINT.mul_clamped(*secret).0);
        Self { secret, address }
    }

    /// What others seal to.
    pub fn address(&self) -> LetterboxAddress {
        self.address
    }

    /// Opens what was sealed to this letterbox, straight into locked memory.
    ///
    /// # Errors
    /// [`OpenError`], which does not tell another letterbox from another context or changed bytes.
    ///
    /// # Panics
    /// If the arena is full.
    pub fn open(&self, sealed: &[u8], context: &ShareContext) -> Result<Share, OpenError> {
        let body = aead::without_header(sealed)?;
        let (ephemeral, body) = body.split_first_chunk::<KEY_BYTES>().ok_or(OpenError::Malformed)?;
        let (text, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(OpenError::Malformed)?;
        let text: &[u8; KEY_BYTES] = text.try_into().map_err(|_| OpenError::Malformed)?;
        let mut bytes = Slot::<KEY_BYTES>::zeroed();
        bytes.copy_from_slice(text);
        let bound = context.bytes();
        leaving_nothing(|| {
            let key = agreed(&self.secret, ephemeral, [ephemeral, &self.address], &bound)?;
            aead::decrypt(&key, &bound, bytes.as_mut_slice(), tag)
        })?;
        Ok(Share { place: context.place, bytes })
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    const CONTEXT: RootContext = RootContext { tree: TreeId([0xaa; 16]), root: RootId([0xbb; 16]) };

    fn context(place: u8) -> ShareContext {
        ShareContext { tree: CONTEXT.tree, root: CONTEXT.root, place }
    }

    fn known_root() -> Key<role::Root> {
        Key::fixed(std::array::from_fn(|i| i as u8))
    }

    fn golden_share() -> [u8; 32] {
        hex!("6c6864607c7874704c4844405c5854502c2824203c3834300c0804001c181410")
    }

    fn subsets(shares: &[Share], size: usize) -> Vec<Vec<&Share>> {
        (0_u32..1 << shares.len())
            .filter(|mask| mask.count_ones() as usize == size)
            .map(|mask| (0..shares.len()).filter(|at| mask >> at & 1 == 1).map(|at| &shares[at]).collect())
            .collect()
    }

    /// Computed with another implementation (Python, field of FIPS 197, section 4.2).
    #[test]
    fn golden_shares_and_check() {
        let coefficients: [[u8; 32]; 2] = [std::array::from_fn(|i| 0x40 + i as u8), [0xe5; 32]];
        let root: [u8; 32] = std::array::from_fn(|i| i as u8);
        let share = share_at(5, [&root, &coefficients[0], &coefficients[1]].into_iter());
        assert_eq!(*share.bytes, golden_share());
        assert_eq!(
            known_root().borrow().check(&CONTEXT),
            hex!("055553ffa5dbd0dc1601d8fd5684006aed31260441b068437507421d23efc12e")
        );
    }

    #[test]
    fn as_many_as_the_threshold_give_the_root_back_and_fewer_do_not() {
        for (threshold, count) in [(1, 1), (1, 3), (2, 3), (3, 5), (5, 5)] {
            let root = Key::<role::Root>::random();
            let check = root.borrow().check(&CONTEXT);
            let shares = root.borrow().deal(threshold, count).unwrap();
            assert_eq!(shares.iter().map(Share::place).collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>());
            for size in 0..=usize::from(count) {
                for some in subsets(&shares, size) {
                    let combined = Key::combine(&some, &CONTEXT, &check);
                    assert_eq!(combined.is_some(), size >= usize::from(threshold), "{threshold} of {count}");
                    if let Some(combined) = combined {
                        assert_eq!(combined.borrow().bytes(), root.borrow().bytes());
                    }
                }
            }
        }
        for (threshold, count) in [(0, 3), (4, 3), (0, 0), (1, 0)] {
            assert!(known_root().borrow().deal(threshold, count).is_err());
        }
    }

    /// One share of two: for every secret there is a coefficient that explains it, so over many dealings of one
    /// root a share's byte takes every value about equally often.
    #[test]
    fn a_share_below_the_threshold_is_uniform() {
        let root = known_root();
        let mut seen = [0_u32; 256];
        for _ in 0..256 {
            for share in root.borrow().deal(2, 2).unwrap() {
                share.bytes.iter().for_each(|byte| seen[usize::from(*byte)] += 1);
            }
        }
        // 64 of each are expected; a byte that never or hardly comes would be what a biased coefficient gives.
        assert!(seen.iter().all(|count| (20..130).contains(count)), "{seen:?}");
    }

    #[test]
    fn shares_of_two_dealings_do_not_go_together() {
        let root = known_root();
        let check = root.borrow().check(&CONTEXT);
        let [one, other] = [(), ()].map(|()| root.borrow().deal(2, 3).unwrap());
        assert!(Key::combine(&[&one[0], &one[2]], &CONTEXT, &check).is_some());
        assert!(Key::combine(&[&one[0], &other[2]], &CONTEXT, &check).is_none());
        assert!(Key::combine(&[&one[0], &one[0]], &CONTEXT, &check).is_none());
        let elsewhere = RootContext { tree: TreeId([1; 16]), ..CONTEXT };
        assert!(Key::combine(&[&one[0], &one[2]], &elsewhere, &check).is_none());
    }

    #[test]
    fn a_lost_share_is_found_again_out_of_the_others() {
        let shares = known_root().borrow().deal(3, 5).unwrap();
        for some in subsets(&shares, 3) {
            for lost in &shares {
                assert_eq!(*Share::again(&some, lost.place()).unwrap().bytes, *lost.bytes);
            }
        }
        assert_eq!(Share::again(&[&shares[0]], 0).err(), Some(DealError::Places), "never the root");
    }

    /// Computed with another implementation (Python's cryptography).
    #[test]
    fn golden_sealed_share() {
        let mut secret = Slot::<KEY_BYTES>::zeroed();
        secret.copy_from_slice(&std::array::from_fn::<u8, 32, _>(|i| 0x60 + i as u8));
        let address = X25519_BASEPOINT.mul_clamped(*secret).0;
        let letterbox = Letterbox { secret, address };
        let sealed = hex!(
            "010107a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c
             ba9098f56f7bc796a746f92327149e587b12e1ddee660e6ad907957609528c37
             4459f643eb98cf81fd8f2ce000187871"
        );
        assert_eq!(*letterbox.open(&sealed, &context(5)).unwrap().bytes, golden_share());
    }

    #[test]
    fn a_sealed_share_opens_in_its_letterbox_alone() {
        let share = known_root().borrow().deal(2, 3).unwrap().remove(1);
        let letterbox = Letterbox::new();
        let sealed = share.seal_to(&letterbox.address(), CONTEXT.tree, CONTEXT.root).unwrap();
        let again = letterbox.open(&sealed, &context(2)).unwrap();
        assert_eq!((*again.bytes, again.place()), (*share.bytes, 2));
        assert!(sealed.windows(8).all(|bytes| share.bytes.windows(8).all(|share| bytes != share)));
        assert_ne!(share.seal_to(&letterbox.address(), CONTEXT.tree, CONTEXT.root).unwrap(), sealed);

        assert!(Letterbox::new().open(&sealed, &context(2)).is_err());
        assert!(letterbox.open(&sealed, &context(1)).is_err());
        let elsewhere = ShareContext { root: RootId([1; 16]), ..context(2) };
        assert!(letterbox.open(&sealed, &elsewhere).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The top bit of an X25519 key means nothing to the agreement, but the key derived is bound to it.
            assert!(letterbox.open(&changed, &context(2)).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(letterbox.open(&sealed[..len], &context(2)).is_err(), "{len} bytes");
        }
        assert_eq!(share.seal_to(&[0; 32], CONTEXT.tree, CONTEXT.root).err(), Some(OpenError::Malformed));
    }
}
