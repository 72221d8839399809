//! A mixed load, and what must be true afterwards of everything that was acknowledged.
//!
//! A hand checks people in, mails them, attributes sales, corrects, releases and forgets. It asks again until it
//! has an answer, whoever is dead just then, and writes every answer down. Each person is one hand's alone, so
//! that what is written down is the truth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom_client::{AdminClient, Answer, Client, ClientError};
use cloakroom_crypto::{hash, jws};
use cloakroom_proto::admin::v1::{
    ErasureState, GetCertificateRequest, GetErasureRequest, GetSigningKeysRequest, GetStatusRequest,
    LegalBasis, ListErasuresRequest, RedriveErasureRequest, RequestErasureRequest, VerifyLogRequest,
    request_erasure_request,
};
use cloakroom_proto::affiliate::v1::affiliate_service_client::AffiliateServiceClient;
use cloakroom_proto::affiliate::v1::{ListCustomersRequest, RecordConversionRequest};
use cloakroom_proto::mail::v1::mail_service_client::MailServiceClient;
use cloakroom_proto::mail::v1::{SendTicketRequest, SubscribeNewsletterRequest};
use cloakroom_proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode, RectifyItem, RectifyRequest, ReleaseItem,
    ReleaseRequest, TokenizeItem, TokenizeRequest, Tokenized, tokenize_item,
};
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;
use serde_json::Value as Json;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::house::{House, SETTLE_MAX};

/// Longer than any pile-up of kills keeps a daemon away.
const ANSWER_MAX: Duration = Duration::from_secs(180);
const CALL_MAX: Duration = Duration::from_secs(10);

/// Activity, field, who may read it plainly, and for what.
const FIELDS: [(&str, &str, &str, &str); 5] = [
    ("ticket_purchase", "email", "mail", "ticket_delivery"),
    ("ticket_purchase", "full_name", "mail", "ticket_delivery"),
    ("newsletter", "email", "mail", "newsletter"),
    ("affiliate_programme", "email", "affiliate", "commission_attribution"),
    ("affiliate_programme", "full_name", "affiliate", "commission_attribution"),
];
const TICKET_EMAIL: usize = 0;
const TICKET_NAME: usize = 1;
const NEWSLETTER_EMAIL: usize = 2;
const AFFILIATE_EMAIL: usize = 3;
const AFFILIATE_NAME: usize = 4;

/// One checked-in person.
pub(crate) struct Person {
    pub(crate) subject_id: String,
    /// In the order of [`FIELDS`].
    pub(crate) tokens: Vec<String>,
    pub(crate) values: Vec<String>,
    /// The requests that stored them: asked again, they must answer the same.
    requests: Vec<TokenizeRequest>,
    ticket_sent: bool,
    subscribed: bool,
    order: Option<String>,
    released: bool,
    pub(crate) erasure: Option<Forgotten>,
}

/// An acknowledged erasure.
pub(crate) struct Forgotten {
    pub(crate) erasure_id: String,
    salt: String,
    values: u64,
}

/// One that calls.
pub(crate) struct Hand {
    controller: String,
    name: String,
    random: Sequence,
    orders: Client,
    readers: BTreeMap<&'static str, Client>,
    dpo: AdminClient,
    mail: MailServiceClient<Channel>,
    affiliate: AffiliateServiceClient<Channel>,
    pub(crate) people: Vec<Person>,
    calls: u64,
}

impl Hand {
    pub(crate) fn new(house: &House, name: &str, random: Sequence) -> Self {
        Self {
            controller: house.controller.clone(),
            name: name.to_owned(),
            random,
            orders: house.client("orders"),
            readers: ["mail", "affiliate"].map(|name| (name, house.client(name))).into(),
            dpo: house.admin("dpo"),
            mail: house.mail_client(),
            affiliate: house.affiliate_client(),
            people: Vec::new(),
            calls: 0,
        }
    }

