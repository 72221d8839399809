//! A vault's two endpoints as a downstream sees them, over real mutual TLS, saying what the test wants.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cloakroom_bus::topics::{self, Kind};
use cloakroom_client::{Client, Endpoint};
use cloakroom_core::clock::{Clock, SystemClock};
use cloakroom_crypto::sign::{SigningKey, record_bytes};
use cloakroom_proto::admin::v1::admin_service_server::{AdminService, AdminServiceServer};
use cloakroom_proto::admin::v1::*;
use cloakroom_proto::bus::v1::Purge;
use cloakroom_proto::vault::v1::vault_service_server::{VaultService, VaultServiceServer};
use cloakroom_proto::vault::v1::*;
use cloakroom_runtime::certs::{Authority, Holder};
use cloakroom_runtime::identity::Identity;
use cloakroom_runtime::serve::{Listener, ServeConfig};
use cloakroom_runtime::shutdown::Shutdown;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::Notify;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const CONTROLLER: &str = "see";

/// What the endpoints know and have seen.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) kafka: String,
    pub(crate) announcer_keys: Vec<Bytes>,
    pub(crate) registered: Vec<RegisterDownstreamRequest>,
    pub(crate) replays: Vec<u64>,
    pub(crate) ledger: Vec<ReplayErasuresResponse>,
    /// How often registering is refused before it is let through.
    pub(crate) refusals: u32,
    pub(crate) values: HashMap<String, Bytes>,
    pub(crate) detokenized: u32,
}

pub(crate) struct Vault {
    pub(crate) folder: TempDir,
    pub(crate) announcer: Arc<SigningKey>,
    pub(crate) known: Arc<Mutex<Known>>,
    /// Detokenize says that it was asked, and answers when it is let go.
    pub(crate) asked: Arc<Notify>,
    pub(crate) let_go: Arc<Notify>,
    pub(crate) slow: Arc<std::sync::atomic::AtomicBool>,
    address: String,
    shutdown: Shutdown,
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl Vault {
    pub(crate) async fn start(kafka: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemClock.now_unix_ms();
        let authority = Authority::open_or_create(folder.path(), now).unwrap();
        let files = authority.issue(&Holder::local("vault"), now, 1).unwrap();
        authority.issue(&Holder::local("mail"), now, 1).unwrap();
        let announcer = Arc::new(SigningKey::generate());
        let known = Known {
            kafka: kafka.to_owned(),
            announcer_keys: vec![Bytes::copy_from_slice(announcer.verifying_key().as_bytes())],
            ..Known::default()
        };
        let known = Arc::new(Mutex::new(known));
        let shutdown = Shutdown::new();
        let identity = Identity::follow(files, &shutdown).unwrap();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), ServeConfig::default()).await.unwrap();
        let address = listener.local_address().to_string();
        let house = Self {
            folder,
            announcer,
            known: Arc::clone(&known),
            asked: Arc::default(),
            let_go: Arc::default(),
            slow: Arc::default(),
            address,
            shutdown: shutdown.clone(),
        };
        let vault = FakeVault {
            known: Arc::clone(&known),
            asked: Arc::clone(&house.asked),
            let_go: Arc::clone(&house.let_go),
            slow: Arc::clone(&house.slow),
        };
        let router = tonic::service::Routes::new(AdminServiceServer::new(FakeAdmin(known)))
            .add_service(VaultServiceServer::new(vault))
            .into_axum_router();
        tokio::spawn(async move {
            let _drained = listener.serve_tls(identity, router, shutdown).await;
        });
        house
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::in_folder(self.address.clone(), self.folder.path(), "mail")
    }

    pub(crate) fn client(&self) -> Client {
        Client::lazy(&self.endpoint(), None).unwrap()
    }

    pub(crate) fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// A purge as the ledger holds it, signed by `key`.
    pub(crate) fn in_ledger(&self, position: u64, token: &str, key: &SigningKey) {
        let purge =
            Purge { version: 1, purge_id: format!("p{position}"), token: token.into(), ..Default::default() };
        let (topic, value) = (topics::erasure(CONTROLLER), purge.encode_to_vec());
        let attributes: Vec<(&str, &[u8])> =
            vec![("ce_id", b"x"), ("ce_type", Kind::Purge.ce_type().as_bytes())];
        let signature = key.sign(&record_bytes(&topic, token.as_bytes(), &attributes, &value));
        let mut headers: HashMap<String, String> = attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap()))
            .collect();
        headers.insert("kid".into(), key.verifying_key().kid());
        headers.insert("sig".into(), data_encoding::HEXLOWER.encode(&signature));
        let entry =
            ReplayErasuresResponse { position, topic, record: value.into(), headers, key: token.into() };
        self.known().ledger.push(entry);
    }
}

struct FakeAdmin(Arc<Mutex<Known>>);

type Answered<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;
type Told<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

macro_rules! unused {
    ($($name:ident($request:ty) -> $response:ty;)*) => {$(
        fn $name<'life0, 'async_trait>(&'life0 self, _: Request<$request>) -> Answered<'async_trait, $response>
        where 'life0: 'async_trait, Self: 'async_trait {
            Box::pin(async { Err(Status::unimplemented("not in this test")) })
        }
    )*};
}

