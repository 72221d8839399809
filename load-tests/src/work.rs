//! The verbs under load. Every answer is checked against what is known to be right.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cloakroom_client::proto::admin::v1::{
    ErasureState, LegalBasis, RequestErasureRequest, request_erasure_request,
};
use cloakroom_client::proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_client::proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, DetokenizeResponse, DetokenizeResult, ErrorCode, ReadMode,
    TokenizeItem, TokenizeRequest, TokenizeResponse, TokenizeResult, detokenize_result, tokenize_item,
    tokenize_result,
};
use cloakroom_client::{AdminClient, Wire};

use crate::drive::Work;
use crate::error::LoadError;
use crate::people::{ACTIVITY, CONTROLLER, Draw, FIELDS, PURPOSE, Place};
use crate::set::{Made, Set};

/// Connections to one server. The generated client over `crates/client`'s channel: it neither copies a request
/// nor sends one twice, so that every refusal is seen.
pub(crate) type Connections = Vec<VaultServiceClient<Wire>>;

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    /// The vault: it knows the values.
    Vault,
    /// The echo: the value of every token is the token.
    Echo,
}

fn of_turn<T>(all: &[T], turn: usize) -> Result<&T, LoadError> {
    let at = turn.checked_rem(all.len());
    at.and_then(|at| all.get(at)).ok_or_else(|| LoadError::Usage("no connections".to_owned()))
}

fn wrong(verb: &'static str, reference: impl ToString, what: impl Into<String>) -> LoadError {
    LoadError::Wrong { verb, reference: reference.to_string(), what: what.into() }
}

/// Detokenize of random living values.
pub(crate) struct Read {
    pub(crate) server: Server,
    pub(crate) connections: Connections,
    pub(crate) set: Arc<Set>,
    /// Items a call.
    pub(crate) batch: usize,
}

impl Work for Read {
    fn items(&self) -> u64 {
        self.batch as u64
    }

    async fn call(&self, connection: usize, draw: &mut Draw) -> Result<(), LoadError> {
        let places: Vec<Place> = (0..self.batch).map(|_| self.set.living(draw)).collect();
        let tokens: Vec<(Place, &str)> =
            places.iter().map(|place| (*place, self.set.token(*place))).collect();
        let mut client = of_turn(&self.connections, connection)?.clone();
        let answer = client.detokenize(reading(&tokens)).await.map_err(LoadError::call("detokenize"))?;
        check_values(&tokens, answer.into_inner(), self.server)
    }
}

fn reading(tokens: &[(Place, &str)]) -> DetokenizeRequest {
    let item = |(place, token): &(Place, &str)| DetokenizeItem {
        reference: place.0.to_string(),
        token: (*token).to_owned(),
    };
    DetokenizeRequest {
        controller: CONTROLLER.to_owned(),
        purpose: PURPOSE.to_owned(),
        reason: String::new(),
        mode: ReadMode::Plain.into(),
        items: tokens.iter().map(item).collect(),
    }
}

fn check_values(
    asked: &[(Place, &str)],
    answer: DetokenizeResponse,
    server: Server,
) -> Result<(), LoadError> {
    const VERB: &str = "detokenize";
    if answer.items.len() != asked.len() {
        return Err(wrong(VERB, "-", format!("{} answers to {} items", answer.items.len(), asked.len())));
    }
    for ((place, token), item) in asked.iter().zip(answer.items) {
        let DetokenizeResult { reference, result } = item;
        if reference.parse() != Ok(place.0) {
            return Err(wrong(VERB, place.0, format!("in its place stands {reference}")));
        }
        let value = match result {
            Some(detokenize_result::Result::Value(value)) => value,
            Some(detokenize_result::Result::Error(error)) => {
                return Err(wrong(
                    VERB,
                    place.0,
                    format!("{}: {}", error.code().as_str_name(), error.message),
                ));
            }
            None => return Err(wrong(VERB, place.0, "neither value nor error")),
        };
        let right = match server {
            Server::Vault => value == place.value().as_bytes(),
            Server::Echo => value == token.as_bytes(),
        };
        if !right {
            return Err(wrong(VERB, place.0, "another value"));
        }
    }
    Ok(())
}

/// Reads `tokens` and checks each value.
///
/// # Errors
/// [`LoadError::Wrong`], [`LoadError::Call`].
pub(crate) async fn read_back(connections: &Connections, tokens: &[(Place, &str)]) -> Result<(), LoadError> {
    for tokens in tokens.chunks(1_000) {
        let mut client = of_turn(connections, 0)?.clone();
        let answer = client.detokenize(reading(tokens)).await.map_err(LoadError::call("detokenize"))?;
        check_values(tokens, answer.into_inner(), Server::Vault)?;
    }
    Ok(())
}

