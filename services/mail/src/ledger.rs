//! What mail keeps beside its copies, by token: what was sent under which idempotency key, who subscribed, and
//! counts. Nothing personal; what hangs on a token goes with it.

use async_trait::async_trait;
use cloakroom_downstream::{Copies, DownstreamError, Erasure, Forget, RowEdit, Token, read_row, row_key};
use futures_util::FutureExt;
use prost::Message as _;

use crate::MailError;

/// A message that was begun.
#[derive(Clone, PartialEq, prost::Message)]
struct Sending {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    message_id: String,
    /// The recipient's token: the same key for another one is a mistake of the caller's.
    #[prost(string, tag = "3")]
    email_token: String,
    /// The relay has it.
    #[prost(bool, tag = "4")]
    sent: bool,
}

/// What is counted for a controller.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Tally {
    #[prost(uint64, tag = "1")]
    pub(crate) sent: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) subscribers: u64,
}

/// How a message stands under its idempotency key.
#[derive(Debug, PartialEq)]
pub(crate) enum Standing {
    /// To be sent under this Message-ID: the same one after a crash, because then nobody knows whether the
    /// relay has it, and mail programs show one message of two with the same id.
    ToSend(String),
    /// Sent.
    Sent(String),
}

/// The rows, for the API.
#[derive(Clone)]
pub(crate) struct Ledger(pub(crate) Copies);

const VERSION: u32 = 1;

impl Ledger {
    /// The Message-ID of a message that was sent under this key.
    pub(crate) async fn sent(
        &self,
        controller: &str,
        key: &str,
        email: &Token,
    ) -> Result<Option<String>, MailError> {
        let row = self.0.rows().get(&row_key(b'm', &[controller, key])).await?;
        let Some(row) = row else { return Ok(None) };
        let sending: Sending = read_row(&row)?;
        if sending.email_token != email.as_str() {
            return Err(MailError::Conflict);
        }
        Ok(sending.sent.then_some(sending.message_id))
    }

    /// Begins a message; `new_id` is its Message-ID if it was never begun.
    pub(crate) async fn begin(
        &self,
        controller: &str,
        key: &str,
        email: &Token,
        new_id: String,
    ) -> Result<Standing, MailError> {
        let (row, email_token) = (row_key(b'm', &[controller, key]), email.to_string());
        let begun = self.0.edit_rows(move |rows| {
            async move {
                if let Some(known) = rows.get(&row).await? {
                    let known: Sending = read_row(&known)?;
                    return Ok(if known.sent {
                        Standing::Sent(known.message_id)
                    } else {
                        Standing::ToSend(known.message_id)
                    });
                }
                let sending =
                    Sending { version: VERSION, message_id: new_id.clone(), email_token, sent: false };
                rows.put(&row, sending.encode_to_vec());
                Ok(Standing::ToSend(new_id))
            }
            .boxed()
        });
        Ok(begun.await?)
    }

    /// The relay has the message. `key` is empty where there is no idempotency key.
    pub(crate) async fn finish(&self, controller: &str, key: &str) -> Result<(), MailError> {
        let message = row_key(b'm', &[controller, key]);
        let (has_key, controller) = (!key.is_empty(), controller.to_owned());
        let finished = self.0.edit_rows(move |rows| {
            async move {
                if has_key && let Some(known) = rows.get(&message).await? {
                    let sending = Sending { sent: true, ..read_row(&known)? };
                    rows.put(&message, sending.encode_to_vec());
                }
                tally(rows, &controller, |tally| tally.sent = tally.sent.saturating_add(1)).await
            }
            .boxed()
        });
        Ok(finished.await?)
    }

    /// Adds a subscriber; one that is there already stays.
    pub(crate) async fn subscribe(&self, controller: &str, email: &Token) -> Result<(), MailError> {
        let (controller, email) = (controller.to_owned(), email.clone());
        let subscribed = self.0.edit_rows(move |rows| {
            async move {
                if rows.is_purged(&email).await? {
                    return Err(DownstreamError::Purged);
                }
                let row = row_key(b's', &[&controller, email.as_str()]);
                if rows.get(&row).await?.is_some() {
                    return Ok(());
                }
                rows.put(&row, email.to_string());
                tally(rows, &controller, |tally| tally.subscribers = tally.subscribers.saturating_add(1))
                    .await
            }
            .boxed()
        });
        Ok(subscribed.await?)
    }

    /// Removes a subscriber, if it is one.
    pub(crate) async fn unsubscribe(&self, controller: &str, email: &Token) -> Result<(), MailError> {
        let (controller, email) = (controller.to_owned(), email.clone());
        let removed = self.0.edit_rows(move |rows| remove_subscriber(rows, controller, email).boxed());
        Ok(removed.await.map(drop)?)
    }

    /// Up to `limit` subscribers after `after`.
    pub(crate) async fn subscribers(
        &self,
        controller: &str,
        after: Option<&Token>,
        limit: usize,
    ) -> Result<Vec<Token>, MailError> {
        let after = after.map(|token| row_key(b's', &[controller, token.as_str()]));
        let found = self.0.rows().scan(&row_key(b's', &[controller]), after.as_deref(), limit).await?;
        let token = |value: &[u8]| Token::parse(std::str::from_utf8(value).unwrap_or_default());
        Ok(found.iter().map(|(_, value)| token(value)).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn tally(&self, controller: &str) -> Result<Tally, MailError> {
        match self.0.rows().get(&row_key(b'k', &[controller])).await? {
            Some(row) => Ok(read_row(&row)?),
            None => Ok(Tally::default()),
        }
    }
}

/// What mail forgets with a token: its subscription. A message's row keeps the token of its recipient, which
/// leads nowhere any more.
pub(crate) struct Subscriptions;

#[async_trait]
impl Forget for Subscriptions {
    async fn forget(&self, rows: &mut RowEdit, what: &Erasure) -> Result<u32, DownstreamError> {
        remove_subscriber(rows, what.controller.clone(), what.token.clone()).await
    }
}

/// Gives how many there were: 0 or 1.
async fn remove_subscriber(
    rows: &mut RowEdit,
    controller: String,
    email: Token,
) -> Result<u32, DownstreamError> {
    let row = row_key(b's', &[&controller, email.as_str()]);
    if rows.get(&row).await?.is_none() {
        return Ok(0);
    }
    rows.remove(&row);
    tally(rows, &controller, |tally| tally.subscribers = tally.subscribers.saturating_sub(1)).await?;
    Ok(1)
}

async fn tally(
    rows: &mut RowEdit,
    controller: &str,
    change: impl FnOnce(&mut Tally),
) -> Result<(), DownstreamError> {
    let row = row_key(b'k', &[controller]);
    let mut tally = match rows.get(&row).await? {
        Some(known) => read_row(&known)?,
        None => Tally::default(),
    };
    change(&mut tally);
    rows.put(&row, tally.encode_to_vec());
    Ok(())
}
