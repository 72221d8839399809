//! One chunk of rows becomes requests, and their answers become rows with tokens or refusals.

use std::collections::{HashMap, HashSet};

use cloakroom_client::{Answer, Client, ClientError, Refusal};
use cloakroom_core::field::{InvalidValue, check_bytes};
use cloakroom_core::register::Register;
use cloakroom_crypto::hash::sha256;
use cloakroom_proto::vault::v1::{
    ErrorCode, ReleaseItem, ReleaseRequest, Released, TokenShape, TokenizeItem, TokenizeRequest, Tokenized,
    tokenize_item,
};
use data_encoding::HEXLOWER;

use super::ImportError;
use super::mapping::{ITEMS_MAX, Plan, TokenPlan};
use super::people::{People, Who};
use super::rows::Row;

/// What an import needs of the vault.
pub(super) trait Vault {
    /// See [`Client::tokenize`].
    async fn tokenize(&self, request: TokenizeRequest) -> Result<Vec<Answer<Tokenized>>, ClientError>;
    /// See [`Client::release`].
    async fn release(&self, request: ReleaseRequest) -> Result<Vec<Answer<Released>>, ClientError>;
}

impl Vault for Client {
    async fn tokenize(&self, request: TokenizeRequest) -> Result<Vec<Answer<Tokenized>>, ClientError> {
        Client::tokenize(self, request).await
    }

    async fn release(&self, request: ReleaseRequest) -> Result<Vec<Answer<Released>>, ClientError> {
        Client::release(self, request).await
    }
}

/// Why a value or a row was refused: a column's name (none if it is the row) and a reason.
pub(super) type Refused = (Option<usize>, String);

/// A row on its way: what is known of it, what was answered.
pub(super) struct Passenger {
    pub(super) row: Row,
    who: Option<Who>,
    /// The subject, as soon as it is known.
    pub(super) subject: Option<String>,
    /// Whether the subject was known before this chunk, so that its tokens may be older than this chunk.
    known_before: bool,
    /// The label of a new subject, shared by all rows of the chunk that are about the same person.
    label: String,
    /// By place in [`Plan::tokens`].
    pub(super) tokens: Vec<Option<String>>,
    pub(super) refused: Vec<Refused>,
}

/// The mapping, and what rows are held against before anything is sent.
pub(super) struct Sender<'a, V> {
    pub(super) vault: &'a V,
    pub(super) plan: &'a Plan,
    /// Where given, values are checked here too: a row that would be refused is never sent.
    pub(super) register: Option<&'a Register>,
    /// CSV and mapping, in what makes a batch's id.
    pub(super) import_id: [u8; 32],
}

