//! A value on its way through the vault.

use bytes::Bytes;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The bytes of a value, wiped when dropped. No `Debug`, `Clone` or `Serialize`.
///
/// tonic's own decode and encode buffers are not wiped: what lay in them before [`Plaintext::new`] or after
/// [`Plaintext::into_bytes`] is outside this type's reach.
///
/// ```compile_fail,E0277
/// fn printed<T: std::fmt::Debug>() {}
/// printed::<cloakroom_crypto::Plaintext>();
/// ```
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<cloakroom_crypto::Plaintext>();
/// ```
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// Takes the bytes over, without a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Copies the bytes; the caller's are the caller's to wipe.
    pub fn from_slice(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }

    /// The value itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the value is the empty one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are the same value, in a time that depends on their lengths alone.
    pub fn same_as(&self, other: &Plaintext) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }

    /// The value for a reply, without a copy; wiped when the last of the returned clones is dropped.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self.0)
    }

    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Keeps the first `len` bytes and wipes the rest.
    pub(crate) fn cut(&mut self, len: usize) {
        if let Some(rest) = self.0.get_mut(len..) {
            rest.zeroize();
            self.0.truncate(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_value_is_same() {
        let value = Plaintext::from_slice("Zoë".as_bytes());
        assert!(value.same_as(&Plaintext::new("Zoë".into())));
        assert!(!value.same_as(&Plaintext::new("Zoe".into())));
        assert!(!value.same_as(&Plaintext::new("Zo".into())));
        assert!(Plaintext::from_slice(b"").same_as(&Plaintext::from_slice(b"")));
    }

    #[test]
    fn reply_holds_the_value() {
        assert_eq!(Plaintext::from_slice(b"a\0b").into_bytes(), b"a\0b".as_slice());
    }
}
