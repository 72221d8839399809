//! `cloakroom.admin.v1.AdminService`.

use cloakroom_engine as engine;
use cloakroom_proto::admin::v1::admin_service_server::AdminService;
use cloakroom_proto::admin::v1::{
    ApplyRegisterRequest, ApplyRegisterResponse, GetCertificateRequest, GetCertificateResponse,
    GetErasureRequest, GetErasureResponse, GetRegisterRequest, GetRegisterResponse, GetSigningKeysRequest,
    GetSigningKeysResponse, GetStatusRequest, GetStatusResponse, ListDownstreamsRequest,
    ListDownstreamsResponse, ListErasuresRequest, ListErasuresResponse, PreviewErasureRequest,
    PreviewErasureResponse, RedriveErasureRequest, RedriveErasureResponse, RegisterDownstreamRequest,
    RegisterDownstreamResponse, ReplayErasuresRequest, ReplayErasuresResponse, RequestErasureRequest,
    RequestErasureResponse, VerifyLogRequest, VerifyLogResponse, WatchErasureRequest, WatchErasureResponse,
};
use cloakroom_runtime::identity::Principal;
use cloakroom_runtime::shutdown::Shutdown;
use futures_util::stream;
use tonic::{Request, Response, Status};

use super::{query, wire};
use crate::house::House;
use crate::refusal::status;
use crate::wire::{Answers, bounded, caller, within};

/// What officers call over gRPC.
pub(crate) struct AdminApi {
    house: House,
    shutdown: Shutdown,
}

impl AdminApi {
    pub(crate) fn new(house: House, shutdown: Shutdown) -> Self {
        Self { house, shutdown }
    }

    fn engine(&self) -> Result<&engine::Engine, Status> {
        self.house.engine().map_err(status)
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
        let preview =
            self.engine()?.preview_erasure(caller.as_str(), &asked.controller, who, &asked.activities);
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
        let engine = self.engine()?.clone();
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
        let found = query::status(&self.house, caller.as_str()).await.map_err(status)?;
        bounded(wire::status(found))
    }

    #[tracing::instrument(name = "verify_log", skip_all)]
    async fn verify_log(
        &self,
        request: Request<VerifyLogRequest>,
    ) -> Result<Response<VerifyLogResponse>, Status> {
        let caller = caller(&request)?;
        bounded(wire::verdict(self.engine()?.verify_log(caller.as_str()).await.map_err(status)?))
    }
}

/// The erasure now and whenever it has changed, until nothing can change any more.
fn watched(
    engine: engine::Engine,
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
