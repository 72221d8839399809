//! Single tokens forgotten.

use cloakroom_proto::vault::v1::release_result::Result as Answer;
use cloakroom_proto::vault::v1::{ReleaseRequest, ReleaseResponse, ReleaseResult, Released};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use super::items::{item_error, named};
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "release", skip_all, fields(items = request.items.len()))]
    pub(super) async fn released(
        &self,
        caller: &Principal,
        request: ReleaseRequest,
    ) -> Result<ReleaseResponse, Status> {
        let ReleaseRequest { controller, items } = request;
        let (references, items) = named(items, |item| &mut item.reference)?;
        let tokens: Vec<String> = items.into_iter().map(|item| item.token).collect();
        let count = tokens.len();
        let caller = caller.clone();
        let asked = self
            .house
            .items(count, |engine| async move { engine.release(caller.as_str(), &controller, tokens).await });
        let answers = asked.await.map_err(status)?;
        let counted = self.items.of_call("release");
        let items = references.with(answers, |reference, answer| {
            counted.count(&answer);
            let result = match answer {
                Ok(epoch) => Answer::Released(Released { epoch }),
                Err(refusal) => Answer::Error(item_error(refusal)),
            };
            ReleaseResult { reference, result: Some(result) }
        });
        Ok(ReleaseResponse { items })
    }
}
