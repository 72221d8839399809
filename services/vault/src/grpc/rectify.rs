//! New values behind tokens; the former ones are destroyed.

use cloakroom_engine::Plaintext;
use cloakroom_proto::vault::v1::rectify_result::Result as Answer;
use cloakroom_proto::vault::v1::{Rectified, RectifyRequest, RectifyResponse, RectifyResult};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use super::items::{item_error, named};
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "rectify", skip_all, fields(items = request.items.len()))]
    pub(super) async fn rectified(
        &self,
        caller: &Principal,
        request: RectifyRequest,
    ) -> Result<RectifyResponse, Status> {
        let RectifyRequest { controller, items } = request;
        let (references, items) = named(items, |item| &mut item.reference)?;
        let items: Vec<_> =
            items.into_iter().map(|item| (item.token, Plaintext::new(item.value.into()))).collect();
        let count = items.len();
        let trace = cloakroom_runtime::telemetry::traceparent();
        let caller = caller.clone();
        let asked = self.house.items(count, |engine| async move {
            cloakroom_engine::traced(trace, engine.rectify(caller.as_str(), &controller, items)).await
        });
        let answers = asked.await.map_err(status)?;
        let counted = self.items.of_call("rectify");
        let items = references.with(answers, |reference, answer| {
            counted.count(&answer);
            let result = match answer {
                Ok(value_version) => Answer::Rectified(Rectified { value_version }),
                Err(refusal) => Answer::Error(item_error(refusal)),
            };
            RectifyResult { reference, result: Some(result) }
        });
        Ok(RectifyResponse { items })
    }
}
