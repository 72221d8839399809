//! Where things lie in the database of copies, beside the key tree's own records (`s`, `t`, `e`, `p`).
//!
//! | prefix | key | value |
//! | --- | --- | --- |
//! | `c` | token, controller, purpose | the copy: its slot and what is sealed under it |
//! | `g` | token | the purge mark: it is never taken away |
//! | `q` | token | the newest notice's sequence |
//! | `k` | controller | counts |
//! | `r` | – | how far the erasure ledger has been replayed |
//! | `n` | the application's | the application's rows: nothing personal |

use bytes::Bytes;
use prost::Message;

use crate::{DownstreamError, Token};

pub(crate) const POSITION: &[u8] = b"r";
pub(crate) const ROWS: &[u8] = b"n";

/// Which of a token's copies: one for each controller and purpose, so that what was read for one purpose is
/// not used for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope<'a> {
    /// The controller's id.
    pub controller: &'a str,
    /// The purpose that the value was read for.
    pub purpose: &'a str,
}

/// The beginning of all of a token's copies.
pub(crate) fn copies_of(token: &Token) -> Vec<u8> {
    let mut key = vec![b'c'];
    push(&mut key, token.as_str());
    key
}

pub(crate) fn copy(token: &Token, of: Scope<'_>) -> Vec<u8> {
    let mut key = copies_of(token);
    push(&mut key, of.controller);
    push(&mut key, of.purpose);
    key
}

/// The controller in the key of a copy.
pub(crate) fn controller_of<'a>(key: &'a [u8], token: &Token) -> Option<&'a str> {
    let rest = key.get(copies_of(token).len()..)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    std::str::from_utf8(rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?).ok()
}

pub(crate) fn mark(token: &Token) -> Vec<u8> {
    [b"g", token.as_str().as_bytes()].concat()
}

pub(crate) fn sequence(token: &Token) -> Vec<u8> {
    [b"q", token.as_str().as_bytes()].concat()
}

pub(crate) fn counts(controller: &str) -> Vec<u8> {
    [b"k", controller.as_bytes()].concat()
}

fn push(key: &mut Vec<u8>, part: &str) {
    key.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    key.extend(part.as_bytes());
}

/// What stays of a purged token.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mark {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    /// The purge that found the copies.
    #[prost(string, tag = "2")]
    pub(crate) purge_id: String,
    /// How many it found.
    #[prost(uint32, tag = "3")]
    pub(crate) count: u32,
    /// The epoch from which on they are gone.
    #[prost(uint64, tag = "4")]
    pub(crate) epoch: u64,
}

/// What is counted for a controller.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Counts {
    /// Copies that are here.
    #[prost(uint64, tag = "1")]
    pub copies: u64,
    /// Tokens purged of which something was here.
    #[prost(uint64, tag = "2")]
    pub purged: u64,
}

pub(crate) fn decode<M: Message + Default>(what: &'static str, bytes: Bytes) -> Result<M, DownstreamError> {
    M::decode(bytes).map_err(|_| DownstreamError::Damaged(what))
}

pub(crate) fn decode_number(what: &'static str, bytes: Option<Bytes>) -> Result<u64, DownstreamError> {
    let Some(bytes) = bytes else { return Ok(0) };
    bytes.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| DownstreamError::Damaged(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_s_copies_begin_like_another_s() {
        let (one, longer) = (Token::parse("tok_a").unwrap(), Token::parse("tok_ab").unwrap());
        let of = Scope { controller: "b", purpose: "p" };
        assert!(copy(&one, of).starts_with(&copies_of(&one)));
        assert!(!copy(&longer, of).starts_with(&copies_of(&one)));
        assert_eq!(controller_of(&copy(&one, of), &one), Some("b"));
        assert_ne!(
            copy(&one, Scope { controller: "b", purpose: "cd" }),
            copy(&one, Scope { controller: "bc", purpose: "d" })
        );
    }

    #[test]
    fn golden_bytes() {
        let mark = Mark { version: 1, purge_id: "p1".into(), count: 2, epoch: 300 };
        assert_eq!(mark.encode_to_vec(), b"\x08\x01\x12\x02p1\x18\x02\x20\xac\x02");
        assert_eq!(Counts { copies: 1, purged: 2 }.encode_to_vec(), b"\x08\x01\x10\x02");
        let token = Token::parse("t").unwrap();
        assert_eq!(
            copy(&token, Scope { controller: "c", purpose: "p" }),
            b"c\0\0\0\x01t\0\0\0\x01c\0\0\0\x01p"
        );
    }
}
