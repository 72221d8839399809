//! What is known of tokens besides their values.

use cloakroom_engine::{self as engine, TokenState};
use cloakroom_proto::vault::v1::describe_result::Result as Answer;
use cloakroom_proto::vault::v1::{
    DescribeRequest, DescribeResponse, DescribeResult, Description, TokenState as WireState,
};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use super::items::{counted, item_error};
use super::tokenize::wire_shape;
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "describe", skip_all, fields(items = request.tokens.len()))]
    pub(super) async fn described(
        &self,
        caller: &Principal,
        request: DescribeRequest,
    ) -> Result<DescribeResponse, Status> {
        let DescribeRequest { controller, tokens } = request;
        counted(tokens.len())?;
        let (caller, asked_for) = (caller.clone(), tokens.clone());
        let asked = self.house.items(tokens.len(), |engine| async move {
            engine.describe(caller.as_str(), &controller, &asked_for).await
        });
        let answers = asked.await.map_err(status)?;
        let counted = self.items.of_call("describe");
        let items = tokens.into_iter().zip(answers).map(|(token, answer)| {
            counted.count(&answer);
            let result = match answer {
                Ok(known) => Answer::Description(description(known)),
                Err(refusal) => Answer::Error(item_error(refusal)),
            };
            DescribeResult { token, result: Some(result) }
        });
        Ok(DescribeResponse { items: items.collect() })
    }
}

fn description(known: engine::Description) -> Description {
    let state = match known.state {
        TokenState::Active => WireState::Active,
        TokenState::Erasing => WireState::Erasing,
        TokenState::Erased => WireState::Erased,
    };
    Description {
        subject_id: known.subject_id,
        activity: known.activity,
        field: known.field,
        state: state.into(),
        shape: wire_shape(known.shape).into(),
        value_version: known.value_version,
        created_unix_ms: known.created_unix_ms,
        retention: known.retention,
    }
}
