//! Reading personal data: from the copies, or from the vault under the downstream's own purpose, and then
//! into the copies. What arrives after its purge is not kept and not used.

use cloakroom_client::Client;
use cloakroom_client::proto::vault::v1::{DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode};
use cloakroom_crypto::Plaintext;

use crate::{Copies, CopyGuard, DownstreamError, Scope, Sequence, Token};

/// Items in one call to the vault.
const ITEMS_MAX: usize = 1000;
/// A value that is rectified again and again on its way is asked for so often.
const ROUNDS_MAX: usize = 3;

/// Reads values for one purpose. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    vault: Client,
    copies: Copies,
    purpose: String,
    mode: ReadMode,
    /// What copies are kept under: a masked value never stands in for a plain one.
    kept_under: String,
}

/// A value in use. A purge of its token waits until this is dropped.
pub struct Held {
    _guard: CopyGuard,
    text: Plaintext,
}

impl Held {
    /// The value.
    ///
    /// # Errors
    /// [`DownstreamError::NotText`], which the vault never lets happen.
    pub fn text(&self) -> Result<&str, DownstreamError> {
        std::str::from_utf8(self.text.as_bytes()).map_err(|_| DownstreamError::NotText)
    }
}

/// What reading one token gave.
pub type Read = Result<Held, DownstreamError>;

impl Reader {
    /// A reader under `purpose`, of whole values.
    pub fn plain(vault: Client, copies: Copies, purpose: &str) -> Self {
        let purpose = purpose.to_owned();
        Self { vault, copies, kept_under: purpose.clone(), purpose, mode: ReadMode::Plain }
    }

    /// A reader under `purpose`, of masked values.
    pub fn masked(vault: Client, copies: Copies, purpose: &str) -> Self {
        let kept_under = format!("{purpose} masked");
        Self { vault, copies, kept_under, purpose: purpose.to_owned(), mode: ReadMode::Masked }
    }

    /// One value; see [`Reader::read_all`].
    ///
    /// # Errors
    /// As [`Reader::read_all`], for the call and for the token alike.
    pub async fn read(&self, controller: &str, token: &Token) -> Read {
        let mut read = self.read_all(controller, std::slice::from_ref(token)).await?;
        read.pop().unwrap_or(Err(DownstreamError::NotWritten))
    }

    /// One result for each token, in order: [`DownstreamError::Purged`] where it was purged here,
    /// [`DownstreamError::Refused`] where the vault refuses it.
    ///
    /// # Errors
    /// [`DownstreamError::Vault`] if the vault could not be asked.
    pub async fn read_all(&self, controller: &str, tokens: &[Token]) -> Result<Vec<Read>, DownstreamError> {
        let mut all = Vec::with_capacity(tokens.len());
        for some in tokens.chunks(ITEMS_MAX) {
            all.extend(self.read_some(controller, some).await?);
        }
        Ok(all)
    }

    async fn read_some(&self, controller: &str, tokens: &[Token]) -> Result<Vec<Read>, DownstreamError> {
        let mut found: Vec<Read> = tokens.iter().map(|_| Err(DownstreamError::Stale)).collect();
        for _ in 0..ROUNDS_MAX {
            let mut wanted: Vec<(&Token, &mut Read, Sequence)> = Vec::new();
            for (token, read) in tokens.iter().zip(&mut found) {
                if !matches!(read, Err(DownstreamError::Stale)) {
                    continue;
                }
                match self.kept(controller, token).await {
                    Ok(Some(held)) => *read = Ok(held),
                    Ok(None) => wanted.push((token, read, self.copies.sequence(token).await?)),
                    Err(error) => *read = Err(error),
                }
            }
            if wanted.is_empty() {
                break;
            }
            self.fetch(controller, wanted).await?;
        }
        Ok(found)
    }

    async fn kept(&self, controller: &str, token: &Token) -> Result<Option<Held>, DownstreamError> {
        let guard = self.copies.hold(token).await?;
        let kept = guard.text(self.scope(controller)).await?;
        Ok(kept.map(|text| Held { _guard: guard, text }))
    }

    async fn fetch(
        &self,
        controller: &str,
        wanted: Vec<(&Token, &mut Read, Sequence)>,
    ) -> Result<(), DownstreamError> {
        let item = |(token, _, _): &(&Token, &mut Read, Sequence)| DetokenizeItem {
            reference: String::new(),
            token: token.to_string(),
        };
        let request = DetokenizeRequest {
            controller: controller.to_owned(),
            purpose: self.purpose.clone(),
            reason: String::new(),
            mode: self.mode.into(),
            items: wanted.iter().map(item).collect(),
        };
        let answers = self.vault.detokenize(request).await?;
        for ((token, read, seen), answer) in wanted.into_iter().zip(answers) {
            *read = match answer.result {
                Ok(value) => self.keep(controller, token, value.as_bytes(), seen).await,
                Err(refusal) if refusal.code == ErrorCode::Erased => Err(DownstreamError::Purged),
                Err(refusal) => {
                    Err(DownstreamError::Refused { code: refusal.code, retryable: refusal.retryable })
                }
            };
        }
        Ok(())
    }

    /// Keeps a value that has just arrived, and holds it. The purge mark is looked at in the same commit.
    async fn keep(&self, controller: &str, token: &Token, value: &[u8], seen: Sequence) -> Read {
        let text = Plaintext::from_slice(value);
        self.copies.put(token, self.scope(controller), &text, seen).await?;
        Ok(Held { _guard: self.copies.hold(token).await?, text })
    }

    fn scope<'a>(&'a self, controller: &'a str) -> Scope<'a> {
        Scope { controller, purpose: &self.kept_under }
    }
}