#[tonic::async_trait]
impl AdminService for FakeAdmin {
    type WatchErasureStream = Told<WatchErasureResponse>;
    type ReplayErasuresStream = Told<ReplayErasuresResponse>;
    type BackUpKeysStream = Told<BackUpKeysResponse>;
    type ExportLedgerStream = Told<ExportLedgerResponse>;

    async fn register_downstream(
        &self,
        request: Request<RegisterDownstreamRequest>,
    ) -> Result<Response<RegisterDownstreamResponse>, Status> {
        let mut known = self.0.lock().unwrap();
        if known.refusals > 0 {
            known.refusals -= 1;
            return Err(Status::permission_denied("no register names this downstream"));
        }
        known.registered.push(request.into_inner());
        Ok(Response::new(RegisterDownstreamResponse {
            controllers: vec![CONTROLLER.into()],
            announcer_keys: known.announcer_keys.clone(),
            kafka_bootstrap: known.kafka.clone(),
        }))
    }

    async fn replay_erasures(
        &self,
        request: Request<ReplayErasuresRequest>,
    ) -> Result<Response<Self::ReplayErasuresStream>, Status> {
        let mut known = self.0.lock().unwrap();
        let since = request.into_inner().since;
        known.replays.push(since);
        let entries = known.ledger.iter().filter(|entry| entry.position >= since).cloned();
        let end = ReplayErasuresResponse {
            position: known.ledger.last().map_or(0, |entry| entry.position) + 100,
            ..Default::default()
        };
        let told: VecDeque<_> = entries.chain([end]).map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(Vec::from(told))))
    }

    unused! {
        request_erasure(RequestErasureRequest) -> RequestErasureResponse;
        preview_erasure(PreviewErasureRequest) -> PreviewErasureResponse;
        get_erasure(GetErasureRequest) -> GetErasureResponse;
        list_erasures(ListErasuresRequest) -> ListErasuresResponse;
        watch_erasure(WatchErasureRequest) -> Self::WatchErasureStream;
        redrive_erasure(RedriveErasureRequest) -> RedriveErasureResponse;
        get_certificate(GetCertificateRequest) -> GetCertificateResponse;
        list_downstreams(ListDownstreamsRequest) -> ListDownstreamsResponse;
        apply_register(ApplyRegisterRequest) -> ApplyRegisterResponse;
        get_register(GetRegisterRequest) -> GetRegisterResponse;
        get_signing_keys(GetSigningKeysRequest) -> GetSigningKeysResponse;
        get_status(GetStatusRequest) -> GetStatusResponse;
        verify_log(VerifyLogRequest) -> VerifyLogResponse;
        get_keys(GetKeysRequest) -> GetKeysResponse;
        rotate_keys(RotateKeysRequest) -> RotateKeysResponse;
        move_keys(MoveKeysRequest) -> MoveKeysResponse;
        get_log_checkpoint(GetLogCheckpointRequest) -> GetLogCheckpointResponse;
        get_log_tile(GetLogTileRequest) -> GetLogTileResponse;
        prune_log(PruneLogRequest) -> PruneLogResponse;
        get_gate(GetGateRequest) -> GetGateResponse;
        restore(Streaming<RestoreRequest>) -> RestoreResponse;
        back_up_keys(BackUpKeysRequest) -> Self::BackUpKeysStream;
        end_key_backup(EndKeyBackupRequest) -> EndKeyBackupResponse;
        restore_escrowed(RestoreEscrowedRequest) -> RestoreEscrowedResponse;
        export_ledger(ExportLedgerRequest) -> Self::ExportLedgerStream;
    }
}

struct FakeVault {
    known: Arc<Mutex<Known>>,
    asked: Arc<Notify>,
    let_go: Arc<Notify>,
    slow: Arc<std::sync::atomic::AtomicBool>,
}

#[tonic::async_trait]
impl VaultService for FakeVault {
    type TokenizeStreamStream = Told<TokenizeStreamResponse>;
    type DetokenizeStreamStream = Told<DetokenizeStreamResponse>;

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let answer = {
            let mut known = self.known.lock().unwrap();
            known.detokenized += 1;
            let result = |item: &DetokenizeItem| match known.values.get(&item.token) {
                Some(value) => detokenize_result::Result::Value(value.clone()),
                None => detokenize_result::Result::Error(ItemError {
                    code: ErrorCode::Erased.into(),
                    ..Default::default()
                }),
            };
            let items = request.get_ref().items.iter();
            let items =
                items.map(|item| DetokenizeResult { reference: String::new(), result: Some(result(item)) });
            DetokenizeResponse { items: items.collect() }
        };
        if self.slow.load(std::sync::atomic::Ordering::SeqCst) {
            self.asked.notify_one();
            self.let_go.notified().await;
        }
        Ok(Response::new(answer))
    }

    unused! {
        tokenize(TokenizeRequest) -> TokenizeResponse;
        tokenize_stream(Streaming<TokenizeStreamRequest>) -> Self::TokenizeStreamStream;
        detokenize_stream(Streaming<DetokenizeStreamRequest>) -> Self::DetokenizeStreamStream;
        describe(DescribeRequest) -> DescribeResponse;
        rectify(RectifyRequest) -> RectifyResponse;
        release(ReleaseRequest) -> ReleaseResponse;
        record_fact(RecordFactRequest) -> RecordFactResponse;
        lookup(LookupRequest) -> LookupResponse;
    }
}
