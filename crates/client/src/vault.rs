//! The services' API, with an answer for each item.

use std::fmt;

use bytes::Bytes;
use cloakroom_proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_proto::vault::v1::{
    DescribeRequest, DescribeResult, Description, DetokenizeRequest, DetokenizeResult, ErrorCode, ItemError,
    LookupRequest, LookupResult, Matches, RecordFactRequest, Rectified, RectifyRequest, RectifyResult,
    ReleaseRequest, ReleaseResult, Released, TokenizeRequest, TokenizeResult, Tokenized, describe_result,
    detokenize_result, lookup_result, rectify_result, release_result, tokenize_item, tokenize_result,
};

use tonic::Request;

use crate::endpoint::{Outgoing, Wire, WriteHeaders, channel, channel_lazy};
use crate::retry::{Repeat, Retry};
use crate::{ClientError, Endpoint};

/// Calls the vault as a service does. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    vault: VaultServiceClient<Wire>,
    address: String,
    retry: Retry,
}

/// The answer to one item, in the order of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The item's reference (for `describe`, its token), echoed.
    pub reference: String,
    /// What became of it.
    pub result: Result<T, Refusal>,
}

/// Why one item was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str_name())]
pub struct Refusal {
    /// In the order in which refusals are decided.
    pub code: ErrorCode,
    /// Ids and codes, never values.
    pub message: String,
    /// Whether the same item may succeed later.
    pub retryable: bool,
}

/// A value read from the vault. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Bytes);

impl Value {
    /// The value as it was stored: UTF-8 text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value as text; `None` if the vault holds what is not UTF-8, which it never takes in.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(..)")
    }
}

impl From<ItemError> for Refusal {
    fn from(error: ItemError) -> Self {
        Self { code: error.code(), retryable: error.retryable, message: error.message }
    }
}

/// A result without either of its arms comes from a server newer than this client.
fn empty() -> Refusal {
    Refusal { code: ErrorCode::Unspecified, message: "an answer of an unknown kind".into(), retryable: false }
}

macro_rules! answers {
    ($($result:ident, $module:ident::$arm:ident, $reference:ident -> $what:ident;)*) => {$(
        impl From<$result> for Answer<$what> {
            fn from(item: $result) -> Self {
                let result = match item.result {
                    Some($module::Result::$arm(found)) => Ok(found.into()),
                    Some($module::Result::Error(error)) => Err(error.into()),
                    None => Err(empty()),
                };
                Self { reference: item.$reference, result }
            }
        }
    )*};
}

answers! {
    TokenizeResult, tokenize_result::Tokenized, reference -> Tokenized;
    DetokenizeResult, detokenize_result::Value, reference -> Value;
    DescribeResult, describe_result::Description, token -> Description;
    LookupResult, lookup_result::Matches, reference -> Matches;
    RectifyResult, rectify_result::Rectified, reference -> Rectified;
    ReleaseResult, release_result::Released, reference -> Released;
}

impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self(value)
    }
}

fn paired<R, T>(items: Vec<R>, wanted: usize) -> Result<Vec<Answer<T>>, ClientError>
where
    Answer<T>: From<R>,
{
    match items.len() {
        found if found == wanted => Ok(items.into_iter().map(Answer::from).collect()),
        found => Err(ClientError::Malformed { found, wanted }),
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident of $items:ident) -> $what:ident;)*) => {
        impl Client {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// As [`Client::tokenize`].
            pub async fn $name(&self, request: $request) -> Result<Vec<Answer<$what>>, ClientError> {
                let wanted = request.$items.len();
                let call = |mut vault: VaultServiceClient<Wire>, request| async move { vault.$name(request).await };
                paired(self.call(Repeat::Safe, request, call).await?.items, wanted)
            }
        )*}
    };
}

calls! {
    /// Gives values for tokens to those whom the register lets read them.
    detokenize(DetokenizeRequest of items) -> Value;
    /// Tells about tokens without their values.
    describe(DescribeRequest of tokens) -> Description;
    /// Finds tokens by value.
    lookup(LookupRequest of items) -> Matches;
    /// Replaces values behind tokens. The same value again changes nothing.
    rectify(RectifyRequest of items) -> Rectified;
    /// Forgets single tokens. After a try whose answer was lost, the next one may say ERASED.
    release(ReleaseRequest of items) -> Released;
}

impl Client {
    /// Connects now.
    ///
    /// # Errors
    /// As [`channel`].
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        Ok(Self::over(channel(endpoint).await?, &endpoint.address, None))
    }

    /// Connects at the first call, writing `outgoing` headers into every call.
    ///
    /// # Errors
    /// As [`channel_lazy`].
    pub fn lazy(endpoint: &Endpoint, outgoing: Option<Outgoing>) -> Result<Self, ClientError> {
        Ok(Self::over(channel_lazy(endpoint)?, &endpoint.address, outgoing))
    }

    fn over(channel: tonic::transport::Channel, address: &str, outgoing: Option<Outgoing>) -> Self {
        let vault = VaultServiceClient::with_interceptor(channel, WriteHeaders(outgoing));
        Self { vault, address: address.to_owned(), retry: Retry::default() }
    }

    /// The same client with other deadlines and pauses.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The generated client, for the streams.
    pub fn wire(&self) -> VaultServiceClient<Wire> {
        self.vault.clone()
    }

    /// Takes values in, gives tokens out. Tried again only where that makes nothing twice: with an
    /// idempotency key, or if no item makes a new subject (the same value of the same subject gets the
    /// same token).
    ///
    /// # Errors
    /// As every call here: [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`]
    /// for the call as a whole; what is wrong with one item is in its answer.
    pub async fn tokenize(&self, request: TokenizeRequest) -> Result<Vec<Answer<Tokenized>>, ClientError> {
        let new = |item: &_| matches!(item, Some(tokenize_item::Subject::NewSubject(_)));
        let again = request.idempotency_key.is_empty() && request.items.iter().any(|item| new(&item.subject));
        let repeat = if again { Repeat::Unsafe } else { Repeat::Safe };
        let wanted = request.items.len();
        let call =
            |mut vault: VaultServiceClient<Wire>, request| async move { vault.tokenize(request).await };
        paired(self.call(repeat, request, call).await?.items, wanted)
    }

    /// Records a fact that retention periods count from.
    ///
    /// # Errors
    /// As [`Client::tokenize`].
    pub async fn record_fact(&self, request: RecordFactRequest) -> Result<(), ClientError> {
        self.call(Repeat::Safe, request, |mut vault, request| async move { vault.record_fact(request).await })
            .await
            .map(|_| ())
    }

    async fn call<Q, A, F, W>(&self, repeat: Repeat, request: Q, call: F) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Fn(VaultServiceClient<Wire>, Request<Q>) -> W,
        W: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
    {
        let call = |request| call(self.vault.clone(), request);
        self.retry.run(&self.address, repeat, request, call).await
    }
}