    /// Works until told to stop; what was begun is finished.
    pub(crate) async fn work(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.work_once().await;
        }
        self
    }

    pub(crate) async fn work_once(&mut self) {
        let living: Vec<usize> =
            (0..self.people.len()).filter(|at| self.people[*at].erasure.is_none()).collect();
        let what = self.random.below(100);
        if living.len() < 3 || what < 30 {
            return self.check_in().await;
        }
        let at = *self.random.pick(&living);
        match what {
            30..50 => self.send_ticket(at).await,
            50..60 => self.subscribe(at).await,
            60..72 => self.convert(at).await,
            72..80 => self.rectify(at).await,
            80..85 => self.release(at).await,
            _ => self.erase(at).await,
        }
    }

    fn new_key(&mut self) -> String {
        self.calls += 1;
        format!("{}-{}-{:08x}", self.name, self.calls, self.random.next() & 0xffff_ffff)
    }

    /// A new person with all their values.
    pub(crate) async fn check_in(&mut self) {
        let key = self.new_key();
        let email = format!("{key}@example.org");
        let name = format!("Łucja Ó Brien {key}");
        let mut subject = tokenize_item::Subject::NewSubject("buyer".to_owned());
        let (mut person, mut at) = (None::<Person>, 0);
        for fields in FIELDS.chunk_by(|one, other| one.0 == other.0) {
            let item = |(_, field, _, _): &(&str, &str, &str, &str)| TokenizeItem {
                subject: Some(subject.clone()),
                field: (*field).to_owned(),
                value: if *field == "email" { email.clone() } else { name.clone() }.into(),
                ..TokenizeItem::default()
            };
            let request = TokenizeRequest {
                controller: self.controller.clone(),
                activity: fields[0].0.to_owned(),
                idempotency_key: format!("{key}-{at}"),
                items: fields.iter().map(item).collect(),
            };
            let tokenized = self.tokenize(&request).await;
            let values = request.items.iter().map(|item| String::from_utf8(item.value.to_vec()).unwrap());
            let person = person.get_or_insert_with(|| Person {
                subject_id: tokenized[0].subject_id.clone(),
                tokens: vec![],
                values: vec![],
                requests: vec![],
                ticket_sent: false,
                subscribed: false,
                order: None,
                released: false,
                erasure: None,
            });
            person.values.extend(values);
            for tokenized in tokenized {
                assert_eq!(tokenized.subject_id, person.subject_id);
                person.tokens.push(tokenized.token);
            }
            person.requests.push(request);
            subject = tokenize_item::Subject::SubjectId(person.subject_id.clone());
            at += 1;
        }
        self.people.extend(person);
    }

    async fn tokenize(&self, request: &TokenizeRequest) -> Vec<Tokenized> {
        let answers = answered(async || self.orders.tokenize(request.clone()).await).await;
        answers.into_iter().map(|answer| answer.result.unwrap()).collect()
    }

    pub(crate) async fn send_ticket(&mut self, at: usize) {
        let key = self.new_key();
        let person = &self.people[at];
        let request = SendTicketRequest {
            controller: self.controller.clone(),
            email_token: person.tokens[TICKET_EMAIL].clone(),
            name_token: person.tokens[TICKET_NAME].clone(),
            order_reference: key.clone(),
            event_name: "Noc świętojańska".to_owned(),
            event_date: "2027-06-23".to_owned(),
            idempotency_key: key,
        };
        let mail = self.mail.clone();
        served(&request, async |request| mail.clone().send_ticket(request).await).await.unwrap();
        self.people[at].ticket_sent = true;
    }

    pub(crate) async fn subscribe(&mut self, at: usize) {
        if self.people[at].released {
            return;
        }
        let email_token = self.people[at].tokens[NEWSLETTER_EMAIL].clone();
        let request = SubscribeNewsletterRequest { controller: self.controller.clone(), email_token };
        let mail = self.mail.clone();
        served(&request, async |request| mail.clone().subscribe_newsletter(request).await).await.unwrap();
        self.people[at].subscribed = true;
    }

    pub(crate) async fn convert(&mut self, at: usize) {
        if self.people[at].order.is_some() {
            return;
        }
        let order = self.new_key();
        let person = &self.people[at];
        let request = RecordConversionRequest {
            controller: self.controller.clone(),
            order_reference: order.clone(),
            affiliate_code: "AFF-TEST".to_owned(),
            email_token: person.tokens[AFFILIATE_EMAIL].clone(),
            name_token: person.tokens[AFFILIATE_NAME].clone(),
            amount_minor: 10_000,
            currency: "EUR".to_owned(),
        };
        let affiliate = self.affiliate.clone();
        served(&request, async |request| affiliate.clone().record_conversion(request).await).await.unwrap();
        self.people[at].order = Some(order);
    }

    /// Another name, of the activity whose copies nobody counts: a rectified copy is dropped when the notice comes.
    async fn rectify(&mut self, at: usize) {
        let value = format!("Łucja Nowak {}", self.new_key());
        let token = self.people[at].tokens[AFFILIATE_NAME].clone();
        let item = RectifyItem { reference: String::new(), token, value: value.clone().into() };
        let request = RectifyRequest { controller: self.controller.clone(), items: vec![item] };
        let answers = answered(async || self.orders.rectify(request.clone()).await).await;
        answers.into_iter().next().unwrap().result.unwrap();
        self.people[at].values[AFFILIATE_NAME] = value;
    }

    async fn release(&mut self, at: usize) {
        if self.people[at].released {
            return;
        }
        let token = self.people[at].tokens[NEWSLETTER_EMAIL].clone();
        let item = ReleaseItem { reference: String::new(), token };
        let request = ReleaseRequest { controller: self.controller.clone(), items: vec![item] };
        let answers = answered(async || self.orders.release(request.clone()).await).await;
        match answers.into_iter().next().unwrap().result {
            Ok(_) => {}
            // A first try whose answer was lost has done it.
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::Erased),
        }
        self.people[at].released = true;
    }

    /// Forgets a person, and looks at once whether reads say so.
    pub(crate) async fn erase(&mut self, at: usize) {
        let idempotency_key = self.new_key();
        let subject_id = self.people[at].subject_id.clone();
        let request = RequestErasureRequest {
            controller: self.controller.clone(),
            who: Some(request_erasure_request::Who::SubjectId(subject_id)),
            actor: "dsr-2027-1".to_owned(),
            reason: "case-1".to_owned(),
            legal_basis: LegalBasis::ConsentWithdrawn.into(),
            idempotency_key,
            ..RequestErasureRequest::default()
        };
        let response = answered(async || self.dpo.request_erasure(request.clone()).await).await;
        let erasure = response.erasure.unwrap();
        assert!(erasure.state() >= ErasureState::KeysDestroyed, "it answers when the keys are destroyed");
        self.people[at].erasure = Some(Forgotten {
            erasure_id: erasure.erasure_id,
            salt: response.subject_salt,
            values: erasure.tokens.into(),
        });
        self.invariant_reads(at).await;
    }

    /// Has an erasure announced again.
    pub(crate) async fn redrive(&self, at: usize) {
        let erasure_id = self.people[at].erasure.as_ref().unwrap().erasure_id.clone();
        let request = RedriveErasureRequest { erasure_id };
        answered(async || self.dpo.redrive_erasure(request.clone()).await).await;
    }

    /// Every value of a person reads as it was acknowledged last: the newest value, or ERASED.
    pub(crate) async fn invariant_reads(&self, at: usize) {
        let person = &self.people[at];
        for (place, (_, _, reader, purpose)) in FIELDS.iter().enumerate() {
            let request = read(&self.controller, purpose, [person.tokens[place].clone()]);
            let client = &self.readers[reader];
            let mut answers = answered(async || client.detokenize(request.clone()).await).await;
            check_value(person, place, answers.remove(0));
        }
    }

    /// What stored the values, asked again: the same tokens, or ERASED for whatever was forgotten or corrected.
    async fn invariant_repeats(&self, at: usize) {
        let person = &self.people[at];
        let mut place = 0;
        for request in &person.requests {
            let answers = answered(async || self.orders.tokenize(request.clone()).await).await;
            for answer in answers {
                let dead = person.is_dead(place);
                match answer.result {
                    Ok(tokenized) => {
                        assert!(!dead, "{} stored again", person.tokens[place]);
                        assert_eq!(tokenized.token, person.tokens[place]);
                    }
                    Err(refusal) if dead => {
                        assert!(matches!(refusal.code, ErrorCode::Erased | ErrorCode::Conflict), "{refusal}")
                    }
                    // A corrected value makes the first request another one than the vault remembers.
                    Err(refusal) => assert_eq!(refusal.code, ErrorCode::Conflict, "{refusal}"),
                }
                place += 1;
            }
        }
    }
}