impl<V: Vault> Sender<'_, V> {
    /// Takes a chunk in. Rows come back in order, each with its tokens or with its refusals.
    pub(super) async fn take(&self, chunk: Vec<Row>, people: &People) -> Result<Vec<Passenger>, ImportError> {
        let mut passengers = self.board(chunk, people);
        for activity in 0..self.plan.activities.len() {
            self.ask(activity, &mut passengers).await?;
        }
        Ok(passengers)
    }

    fn board(&self, chunk: Vec<Row>, people: &People) -> Vec<Passenger> {
        let columns = self.plan.columns_read();
        let mut labels: HashMap<Who, String> = HashMap::new();
        let mut passengers = Vec::with_capacity(chunk.len());
        for row in chunk {
            let mut refused = Vec::new();
            if row.cells.len() != self.plan.heading.len() {
                refused.push((None, "columns".to_owned()));
            } else {
                let broken =
                    |column: &&usize| std::str::from_utf8(row.cells.get(**column).unwrap_or(b"")).is_err();
                let broken = columns.iter().filter(broken);
                refused.extend(broken.map(|column| (Some(*column), InvalidValue::NotUtf8.code().to_owned())));
            }
            if refused.is_empty() {
                refused = self.check(&row);
            }
            let who = self.plan.identified_by.and_then(|column| people.who(row.text(column)));
            let subject = who.and_then(|who| people.subject(who)).map(str::to_owned);
            let own = || format!("row {}", row.number);
            let label = match who.filter(|_| refused.is_empty()) {
                Some(who) => labels.entry(who).or_insert_with(own).clone(),
                None => own(),
            };
            let tokens = vec![None; self.plan.tokens.len()];
            passengers.push(Passenger {
                known_before: subject.is_some(),
                row,
                who,
                subject,
                label,
                tokens,
                refused,
            });
        }
        passengers
    }

    fn check(&self, row: &Row) -> Vec<Refused> {
        let Some(register) = self.register else { return Vec::new() };
        let wanted =
            self.plan.tokens.iter().filter(|token| self.plan.has(token, |at| row.text(at).to_owned()));
        let refusal = |token: &TokenPlan| {
            let field = register.field(&token.field)?;
            let value = row.text(token.column).as_bytes();
            let why = check_bytes(field.field_type, value).err()?;
            Some((Some(token.column), why.code().to_owned()))
        };
        let mut refused = Vec::new();
        for refusal in wanted.filter_map(refusal) {
            if !refused.contains(&refusal) {
                refused.push(refusal);
            }
        }
        refused
    }

    async fn ask(&self, activity: usize, passengers: &mut [Passenger]) -> Result<(), ImportError> {
        let (items, asked) = self.items(activity, passengers);
        if items.is_empty() {
            return Ok(());
        }
        let request = TokenizeRequest {
            controller: self.plan.controller.clone(),
            activity: self.plan.activities.get(activity).cloned().unwrap_or_default(),
            idempotency_key: self.batch_id(activity, &items),
            items,
        };
        let answers = self.vault.tokenize(request).await?;
        let mut subjects: HashMap<String, String> = HashMap::new();
        for ((at, token), answer) in asked.into_iter().zip(answers) {
            let (Some(passenger), Some(plan)) = (passengers.get_mut(at), self.plan.tokens.get(token)) else {
                continue;
            };
            match answer.result {
                Ok(tokenized) => {
                    if let Some(place) = passenger.tokens.get_mut(token) {
                        *place = Some(tokenized.token);
                    }
                    subjects.entry(passenger.label.clone()).or_insert_with(|| tokenized.subject_id.clone());
                    passenger.subject = Some(tokenized.subject_id);
                }
                Err(refusal) if refusal.retryable => return Err(ImportError::NotNow { refusal }),
                Err(refusal) => passenger.refused.push((Some(plan.column), reason(&refusal))),
            }
        }
        for passenger in passengers.iter_mut().filter(|passenger| passenger.subject.is_none()) {
            passenger.subject = subjects.get(&passenger.label).cloned();
        }
        Ok(())
    }

    /// What to ask for under one activity, and for whom: places of the row and of the token.
    fn items(&self, activity: usize, passengers: &[Passenger]) -> (Vec<TokenizeItem>, Vec<(usize, usize)>) {
        let (mut items, mut asked) = (Vec::new(), Vec::new());
        for (at, passenger) in passengers.iter().enumerate().filter(|(_, row)| row.refused.is_empty()) {
            for (token, plan) in self.plan.tokens.iter().enumerate() {
                if plan.activity != activity || !self.plan.has(plan, |at| passenger.row.text(at).to_owned()) {
                    continue;
                }
                let subject = match &passenger.subject {
                    Some(id) => tokenize_item::Subject::SubjectId(id.clone()),
                    None => tokenize_item::Subject::NewSubject(passenger.label.clone()),
                };
                items.push(TokenizeItem {
                    reference: format!("{}.{token}", passenger.row.number),
                    subject: Some(subject),
                    field: plan.field.clone(),
                    value: passenger.row.text(plan.column).as_bytes().to_vec().into(),
                    shape: TokenShape::from(plan.shape).into(),
                });
                asked.push((at, token));
            }
        }
        (items, asked)
    }

    /// The same batch has the same id, whenever it is asked for: the files, the activity, and which values
    /// of which rows for whom. Nothing of the values goes in but through the file's fingerprint.
    fn batch_id(&self, activity: usize, items: &[TokenizeItem]) -> String {
        let mut text = HEXLOWER.encode(&self.import_id);
        text.push_str(self.plan.activities.get(activity).map_or("", String::as_str));
        for item in items {
            let whom = match &item.subject {
                Some(tokenize_item::Subject::SubjectId(id)) => id,
                Some(tokenize_item::Subject::NewSubject(label)) => label,
                None => "",
            };
            text.push_str(&format!("\n{} {whom}", item.reference));
        }
        format!("import-{}", HEXLOWER.encode(&sha256(text.as_bytes())))
    }

    /// A row is taken whole or not at all: forgets what the vault took of rows that were refused, but what
    /// it also took from other rows. `written` tells which tokens stand in rows of earlier chunks. Returns
    /// how many could not be forgotten.
    pub(super) async fn give_back(
        &self,
        passengers: &[Passenger],
        written: impl FnOnce(&HashSet<String>) -> Result<HashSet<String>, ImportError>,
    ) -> Result<u64, ImportError> {
        let (refused, taken): (Vec<_>, Vec<_>) = passengers.iter().partition(|row| !row.refused.is_empty());
        let taken: HashSet<&String> = taken.into_iter().flat_map(|row| row.tokens.iter().flatten()).collect();
        let (mut spare, mut perhaps) = (HashSet::new(), HashSet::new());
        for passenger in refused {
            let set = if passenger.known_before { &mut perhaps } else { &mut spare };
            set.extend(passenger.tokens.iter().flatten().filter(|token| !taken.contains(token)).cloned());
        }
        if !perhaps.is_empty() {
            let known = written(&perhaps)?;
            spare.extend(perhaps.into_iter().filter(|token| !known.contains(token)));
        }
        let mut spare: Vec<String> = spare.into_iter().collect();
        spare.sort_unstable();
        let mut left = 0_u64;
        for tokens in spare.chunks(ITEMS_MAX) {
            let item = |token: &String| ReleaseItem { reference: String::new(), token: token.clone() };
            let items = tokens.iter().map(item).collect();
            let request = ReleaseRequest { controller: self.plan.controller.clone(), items };
            for answer in self.vault.release(request).await? {
                match answer.result {
                    Ok(_) => {}
                    Err(refusal) if refusal.retryable => return Err(ImportError::NotNow { refusal }),
                    Err(refusal) if matches!(refusal.code, ErrorCode::Erased | ErrorCode::NotFound) => {}
                    Err(_) => left = left.saturating_add(1),
                }
            }
        }
        Ok(left)
    }
}

