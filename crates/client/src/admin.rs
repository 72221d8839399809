//! The officer's API: a request in, a response out.

use cloakroom_proto::admin::v1::admin_service_client::AdminServiceClient;
use cloakroom_proto::admin::v1::*;
use tonic::{Request, Streaming};

use crate::endpoint::{Outgoing, Wire, WriteHeaders, channel, channel_lazy};
use crate::retry::{Repeat, Retry};
use crate::{ClientError, Endpoint};

/// Calls the admin endpoint. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct AdminClient {
    admin: AdminServiceClient<Wire>,
    address: String,
    retry: Retry,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident;)*) => {
        impl AdminClient {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
            pub async fn $name(&self, request: $request) -> Result<$response, ClientError> {
                self.call(Repeat::Safe, request, |mut admin, request| async move { admin.$name(request).await }).await
            }
        )*}
    };
}

calls! {
    /// What an erasure would destroy, without doing it.
    preview_erasure(PreviewErasureRequest) -> PreviewErasureResponse;
    /// One erasure.
    get_erasure(GetErasureRequest) -> GetErasureResponse;
    /// Erasures, a page at a time.
    list_erasures(ListErasuresRequest) -> ListErasuresResponse;
    /// Announces an erasure again.
    redrive_erasure(RedriveErasureRequest) -> RedriveErasureResponse;
    /// The signed certificate of an erasure.
    get_certificate(GetCertificateRequest) -> GetCertificateResponse;
    /// A downstream's own call: its key and the id of its store of copies.
    register_downstream(RegisterDownstreamRequest) -> RegisterDownstreamResponse;
    /// Downstreams and how far they are.
    list_downstreams(ListDownstreamsRequest) -> ListDownstreamsResponse;
    /// Applies a register, or shows what it would change.
    apply_register(ApplyRegisterRequest) -> ApplyRegisterResponse;
    /// The register in force.
    get_register(GetRegisterRequest) -> GetRegisterResponse;
    /// The keys that certificates and announcements are signed with.
    get_signing_keys(GetSigningKeysRequest) -> GetSigningKeysResponse;
    /// How the vault is.
    get_status(GetStatusRequest) -> GetStatusResponse;
    /// How the keys stand with their root holder.
    get_keys(GetKeysRequest) -> GetKeysResponse;
    /// Replaces the root now.
    rotate_keys(RotateKeysRequest) -> RotateKeysResponse;
    /// Moves the root to the holder that the vault's configuration names by now.
    move_keys(MoveKeysRequest) -> MoveKeysResponse;
    /// Ends a key backup's escrow before its time.
    end_key_backup(EndKeyBackupRequest) -> EndKeyBackupResponse;
    /// Goes on from the key backup that lies where the keys were.
    restore_escrowed(RestoreEscrowedRequest) -> RestoreEscrowedResponse;
    /// Replays the whole log and compares. Takes as long as the log is long: raise the deadline.
    verify_log(VerifyLogRequest) -> VerifyLogResponse;
    /// What the log says of itself now, signed.
    get_log_checkpoint(GetLogCheckpointRequest) -> GetLogCheckpointResponse;
    /// Hashes of the log's Merkle tree.
    get_log_tile(GetLogTileRequest) -> GetLogTileResponse;
    /// Drops the ciphertext of dead values. Takes as long as the log is long: raise the deadline.
    prune_log(PruneLogRequest) -> PruneLogResponse;
    /// How data, keys and root holder stand to each other; answers while the gate is closed too.
    get_gate(GetGateRequest) -> GetGateResponse;
}

impl AdminClient {
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
        let admin = AdminServiceClient::with_interceptor(channel, WriteHeaders(outgoing));
        Self { admin, address: address.to_owned(), retry: Retry::default() }
    }

    /// The same client with other deadlines and pauses.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Fences, destroys the keys, announces. Tried again only with an idempotency key: the subject's
    /// salt is given once, and only a key leads back to it.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
    pub async fn request_erasure(
        &self,
        request: RequestErasureRequest,
    ) -> Result<RequestErasureResponse, ClientError> {
        let repeat = if request.idempotency_key.is_empty() { Repeat::Unsafe } else { Repeat::Safe };
        self.call(repeat, request, |mut admin, request| async move { admin.request_erasure(request).await })
            .await
    }

    /// The erasure now and after every change. Has no deadline.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
    pub async fn watch_erasure(
        &self,
        request: WatchErasureRequest,
    ) -> Result<Streaming<WatchErasureResponse>, ClientError> {
        let opened = self.admin.clone().watch_erasure(request).await;
        Ok(opened.map_err(|status| ClientError::of_status(&self.address, status))?.into_inner())
    }

    /// A downstream's own call: the erasure ledger from a position on, ending where it stands now. Has
    /// no deadline.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
    pub async fn replay_erasures(
        &self,
        request: ReplayErasuresRequest,
    ) -> Result<Streaming<ReplayErasuresResponse>, ClientError> {
        let opened = self.admin.clone().replay_erasures(request).await;
        Ok(opened.map_err(|status| ClientError::of_status(&self.address, status))?.into_inner())
    }

    /// Accepts an older log, destroys again what a ledger names, or both. Asked once: has no deadline.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
    pub async fn restore(&self, requests: Vec<RestoreRequest>) -> Result<RestoreResponse, ClientError> {
        let done = self.admin.clone().restore(tokio_stream::iter(requests)).await;
        Ok(done.map_err(|status| ClientError::of_status(&self.address, status))?.into_inner())
    }

    /// The erasure ledger as signed lines. Has no deadline.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
    pub async fn export_ledger(
        &self,
        request: ExportLedgerRequest,
    ) -> Result<Streaming<ExportLedgerResponse>, ClientError> {
        let opened = self.admin.clone().export_ledger(request).await;
        Ok(opened.map_err(|status| ClientError::of_status(&self.address, status))?.into_inner())
    }

    /// Makes a key backup: what it is, then its bytes. Never repeated: each has a root of its own in escrow.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Refused`], [`ClientError::Status`].
    pub async fn back_up_keys(
        &self,
        request: BackUpKeysRequest,
    ) -> Result<Streaming<BackUpKeysResponse>, ClientError> {
        let opened = self.admin.clone().back_up_keys(request).await;
        Ok(opened.map_err(|status| ClientError::of_status(&self.address, status))?.into_inner())
    }

    async fn call<Q, A, F, W>(&self, repeat: Repeat, request: Q, call: F) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Fn(AdminServiceClient<Wire>, Request<Q>) -> W,
        W: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
    {
        let call = |request| call(self.admin.clone(), request);
        self.retry.run(&self.address, repeat, request, call).await
    }
}
