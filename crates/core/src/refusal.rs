//! Why something is not done: codes that callers act upon, with messages that never repeat a value.

/// Why one item is refused, in the order in which it is decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// The item itself is wrong.
    Invalid = 1,
    /// No such token or subject for this controller.
    NotFound = 2,
    /// The register does not allow it.
    Denied = 3,
    /// Forgotten for good.
    Erased = 4,
    /// The retention period has ended.
    Expired = 5,
    /// Restricted.
    Blocked = 6,
    /// Contradicts an earlier request.
    Conflict = 7,
    /// The key cannot be had now.
    KeyUnavailable = 8,
}

impl Code {
    /// The code of that number.
    pub fn from_number(number: u32) -> Option<Self> {
        use Code::{Blocked, Conflict, Denied, Erased, Expired, Invalid, KeyUnavailable, NotFound};
        [Invalid, NotFound, Denied, Erased, Expired, Blocked, Conflict, KeyUnavailable]
            .into_iter()
            .find(|code| *code as u32 == number)
    }

    /// Its name on the wire and in the CLI.
    pub fn name(self) -> &'static str {
        match self {
            Code::Invalid => "INVALID",
            Code::NotFound => "NOT_FOUND",
            Code::Denied => "DENIED",
            Code::Erased => "ERASED",
            Code::Expired => "EXPIRED",
            Code::Blocked => "BLOCKED",
            Code::Conflict => "CONFLICT",
            Code::KeyUnavailable => "KEY_UNAVAILABLE",
        }
    }
}

/// One item's refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// Ids and codes, never values.
    pub message: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What cannot be done now may be possible later; everything else stays refused.
    pub fn is_retryable(&self) -> bool {
        self.code == Code::KeyUnavailable
    }
}

/// Why a whole call is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallRefusal {
    /// The call itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Not this principal's.
    #[error("{0}")]
    Forbidden(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// The same idempotency key came with another body, or the state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// More than the vault takes at once.
    #[error("{0}")]
    Exhausted(String),
    /// Not now; the reason says what is missing.
    #[error("{0}")]
    Unavailable(String),
}
