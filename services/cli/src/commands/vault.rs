//! What commands that ask the vault item by item share: how answers are printed and what they end with.

use cloakroom_client::{Answer, Refusal};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{Output, Tone, note, word};

/// A refusal's code as people type it: `DENIED`.
pub(super) fn code(refusal: &Refusal) -> &'static str {
    word(refusal.code.as_str_name(), "ERROR_CODE_")
}

/// The answer to the one item asked for.
pub(super) fn only<T>(answers: Vec<Answer<T>>) -> Result<T, CliError> {
    let answer = answers.into_iter().next();
    let answer = answer.ok_or_else(|| CliError::Refused("the answer is empty".to_owned()))?;
    answer.result.map_err(|refusal| CliError::Refused(words(&refusal)))
}

fn words(refusal: &Refusal) -> String {
    match refusal.message.as_str() {
        "" => code(refusal).to_owned(),
        message => format!("{}: {message}", code(refusal)),
    }
}

/// Prints an answer for each token: a line to stdout, or a refusal to stderr; JSON as one array. Ends in an
/// error if any was refused.
pub(super) fn each<T>(
    output: &Output,
    tokens: &[String],
    answers: Vec<Answer<T>>,
    json: impl Fn(&T) -> Value,
    text: impl Fn(&str, &T) -> String,
) -> Result<(), CliError> {
    let (mut objects, mut refused) = (Vec::new(), 0_usize);
    for (token, answer) in tokens.iter().zip(answers) {
        let mut object = json!({ "token": token });
        let (key, inner) = match &answer.result {
            Ok(found) => ("result", json(found)),
            Err(refusal) => {
                refused = refused.saturating_add(1);
                let inner = json!({ "code": code(refusal), "message": refusal.message, "retryable": refusal.retryable });
                ("error", inner)
            }
        };
        if let Some(object) = object.as_object_mut() {
            object.insert(key.to_owned(), inner);
        }
        objects.push(object);
        if !output.is_json() {
            match &answer.result {
                Ok(found) => output.line(&text(token, found))?,
                Err(refusal) => note(&format!("{token}: {}", output.paint(Tone::Bad, &words(refusal)))),
            }
        }
    }
    output.result(&objects, String::new)?;
    match refused {
        0 => Ok(()),
        all => Err(CliError::Refused(format!("{all} of {} refused", tokens.len()))),
    }
}
