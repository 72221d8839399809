//! Gives values for tokens, plain or masked, to those whom the register lets read them.

use cloakroom_core::field;
use cloakroom_core::mutants::Mutant;
use cloakroom_core::refusal::{CallRefusal, Code, Refusal};
use cloakroom_core::register::{Denied, ReadMode};
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
        let mode = if request.masked { ReadMode::Masked } else { ReadMode::Plain };
        let mut grants =
            Grants { controller: &controller, principal, purpose: &request.purpose, mode, asked: vec![] };
        for token in &request.tokens {
            let (read, answer) = self.read(&mut grants, token).await;
            reads.push(read);
            answers.push(answer);
        }
        let said = answers.iter().flatten().next().filter(|_| Mutant::ValueInAccessLog.lives());
        let said = said.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
        // Who read what is on record before anybody has it.
        self.record(Reads {
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

    async fn read(&self, grants: &mut Grants<'_>, token: &str) -> (Read, Result<Plaintext, Refusal>) {
        let resolved = match self.resolve(grants.controller, token).await {
            Ok(resolved) => resolved,
            Err(refusal) => return (Read::nowhere(refusal.code), Err(refusal)),
        };
        let stored = resolved.stored;
        let answer = match grants.may_read(&stored.activity, &stored.field) {
            Err(denied) => Err(Refusal::new(Code::Denied, denied.code())),
            Ok(()) => self.open(resolved.number, &stored).await.map(|text| match grants.mode {
                ReadMode::Masked => masked(grants.controller.register.field(&stored.field), text),
                ReadMode::Plain => text,
            }),
        };
        let outcome = answer.as_ref().err().map(|refusal| refusal.code);
        (Read { value: Some(resolved.number), outcome, field: stored.field }, answer)
    }
}

/// What the register lets one call read. It is asked once for each field of an activity: a batch asks for few.
struct Grants<'a> {
    controller: &'a InForce,
    principal: &'a str,
    purpose: &'a str,
    mode: ReadMode,
    asked: Vec<(String, String, Result<(), Denied>)>,
}

impl Grants<'_> {
    fn may_read(&mut self, activity: &str, field: &str) -> Result<(), Denied> {
        let same = |asked: &&(String, String, _)| asked.0 == activity && asked.1 == field;
        if let Some((_, _, said)) = self.asked.iter().find(same) {
            return *said;
        }
        let register = &self.controller.register;
        let said = register.may_read(self.principal, activity, field, self.purpose, self.mode);
        self.asked.push((activity.to_owned(), field.to_owned(), said));
        said
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
