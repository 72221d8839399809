//! Free ports.

use std::net::{Ipv4Addr, TcpListener};

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

#[cfg(test)]
mod tests {
    #[test]
    fn different_and_free() {
        let [a, b, c] = super::several();
        assert!(a != b && b != c && a != c);
        std::net::TcpListener::bind(("127.0.0.1", a)).unwrap();
    }
}
