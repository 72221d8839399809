//! Who uses which copy now, and which tokens are closed because a purge is under way.
//!
//! A use enters, then looks at the purge mark; a purge closes, waits until the last use has left, then writes
//! the mark. So whoever got in is waited for, and whoever comes later is refused.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::Token;

#[derive(Default)]
pub(super) struct Uses {
    tokens: Mutex<HashMap<Token, Use>>,
    left: Notify,
}

#[derive(Default)]
struct Use {
    users: usize,
    closed: bool,
}

impl Uses {
    /// One more user; false where a purge is under way.
    pub(super) fn enter(&self, token: &Token) -> bool {
        let mut tokens = self.lock();
        let entry = tokens.entry(token.clone()).or_default();
        if !entry.closed {
            entry.users = entry.users.saturating_add(1);
        }
        !entry.closed
    }

    pub(super) fn leave(&self, token: &Token) {
        let mut tokens = self.lock();
        if let Some(entry) = tokens.get_mut(token) {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 && !entry.closed {
                tokens.remove(token);
            }
        }
        drop(tokens);
        self.left.notify_waiters();
    }

    /// Lets no user in any more, and waits until none is left.
    pub(super) async fn close(&self, closing: &[Token]) {
        {
            let mut tokens = self.lock();
            for token in closing {
                tokens.entry(token.clone()).or_default().closed = true;
            }
        }
        loop {
            let left = self.left.notified(); // before the look, so that no departure falls between
            if !self.any_used(closing) {
                return;
            }
            left.await;
        }
    }

    pub(super) fn is_closed(&self, token: &Token) -> bool {
        self.lock().get(token).is_some_and(|entry| entry.closed)
    }

    /// The purge mark is written: from now on it refuses.
    pub(super) fn marked(&self, marked: &[Token]) {
        let mut tokens = self.lock();
        for token in marked {
            if let Some(entry) = tokens.get_mut(token) {
                entry.closed = false;
                if entry.users == 0 {
                    tokens.remove(token);
                }
            }
        }
    }

    fn any_used(&self, of: &[Token]) -> bool {
        let tokens = self.lock();
        of.iter().any(|token| tokens.get(token).is_some_and(|entry| entry.users > 0))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Token, Use>> {
        // No code that could panic runs while it is held.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
