//! The gRPC service.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use cloakroom_downstream::daemon::{Callers, Daemon};
use cloakroom_downstream::{Copies, DownstreamError, Reader, Token};
use cloakroom_proto::mail::v1::mail_service_server::MailService;
use cloakroom_proto::mail::v1::{
    GetStatisticsRequest, GetStatisticsResponse, SendNewsletterRequest, SendNewsletterResponse,
    SendTicketRequest, SendTicketResponse, SubscribeNewsletterRequest, SubscribeNewsletterResponse,
    UnsubscribeNewsletterRequest, UnsubscribeNewsletterResponse,
};
use futures_util::StreamExt;
use tonic::{Request, Response, Status};

use crate::MailError;
use crate::config::MailConfig;
use crate::ledger::{Ledger, Standing};
use crate::message::{self, Ticket};
use crate::relay::Relay;

/// Texts of a request, in bytes: a line in a mail, not a document.
const LINE_BYTES_MAX: usize = 1_000;
/// A newsletter's text, in bytes.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Ids and keys, in bytes.
const KEY_BYTES_MAX: usize = 128;
/// Subscribers read at once, and mails under way at once: what a relay takes from one sender without a frown.
const PAGE: usize = 200;
const AT_ONCE: usize = 8;

/// Sends mail to people known by token.
pub struct Mail {
    callers: Callers,
    copies: Copies,
    tickets: Reader,
    newsletter: Reader,
    ledger: Ledger,
    relay: Relay,
    under_way: UnderWay,
}

/// Idempotency keys whose messages are being sent: a second call at the same time must not send a second one.
type UnderWay = Arc<Mutex<HashSet<(String, String)>>>;

/// One of them; gives its place back when dropped.
struct Place {
    of: UnderWay,
    key: (String, String),
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.of).remove(&self.key);
    }
}

impl Mail {
    pub(crate) fn new(daemon: &Daemon, config: &MailConfig, relay: Relay) -> Self {
        let reader = |purpose| Reader::plain(daemon.vault.clone(), daemon.copies.clone(), purpose);
        Self {
            callers: daemon.callers.clone(),
            tickets: reader(&config.ticket_purpose),
            newsletter: reader(&config.newsletter_purpose),
            ledger: Ledger(daemon.copies.clone()),
            copies: daemon.copies.clone(),
            relay,
            under_way: UnderWay::default(),
        }
    }

    async fn ticket(&self, asked: SendTicketRequest) -> Result<String, MailError> {
        check(&asked.controller, "controller", 1, KEY_BYTES_MAX)?;
        check(&asked.idempotency_key, "idempotency_key", 0, KEY_BYTES_MAX)?;
        check(&asked.order_reference, "order_reference", 0, LINE_BYTES_MAX)?;
        check(&asked.event_name, "event_name", 1, LINE_BYTES_MAX)?;
        check(&asked.event_date, "event_date", 0, LINE_BYTES_MAX)?;
        let (email, name) = (Token::parse(&asked.email_token)?, Token::parse(&asked.name_token)?);
        let (controller, key) = (&asked.controller, &asked.idempotency_key);
        if key.is_empty() {
            let id = message::message_id(self.relay.sender());
            return self.send_ticket(&asked, &email, &name, id).await;
        }
        let _place = self.take_place(controller, key)?;
        if let Some(message_id) = self.ledger.sent(controller, key, &email).await? {
            return Ok(message_id);
        }
        let new_id = message::message_id(self.relay.sender());
        match self.ledger.begin(controller, key, &email, new_id).await? {
            Standing::Sent(message_id) => Ok(message_id),
            Standing::ToSend(message_id) => self.send_ticket(&asked, &email, &name, message_id).await,
        }
    }

    /// Reads name and address, and sends while both are held: a purge of either waits until the mail is out.
    async fn send_ticket(
        &self,
        asked: &SendTicketRequest,
        email: &Token,
        name: &Token,
        message_id: String,
    ) -> Result<String, MailError> {
        let tokens = [email.clone(), name.clone()];
        let mut read = self.tickets.read_all(&asked.controller, &tokens).await?.into_iter();
        let (Some(address), Some(full_name)) = (read.next(), read.next()) else {
            return Err(DownstreamError::NotWritten.into());
        };
        let (address, full_name) = (address?, full_name?);
        let facts =
            Ticket { event: &asked.event_name, date: &asked.event_date, order: &asked.order_reference };
        let message =
            message::ticket(self.relay.sender(), address.text()?, full_name.text()?, &facts, &message_id)?;
        self.relay.send(message).await?;
        drop((address, full_name));
        self.ledger.finish(&asked.controller, &asked.idempotency_key).await?;
        Ok(message_id)
    }