/// Reads all values of `people` and expects ERASED for each.
///
/// # Errors
/// [`LoadError::Wrong`], [`LoadError::Call`].
pub(crate) async fn read_erased(
    connections: &Connections,
    set: &Set,
    people: &[u32],
) -> Result<(), LoadError> {
    let places = people.iter().flat_map(|person| (0..FIELDS.len()).map(|field| Place::of(*person, field)));
    let tokens: Vec<_> = places.map(|place| (place, set.token(place))).collect();
    for tokens in tokens.chunks(1_000) {
        let mut client = of_turn(connections, 0)?.clone();
        let answer = client.detokenize(reading(tokens)).await.map_err(LoadError::call("detokenize"))?;
        for ((place, _), item) in tokens.iter().zip(answer.into_inner().items) {
            let erased = matches!(&item.result, Some(detokenize_result::Result::Error(error))
                if error.code() == ErrorCode::Erased);
            if !erased {
                return Err(wrong("detokenize", place.0, "not ERASED though its person was erased"));
            }
        }
    }
    Ok(())
}

/// Tokenize of people whom the vault does not know yet, three values each.
pub(crate) struct Write {
    pub(crate) connections: Connections,
    /// People a call.
    pub(crate) people: u32,
    next: AtomicU32,
    made: Mutex<Vec<Made>>,
}

impl Write {
    /// From person number `first` on, `people` a call.
    pub(crate) fn new(connections: Connections, people: u32, first: u32) -> Self {
        Self { connections, people, next: AtomicU32::new(first), made: Mutex::default() }
    }

