//! What the adversary knows of our formats, written again from their descriptions in `crates/crypto`: it shares
//! no code with what it attacks, so that a format that changes unnoticed fails the positive control.

use aes::cipher::BlockCipherEncrypt;
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The bytes of a key.
pub(super) type Secret = [u8; 32];
/// What a page holds: keys, and at which of its 64 places.
pub(super) type Keys = Vec<(u8, Secret)>;

/// What everything sealed begins with: format 1, suite 1.
pub(super) const HEADER: [u8; 2] = [1, 1];
const SALT_END: usize = HEADER.len() + 32;
const TAG: usize = 16;
/// A page's slots are handed out in order and die with whom they belong to, so they come in few runs: fewer ends of
/// runs than this, where bits drawn at random have some thirty.
const RUN_ENDS_MAX: u32 = 16;
/// A page's key, wrapped by a root.
pub(super) const ANCHOR_BYTES: usize = SALT_END + 32 + TAG;
/// The longest sealed page: a bitmap and 64 keys.
pub(super) const PAGE_BYTES_MAX: usize = SALT_END + 8 + 64 * 32 + TAG;
/// What a sealed value has besides its padded text: header, commitment, tag.
pub(super) const VALUE_OVERHEAD: usize = SALT_END + TAG;

/// Where a page lies; part of what it is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) tree: [u8; 16],
    pub(super) subtree: u32,
    pub(super) level: u8,
    pub(super) index: u64,
}

/// What a value is sealed with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Context {
    pub(super) controller: String,
    pub(super) subject_bits: u64,
    pub(super) activity: String,
    pub(super) field: String,
    pub(super) bits: u64,
    pub(super) version: u32,
}

/// A key made ready for many tries.
pub(super) struct Ready(Hmac<Sha256>);

