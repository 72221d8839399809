//! `cloakroom.admin.v1.AdminService`.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cloakroom_engine as engine;
use cloakroom_proto::admin::v1::admin_service_server::AdminService;
use cloakroom_proto::admin::v1::{
    ApplyRegisterRequest, ApplyRegisterResponse, BackUpKeysRequest, BackUpKeysResponse, EndKeyBackupRequest,
    EndKeyBackupResponse, ExportLedgerRequest, ExportLedgerResponse, GetCertificateRequest,
    GetCertificateResponse, GetErasureRequest, GetErasureResponse, GetGateRequest, GetGateResponse,
    GetKeysRequest, GetKeysResponse, GetLogCheckpointRequest, GetLogCheckpointResponse, GetLogTileRequest,
    GetLogTileResponse, GetRegisterRequest, GetRegisterResponse, GetSigningKeysRequest,
    GetSigningKeysResponse, GetStatusRequest, GetStatusResponse, ListDownstreamsRequest,
    ListDownstreamsResponse, ListErasuresRequest, ListErasuresResponse, MoveKeysRequest, MoveKeysResponse,
    PreviewErasureRequest, PreviewErasureResponse, PruneLogRequest, PruneLogResponse, RedriveErasureRequest,
    RedriveErasureResponse, RegisterDownstreamRequest, RegisterDownstreamResponse, ReplayErasuresRequest,
    ReplayErasuresResponse, RequestErasureRequest, RequestErasureResponse, RestoreEscrowedRequest,
    RestoreEscrowedResponse, RestoreRequest, RestoreResponse, RotateKeysRequest, RotateKeysResponse,
    VerifyLogRequest, VerifyLogResponse, WatchErasureRequest, WatchErasureResponse, back_up_keys_response,
};
use cloakroom_runtime::identity::Principal;
use cloakroom_runtime::shutdown::Shutdown;
use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::{query, wire};
use crate::gate::{Decision, Gate};
use crate::measure;
use crate::refusal::status;
use crate::wire::{Answers, bounded, caller, within};

/// Lines of one restore: a million erasures of a person with a hundred values take more memory than a vault has.
const LEDGER_LINES_MAX: usize = 1_000_000;

/// Bytes of a key backup in one message: a quarter of the longest.
const BACKUP_BYTES_AT_ONCE: usize = 1 << 20;

/// What officers call over gRPC.
pub(crate) struct AdminApi {
    gate: Arc<Gate>,
    shutdown: Shutdown,
}

impl AdminApi {
    pub(crate) fn new(gate: Arc<Gate>, shutdown: Shutdown) -> Self {
        Self { gate, shutdown }
    }

    fn engine(&self) -> Result<Arc<engine::Engine>, Status> {
        self.gate.house().engine().map_err(status)
    }
}

