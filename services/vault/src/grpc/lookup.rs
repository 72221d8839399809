//! Tokens by value, for fields that the register marks for it.

use cloakroom_engine::{self as engine, LookupItem, Plaintext};
use cloakroom_proto::vault::v1::lookup_result::Result as Answer;
use cloakroom_proto::vault::v1::{LookupRequest, LookupResponse, LookupResult, Match, Matches};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use super::items::{item_error, named};
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "lookup", skip_all, fields(items = request.items.len()))]
    pub(super) async fn looked_up(
        &self,
        caller: &Principal,
        trace: [u8; 16],
        request: LookupRequest,
    ) -> Result<LookupResponse, Status> {
        let LookupRequest { controller, reason, items } = request;
        let (references, items) = named(items, |item| &mut item.reference)?;
        let items: Vec<LookupItem> = items
            .into_iter()
            .map(|item| LookupItem { field: item.field, value: Plaintext::new(item.value.into()) })
            .collect();
        let count = items.len();
        let request = engine::LookupRequest { controller, reason, items, trace };
        let caller = caller.clone();
        let asked =
            self.house.items(count, |engine| async move { engine.lookup(caller.as_str(), request).await });
        let answers = asked.await.map_err(status)?;
        let counted = self.items.of_call("lookup");
        let items = references.with(answers, |reference, answer| {
            counted.count(&answer);
            let result = match answer {
                Ok(matches) => Answer::Matches(wire(matches)),
                Err(refusal) => Answer::Error(item_error(refusal)),
            };
            LookupResult { reference, result: Some(result) }
        });
        Ok(LookupResponse { items })
    }
}

fn wire(matches: engine::Matches) -> Matches {
    let found = matches.found.into_iter().map(|found| Match {
        token: found.token,
        subject_id: found.subject_id,
        activity: found.activity,
    });
    Matches { found: found.collect(), more: matches.more }
}
