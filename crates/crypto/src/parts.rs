//! A list of parts as bytes: each preceded by its length, four bytes little-endian, the first a label.

/// A list under construction. Holds no secrets: it is hashed, signed and bound, but not wiped.
pub(crate) struct Parts(Vec<u8>);

impl Parts {
    pub(crate) fn new(label: &str) -> Self {
        Self(Vec::with_capacity(192)).add(label.as_bytes())
    }

    pub(crate) fn add(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(&length(part));
        self.0.extend_from_slice(part);
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The four bytes before a part. Nothing here comes near 4 GiB: messages end at 4 MiB, values at 128 KiB.
pub(crate) fn length(part: &[u8]) -> [u8; 4] {
    assert!(part.len() <= u32::MAX as usize, "a part below 4 GiB");
    (part.len() as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_join_to_the_same_bytes_differ() {
        let one = Parts::new("l").add(b"ab").add(b"c").bytes();
        let other = Parts::new("l").add(b"a").add(b"bc").bytes();
        assert_ne!(one, other);
        assert_eq!(one, b"\x01\0\0\0l\x02\0\0\0ab\x01\0\0\0c");
    }
}