#[tonic::async_trait]
impl AdminService for AdminApi {
    #[tracing::instrument(name = "request_erasure", skip_all)]
    async fn request_erasure(
        &self,
        request: Request<RequestErasureRequest>,
    ) -> Result<Response<RequestErasureResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let request = engine::ErasureRequest {
            controller: asked.controller,
            who: wire::who(asked.who),
            activities: asked.activities,
            actor: asked.actor,
            reason: asked.reason,
            legal_basis: wire::basis(asked.legal_basis).map_err(status)?,
            idempotency_key: asked.idempotency_key,
        };
        let done = self.engine()?.request_erasure(caller.as_str(), request).await;
        let (view, subject_salt) = done.map_err(status)?;
        bounded(RequestErasureResponse { erasure: Some(wire::erasure(view)), subject_salt })
    }

    #[tracing::instrument(name = "preview_erasure", skip_all)]
    async fn preview_erasure(
        &self,
        request: Request<PreviewErasureRequest>,
    ) -> Result<Response<PreviewErasureResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let who = wire::preview_who(asked.who);
        let engine = self.engine()?;
        let preview =
            engine.preview_erasure(caller.as_str(), &asked.controller, who, &asked.activities, &asked.reason);
        bounded(wire::preview(preview.await.map_err(status)?))
    }

    async fn get_erasure(
        &self,
        request: Request<GetErasureRequest>,
    ) -> Result<Response<GetErasureResponse>, Status> {
        let (caller, id) = (caller(&request)?, request.into_inner().erasure_id);
        let view = self.engine()?.erasure(caller.as_str(), &id).await.map_err(status)?;
        bounded(GetErasureResponse { erasure: Some(wire::erasure(view)) })
    }

    async fn list_erasures(
        &self,
        request: Request<ListErasuresRequest>,
    ) -> Result<Response<ListErasuresResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let state = wire::filter(asked.state).map_err(status)?;
        let filter = engine::ErasureFilter { state, overdue: asked.overdue };
        let size = query::page_size(asked.page_size).map_err(status)?;
        let engine = self.engine()?;
        let found = engine.erasures(caller.as_str(), &asked.controller, filter, size, &asked.page_token);
        let (views, next_page_token) = found.await.map_err(status)?;
        bounded(ListErasuresResponse {
            erasures: views.into_iter().map(wire::erasure).collect(),
            next_page_token,
        })
    }

    type WatchErasureStream = Answers<WatchErasureResponse>;

    async fn watch_erasure(
        &self,
        request: Request<WatchErasureRequest>,
    ) -> Result<Response<Self::WatchErasureStream>, Status> {
        let (caller, id) = (caller(&request)?, request.into_inner().erasure_id);
        let engine = self.engine()?;
        // Asked once before the answer begins, so that one who may not see it gets a plain refusal.
        engine.erasure(caller.as_str(), &id).await.map_err(status)?;
        Ok(Response::new(watched(engine, caller, id, self.shutdown.clone())))
    }

    #[tracing::instrument(name = "redrive_erasure", skip_all)]
    async fn redrive_erasure(
        &self,
        request: Request<RedriveErasureRequest>,
    ) -> Result<Response<RedriveErasureResponse>, Status> {
        let (caller, id) = (caller(&request)?, request.into_inner().erasure_id);
        let view = self.engine()?.redrive(caller.as_str(), &id).await.map_err(status)?;
        bounded(RedriveErasureResponse { erasure: Some(wire::erasure(view)) })
    }

    async fn get_certificate(
        &self,
        request: Request<GetCertificateRequest>,
    ) -> Result<Response<GetCertificateResponse>, Status> {
        let (caller, id) = (caller(&request)?, request.into_inner().erasure_id);
        let certificate = self.engine()?.certificate(caller.as_str(), &id).await.map_err(status)?;
        bounded(GetCertificateResponse { certificate })
    }

    #[tracing::instrument(name = "register_downstream", skip_all)]
    async fn register_downstream(
        &self,
        request: Request<RegisterDownstreamRequest>,
    ) -> Result<Response<RegisterDownstreamResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let registration = engine::Registration {
            downstream: asked.downstream,
            verifying_key: asked.verifying_key.into(),
            copies_tree_id: asked.copies_tree_id,
            destroy_class: asked.destroy_class,
        };
        let registered = self.engine()?.register_downstream(caller.as_str(), registration).await;
        bounded(wire::registered(registered.map_err(status)?))
    }

    async fn list_downstreams(
        &self,
        request: Request<ListDownstreamsRequest>,
    ) -> Result<Response<ListDownstreamsResponse>, Status> {
        let (caller, controller) = (caller(&request)?, request.into_inner().controller);
        let found = self.engine()?.downstreams(caller.as_str(), &controller).await.map_err(status)?;
        bounded(ListDownstreamsResponse { downstreams: found.into_iter().map(wire::downstream).collect() })
    }

    type ReplayErasuresStream = Answers<ReplayErasuresResponse>;

    async fn replay_erasures(
        &self,
        request: Request<ReplayErasuresRequest>,
    ) -> Result<Response<Self::ReplayErasuresStream>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let replay = self.engine()?.replay_erasures(caller.as_str(), &asked.downstream, asked.since).await;
        let replay = replay.map_err(status)?;
        let shutdown = self.shutdown.clone();
        let items = stream::try_unfold((replay, shutdown), |(mut replay, shutdown)| async move {
            if shutdown.is_begun() {
                return Err(Status::unavailable("the vault is stopping"));
            }
            let Some(item) = replay.next().await else { return Ok(None) };
            let item = wire::replayed(item.map_err(status)?);
            within(&item)?;
            Ok(Some((item, (replay, shutdown))))
        });
        Ok(Response::new(Box::pin(items)))
    }

    #[tracing::instrument(name = "apply_register", skip_all)]
    async fn apply_register(
        &self,
        request: Request<ApplyRegisterRequest>,
    ) -> Result<Response<ApplyRegisterResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let applied = self.engine()?.apply_register(caller.as_str(), &asked.toml, asked.dry_run).await;
        bounded(wire::applied(applied.map_err(status)?))
    }

    async fn get_register(
        &self,
        request: Request<GetRegisterRequest>,
    ) -> Result<Response<GetRegisterResponse>, Status> {
        let (caller, controller) = (caller(&request)?, request.into_inner().controller);
        let found = self.engine()?.register(caller.as_str(), &controller).await;
        let (toml, version, applied_unix_ms) = found.map_err(status)?;
        bounded(GetRegisterResponse { toml, version, applied_unix_ms })
    }

    async fn get_signing_keys(
        &self,
        request: Request<GetSigningKeysRequest>,
    ) -> Result<Response<GetSigningKeysResponse>, Status> {
        caller(&request)?;
        bounded(GetSigningKeysResponse { jwks: self.engine()?.jwks() })
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let caller = caller(&request)?;
        let found = query::status(&self.gate.house(), caller.as_str()).await.map_err(status)?;
        bounded(wire::status(found))
    }

    #[tracing::instrument(name = "get_keys", skip_all)]
    async fn get_keys(&self, request: Request<GetKeysRequest>) -> Result<Response<GetKeysResponse>, Status> {
        let caller = caller(&request)?;
        let keys = self.engine()?.keys(caller.as_str()).await.map_err(status)?;
        bounded(GetKeysResponse { keys: Some(wire::keys(keys)) })
    }

    #[tracing::instrument(name = "rotate_keys", skip_all)]
    async fn rotate_keys(
        &self,
        request: Request<RotateKeysRequest>,
    ) -> Result<Response<RotateKeysResponse>, Status> {
        let caller = caller(&request)?;
        let keys = self.engine()?.rotate_keys(caller.as_str()).await.map_err(status)?;
        bounded(RotateKeysResponse { keys: Some(wire::keys(keys)) })
    }

    #[tracing::instrument(name = "move_keys", skip_all)]
    async fn move_keys(
        &self,
        request: Request<MoveKeysRequest>,
    ) -> Result<Response<MoveKeysResponse>, Status> {
        let caller = caller(&request)?;
        let keys = self.gate.move_keys(caller.as_str()).await.map_err(status)?;
        bounded(MoveKeysResponse { keys: Some(wire::keys(keys)) })
    }

    type BackUpKeysStream = Answers<BackUpKeysResponse>;

    #[tracing::instrument(name = "back_up_keys", skip_all)]
    async fn back_up_keys(
        &self,
        request: Request<BackUpKeysRequest>,
    ) -> Result<Response<Self::BackUpKeysStream>, Status> {
        let caller = caller(&request)?;
        let (made, file) = self.engine()?.back_up_keys(caller.as_str()).await.map_err(status)?;
        let head = back_up_keys_response::Part::Backup(wire::key_backup(made));
        let parts = stream::try_unfold((Some(head), Some(file), 0_u64), |(head, file, at)| async move {
            let Some(file) = file else { return Ok(None) };
            if head.is_some() {
                return Ok(Some((BackUpKeysResponse { part: head }, (None, Some(file), at))));
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; BACKUP_BYTES_AT_ONCE];
                let count = file.read_at(&mut bytes, at)?;
                bytes.truncate(count);
                Ok::<_, std::io::Error>((bytes, file))
            });
            let lost = || Status::unavailable("the key backup cannot be read: make another one");
            let (bytes, file) = read.await.map_err(|_| lost())?.map_err(|_| lost())?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let next = at.saturating_add(bytes.len() as u64);
            let part = Some(back_up_keys_response::Part::Bytes(bytes.into()));
            Ok(Some((BackUpKeysResponse { part }, (None, Some(file), next))))
        });
        Ok(Response::new(Box::pin(parts)))
    }

    #[tracing::instrument(name = "end_key_backup", skip_all)]
    async fn end_key_backup(
        &self,
        request: Request<EndKeyBackupRequest>,
    ) -> Result<Response<EndKeyBackupResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let keys = self.engine()?.end_key_backup(caller.as_str(), &asked.id).await.map_err(status)?;
        bounded(EndKeyBackupResponse { keys: Some(wire::keys(keys)) })
    }

    #[tracing::instrument(name = "restore_escrowed", skip_all)]
    async fn restore_escrowed(
        &self,
        request: Request<RestoreEscrowedRequest>,
    ) -> Result<Response<RestoreEscrowedResponse>, Status> {
        let caller = caller(&request)?;
        let (keys, slots_lost) = self.gate.restore_escrowed(caller.as_str()).await.map_err(status)?;
        bounded(RestoreEscrowedResponse { keys: Some(wire::keys(keys)), slots_lost })
    }

    #[tracing::instrument(name = "verify_log", skip_all)]
    async fn verify_log(
        &self,
        request: Request<VerifyLogRequest>,
    ) -> Result<Response<VerifyLogResponse>, Status> {
        let caller = caller(&request)?;
        bounded(wire::verdict(self.engine()?.verify_log(caller.as_str()).await.map_err(status)?))
    }

    async fn get_gate(&self, request: Request<GetGateRequest>) -> Result<Response<GetGateResponse>, Status> {
        let caller = caller(&request)?;
        bounded(wire::gate(self.gate.standing(caller.as_str()).await.map_err(status)?))
    }

    #[tracing::instrument(name = "restore", skip_all)]
    async fn restore(
        &self,
        request: Request<Streaming<RestoreRequest>>,
    ) -> Result<Response<RestoreResponse>, Status> {
        let (caller, mut asked) = (caller(&request)?, request.into_inner());
        let first = asked.message().await?.unwrap_or_default();
        let accept = wire::frame(&first.accept_start_id, first.accept_frame).map_err(status)?;
        let (from_kafka, dry_run, without_replay) = (first.from_kafka, first.dry_run, first.without_replay);
        let mut lines = first.lines;
        while let Some(more) = asked.message().await? {
            lines.extend(more.lines);
            if lines.len() > LEDGER_LINES_MAX {
                return Err(Status::resource_exhausted("more lines than one restore takes: split the file"));
            }
        }
        let decision = Decision { accept, from_kafka, lines, dry_run, without_replay };
        let (accepted, replayed) = self.gate.decide(caller.as_str(), decision).await.map_err(status)?;
        bounded(RestoreResponse {
            accepted,
            entries: replayed.entries,
            destroyed: replayed.destroyed,
            dead: replayed.dead,
            unknown: replayed.unknown,
        })
    }

    type ExportLedgerStream = Answers<ExportLedgerResponse>;

    async fn export_ledger(
        &self,
        request: Request<ExportLedgerRequest>,
    ) -> Result<Response<Self::ExportLedgerStream>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let ledger = self.engine()?.export_ledger(caller.as_str(), asked.since).map_err(status)?;
        let shutdown = self.shutdown.clone();
        let lines = stream::try_unfold((ledger, shutdown), |(mut ledger, shutdown)| async move {
            if shutdown.is_begun() {
                return Err(Status::unavailable("the vault is stopping"));
            }
            let Some(line) = ledger.next().await else { return Ok(None) };
            let line = ExportLedgerResponse { line: line.map_err(status)? };
            within(&line)?;
            Ok(Some((line, (ledger, shutdown))))
        });
        Ok(Response::new(Box::pin(lines)))
    }

    async fn get_log_checkpoint(
        &self,
        request: Request<GetLogCheckpointRequest>,
    ) -> Result<Response<GetLogCheckpointResponse>, Status> {
        let (caller, engine) = (caller(&request)?, self.engine()?);
        let checkpoint = engine.log_checkpoint(caller.as_str()).await.map_err(status)?;
        let verifier_keys = engine.log_keys(caller.as_str()).map_err(status)?;
        bounded(GetLogCheckpointResponse { checkpoint, verifier_keys })
    }

    async fn get_log_tile(
        &self,
        request: Request<GetLogTileRequest>,
    ) -> Result<Response<GetLogTileResponse>, Status> {
        let (caller, asked) = (caller(&request)?, request.into_inner());
        let tile = query::tile(asked.level, asked.index, asked.width).map_err(status)?;
        let hashes = self.engine()?.log_tile(caller.as_str(), tile).await.map_err(status)?;
        bounded(GetLogTileResponse { hashes })
    }

    #[tracing::instrument(name = "prune_log", skip_all)]
    async fn prune_log(
        &self,
        request: Request<PruneLogRequest>,
    ) -> Result<Response<PruneLogResponse>, Status> {
        let caller = caller(&request)?;
        let pruned = self.engine()?.prune_log(caller.as_str()).await.map_err(status)?;
        measure::pruned(&pruned);
        bounded(wire::pruned(pruned))
    }
}

