//! One that calls a vault until it dies, and writes down what was acknowledged.

use cloakroom_client::{AdminClient, Client, ClientError, Retry};
use cloakroom_proto::admin::v1::{LegalBasis, RequestErasureRequest, request_erasure_request};
use cloakroom_proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, ReadMode, RectifyItem, RectifyRequest, ReleaseItem, ReleaseRequest,
    TokenizeItem, TokenizeRequest, tokenize_item,
};
use cloakroom_testkit::recorder::Recorder;
use cloakroom_testkit::seed::Sequence;
use tokio::sync::watch;
use tonic::Code;

use crate::house::House;
use crate::ledger::{Asked, Change, Moment, Person, Said, Token, Wrong};

/// Activity, field, and the purpose for which mail may read it.
pub(crate) const FIELDS: [(&str, &str, &str); 3] = [
    ("ticket_purchase", "email", "ticket_delivery"),
    ("ticket_purchase", "full_name", "ticket_delivery"),
    ("newsletter", "email", "newsletter"),
];
const NAME: usize = 1;
const NEWSLETTER: usize = 2;
/// As many items as one call may have without being long under way.
const READ_AT_ONCE: usize = 200;

/// Nobody answers: the vault is dead, or as good as.
pub(crate) struct Away;

/// Calls once, with connections of its own: none is left of the vault before.
pub(crate) struct Callers {
    controller: String,
    orders: Client,
    mail: Client,
    dpo: AdminClient,
}

impl Callers {
    pub(crate) fn new(house: &House) -> Self {
        let once = Retry { deadline: std::time::Duration::from_secs(20), ..Retry::default() };
        let once = Retry { first_pause: once.deadline, longest_pause: once.deadline, ..once };
        Self {
            controller: house.controller.clone(),
            orders: house.client("orders").with_retry(once),
            mail: house.client("mail").with_retry(once),
            dpo: house.admin("dpo").with_retry(once),
        }
    }
}

/// A hand's memory, which outlives every vault.
pub(crate) struct Hand {
    name: String,
    random: Sequence,
    recorder: Recorder,
    pub(crate) people: Vec<Person>,
    /// A tokenize without an answer: asked again, it must get one.
    unanswered: Option<(TokenizeRequest, Moment)>,
    pub(crate) calls: u64,
    pub(crate) wrong: Vec<Wrong>,
}

impl Hand {
    pub(crate) fn new(name: &str, random: Sequence, recorder: &Recorder) -> Self {
        let recorder = recorder.clone();
        let name = name.to_owned();
        Self { name, random, recorder, people: vec![], unanswered: None, calls: 0, wrong: vec![] }
    }

    /// Calls so many times, or until nobody answers, or the vault is known to be dead: what is under way then
    /// stays without an answer.
    pub(crate) async fn work(
        mut self,
        callers: Callers,
        calls: u64,
        mut dead: watch::Receiver<bool>,
    ) -> Self {
        for _ in 0..calls {
            let away = tokio::select! {
                called = self.work_once(&callers) => called.is_err(),
                _ = dead.wait_for(|dead| *dead) => true,
            };
            if away {
                break;
            }
        }
        self
    }

    async fn work_once(&mut self, by: &Callers) -> Result<(), Away> {
        if let Some((request, at)) = self.unanswered.take() {
            return self.tokenize(by, request, at).await;
        }
        let living: Vec<usize> =
            (0..self.people.len()).filter(|at| self.people[*at].erasure.is_none()).collect();
        let what = self.random.below(100);
        if living.len() < 3 || what < 35 {
            return self.check_in(by).await;
        }
        let at = *self.random.pick(&living);
        match what {
            35..50 => self.read(by, at).await,
            50..65 => self.subscribe(by, at).await,
            65..75 => self.rectify(by, at).await,
            75..85 => self.release(by, at).await,
            _ => self.erase(by, at).await,
        }
    }

    async fn check_in(&mut self, by: &Callers) -> Result<(), Away> {
        let key = self.new_key();
        let subject = || Some(tokenize_item::Subject::NewSubject("buyer".to_owned()));
        let values = [format!("{key}@example.org"), format!("Łucja Ó Brien {key}")];
        let item = |(place, value): (usize, String)| TokenizeItem {
            subject: subject(),
            field: FIELDS[place].1.to_owned(),
            value: value.into(),
            ..TokenizeItem::default()
        };
        let items = values.into_iter().enumerate().map(item).collect();
        self.tokenize(by, self.stored(by, 0, key, items), self.recorder.now()).await
    }

    async fn subscribe(&mut self, by: &Callers, at: usize) -> Result<(), Away> {
        if self.people[at].tokens.len() > NEWSLETTER {
            return Ok(());
        }
        let key = self.new_key();
        let item = TokenizeItem {
            subject: Some(tokenize_item::Subject::SubjectId(self.people[at].subject_id.clone())),
            field: FIELDS[NEWSLETTER].1.to_owned(),
            value: format!("{key}@example.org").into(),
            ..TokenizeItem::default()
        };
        self.tokenize(by, self.stored(by, NEWSLETTER, key, vec![item]), self.recorder.now()).await
    }

    fn stored(
        &self,
        by: &Callers,
        field: usize,
        idempotency_key: String,
        items: Vec<TokenizeItem>,
    ) -> TokenizeRequest {
        let activity = FIELDS[field].0.to_owned();
        TokenizeRequest { controller: by.controller.clone(), activity, idempotency_key, items }
    }