impl Passenger {
    /// Whom to remember under which subject id: nobody for a refused row, so that a resumed import, which
    /// sees the rows taken alone, remembers the same.
    pub(super) fn remembered(&self) -> Option<(Who, &str)> {
        Some((self.who?, self.subject.as_deref()?)).filter(|_| self.refused.is_empty())
    }

    /// Refusals worth a line. What was taken and given back answers ERASED when it is asked for again; that
    /// says nothing where the row has a reason of its own.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &Refused> {
        let erased = |refused: &&Refused| refused.1 == "erased";
        let all = self.refused.iter().all(|refused| erased(&refused));
        self.refused.iter().filter(move |refused| all || !erased(refused))
    }
}

/// The reason for a rejects file: which rule a value broke, or the code of the refusal.
fn reason(refusal: &Refusal) -> String {
    const RULES: [&str; 5] = ["too-long", "not-utf8", "card-number", "control-character", "malformed"];
    let said = |rule: &&&str| {
        refusal.message.split(|c: char| c != '-' && !c.is_alphanumeric()).any(|word| word == **rule)
    };
    if let Some(rule) = RULES.iter().find(said).filter(|_| refusal.code == ErrorCode::Invalid) {
        return (*rule).to_owned();
    }
    let code = refusal.code.as_str_name();
    code.strip_prefix("ERROR_CODE_").unwrap_or(code).to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_rule_that_was_broken_or_the_code() {
        let refusal = |code, message: &str| Refusal { code, message: message.into(), retryable: false };
        assert_eq!(reason(&refusal(ErrorCode::Invalid, "card-number")), "card-number");
        assert_eq!(reason(&refusal(ErrorCode::Invalid, "value: malformed (email)")), "malformed");
        assert_eq!(reason(&refusal(ErrorCode::Invalid, "no such shape here")), "invalid");
        assert_eq!(reason(&refusal(ErrorCode::Denied, "malformed")), "denied");
        assert_eq!(reason(&refusal(ErrorCode::KeyUnavailable, "")), "key-unavailable");
    }
}
