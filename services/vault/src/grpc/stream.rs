//! The same content batch after batch on one call. One batch is at work at a time, so a later one sees what
//! an earlier one made; what refuses a batch as a whole ends the call.

use cloakroom_proto::vault::v1::{
    DetokenizeStreamRequest, DetokenizeStreamResponse, TokenizeStreamRequest, TokenizeStreamResponse,
};
use cloakroom_runtime::identity::Principal;
use cloakroom_runtime::shutdown::Shutdown;
use futures_util::{StreamExt, stream};
use tonic::{Status, Streaming};

use super::VaultApi;
use crate::wire::{Answers, fault_of, within};

impl VaultApi {
    pub(super) fn tokenize_batches(
        &self,
        caller: Principal,
        requests: Streaming<TokenizeStreamRequest>,
    ) -> Answers<TokenizeStreamResponse> {
        let vault = self.clone();
        batches(self.shutdown.clone(), requests, move |request| {
            let (vault, caller) = (vault.clone(), caller.clone());
            async move {
                let batch = request.batch.unwrap_or_default();
                Ok(TokenizeStreamResponse { batch: Some(vault.tokenized(&caller, batch).await?) })
            }
        })
    }

    pub(super) fn detokenize_batches(
        &self,
        caller: Principal,
        trace: [u8; 16],
        requests: Streaming<DetokenizeStreamRequest>,
    ) -> Answers<DetokenizeStreamResponse> {
        let vault = self.clone();
        batches(self.shutdown.clone(), requests, move |request| {
            let (vault, caller) = (vault.clone(), caller.clone());
            async move {
                let batch = request.batch.unwrap_or_default();
                Ok(DetokenizeStreamResponse { batch: Some(vault.detokenized(&caller, trace, batch).await?) })
            }
        })
    }
}

/// The answer to each of `requests`, until the first that has none, or until the vault stops.
fn batches<Q, A, F>(
    shutdown: Shutdown,
    requests: Streaming<Q>,
    answer: impl FnMut(Q) -> F + Send + 'static,
) -> Answers<A>
where
    Q: Send + 'static,
    A: prost::Message + 'static,
    F: Future<Output = Result<A, Status>> + Send,
{
    Box::pin(stream::try_unfold((requests, answer), move |(mut requests, mut answer)| {
        let shutdown = shutdown.clone();
        async move {
            let next = tokio::select! {
                biased;
                () = shutdown.begun() => return Err(Status::unavailable("the vault is stopping")),
                next = requests.next() => next,
            };
            let request = match next {
                None => return Ok(None),
                Some(Err(status)) => return Err(fault_of(&status).unwrap_or(status)),
                Some(Ok(request)) => request,
            };
            let answered = answer(request).await?;
            within(&answered)?;
            Ok(Some((answered, (requests, answer))))
        }
    }))
}