impl Ready {
    pub(super) fn new(secret: &Secret) -> Self {
        Self(<Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes any key"))
    }

    /// One block of HKDF-Expand.
    fn expand(&self, before: &[u8], info: &[u8], block: u8) -> Secret {
        let mac = self.0.clone().chain_update(before).chain_update(info).chain_update([block]);
        mac.finalize().into_bytes().into()
    }

    pub(super) fn mac(&self, bytes: &[u8]) -> Secret {
        self.0.clone().chain_update(bytes).finalize().into_bytes().into()
    }

    /// The keys in a page that begins where all of `seen` begin, if this is its key and it lies at one of
    /// `addresses`. How long a page is follows from its bitmap, which is in its first block.
    pub(super) fn page(
        &self,
        seen: &[&[u8]],
        version: u64,
        addresses: &[Address],
    ) -> Option<(Address, Keys)> {
        let (key, bitmap) = self.bitmap(seen.first()?)?;
        let text_end = SALT_END + 8 + 32 * bitmap.count_ones() as usize;
        let whole = seen.iter().filter(|bytes| bitmap != 0 && bytes.len() >= text_end + TAG);
        let mut tried = whole.flat_map(|bytes| addresses.iter().map(move |at| (bytes, at)));
        let (address, opened) = tried.find_map(|(bytes, at)| {
            let associated = at.associated(version);
            let (text, tag) = (&bytes[SALT_END..text_end], &bytes[text_end..text_end + TAG]);
            Some((*at, open(&key, &associated, text, tag)?))
        })?;
        let places = (0..64_u8).filter(|place| bitmap & (1 << place) != 0);
        let keys = opened[8..].chunks_exact(32).map(|key| key.try_into().expect("32 bytes"));
        Some((address, places.zip(keys).collect()))
    }

    /// Whether this may be the key of a page that begins so: hardly ever if it is not, and most often if it is.
    pub(super) fn may_open(&self, begins: &[u8]) -> bool {
        let run_ends = |(_, bitmap): (Secret, u64)| (bitmap ^ (bitmap >> 1)).count_ones();
        self.bitmap(begins).map(run_ends).is_some_and(|ends| (1..RUN_ENDS_MAX).contains(&ends))
    }

    /// What a page that begins so is sealed with, and which of its places hold a key, if this is its key.
    fn bitmap(&self, begins: &[u8]) -> Option<(Secret, u64)> {
        let (salt, first) = begins.get(HEADER.len()..)?.split_at_checked(SALT_END - HEADER.len())?;
        let first: &[u8; 8] = first.first_chunk()?;
        let key = self.expand(&[], &parts(&[b"cloakroom page key v1", salt]), 1);
        let mut block = [0; 16];
        block[15] = 2; // the nonce is twelve zeros, and counter 1 makes the tag
        aes::Aes256Enc::new(&key.into()).encrypt_block((&mut block).into());
        Some((key, u64::from_le_bytes(std::array::from_fn(|i| first[i] ^ block[i]))))
    }

    /// The key of a directory's top page, if this is the root that wrapped it.
    pub(super) fn anchor(&self, bytes: &[u8], tree: &[u8; 16], root: &[u8; 16]) -> Option<Secret> {
        let sealed = bytes.get(..ANCHOR_BYTES)?;
        let key = self.expand(&[], &parts(&[b"cloakroom root key v1", &sealed[HEADER.len()..SALT_END]]), 1);
        let associated = parts(&[b"cloakroom root v1", &HEADER[..1], &HEADER[1..], tree, root]);
        let (text, tag) = sealed[SALT_END..].split_at(32);
        open(&key, &associated, text, tag)?.try_into().ok()
    }

    /// A value's text, if this is its key and it is bound to `info` (of [`Context::info`]).
    pub(super) fn value(&self, sealed: &[u8], info: &[u8]) -> Option<Vec<u8>> {
        let key = self.expand(&[], info, 1);
        let commitment = self.expand(&key, info, 2);
        if sealed.get(HEADER.len()..SALT_END)? != commitment {
            return None;
        }
        let (text, tag) = sealed.get(SALT_END..)?.split_at_checked(sealed.len() - VALUE_OVERHEAD)?;
        let mut text = open(&key, info, text, tag)?;
        let end = text.iter().rposition(|byte| *byte != 0)?;
        text.truncate(end);
        Some(text)
    }
}

impl Address {
    fn associated(&self, version: u64) -> Vec<u8> {
        parts(&[
            b"cloakroom page v1",
            &HEADER[..1],
            &HEADER[1..],
            &self.tree,
            &self.subtree.to_le_bytes(),
            &[self.level],
            &self.index.to_le_bytes(),
            &version.to_le_bytes(),
        ])
    }
}

impl Context {
    /// The same as the vault would put it into its one HMAC.
    pub(super) fn as_mac(&self) -> Vec<u8> {
        parts(&[
            b"cloakroom idempotency v1",
            self.controller.as_bytes(),
            &self.subject_bits.to_le_bytes(),
            self.field.as_bytes(),
            &self.bits.to_le_bytes(),
        ])
    }

    /// HKDF's info and the associated data.
    pub(super) fn info(&self) -> Vec<u8> {
        parts(&[
            b"cloakroom value v1",
            &HEADER[..1],
            &HEADER[1..],
            self.controller.as_bytes(),
            &self.subject_bits.to_le_bytes(),
            self.activity.as_bytes(),
            self.field.as_bytes(),
            &self.bits.to_le_bytes(),
            &self.version.to_le_bytes(),
        ])
    }
}

/// What stands for a value in the table that tokens are found by: the first 64 bits of an HMAC.
pub(super) fn looked_up(ready: &Ready, of: [&str; 4]) -> u64 {
    let [controller, activity, field, normal] = of.map(str::as_bytes);
    let mac = ready.mac(&parts(&[b"cloakroom lookup v1", controller, activity, field, normal]));
    u64::from_be_bytes(*mac.first_chunk().expect("32 bytes"))
}

fn open(key: &Secret, associated: &[u8], text: &[u8], tag: &[u8]) -> Option<Vec<u8>> {
    let mut opened = text.to_vec();
    let tag: &[u8; TAG] = tag.try_into().ok()?;
    let gcm = Aes256Gcm::new(key.into());
    gcm.decrypt_inout_detached(&Nonce::default(), associated, opened.as_mut_slice().into(), &Tag::from(*tag))
        .ok()
        .map(|()| opened)
}

/// A list of parts, each preceded by its length, four bytes little-endian.
fn parts(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(192);
    for part in parts {
        bytes.extend(u32::try_from(part.len()).expect("short").to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
