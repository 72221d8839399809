//! The services' API over gRPC: a file for each verb. Wire messages become the engine's types here, and its
//! answers become wire messages; values are a `Plaintext` from the first line on.

mod describe;
mod detokenize;
mod fact;
mod items;
mod lookup;
mod rectify;
mod release;
mod stream;
mod tokenize;

use cloakroom_proto::vault::v1::vault_service_server::VaultService;
use cloakroom_proto::vault::v1::{
    DescribeRequest, DescribeResponse, DetokenizeRequest, DetokenizeResponse, DetokenizeStreamRequest,
    DetokenizeStreamResponse, LookupRequest, LookupResponse, RecordFactRequest, RecordFactResponse,
    RectifyRequest, RectifyResponse, ReleaseRequest, ReleaseResponse, TokenizeRequest, TokenizeResponse,
    TokenizeStreamRequest, TokenizeStreamResponse,
};
use cloakroom_runtime::shutdown::Shutdown;
use tonic::{Request, Response, Status, Streaming};

use crate::house::House;
use crate::measure::ItemCounter;
use crate::wire::{Answers, bounded, caller, trace_of};

/// `cloakroom.vault.v1.VaultService`.
#[derive(Clone)]
pub(crate) struct VaultApi {
    house: House,
    items: ItemCounter,
    shutdown: Shutdown,
}

impl VaultApi {
    pub(crate) fn new(house: House, shutdown: Shutdown) -> Self {
        Self { house, items: ItemCounter::new(), shutdown }
    }
}

#[tonic::async_trait]
impl VaultService for VaultApi {
    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let caller = caller(&request)?;
        bounded(self.tokenized(&caller, request.into_inner()).await?)
    }

    type TokenizeStreamStream = Answers<TokenizeStreamResponse>;

    async fn tokenize_stream(
        &self,
        request: Request<Streaming<TokenizeStreamRequest>>,
    ) -> Result<Response<Self::TokenizeStreamStream>, Status> {
        Ok(Response::new(self.tokenize_batches(caller(&request)?, request.into_inner())))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let (caller, trace) = (caller(&request)?, trace_of(request.metadata()));
        bounded(self.detokenized(&caller, trace, request.into_inner()).await?)
    }

    type DetokenizeStreamStream = Answers<DetokenizeStreamResponse>;

    async fn detokenize_stream(
        &self,
        request: Request<Streaming<DetokenizeStreamRequest>>,
    ) -> Result<Response<Self::DetokenizeStreamStream>, Status> {
        let (caller, trace) = (caller(&request)?, trace_of(request.metadata()));
        Ok(Response::new(self.detokenize_batches(caller, trace, request.into_inner())))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let caller = caller(&request)?;
        bounded(self.described(&caller, request.into_inner()).await?)
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        let (caller, trace) = (caller(&request)?, trace_of(request.metadata()));
        bounded(self.looked_up(&caller, trace, request.into_inner()).await?)
    }

    async fn rectify(&self, request: Request<RectifyRequest>) -> Result<Response<RectifyResponse>, Status> {
        let caller = caller(&request)?;
        bounded(self.rectified(&caller, request.into_inner()).await?)
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let caller = caller(&request)?;
        bounded(self.released(&caller, request.into_inner()).await?)
    }

    async fn record_fact(
        &self,
        request: Request<RecordFactRequest>,
    ) -> Result<Response<RecordFactResponse>, Status> {
        let caller = caller(&request)?;
        bounded(self.recorded(&caller, request.into_inner()).await?)
    }
}