    /// What was made since it was last asked.
    pub(crate) fn take_made(&self) -> Vec<Made> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Work for Write {
    fn items(&self) -> u64 {
        u64::from(self.people).saturating_mul(FIELDS.len() as u64)
    }

    async fn call(&self, connection: usize, _: &mut Draw) -> Result<(), LoadError> {
        let first = self.next.fetch_add(self.people, Ordering::Relaxed);
        let mut client = of_turn(&self.connections, connection)?.clone();
        let request = storing(first, self.people);
        let answer = client.tokenize(request).await.map_err(LoadError::call("tokenize"))?.into_inner();
        let made = check_tokens(first, self.people, answer)?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        Ok(())
    }
}

fn storing(first: u32, people: u32) -> TokenizeRequest {
    let item = |place: Place| TokenizeItem {
        reference: place.0.to_string(),
        subject: Some(tokenize_item::Subject::NewSubject(place.person().to_string())),
        field: place.field().to_owned(),
        value: Bytes::copy_from_slice(place.value().as_bytes()),
        shape: 0,
    };
    TokenizeRequest {
        controller: CONTROLLER.to_owned(),
        activity: ACTIVITY.to_owned(),
        idempotency_key: String::new(),
        items: places(first, people).map(item).collect(),
    }
}

fn places(first: u32, people: u32) -> impl Iterator<Item = Place> {
    (Place::of(first, 0).0..Place::of(first.saturating_add(people), 0).0).map(Place)
}

/// One new token a value, one subject a person.
fn check_tokens(first: u32, people: u32, answer: TokenizeResponse) -> Result<Made, LoadError> {
    const VERB: &str = "tokenize";
    let wanted = people as usize * FIELDS.len();
    if answer.items.len() != wanted {
        return Err(wrong(VERB, "-", format!("{} answers to {wanted} items", answer.items.len())));
    }
    let mut made =
        Made { first, tokens: Vec::with_capacity(wanted), subjects: Vec::with_capacity(people as usize) };
    for (place, item) in places(first, people).zip(answer.items) {
        let TokenizeResult { reference, result } = item;
        if reference.parse() != Ok(place.0) {
            return Err(wrong(VERB, place.0, format!("in its place stands {reference}")));
        }
        let tokenized = match result {
            Some(tokenize_result::Result::Tokenized(tokenized)) => tokenized,
            Some(tokenize_result::Result::Error(error)) => {
                return Err(wrong(
                    VERB,
                    place.0,
                    format!("{}: {}", error.code().as_str_name(), error.message),
                ));
            }
            None => return Err(wrong(VERB, place.0, "neither token nor error")),
        };
        if !tokenized.token.starts_with("tok_") || !tokenized.subject_id.starts_with("sub_") {
            return Err(wrong(VERB, place.0, "no token"));
        }
        if place.field() == FIELDS[0] {
            made.subjects.push(tokenized.subject_id.into());
        } else if made.subjects.last().is_none_or(|subject| **subject != *tokenized.subject_id) {
            return Err(wrong(VERB, place.0, "one person became two"));
        }
        made.tokens.push(tokenized.token.into());
    }
    Ok(made)
}

/// RequestErasure of people of the set, chosen at random, everything of each.
pub(crate) struct Erase {
    pub(crate) officers: Vec<AdminClient>,
    pub(crate) set: Arc<Set>,
}

impl Work for Erase {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, _: &mut Draw) -> Result<(), LoadError> {
        const VERB: &str = "request_erasure";
        let nobody = || LoadError::Usage("the data set is too small for so many erasures".to_owned());
        let person = self.set.condemn().ok_or_else(nobody)?;
        let request = RequestErasureRequest {
            controller: CONTROLLER.to_owned(),
            who: Some(request_erasure_request::Who::SubjectId(self.set.subject(person).to_owned())),
            activities: Vec::new(),
            actor: "load".to_owned(),
            reason: "load".to_owned(),
            legal_basis: LegalBasis::ConsentWithdrawn.into(),
            idempotency_key: String::new(),
        };
        let answer = of_turn(&self.officers, connection)?.request_erasure(request).await?;
        let erasure = answer.erasure.ok_or_else(|| wrong(VERB, person, "no erasure"))?;
        let destroyed = !matches!(erasure.state(), ErasureState::Unspecified | ErasureState::Fenced);
        if !destroyed || erasure.tokens as usize != FIELDS.len() || answer.subject_salt.is_empty() {
            return Err(wrong(VERB, person, "its keys are not destroyed"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakroom_client::proto::vault::v1::{ItemError, Tokenized};

    fn value(place: Place, value: &[u8]) -> DetokenizeResult {
        let value = Bytes::copy_from_slice(value);
        DetokenizeResult {
            reference: place.0.to_string(),
            result: Some(detokenize_result::Result::Value(value)),
        }
    }

    fn complaint(items: Vec<DetokenizeResult>) -> String {
        let asked = [(Place(0), "tok_a"), (Place(1), "tok_b")];
        let checked = check_values(&asked, DetokenizeResponse { items }, Server::Vault);
        checked.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_right_values_in_the_right_order_are_right_and_nothing_else() {
        let right = || [Place(0), Place(1)].map(|place| value(place, place.value().as_bytes())).to_vec();
        assert_eq!(complaint(right()), "");
        assert!(complaint(vec![right()[0].clone()]).contains("1 answers to 2 items"));
        assert!(complaint(right().into_iter().rev().collect()).contains("in its place stands 1"));
        let swapped = vec![value(Place(0), Place(1).value().as_bytes()), right()[1].clone()];
        assert!(complaint(swapped).contains("item 0: another value"));
        let error = ItemError { code: ErrorCode::KeyUnavailable.into(), ..ItemError::default() };
        let refused =
            DetokenizeResult { result: Some(detokenize_result::Result::Error(error)), ..right()[1].clone() };
        assert!(complaint(vec![right()[0].clone(), refused]).contains("KEY_UNAVAILABLE"));
    }

    fn tokens(subjects: [&str; 6]) -> Result<Made, LoadError> {
        let item = |(place, subject): (Place, &str)| TokenizeResult {
            reference: place.0.to_string(),
            result: Some(tokenize_result::Result::Tokenized(Tokenized {
                token: format!("tok_{}", place.0),
                subject_id: subject.to_owned(),
            })),
        };
        let items = places(7, 2).zip(subjects).map(item).collect();
        check_tokens(7, 2, TokenizeResponse { items })
    }

    #[test]
    fn a_person_is_one_subject() {
        let made = tokens(["sub_a", "sub_a", "sub_a", "sub_b", "sub_b", "sub_b"]).unwrap();
        assert_eq!((made.first, made.tokens.len(), made.subjects.len()), (7, 6, 2));
        assert_eq!((&*made.tokens[5], &*made.subjects[1]), ("tok_26", "sub_b"));
        let error = tokens(["sub_a", "sub_a", "sub_b", "sub_b", "sub_b", "sub_b"]).unwrap_err();
        assert!(error.to_string().contains("one person became two"));
    }
}
