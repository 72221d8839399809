//! Whom an erasure is about, where the one who asks has a value and no id.

use std::collections::BTreeSet;

use cloakroom_core::refusal::{CallRefusal, Code};

use super::{LookupItem, on_record, too_many};
use crate::access::{Read, Reads};
use crate::house::House;
use crate::state::InForce;

impl House {
    /// The id of the one subject with this value, under whatever activity: who may forget a person needs no further
    /// grant to find whom. On record, and rationed, as every look-up.
    ///
    /// # Errors
    /// `NotFound` for what nobody has and what was erased; `Conflict`, with their number, where several subjects have
    /// it, since no erasure can be taken back.
    pub(crate) async fn only_subject_with(
        &self,
        principal: &str,
        controller: &InForce,
        sought: &LookupItem,
        reason: &str,
    ) -> Result<String, CallRefusal> {
        self.can_look_up(principal, reason)?;
        let register = &controller.register;
        let reads = |items| Reads {
            principal,
            verb: "lookup",
            controller: register.controller(),
            purpose: "",
            reason,
            masked: false,
            trace: [0; 16],
            items,
        };
        if !self.lookup_rate.takes(principal, 1, self.clock.now_unix_ms()) {
            self.record(reads(vec![Read::nowhere(Code::Denied)])).await?;
            return Err(too_many());
        }
        let activities: Vec<&str> =
            register.activities().iter().map(|activity| activity.id.as_str()).collect();
        let answer = self.find_under(controller, &activities, sought).await;
        self.record(reads(on_record(controller, &sought.field, &answer))).await?;
        let (_, matches) = answer.map_err(|refusal| match refusal.code {
            Code::Invalid => CallRefusal::Invalid(format!("lookup: {}", refusal.message)),
            _ => CallRefusal::Unavailable(refusal.message),
        })?;
        let mut subjects: BTreeSet<String> =
            matches.found.into_iter().map(|found| found.subject_id).collect();
        let (count, more) = (subjects.len(), if matches.more { " or more" } else { "" });
        match subjects.pop_first() {
            Some(only) if count == 1 && !matches.more => Ok(only),
            Some(_) => Err(CallRefusal::Conflict(format!(
                "{count}{more} subjects have this value: look them up and name one by its subject_id"
            ))),
            None => Err(CallRefusal::NotFound("no such subject".to_owned())),
        }
    }
}
