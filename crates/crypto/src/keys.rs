//! Keys: 256 random bits in locked memory, each for one job.

use std::io::{self, Read, Write};
use std::marker::PhantomData;

use crate::arena::{KEY_BYTES, Slot};
use crate::random;

/// What a key is for. Markers only: a key of one job cannot be used for another.
pub mod role {
    /// Seals one value (or one downstream's copy of it): [`crate::seal`].
    pub enum Value {}
    /// Seals one page of the key tree: [`crate::page`].
    pub enum Page {}
    /// Wraps the key of a tree's top page: [`crate::root`].
    pub enum Root {}
    /// Encrypts addresses: [`crate::address`].
    pub enum Address {}
    /// The seed of an Ed25519 key: [`crate::sign`].
    pub enum Signing {}
    /// Hides callers' idempotency keys: [`crate::mac`].
    pub enum Idempotency {}
    /// Hides the values that tokens are found by, in one process's memory: [`crate::mac`].
    pub enum Lookup {}

    /// What a slot of a key tree holds: to the tree it is a key like any other.
    pub enum Slotted {}

    /// The jobs whose keys lie in slots.
    pub trait InSlot {}
    impl InSlot for Value {}
    impl InSlot for Address {}
    impl InSlot for Signing {}
    impl InSlot for Idempotency {}

    /// The jobs whose keys are held beside where they lie: a page's key stands in its parent's draft while it
    /// seals the page; a day's key serves from memory for the day.
    pub trait Kept {}
    impl Kept for Page {}
    impl Kept for Idempotency {}
}

/// A 256-bit key for one job `R`, in locked memory, wiped on drop. No `Debug`, `Clone`, `Eq` or `Serialize`:
///
/// ```
/// fn held<T: Send + Sync + 'static>() {}
/// held::<cloakroom_crypto::Key<cloakroom_crypto::role::Value>>();
/// ```
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<cloakroom_crypto::Key<cloakroom_crypto::role::Value>>();
/// ```
/// ```compile_fail,E0277
/// fn printed<T: std::fmt::Debug>() {}
/// printed::<cloakroom_crypto::Key<cloakroom_crypto::role::Value>>();
/// ```
/// ```compile_fail,E0277
/// fn printed<T: std::fmt::Debug>() {}
/// printed::<cloakroom_crypto::KeyRef<'static, cloakroom_crypto::role::Value>>();
/// ```
/// ```compile_fail,E0277
/// fn compared<T: PartialEq>() {}
/// compared::<cloakroom_crypto::Key<cloakroom_crypto::role::Value>>();
/// ```
/// Nor can a key of one job stand where another is meant:
/// ```compile_fail,E0308
/// use cloakroom_crypto::{Key, role};
/// let key: Key<role::Value> = Key::<role::Page>::random();
/// ```
pub struct Key<R> {
    bytes: Slot<KEY_BYTES>,
    role: PhantomData<fn() -> R>,
}

impl<R> Key<R> {
    /// A new key, drawn from the kernel for itself.
    ///
    /// # Panics
    /// If the arena is full (see [`crate::arena`]) or the kernel gives no randomness.
    pub fn random() -> Self {
        let mut bytes = Slot::zeroed();
        random::fill(&mut *bytes);
        Self::from_slot(bytes)
    }

    /// The key, to be used.
    pub fn borrow(&self) -> KeyRef<'_, R> {
        KeyRef::new(&self.bytes)
    }

    pub(crate) fn from_slot(bytes: Slot<KEY_BYTES>) -> Self {
        Self { bytes, role: PhantomData }
    }

    /// Reads 32 bytes straight into locked memory.
    pub(crate) fn from_reader(reader: &mut impl Read) -> io::Result<Self> {
        let mut bytes = Slot::<KEY_BYTES>::zeroed();
        reader.read_exact(&mut *bytes)?;
        Ok(Self::from_slot(bytes))
    }
}

impl Key<role::Root> {
    /// Reads a root from where a root holder keeps it: exactly 32 bytes, straight into locked memory. Roots
    /// are the one kind of key (besides a downstream's own seed, [`crate::sign::SigningKey::read_from`])
    /// that lies anywhere unwrapped, so they alone can be read and written. Give an unbuffered reader: a
    /// buffer would keep a copy.
    ///
    /// # Errors
    /// As the reader, and `UnexpectedEof` where it holds less than a key.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Self> {
        Self::from_reader(reader)
    }

    /// Writes the root's 32 bytes to where a root holder keeps it. Give an unbuffered writer.
    ///
    /// # Errors
    /// As the writer.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&*self.bytes)
    }
}

/// A key in use: lent by a [`Key`] or by an opened [`crate::page::Page`].
pub struct KeyRef<'a, R> {
    bytes: &'a [u8; KEY_BYTES],
    role: PhantomData<fn() -> R>,
}

impl<R> Clone for KeyRef<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for KeyRef<'_, R> {}

impl<'a, R> KeyRef<'a, R> {
    pub(crate) fn new(bytes: &'a [u8; KEY_BYTES]) -> Self {
        Self { bytes, role: PhantomData }
    }

    pub(crate) fn bytes(self) -> &'a [u8; KEY_BYTES] {
        self.bytes
    }

    /// A key of its own with the same bytes, for what must outlive the page the key came from (a signing
    /// seed, the address key). Not for value keys: a copy would outlive its slot.
    pub(crate) fn keep(self) -> Key<R> {
        let mut bytes = Slot::zeroed();
        bytes.copy_from_slice(self.bytes);
        Key::from_slot(bytes)
    }
}

impl<'a, R: role::InSlot> KeyRef<'a, R> {
    /// The key as a key tree takes it into a slot.
    pub fn for_slot(self) -> KeyRef<'a, role::Slotted> {
        KeyRef::new(self.bytes)
    }
}

impl<'a> KeyRef<'a, role::Slotted> {
    /// The key as whoever named the slot uses it.
    pub fn for_job<R: role::InSlot>(self) -> KeyRef<'a, R> {
        KeyRef::new(self.bytes)
    }
}

impl<R: role::Kept> KeyRef<'_, R> {
    /// A key of its own with the same bytes, for the jobs that need one beside where the key lies.
    pub fn to_key(self) -> Key<R> {
        self.keep()
    }
}

#[cfg(test)]
impl<R> Key<R> {
    /// A key of known bytes, for vectors and golden bytes.
    pub(crate) fn fixed(known: [u8; KEY_BYTES]) -> Self {
        let mut bytes = Slot::zeroed();
        bytes.copy_from_slice(&known);
        Self::from_slot(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_keys_differ_and_are_not_zero() {
        let (one, other) = (Key::<role::Value>::random(), Key::<role::Value>::random());
        assert_ne!(one.borrow().bytes(), other.borrow().bytes());
        assert_ne!(one.borrow().bytes(), &[0; 32]);
    }

    #[test]
    fn a_root_goes_out_and_comes_back() {
        let root = Key::<role::Root>::random();
        let mut file = Vec::new();
        root.write_to(&mut file).unwrap();
        assert_eq!(file, root.borrow().bytes());
        let again = Key::<role::Root>::read_from(&mut file.as_slice()).unwrap();
        assert_eq!(root.borrow().bytes(), again.borrow().bytes());
    }

    #[test]
    fn a_short_root_file_is_no_root() {
        let Err(error) = Key::<role::Root>::read_from(&mut [7_u8; 31].as_slice()) else {
            panic!("31 bytes became a root")
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
