//! What a downstream is told, and the one trait it implements.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use cloakroom_core::clock::UnixMs;
use cloakroom_core::ids::TreeId;

use crate::DownstreamError;

/// The longest token: an `EMAIL`-shaped one (RFC 5321: 64 + 1 + 255).
const TOKEN_BYTES_MAX: usize = 320;

/// A token as it came from a caller or a record. Cheap to clone. Says nothing about anybody, so it may be
/// logged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes any text that can be a token of some shape: 1 to 320 printable ASCII characters.
    ///
    /// # Errors
    /// [`DownstreamError::NotAToken`]
    pub fn parse(text: &str) -> Result<Self, DownstreamError> {
        let fits =
            (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(DownstreamError::NotAToken) }
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token has died: every copy of its value must go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Erasure {
    /// Whose customer it was about.
    pub controller: String,
    /// Names this purge in the answer; the same in every repeat.
    pub purge_id: String,
    /// The token.
    pub token: Token,
    /// The field that it stood for, as the register names it.
    pub field: String,
    /// The activity that it was made under.
    pub activity: String,
    /// By when the answer is due.
    pub deadline_unix_ms: UnixMs,
}

/// A token stands for a new value: a copy of the former one must go, and may be read anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rectified {
    /// Whose customer it is about.
    pub controller: String,
    /// The token.
    pub token: Token,
    /// Rises with every notice about this token.
    pub sequence: u64,
}

/// How one purge ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purged {
    /// Copies were here and are gone.
    Gone {
        /// How many.
        count: u32,
        /// What the purge is worth: epoch and destroy class, or a vendor's job id. No prose.
        evidence: String,
    },
    /// Nothing was here, and nothing can come any more.
    NothingHeld {
        /// As above.
        evidence: String,
    },
    /// A vendor without an erasure API: its copy ends by itself.
    AwaitingExpiry {
        /// When.
        until_unix_ms: UnixMs,
        /// As above.
        evidence: String,
    },
}

/// Why a purge did not end. Reasons are codes: they are published.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// It may succeed later: asked again, after a pause, until it does.
    #[error("to be tried again: {reason}")]
    Retry {
        /// A code.
        reason: String,
    },
    /// It never will: answered REFUSED and put aside for people to look at.
    #[error("refused: {reason}")]
    Refuse {
        /// A code.
        reason: String,
    },
}

impl PurgeError {
    /// It may succeed later.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into() }
    }

    /// It never will.
    pub fn refuse(reason: impl Into<String>) -> Self {
        Self::Refuse { reason: reason.into() }
    }
}

/// What a downstream implements; [`crate::Copies`] does already. Everything else is the kit's.
#[async_trait]
pub trait Purge: Send + Sync {
    /// Destroys every copy of these tokens' values, for good: when this returns, none can come back, not even
    /// by a value that is still on its way. Gives one outcome each, in order. A repeat under the same purge
    /// id gives the same outcome.
    async fn purge(&self, what: &[Erasure]) -> Result<Vec<Purged>, PurgeError>;

    /// Drops the copy of a former value. An older notice than one seen before changes nothing.
    async fn rectified(&self, what: &Rectified) -> Result<(), PurgeError>;

    /// The id of the key tree that the copies hang in; `None` if they are kept elsewhere.
    fn copies_tree(&self) -> Option<TreeId>;

    /// What a purge here is worth: the destroy class, or an identifier in the downstream's own words.
    fn destroy_class(&self) -> String;

    /// How far the erasure ledger has been replayed, from the same database as the copies, so that a restored
    /// one asks for what it has forgotten to forget; 0 in a new one.
    async fn position(&self) -> Result<u64, PurgeError>;

    /// Remembers how far it has been replayed.
    async fn reached(&self, position: u64) -> Result<(), PurgeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_every_shape_are_taken_and_nothing_else() {
        let longest = format!("{}@{}", "a".repeat(64), "b".repeat(255));
        for good in ["tok_aaaaaaaaaaaaaaaaaaaaaaaaaa", "x@t.example", "+999123456", "4929", &longest] {
            assert_eq!(Token::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a\0b", "a\r\nb", "zoë", &format!("{longest}x")] {
            assert!(matches!(Token::parse(bad), Err(DownstreamError::NotAToken)), "{bad:?}");
        }
    }
}