/// The erasure now and whenever it has changed, until nothing can change any more.
fn watched(
    engine: Arc<engine::Engine>,
    caller: Principal,
    id: String,
    shutdown: Shutdown,
) -> Answers<WatchErasureResponse> {
    let changes = engine.erasure_changes();
    let first: Option<WatchErasureResponse> = None;
    Box::pin(stream::try_unfold((changes, first, false), move |(mut changes, mut last, ended)| {
        let (engine, caller, id, shutdown) = (engine.clone(), caller.clone(), id.clone(), shutdown.clone());
        async move {
            if ended {
                return Ok(None);
            }
            loop {
                // Marked as seen before it is read: a change in between is seen at the next turn.
                changes.borrow_and_update();
                let view = engine.erasure(caller.as_str(), &id).await.map_err(status)?;
                let ended = query::is_final(&view);
                let now = WatchErasureResponse { erasure: Some(wire::erasure(view)) };
                if last.as_ref() != Some(&now) {
                    within(&now)?;
                    last = Some(now.clone());
                    return Ok(Some((now, (changes, last, ended))));
                }
                tokio::select! {
                    () = shutdown.begun() => return Err(Status::unavailable("the vault is stopping")),
                    changed = changes.changed() => {
                        changed.map_err(|_| Status::unavailable("the vault is stopping"))?;
                    }
                }
            }
        }
    }))
}
