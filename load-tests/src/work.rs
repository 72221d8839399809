//! The verbs under load. Every answer is checked against what is known to be right.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cloakroom_client::proto::admin::v1::{
    Erasure, ErasureState, LegalBasis, RequestErasureRequest, request_erasure_request,
};
use cloakroom_client::proto::vault::v1::vault_service_client::VaultServiceClient;
use cloakroom_client::proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, DetokenizeResponse, DetokenizeResult, ErrorCode, LookupItem,
    LookupRequest, ReadMode, TokenizeItem, TokenizeRequest, TokenizeResponse, TokenizeResult,
    detokenize_result, lookup_result, tokenize_item, tokenize_result,
};
use cloakroom_client::{AdminClient, Wire};
use tonic::Code;

use crate::drive::Work;
use crate::error::LoadError;
use crate::people::{ACTIVITY, CONTROLLER, Draw, FIELDS, PURPOSE, Place};
use crate::set::{Made, Name, Set};

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
    /// The same, of the echo that runs as the vault does.
    CoresEcho,
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
        check_values(&tokens, answer.into_inner(), self.server)?;
        Ok(())
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
            Server::Echo | Server::CoresEcho => value == token.as_bytes(),
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
            if !is_erased(&item) {
                return Err(wrong("detokenize", place.0, "not ERASED though its person was erased"));
            }
        }
    }
    Ok(())
}

/// Reads one value and checks it; whether its person was erased instead.
///
/// # Errors
/// [`LoadError::Wrong`], [`LoadError::Call`].
pub(crate) async fn read_or_erased(
    connections: &Connections,
    connection: usize,
    asked: (Place, &str),
) -> Result<bool, LoadError> {
    let asked = [asked];
    let mut client = of_turn(connections, connection)?.clone();
    let answer =
        client.detokenize(reading(&asked)).await.map_err(LoadError::call("detokenize"))?.into_inner();
    if answer.items.iter().all(is_erased) {
        return Ok(true);
    }
    check_values(&asked, answer, Server::Vault)?;
    Ok(false)
}

fn is_erased(item: &DetokenizeResult) -> bool {
    matches!(&item.result, Some(detokenize_result::Result::Error(error)) if error.code() == ErrorCode::Erased)
}

/// Whether the vault finds `token` by the value of `place`; not while it has no table to look it up in.
///
/// # Errors
/// [`LoadError::Wrong`] if it finds anything else, [`LoadError::Call`].
pub(crate) async fn found(connections: &Connections, place: Place, token: &str) -> Result<bool, LoadError> {
    const VERB: &str = "lookup";
    let request = LookupRequest {
        controller: CONTROLLER.to_owned(),
        reason: String::new(),
        items: vec![LookupItem {
            reference: place.0.to_string(),
            field: place.field().to_owned(),
            value: Bytes::copy_from_slice(place.value().as_bytes()),
        }],
    };
    let answer = match of_turn(connections, 0)?.clone().lookup(request).await {
        Err(status) if status.code() == Code::Unavailable => return Ok(false),
        answer => answer.map_err(LoadError::call(VERB))?.into_inner(),
    };
    match answer.items.into_iter().next().and_then(|item| item.result) {
        Some(lookup_result::Result::Matches(matches)) => {
            let right = matches.found.iter().any(|found| found.token == token);
            if right { Ok(true) } else { Err(wrong(VERB, place.0, "another token")) }
        }
        Some(lookup_result::Result::Error(error)) if error.retryable => Ok(false),
        _ => Err(wrong(VERB, place.0, "neither token nor error")),
    }
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

    /// The first person who is not made yet.
    pub(crate) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
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
    let subject = |place: Place| tokenize_item::Subject::NewSubject(place.person().to_string());
    request(places(first, people).map(|place| (place, subject(place))))
}

fn request(items: impl Iterator<Item = (Place, tokenize_item::Subject)>) -> TokenizeRequest {
    let item = |(place, subject): (Place, tokenize_item::Subject)| TokenizeItem {
        reference: place.0.to_string(),
        subject: Some(subject),
        field: place.field().to_owned(),
        value: Bytes::copy_from_slice(place.value().as_bytes()),
        shape: 0,
    };
    TokenizeRequest {
        controller: CONTROLLER.to_owned(),
        activity: ACTIVITY.to_owned(),
        idempotency_key: String::new(),
        items: items.map(item).collect(),
    }
}