impl Person {
    fn is_dead(&self, place: usize) -> bool {
        self.erasure.is_some() || (self.released && place == NEWSLETTER_EMAIL)
    }

    /// Copies of this person that mail must hold.
    fn mail_copies(&self) -> u64 {
        match self.erasure {
            Some(_) => 0,
            None => u64::from(self.ticket_sent) * 2 + u64::from(self.subscribed && !self.released),
        }
    }
}

fn read(controller: &str, purpose: &str, tokens: impl IntoIterator<Item = String>) -> DetokenizeRequest {
    DetokenizeRequest {
        controller: controller.to_owned(),
        purpose: purpose.to_owned(),
        mode: ReadMode::Plain.into(),
        items: tokens.into_iter().map(|token| DetokenizeItem { reference: String::new(), token }).collect(),
        ..DetokenizeRequest::default()
    }
}

fn check_value(person: &Person, place: usize, answer: Answer<cloakroom_client::Value>) {
    match (answer.result, person.is_dead(place)) {
        (Ok(value), false) => assert_eq!(value.as_str(), Some(person.values[place].as_str())),
        (Ok(_), true) => panic!("{} is back", person.tokens[place]),
        (Err(refusal), true) => assert_eq!(refusal.code, ErrorCode::Erased, "{}", person.tokens[place]),
        (Err(refusal), false) => panic!("{} is lost: {refusal}", person.tokens[place]),
    }
}

