//! What a vault has acknowledged, and what it must therefore answer after any fault.

use std::collections::BTreeMap;

use cloakroom_core::refusal::Code;
use cloakroom_engine::{Engine, Plaintext, Tokenized};

use crate::house::{ADMIN, DPO, ORDERS, SEE, erasure_of, item, new, read, tokenize};

/// What a token may answer: everything that a change without an answer leaves open.
#[derive(Clone, Debug, PartialEq)]
enum May {
    Read(String),
    BeErased,
}

/// Runs a script step by step until something is not answered.
#[derive(Default)]
pub(crate) struct Ledger {
    tokens: BTreeMap<String, Vec<May>>,
    remembered: BTreeMap<String, Vec<Tokenized>>,
    /// Erased, as far as anybody was told.
    erased: Vec<String>,
    /// What was asked last and not answered.
    unanswered: Option<Asked>,
}

enum Asked {
    Rectify { token: String, value: String },
    Release { token: String },
    Erase { person: Vec<Tokenized> },
}

/// Nothing was answered: the vault has stopped.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Ledger {
    /// The one script: every verb that writes, fences of every kind, and something after each.
    pub(crate) async fn script(&mut self, engine: &Engine) -> Result<(), Stopped> {
        let ada = self.store(engine, "", &[("email", "ada@example.com"), ("full_name", "Ada")]).await?;
        let bob =
            self.store(engine, "order-1", &[("email", "bob@example.com"), ("full_name", "Bob")]).await?;
        self.rectify(engine, &bob[0].token, "robert@example.com").await?;
        self.release(engine, &bob[1].token).await?;
        self.erase(engine, &ada).await?;
        let cy = self.store(engine, "order-2", &[("email", "cy@example.com")]).await?;
        self.rectify(engine, &cy[0].token, "cyrus@example.com").await?;
        self.erase(engine, &cy).await?;
        self.store(engine, "", &[("email", "dan@example.com")]).await?;
        Ok(())
    }

    pub(crate) async fn store(
        &mut self,
        engine: &Engine,
        key: &str,
        values: &[(&str, &str)],
    ) -> Result<Vec<Tokenized>, Stopped> {
        let items = values.iter().map(|(field, value)| item(new("p"), field, value)).collect();
        let request = cloakroom_engine::TokenizeRequest {
            controller: SEE.to_owned(),
            activity: crate::house::PURCHASE.to_owned(),
            idempotency_key: key.to_owned(),
            items,
        };
        let answers = engine.tokenize(ORDERS, request).await.map_err(|_| Stopped)?;
        let stored: Vec<Tokenized> = answers.into_iter().map(Result::unwrap).collect();
        for (tokenized, (_, value)) in stored.iter().zip(values) {
            self.tokens.insert(tokenized.token.clone(), vec![May::Read((*value).to_owned())]);
        }
        if !key.is_empty() {
            self.remembered.insert(key.to_owned(), stored.clone());
        }
        Ok(stored)
    }

    async fn rectify(&mut self, engine: &Engine, token: &str, value: &str) -> Result<(), Stopped> {
        self.may(token, May::Read(value.to_owned()));
        self.unanswered = Some(Asked::Rectify { token: token.to_owned(), value: value.to_owned() });
        let items = vec![(token.to_owned(), Plaintext::from_slice(value.as_bytes()))];
        let answer = engine.rectify(ORDERS, SEE, items).await.map_err(|_| Stopped)?.remove(0);
        answer.map_err(|_| Stopped)?;
        self.must(token, May::Read(value.to_owned()));
        self.unanswered = None;
        Ok(())
    }

    async fn release(&mut self, engine: &Engine, token: &str) -> Result<(), Stopped> {
        self.may(token, May::BeErased);
        self.unanswered = Some(Asked::Release { token: token.to_owned() });
        let answer =
            engine.release(ORDERS, SEE, vec![token.to_owned()]).await.map_err(|_| Stopped)?.remove(0);
        answer.map_err(|_| Stopped)?;
        self.must(token, May::BeErased);
        self.unanswered = None;
        Ok(())
    }

    pub(crate) async fn erase(&mut self, engine: &Engine, person: &[Tokenized]) -> Result<(), Stopped> {
        for tokenized in person {
            self.may(&tokenized.token, May::BeErased);
        }
        let subject = &person[0].subject_id;
        self.unanswered = Some(Asked::Erase { person: person.to_vec() });
        let mut request = erasure_of(subject);
        request.idempotency_key = format!("erase-{subject}");
        let (erasure, _) = engine.request_erasure(DPO, request).await.map_err(|_| Stopped)?;
        assert!(erasure.epoch > 0 && erasure.keys_destroyed_unix_ms > 0);
        for tokenized in person {
            self.must(&tokenized.token, May::BeErased);
        }
        self.erased.push(subject.clone());
        self.unanswered = None;
        Ok(())
    }

    /// Asks again for what was not answered: it is done then, also if it was half done before.
    async fn ask_again(&mut self, engine: &Engine) {
        match self.unanswered.take() {
            Some(Asked::Rectify { token, value }) => {
                self.rectify(engine, &token, &value).await.unwrap();
            }
            Some(Asked::Release { token }) => {
                let answer = engine.release(ORDERS, SEE, vec![token.clone()]).await.unwrap().remove(0);
                assert!(answer.is_ok() || answer.is_err_and(|refusal| refusal.code == Code::Erased));
                self.must(&token, May::BeErased);
            }
            Some(Asked::Erase { person }) => self.erase(engine, &person).await.unwrap(),
            None => {}
        }
    }

    /// Every answer that was given still holds, the log proves itself, and the vault goes on.
    pub(crate) async fn check(&mut self, engine: &Engine) {
        self.check_reads(engine).await;
        self.ask_again(engine).await;
        self.check_reads(engine).await;
        self.check_repeats(engine).await;
        let verdict = engine.verify_log(ADMIN).await.unwrap();
        assert_eq!(verdict.problems, Vec::<String>::new());
        let eve = self.store(engine, "", &[("email", "eve@example.com")]).await.unwrap();
        assert_eq!(read(engine, &eve[0].token).await.unwrap(), "eve@example.com");
        self.erase(engine, &eve).await.unwrap();
        assert_eq!(read(engine, &eve[0].token).await, Err(Code::Erased));
        for subject in &self.erased {
            let (erasure, _) = engine.request_erasure(DPO, erasure_of(subject)).await.unwrap();
            assert!(erasure.epoch > 0, "an erasure is not begun again");
        }
    }

    async fn check_reads(&self, engine: &Engine) {
        for (token, may) in &self.tokens {
            let found = match read(engine, token).await {
                Ok(value) => May::Read(value),
                Err(Code::Erased) => May::BeErased,
                Err(code) => panic!("{code:?} where {may:?} was expected"),
            };
            assert!(may.contains(&found), "{found:?} where {may:?} was expected");
        }
    }

    async fn check_repeats(&self, engine: &Engine) {
        for (key, stored) in &self.remembered {
            let values: &[(&str, &str)] = match key.as_str() {
                "order-1" => &[("email", "bob@example.com"), ("full_name", "Bob")],
                _ => &[("email", "cy@example.com")],
            };
            let items = values.iter().map(|(field, value)| item(new("p"), field, value)).collect();
            for (answer, before) in tokenize(engine, key, items).await.into_iter().zip(stored) {
                match answer {
                    Ok(again) => assert_eq!(again, *before, "a repeat gives the same token"),
                    // Rectified or erased since: never stored again.
                    Err(refusal) => assert!(matches!(refusal.code, Code::Conflict | Code::Erased)),
                }
            }
        }
    }

    fn may(&mut self, token: &str, what: May) {
        self.tokens.get_mut(token).unwrap().push(what);
    }

    fn must(&mut self, token: &str, what: May) {
        self.tokens.insert(token.to_owned(), vec![what]);
    }
}
