//! Gives values for tokens, plain or masked, to those whom the register lets read them.

use cloakroom_core::field;
use cloakroom_core::mutants::Mutant;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_core::register::ReadMode;
use cloakroom_core::text;
use cloakroom_crypto::Plaintext;

use crate::access::{Read, Reads};
use crate::house::House;
use crate::state::InForce;
use crate::tokenize::check_count;

/// What is asked.
pub struct DetokenizeRequest {
    /// The controller's slug.
    pub controller: String,
    /// One that the register grants.
    pub purpose: String,
    /// A case or ticket id; people need one.
    pub reason: String,
    /// Shown masked.
    pub masked: bool,
    /// 1 to 1,000.
    pub tokens: Vec<String>,
    /// For the access log; zeros if there is no trace.
    pub trace: [u8; 16],
}

impl House {
    pub(crate) async fn detokenize(
        &self,
        principal: &str,
        request: DetokenizeRequest,
    ) -> Result<Vec<Result<Plaintext, Refusal>>, CallRefusal> {
        let controller = self.register(principal, &request.controller)?;
        check_count(request.tokens.len())?;
        check_purpose(principal, &request)?;
        let mut reads = Vec::with_capacity(request.tokens.len());
        let mut answers = Vec::with_capacity(request.tokens.len());
        for token in &request.tokens {
            let (read, answer) = self.read(principal, &controller, &request, token).await;
            reads.push(read);
            answers.push(answer);
        }
        let said = answers.iter().flatten().next().filter(|_| Mutant::ValueInAccessLog.lives());
        let said = said.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
        // Who read what is on record before anybody has it.
        self.record(&Reads {
            principal,
            verb: "detokenize",
            controller: &request.controller,
            purpose: &request.purpose,
            reason: said.as_deref().unwrap_or(&request.reason),
            masked: request.masked,
            trace: request.trace,
            items: reads,
        })
        .await?;
        Ok(answers)
    }

    async fn read(
        &self,
        principal: &str,
        controller: &InForce,
        request: &DetokenizeRequest,
        token: &str,
    ) -> (Read, Result<Plaintext, Refusal>) {
        let resolved = match self.resolve(controller, token).await {
            Ok(resolved) => resolved,
            Err(refusal) => return (Read::nowhere(refusal.code), Err(refusal)),
        };
        let stored = &resolved.stored;
        let mode = if request.masked { ReadMode::Masked } else { ReadMode::Plain };
        let register = &controller.register;
        let answer =
            match register.may_read(principal, &stored.activity, &stored.field, &request.purpose, mode) {
                Err(denied) => Err(Refusal::new(Code::Denied, denied.code())),
                Ok(()) => self.open(resolved.number, stored).await.map(|text| {
                    if request.masked { masked(register.field(&stored.field), text) } else { text }
                }),
            };
        let outcome = answer.as_ref().err().map(|refusal| refusal.code);
        (Read { value: Some(resolved.number), outcome, field: stored.field.clone() }, answer)
    }
}

fn check_purpose(principal: &str, request: &DetokenizeRequest) -> Result<(), CallRefusal> {
    if request.purpose.is_empty() {
        return Err(CallRefusal::Invalid("purpose: none stated".to_owned()));
    }
    text::check_optional_code(&request.reason)
        .map_err(|bad| CallRefusal::Invalid(format!("reason: {bad}")))?;
    // spiffe://trust-domain/person/name: people say for which case they look.
    if principal.contains("/person/") && request.reason.is_empty() {
        return Err(CallRefusal::Invalid("reason: people need a case or ticket id".to_owned()));
    }
    Ok(())
}

fn masked(field: Option<&cloakroom_core::register::Field>, text: Plaintext) -> Plaintext {
    let shown = match (field, std::str::from_utf8(text.as_bytes())) {
        (Some(field), Ok(text)) => field::mask(field.field_type, text),
        _ => "***".to_owned(),
    };
    Plaintext::new(shown.into_bytes())
}