/// Asks until there is an answer that is not about somebody being away.
async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T, ClientError>) -> T {
    let given_up = Instant::now() + ANSWER_MAX;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if may_pass(&error) && Instant::now() < given_up => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Status(status) => is_away(status.code()),
        _ => false,
    }
}

fn is_away(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled)
}

/// As [`answered`], for the downstreams. What they refuse is returned.
async fn served<Q: Clone, A>(
    request: &Q,
    mut ask: impl AsyncFnMut(Request<Q>) -> Result<Response<A>, Status>,
) -> Result<A, Status> {
    let given_up = Instant::now() + ANSWER_MAX;
    loop {
        let mut attempt = Request::new(request.clone());
        attempt.set_timeout(CALL_MAX);
        let status = match tokio::time::timeout(CALL_MAX, ask(attempt)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer"),
        };
        // A status that was made here, not there, has the broken connection as its source.
        let broken = std::error::Error::source(&status).is_some();
        if !(broken || is_away(status.code())) || Instant::now() > given_up {
            return Err(status);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A send that must be refused.
pub(crate) async fn refused_ticket(house: &House, person: &Person) -> Status {
    let request = SendTicketRequest {
        controller: house.controller.clone(),
        email_token: person.tokens[TICKET_EMAIL].clone(),
        name_token: person.tokens[TICKET_NAME].clone(),
        event_name: "Noc świętojańska".to_owned(),
        ..SendTicketRequest::default()
    };
    let mail = house.mail_client();
    served(&request, async |request| mail.clone().send_ticket(request).await).await.unwrap_err()
}

/// What must hold of everything that was acknowledged, once all daemons are up and left alone.
pub(crate) async fn invariants(house: &House, hands: &[Hand]) {
    let people: Vec<&Person> = hands.iter().flat_map(|hand| &hand.people).collect();
    invariant_erasures_complete(house, &people).await;
    invariant_mail(house, &people).await;
    invariant_affiliate(house, &people).await;
    for hand in hands {
        for at in 0..hand.people.len() {
            hand.invariant_reads(at).await;
            hand.invariant_repeats(at).await;
        }
    }
    invariant_log(house).await;
}

/// Every erasure is completed, nothing was erased that nobody asked for, and every certificate verifies.
async fn invariant_erasures_complete(house: &House, people: &[&Person]) {
    let dpo = house.admin("dpo");
    let jwks = dpo.get_signing_keys(GetSigningKeysRequest {}).await.unwrap().jwks;
    let keys = jws::parse_jwks(&jwks).unwrap();
    let mut wanted = 0;
    for person in people {
        let Some(forgotten) = &person.erasure else { continue };
        wanted += 1;
        house.completed(&forgotten.erasure_id).await;
        let request = GetCertificateRequest { erasure_id: forgotten.erasure_id.clone() };
        let certificate = dpo.get_certificate(request).await.unwrap().certificate;
        let (header, payload) = jws::verify(&certificate, &keys).unwrap();
        assert_eq!(header.typ, "erasure-certificate+jwt");
        check_certificate(house, person, forgotten, &serde_json::from_slice(&payload).unwrap());
    }
    let mut known = 0;
    let mut page_token = String::new();
    loop {
        let controller = house.controller.clone();
        let request = ListErasuresRequest { controller, page_token, ..ListErasuresRequest::default() };
        let page = dpo.list_erasures(request).await.unwrap();
        known += page.erasures.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(known, wanted, "one erasure for each that was asked for");
}

fn check_certificate(house: &House, person: &Person, forgotten: &Forgotten, claims: &Json) {
    assert_eq!(claims["erasure_id"], forgotten.erasure_id);
    assert_eq!(claims["controller"], house.controller);
    assert_eq!(claims["values_destroyed"], forgotten.values);
    let living = FIELDS.len() - usize::from(person.released);
    assert_eq!(forgotten.values, living as u64, "all that lived, and no more");
    if !forgotten.salt.is_empty() {
        let salt = data_encoding::HEXLOWER.decode(forgotten.salt.as_bytes()).unwrap();
        let commitment = hash::commitment(&salt.try_into().unwrap(), &person.subject_id);
        assert_eq!(claims["subject_commitment"], data_encoding::HEXLOWER.encode(&commitment));
    }
    let downstreams = claims["downstreams"].as_array().unwrap();
    assert_eq!(downstreams.len(), 2);
    for downstream in downstreams {
        let held = match downstream["downstream"].as_str().unwrap() {
            "mail" => person.ticket_sent || person.subscribed && !person.released,
            _ => person.order.is_some(),
        };
        let status = downstream["status"].as_str().unwrap();
        assert!(
            status == "PURGED" || status == "NOTHING_HELD" && !held,
            "{downstream} for {}",
            person.subject_id
        );
    }
}

/// Mail holds the copies of the living and no others.
pub(crate) async fn invariant_mail(house: &House, people: &[&Person]) {
    let expected: u64 = people.iter().map(|person| person.mail_copies()).sum();
    let subscribers =
        people.iter().filter(|person| person.subscribed && !person.released && person.erasure.is_none());
    let subscribers = subscribers.count() as u64;
    let given_up = Instant::now() + SETTLE_MAX;
    loop {
        let counted = house.mail_statistics().await;
        let counted = (counted.copies, counted.subscribers);
        if counted == (expected, subscribers) {
            break;
        }
        let expected = (expected, subscribers);
        assert!(Instant::now() < given_up, "copies and subscribers of mail: {counted:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Affiliate knows the living and no others.
async fn invariant_affiliate(house: &House, people: &[&Person]) {
    let affiliate = house.affiliate_client();
    let request =
        ListCustomersRequest { controller: house.controller.clone(), affiliate_code: "AFF-TEST".to_owned() };
    let known: BTreeMap<String, bool> = wait::until(SETTLE_MAX, "affiliate's purges", async || {
        let listed = affiliate.clone().list_customers(request.clone()).await.unwrap().into_inner();
        let forgotten = listed.customers.iter().filter(|customer| customer.forgotten).count();
        let expected =
            people.iter().filter(|person| person.order.is_some() && person.erasure.is_some()).count();
        let known = listed.customers.into_iter().map(|customer| {
            assert_eq!(customer.email_masked.is_empty(), customer.forgotten, "{}", customer.order_reference);
            (customer.order_reference, customer.forgotten)
        });
        (forgotten >= expected).then(|| known.collect())
    })
    .await;
    for person in people {
        if let Some(order) = &person.order {
            assert_eq!(known.get(order), Some(&person.erasure.is_some()), "{order}");
        }
    }
}

async fn invariant_log(house: &House) {
    let operator = house.admin("admin");
    let status = operator.get_status(GetStatusRequest {}).await.unwrap();
    assert_eq!(status.open_erasures, 0);
    let verdict = operator.verify_log(VerifyLogRequest {}).await.unwrap();
    assert_eq!(verdict.problems, Vec::<String>::new());
    assert!(verdict.events > 0);
}

/// Where an erasure stands.
pub(crate) async fn state_of(house: &House, erasure_id: &str) -> ErasureState {
    let request = GetErasureRequest { erasure_id: erasure_id.to_owned() };
    house.admin("dpo").get_erasure(request).await.unwrap().erasure.unwrap().state()
}
