//! How often a principal may look up: whoever tries a list of addresses is slow at it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cloakroom_core::clock::UnixMs;

/// Thousandths of a look-up: what a millisecond brings at one a second.
const PARTS: u64 = 1_000;

/// A bucket for each principal, full at first, with a place for each look-up at once, refilled at a rate.
pub(crate) struct Rate {
    per_second: u64,
    burst: u64,
    /// What is left, in thousandths, and when that was. Principals stand in registers: they are few.
    left: Mutex<HashMap<String, (u64, UnixMs)>>,
}

impl Rate {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), left: Mutex::default() }
    }

    /// Takes `count` look-ups from `principal`'s bucket; nothing where it has fewer.
    pub(crate) fn takes(&self, principal: &str, count: usize, now: UnixMs) -> bool {
        let full = self.burst.saturating_mul(PARTS);
        let mut all = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, then) = all.get(principal).copied().unwrap_or((full, now));
        let passed = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
        let left = before.saturating_add(passed.saturating_mul(self.per_second)).min(full);
        let after = left.checked_sub((count as u64).saturating_mul(PARTS));
        all.insert(principal.to_owned(), (after.unwrap_or(left), now));
        after.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_refills_and_is_one_principal_s() {
        let rate = Rate::new(2, 3);
        assert!(rate.takes("a", 2, 0));
        assert!(!rate.takes("a", 2, 0), "one is left");
        assert!(rate.takes("a", 1, 0));
        assert!(rate.takes("b", 3, 0));
        assert!(!rate.takes("a", 1, 499));
        assert!(rate.takes("a", 1, 500));
        assert!(!rate.takes("a", 4, 1_000_000), "never more than the bucket holds");
        assert!(rate.takes("a", 3, 1_000_000));
        assert!(!rate.takes("a", 1, 0), "a clock that goes back brings nothing");
    }
}