    async fn tokenize(&mut self, by: &Callers, request: TokenizeRequest, at: Moment) -> Result<(), Away> {
        self.unanswered = Some((request.clone(), at));
        let answers = answered(by.orders.tokenize(request.clone()).await)?;
        let answered = Some(self.recorder.now());
        self.unanswered = None;
        let first = FIELDS.iter().position(|field| field.0 == request.activity).unwrap();
        for (place, (answer, item)) in answers.into_iter().zip(request.items).enumerate() {
            let tokenized = answer.result.unwrap();
            let value = String::from_utf8(item.value.to_vec()).unwrap();
            let history = vec![Asked { at, answered, what: Change::Is(value) }];
            let token = Token { token: tokenized.token, field: first + place, history };
            match self.people.iter_mut().find(|person| person.subject_id == tokenized.subject_id) {
                Some(person) => person.tokens.push(token),
                None => self.people.push(Person {
                    subject_id: tokenized.subject_id,
                    tokens: vec![token],
                    erasure: None,
                }),
            }
        }
        Ok(())
    }

    async fn read(&mut self, by: &Callers, at: usize) -> Result<(), Away> {
        let said = ask(&by.mail, &by.controller, &self.people[at].tokens).await.map_err(|_| Away)?;
        let wrong = self.people[at].judge(self.recorder.now(), &said);
        self.wrong.extend(wrong);
        Ok(())
    }

    async fn rectify(&mut self, by: &Callers, at: usize) -> Result<(), Away> {
        let value = format!("Łucja Nowak {}", self.new_key());
        let token = &mut self.people[at].tokens[NAME];
        let item =
            RectifyItem { reference: String::new(), token: token.token.clone(), value: value.clone().into() };
        let request = RectifyRequest { controller: by.controller.clone(), items: vec![item] };
        token.history.push(Asked { at: self.recorder.now(), answered: None, what: Change::Is(value) });
        answered(by.orders.rectify(request).await)?.remove(0).result.unwrap();
        token.history.last_mut().unwrap().answered = Some(self.recorder.now());
        Ok(())
    }

    async fn release(&mut self, by: &Callers, at: usize) -> Result<(), Away> {
        let Some(token) = self.people[at].tokens.get_mut(NEWSLETTER) else { return Ok(()) };
        if token.value().is_none() {
            return Ok(());
        }
        let item = ReleaseItem { reference: String::new(), token: token.token.clone() };
        let request = ReleaseRequest { controller: by.controller.clone(), items: vec![item] };
        token.history.push(Asked { at: self.recorder.now(), answered: None, what: Change::Gone });
        answered(by.orders.release(request).await)?.remove(0).result.unwrap();
        token.history.last_mut().unwrap().answered = Some(self.recorder.now());
        Ok(())
    }

    async fn erase(&mut self, by: &Callers, at: usize) -> Result<(), Away> {
        let idempotency_key = self.new_key();
        let person = &mut self.people[at];
        let request = RequestErasureRequest {
            controller: by.controller.clone(),
            who: Some(request_erasure_request::Who::SubjectId(person.subject_id.clone())),
            actor: "dsr-2027-1".to_owned(),
            reason: "case-1".to_owned(),
            legal_basis: LegalBasis::ConsentWithdrawn.into(),
            idempotency_key,
            ..RequestErasureRequest::default()
        };
        person.erasure = Some(Asked { at: self.recorder.now(), answered: None, what: Change::Gone });
        answered(by.dpo.request_erasure(request).await)?;
        person.erasure.as_mut().unwrap().answered = Some(self.recorder.now());
        Ok(())
    }

    fn new_key(&mut self) -> String {
        self.calls += 1;
        format!("{}-{}-{:08x}", self.name, self.calls, self.random.next() & 0xffff_ffff)
    }
}

/// What a vault says of each token.
pub(crate) async fn ask(by: &Client, controller: &str, tokens: &[Token]) -> Result<Vec<Said>, ClientError> {
    let mut said = vec![None; tokens.len()];
    for purpose in ["ticket_delivery", "newsletter"] {
        let places: Vec<usize> =
            (0..tokens.len()).filter(|at| FIELDS[tokens[*at].field].2 == purpose).collect();
        for places in places.chunks(READ_AT_ONCE) {
            let item =
                |at: &usize| DetokenizeItem { reference: String::new(), token: tokens[*at].token.clone() };
            let request = DetokenizeRequest {
                controller: controller.to_owned(),
                purpose: purpose.to_owned(),
                mode: ReadMode::Plain.into(),
                items: places.iter().map(item).collect(),
                ..DetokenizeRequest::default()
            };
            for (at, answer) in places.iter().zip(by.detokenize(request).await?) {
                said[*at] = Some(answer.into());
            }
        }
    }
    Ok(said.into_iter().map(Option::unwrap).collect())
}

/// # Panics
/// If somebody answered, but neither with what was asked for nor that they are away.
fn answered<T>(answer: Result<T, ClientError>) -> Result<T, Away> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(ClientError::Unreachable { .. }) => Err(Away),
        Err(ClientError::Status(status))
            if matches!(
                status.code(),
                Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
            ) =>
        {
            Err(Away)
        }
        Err(error) => panic!("{error:?}"),
    }
}
