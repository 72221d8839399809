//! Randomness from the kernel, asked anew each time: a generator of our own would be copied with the machine
//! and give the same numbers in both.

/// Fills `bytes`.
///
/// # Panics
/// If the kernel gives no randomness: nothing may go on without it.
pub fn fill(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        panic!("the kernel gives no randomness: {error}");
    }
}

/// 64 random bits.
pub fn u64() -> u64 {
    u64::from_le_bytes(array())
}

/// A random id.
pub fn id16() -> [u8; 16] {
    array()
}

/// `N` random bytes that are no secret: a salt, an id. Keys are filled in place, see [`crate::Key::random`].
pub fn array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}