/// Tokenize of values whose subjects the vault knows.
///
/// # Errors
/// [`LoadError::Call`].
pub(crate) async fn storing_known(
    connections: &Connections,
    connection: usize,
    items: impl Iterator<Item = (Place, &str)>,
) -> Result<TokenizeResponse, LoadError> {
    let known =
        |(place, subject): (Place, &str)| (place, tokenize_item::Subject::SubjectId(subject.to_owned()));
    let request = request(items.map(known));
    let answer = of_turn(connections, connection)?.clone().tokenize(request).await;
    Ok(answer.map_err(LoadError::call("tokenize"))?.into_inner())
}

/// The tokens that are known, in order, and no others.
///
/// # Errors
/// [`LoadError::Wrong`].
pub(crate) fn check_known<'a>(
    known: impl Iterator<Item = (Place, &'a str)>,
    answer: TokenizeResponse,
) -> Result<(), LoadError> {
    let mut items = answer.items.into_iter();
    for (place, token) in known {
        let right = matches!(items.next().and_then(|item| item.result),
            Some(tokenize_result::Result::Tokenized(tokenized)) if tokenized.token == token);
        if !right {
            return Err(wrong("tokenize", place.0, "not the token that stands for this value"));
        }
    }
    match items.next() {
        None => Ok(()),
        Some(item) => Err(wrong("tokenize", item.reference, "an answer to nothing")),
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
        let names = (Name::of(&tokenized.token, "tok_"), Name::of(&tokenized.subject_id, "sub_"));
        let (Some(token), Some(subject)) = names else { return Err(wrong(VERB, place.0, "no token")) };
        if place.field() == FIELDS[0] {
            made.subjects.push(subject);
        } else if made.subjects.last() != Some(&subject) {
            return Err(wrong(VERB, place.0, "one person became two"));
        }
        made.tokens.push(token);
    }
    Ok(made)
}

/// RequestErasure of people of the set, chosen at random, everything of each.
pub(crate) struct Erase {
    pub(crate) officers: Vec<AdminClient>,
    pub(crate) set: Arc<Set>,
}

impl Erase {
    /// Erases the next person; returns once all keys of theirs are destroyed.
    ///
    /// # Errors
    /// [`LoadError::Wrong`], [`LoadError::Client`]; [`LoadError::Usage`] once there is nobody left.
    pub(crate) async fn erased(&self, connection: usize) -> Result<Erasure, LoadError> {
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
        Ok(erasure)
    }
}

impl Work for Erase {
    fn items(&self) -> u64 {
        1
    }

    async fn call(&self, connection: usize, _: &mut Draw) -> Result<(), LoadError> {
        self.erased(connection).await?;
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
                token: format!("tok_{:026}", place.0),
                subject_id: format!("sub_{subject:a>26}"),
            })),
        };
        let items = places(7, 2).zip(subjects).map(item).collect();
        check_tokens(7, 2, TokenizeResponse { items })
    }

    #[test]
    fn a_person_is_one_subject() {
        let made = tokens(["a", "a", "a", "b", "b", "b"]).unwrap();
        assert_eq!((made.first, made.tokens.len(), made.subjects.len()), (7, 6, 2));
        let last = made.places().last().unwrap();
        assert_eq!((last.0, last.1), (Place::of(8, 2), &*format!("tok_{:026}", 26)));
        assert_ne!(made.subjects[0], made.subjects[1]);
        let error = tokens(["a", "a", "b", "b", "b", "b"]).unwrap_err();
        assert!(error.to_string().contains("one person became two"));
    }

    #[test]
    fn whoever_is_known_gets_the_same_tokens() {
        let answer = |tokens: &[&str]| TokenizeResponse {
            items: tokens
                .iter()
                .map(|token| TokenizeResult {
                    reference: String::new(),
                    result: Some(tokenize_result::Result::Tokenized(Tokenized {
                        token: (*token).to_owned(),
                        subject_id: String::new(),
                    })),
                })
                .collect(),
        };
        let known = || [(Place(0), "a"), (Place(1), "b")].into_iter();
        assert!(check_known(known(), answer(&["a", "b"])).is_ok());
        for wrong in [&["a"][..], &["a", "c"], &["a", "b", "b"]] {
            assert!(check_known(known(), answer(wrong)).is_err(), "{wrong:?}");
        }
    }
}
