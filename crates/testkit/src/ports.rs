//! Free ports.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Linux begins its ephemeral ports at 32768.
const LASTING_FIRST: u16 = 20_000;
const LASTING_COUNT: u16 = 12_000;

/// A port of the loopback that nobody listens on now. Another process may take it before the caller does:
/// whatever can listen on port 0 should, this is for what cannot.
///
/// # Panics
/// If the machine has no free port.
pub fn free() -> u16 {
    several::<1>()[0]
}

/// Different free ports.
///
/// # Panics
/// If the machine has no free ports.
pub fn several<const N: usize>() -> [u16; N] {
    // held together, so that no two are the same
    let held: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    std::array::from_fn(|at| held[at].local_addr().expect("a bound port").port())
}

/// Different free ports for servers that die and come back on the same one: below those that the kernel gives
/// to outgoing connections, so that none of a client's takes it in between.
///
/// # Panics
/// If none are found.
pub fn lasting<const N: usize>() -> [u16; N] {
    let mut held: Vec<TcpListener> = Vec::with_capacity(N);
    for _ in 0..10_000 {
        if held.len() == N {
            break;
        }
        let random = RandomState::new().hash_one(held.len());
        let port = LASTING_FIRST + u16::try_from(random % u64::from(LASTING_COUNT)).expect("below the count");
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    }
    assert_eq!(held.len(), N, "no free ports");
    std::array::from_fn(|at| held[at].local_addr().expect("a bound port").port())
}

#[cfg(test)]
mod tests {
    #[test]
    fn different_and_free() {
        let [a, b, c] = super::several();
        assert!(a != b && b != c && a != c);
        std::net::TcpListener::bind(("127.0.0.1", a)).unwrap();
        let [a, b] = super::lasting();
        assert!(a != b && a < 32_768);
    }
}
