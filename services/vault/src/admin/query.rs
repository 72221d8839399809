//! What gRPC and HTTP ask in the same words.

use cloakroom_core::merkle::Tile;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_engine::{ErasureView, Status};

use super::{PAGE_ERASURES, PAGE_ERASURES_MAX};
use crate::house::House;

/// The size of a page: what is asked for, or the default for 0.
///
/// # Errors
/// [`CallRefusal::Invalid`] for more than a page can hold.
pub(super) fn page_size(asked: u32) -> Result<usize, CallRefusal> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_ERASURES),
        Ok(size @ 1..=PAGE_ERASURES_MAX) => Ok(size),
        _ => Err(CallRefusal::Invalid(format!("page_size is more than {PAGE_ERASURES_MAX}"))),
    }
}

/// How the vault is. While its gate is closed nobody's rights are known, and nothing else either.
pub(super) async fn status(house: &House, principal: &str) -> Result<Status, CallRefusal> {
    house.engine()?.status(principal).await
}

/// A tile of the log's Merkle tree.
///
/// # Errors
/// [`CallRefusal::Invalid`] for one that no tree has.
pub(super) fn tile(level: u32, index: u64, width: u32) -> Result<Tile, CallRefusal> {
    let width = u64::from(width);
    if level < Tile::LEVELS && (1..=Tile::WIDTH).contains(&width) {
        return Ok(Tile { level, index, width });
    }
    Err(CallRefusal::Invalid("a tile has a level up to 7 and 1 to 256 hashes".to_owned()))
}

/// Whether nothing can change any more.
pub(super) fn is_final(erasure: &ErasureView) -> bool {
    use cloakroom_engine::ErasureState::{Completed, CompletedWithExpiry};
    matches!(erasure.state, Completed | CompletedWithExpiry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_default_and_a_bound() {
        assert_eq!(page_size(0), Ok(PAGE_ERASURES));
        assert_eq!(page_size(1), Ok(1));
        assert_eq!(page_size(1_000), Ok(1_000));
        assert!(page_size(1_001).is_err());
    }
}
