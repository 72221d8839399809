//! Values for tokens, plain or masked, to those whom the register lets read them.

use cloakroom_engine as engine;
use cloakroom_proto::vault::v1::detokenize_result::Result as Answer;
use cloakroom_proto::vault::v1::{DetokenizeRequest, DetokenizeResponse, DetokenizeResult, ReadMode};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use super::items::{item_error, named};
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "detokenize", skip_all, fields(items = request.items.len()))]
    pub(super) async fn detokenized(
        &self,
        caller: &Principal,
        trace: [u8; 16],
        request: DetokenizeRequest,
    ) -> Result<DetokenizeResponse, Status> {
        let masked = match ReadMode::try_from(request.mode) {
            Ok(ReadMode::Unspecified | ReadMode::Plain) => false,
            Ok(ReadMode::Masked) => true,
            // Not shown plainly to one who asked for something that this version does not know.
            Err(_) => return Err(Status::invalid_argument("unknown mode")),
        };
        let DetokenizeRequest { controller, purpose, reason, items, .. } = request;
        let (references, items) = named(items, |item| &mut item.reference)?;
        let tokens: Vec<String> = items.into_iter().map(|item| item.token).collect();
        let count = tokens.len();
        let request = engine::DetokenizeRequest { controller, purpose, reason, masked, tokens, trace };
        let caller = caller.clone();
        let asked = self
            .house
            .items(count, |engine| async move { engine.detokenize(caller.as_str(), request).await });
        let answers = asked.await.map_err(status)?;
        let counted = self.items.of_call("detokenize");
        let items = references.with(answers, |reference, answer| {
            counted.count(&answer);
            let result = match answer {
                Ok(value) => Answer::Value(value.into_bytes()),
                Err(refusal) => Answer::Error(item_error(refusal)),
            };
            DetokenizeResult { reference, result: Some(result) }
        });
        Ok(DetokenizeResponse { items })
    }
}
