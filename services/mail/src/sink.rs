//! For development: an SMTP server that takes every message, keeps the newest in memory, shows them to whoever
//! asks (`GET /messages`), and writes nothing to disk. What it holds is personal data in the clear, so it is on
//! only where the configuration says so, and it listens where that says.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use cloakroom_runtime::shutdown::Shutdown;
use mailin::{Action, Handler, Response, Session, SessionBuilder, response};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::MailError;

/// Messages kept; the oldest go first.
const MESSAGES_MAX: usize = 1_000;
/// The largest message taken.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The longest line taken: RFC 5321 wants 1,000.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Conversations at once.
const CONVERSATIONS_MAX: usize = 64;
/// A line that does not come in so long ends the conversation.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// A message as it arrived. No `Debug`: it is full of people.
#[derive(Clone, Default, Serialize)]
pub struct Received {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body, as sent.
    pub message: String,
}

/// The sink. Clones share one state.
#[derive(Clone, Default)]
pub struct Sink(Arc<Mutex<VecDeque<Received>>>);

impl Sink {
    /// Listens on `address` until `shutdown`.
    ///
    /// # Errors
    /// [`MailError::Sink`]
    pub async fn start(address: SocketAddr, shutdown: &Shutdown) -> Result<Self, MailError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| MailError::Sink { address, source })?;
        tracing::warn!(%address, "the development sink takes every mail and shows it at /messages");
        let sink = Self::default();
        tokio::spawn(sink.clone().listen(listener, shutdown.clone()));
        Ok(sink)
    }

    /// What has arrived, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.lock().iter().cloned().collect()
    }

    /// `GET /messages`.
    pub fn router(&self) -> Router {
        let show = async |State(sink): State<Sink>| Json(sink.received());
        Router::new().route("/messages", get(show)).with_state(self.clone())
    }

    async fn listen(self, listener: TcpListener, shutdown: Shutdown) {
        let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.begun() => return,
            };
            let Ok((stream, from)) = accepted else { continue };
            let sink = self.clone();
            tokio::spawn(async move {
                if let Err(error) = sink.converse(stream, from.ip()).await {
                    tracing::debug!(%error, "a conversation with the sink ended early");
                }
                drop(place);
            });
        }
    }

    async fn converse(&self, stream: TcpStream, from: IpAddr) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let envelope = Envelope { sink: self.clone(), current: Received::default(), data: Vec::new() };
        let mut session: Session<Envelope> = SessionBuilder::new("cloakroom-sink").build(from, envelope);
        let mut answer = Vec::new();
        session.greeting().write_to(&mut answer)?;
        writer.write_all(&answer).await?;
        while let Some(line) = timeout(SILENT_MAX, line(&mut reader)).await?? {
            let said = session.process(&line);
            if said.action == Action::NoReply {
                continue;
            }
            answer.clear();
            said.write_to(&mut answer)?;
            writer.write_all(&answer).await?;
            if said.action == Action::Close {
                break;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Received>> {
        // No code that could panic runs while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line with its end; `None` at the end of the conversation.
async fn line(reader: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if read > 0 && line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((read > 0).then_some(line))
}

/// One conversation's message.
struct Envelope {
    sink: Sink,
    current: Received,
    data: Vec<u8>,
}

impl Handler for Envelope {
    fn data_start(&mut self, _domain: &str, from: &str, _is8bit: bool, to: &[String]) -> Response {
        self.current = Received { from: from.to_owned(), to: to.to_vec(), message: String::new() };
        self.data.clear();
        response::START_DATA
    }

    fn data(&mut self, some: &[u8]) -> io::Result<()> {
        // One byte more than is taken is kept, so that the end knows of it.
        let room = (MESSAGE_BYTES_MAX + 1).saturating_sub(self.data.len());
        self.data.extend(some.iter().take(room));
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        if self.data.len() > MESSAGE_BYTES_MAX {
            // The state machine would take what follows a refusal for more data.
            let mut refused = response::NO_STORAGE;
            refused.action = Action::Close;
            return refused;
        }
        let mut received = std::mem::take(&mut self.current);
        received.message = String::from_utf8_lossy(&self.data).into_owned();
        let mut messages = self.sink.lock();
        if messages.len() >= MESSAGES_MAX {
            messages.pop_front();
        }
        messages.push_back(received);
        response::OK
    }
}

#[cfg(test)]
mod tests {
    use lettre::message::Mailbox;
    use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_to_it_is_shown_and_only_so_much_is_kept() {
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sink = Sink::default();
        tokio::spawn(sink.clone().listen(listener, shutdown.clone()));
        let relay = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string());
        let relay = relay.port(address.port()).build();
        let mailbox = |address: &str| -> Mailbox { address.parse().unwrap() };
        let message = |body: String| {
            let message = Message::builder().from(mailbox("a@b.example")).to(mailbox("c@d.example"));
            message.subject("hello").body(body).unwrap()
        };
        relay.send(message("one\r\n.two\r\n".into())).await.unwrap();
        let received = sink.received();
        assert_eq!(
            (received[0].from.as_str(), received[0].to.as_slice()),
            ("a@b.example", &["c@d.example".to_owned()][..])
        );
        assert!(
            received[0].message.contains("Subject: hello")
                && received[0].message.contains("\r\n\r\none\r\n.two\r\n")
        );

        let large = relay.send(message("0123456789\r\n".repeat(MESSAGE_BYTES_MAX / 10))).await;
        assert!(large.unwrap_err().is_permanent());
        assert_eq!(sink.received().len(), 1);
        shutdown.begin();
    }
}
