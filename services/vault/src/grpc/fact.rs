//! Facts that retention periods count from.

use cloakroom_engine as engine;
use cloakroom_proto::vault::v1::{FactKind, RecordFactRequest, RecordFactResponse};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "record_fact", skip_all)]
    pub(super) async fn recorded(
        &self,
        caller: &Principal,
        request: RecordFactRequest,
    ) -> Result<RecordFactResponse, Status> {
        let kind = FactKind::try_from(request.kind)
            .ok()
            .and_then(|kind| u32::try_from(kind as i32).ok())
            .filter(|kind| *kind > 0)
            .ok_or_else(|| Status::invalid_argument("unknown kind of fact"))?;
        let fact = engine::Fact {
            controller: request.controller,
            subject_id: request.subject_id,
            activity: request.activity,
            kind,
            holds_unix_ms: request.holds_unix_ms,
        };
        let engine = self.house.engine().map_err(status)?;
        engine.record_fact(caller.as_str(), fact).await.map_err(status)?;
        Ok(RecordFactResponse {})
    }
}