    /// Sends one text to all subscribers. Those who are gone are taken off the list.
    async fn to_all(&self, asked: &SendNewsletterRequest) -> Result<SendNewsletterResponse, MailError> {
        check(&asked.controller, "controller", 1, KEY_BYTES_MAX)?;
        check(&asked.subject, "subject", 1, LINE_BYTES_MAX)?;
        check(&asked.body, "body", 1, BODY_BYTES_MAX)?;
        let mut response = SendNewsletterResponse::default();
        let (mut after, mut failed) = (None, None);
        loop {
            let page = self.ledger.subscribers(&asked.controller, after.as_ref(), PAGE).await?;
            // One call to the vault for the page; each is held again, alone, while its own mail is sent.
            drop(self.newsletter.read_all(&asked.controller, &page).await?);
            let last = page.last().cloned();
            let mut outcomes = futures_util::stream::iter(page)
                .map(|email| self.to_one(asked, email))
                .buffer_unordered(AT_ONCE);
            while let Some((email, outcome)) = outcomes.next().await {
                match outcome {
                    Ok(()) => response.sent = response.sent.saturating_add(1),
                    Err(MailError::Downstream(DownstreamError::Purged)) => {
                        response.gone = response.gone.saturating_add(1);
                        self.ledger.unsubscribe(&asked.controller, &email).await?;
                    }
                    Err(error) => {
                        tracing::warn!(%email, error = &error as &dyn std::error::Error, "a newsletter was not sent");
                        failed = Some(error);
                    }
                }
            }
            if last.is_none() {
                break;
            }
            after = last;
        }
        match failed {
            Some(error) if response.sent == 0 => Err(error),
            _ => Ok(response),
        }
    }

    async fn to_one(&self, asked: &SendNewsletterRequest, email: Token) -> (Token, Result<(), MailError>) {
        let outcome = self.send_newsletter_to(asked, &email).await;
        (email, outcome)
    }

    async fn send_newsletter_to(
        &self,
        asked: &SendNewsletterRequest,
        email: &Token,
    ) -> Result<(), MailError> {
        let address = self.newsletter.read(&asked.controller, email).await?;
        let id = message::message_id(self.relay.sender());
        let message =
            message::newsletter(self.relay.sender(), address.text()?, &asked.subject, &asked.body, &id)?;
        self.relay.send(message).await?;
        drop(address);
        self.ledger.finish(&asked.controller, "").await
    }

    fn take_place(&self, controller: &str, key: &str) -> Result<Place, MailError> {
        let key = (controller.to_owned(), key.to_owned());
        if !lock(&self.under_way).insert(key.clone()) {
            return Err(MailError::InProgress);
        }
        Ok(Place { of: Arc::clone(&self.under_way), key })
    }
}

#[tonic::async_trait]
impl MailService for Mail {
    async fn send_ticket(
        &self,
        request: Request<SendTicketRequest>,
    ) -> Result<Response<SendTicketResponse>, Status> {
        self.callers.admit(&request)?;
        let message_id = self.ticket(request.into_inner()).await?;
        Ok(Response::new(SendTicketResponse { message_id }))
    }

    /// Reads the address at once, so that a token that is no address of this controller's is refused here.
    async fn subscribe_newsletter(
        &self,
        request: Request<SubscribeNewsletterRequest>,
    ) -> Result<Response<SubscribeNewsletterResponse>, Status> {
        self.callers.admit(&request)?;
        let asked = request.into_inner();
        check(&asked.controller, "controller", 1, KEY_BYTES_MAX)?;
        let email = token(&asked.email_token)?;
        let held = self.newsletter.read(&asked.controller, &email).await.map_err(MailError::from)?;
        self.ledger.subscribe(&asked.controller, &email).await?;
        drop(held);
        Ok(Response::new(SubscribeNewsletterResponse {}))
    }

    async fn unsubscribe_newsletter(
        &self,
        request: Request<UnsubscribeNewsletterRequest>,
    ) -> Result<Response<UnsubscribeNewsletterResponse>, Status> {
        self.callers.admit(&request)?;
        let asked = request.into_inner();
        self.ledger.unsubscribe(&asked.controller, &token(&asked.email_token)?).await?;
        Ok(Response::new(UnsubscribeNewsletterResponse {}))
    }

    async fn send_newsletter(
        &self,
        request: Request<SendNewsletterRequest>,
    ) -> Result<Response<SendNewsletterResponse>, Status> {
        self.callers.admit(&request)?;
        Ok(Response::new(self.to_all(request.get_ref()).await?))
    }

    async fn get_statistics(
        &self,
        request: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        self.callers.admit(&request)?;
        let controller = &request.get_ref().controller;
        let counts = self.copies.counts(controller).await.map_err(MailError::from)?;
        let tally = self.ledger.tally(controller).await?;
        Ok(Response::new(GetStatisticsResponse {
            copies: counts.copies,
            subscribers: tally.subscribers,
            messages_sent: tally.sent,
            purged: counts.purged,
        }))
    }
}

fn token(text: &str) -> Result<Token, MailError> {
    Ok(Token::parse(text)?)
}

fn check(text: &str, field: &'static str, least: usize, most: usize) -> Result<(), MailError> {
    match text.len() {
        length if length < least => Err(MailError::Invalid { field, reason: "empty" }),
        length if length > most => Err(MailError::Invalid { field, reason: "too long" }),
        _ => Ok(()),
    }
}

fn lock(under_way: &UnderWay) -> std::sync::MutexGuard<'_, HashSet<(String, String)>> {
    // No code that could panic runs while it is held.
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
