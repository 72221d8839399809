//! What was asked for and what was acknowledged, and what a vault may therefore say.

use cloakroom_client::{Answer, Refusal, Value};
use cloakroom_proto::vault::v1::ErrorCode;

/// When something happened, in operations of the recorder.
pub(crate) type Moment = u64;

/// Something asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Moment,
    /// When its answer had come, if it had.
    pub(crate) answered: Option<Moment>,
    pub(crate) what: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The token stands for this.
    Is(String),
    /// The value is forgotten.
    Gone,
}

/// One token and its history; the first entry is its own tokenize, acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) token: String,
    /// Of [`crate::hand::FIELDS`].
    pub(crate) field: usize,
    pub(crate) history: Vec<Asked>,
}

/// One person, whom one hand alone has to do with.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) subject_id: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) erasure: Option<Asked>,
}

/// What a vault said of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Is(String),
    Erased,
    /// Neither.
    Refused(String),
}

impl From<Answer<Value>> for Said {
    fn from(answer: Answer<Value>) -> Self {
        match answer.result {
            Ok(value) => Self::Is(value.as_str().unwrap_or("no text").to_owned()),
            Err(Refusal { code: ErrorCode::Erased, .. }) => Self::Erased,
            Err(refusal) => Self::Refused(refusal.to_string()),
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Lost(String),
    Back(String),
}

impl Asked {
    fn certain(&self, now: Moment) -> bool {
        self.answered.is_some_and(|answered| answered <= now)
    }

    fn possible(&self, now: Moment) -> bool {
        self.at < now
    }
}

impl Person {
    /// The person with those tokens that whoever asked knew by `now`; `None` if there were none.
    pub(crate) fn known_by(&self, now: Moment) -> Option<Self> {
        let mut known = self.clone();
        known.tokens.retain(|token| token.history[0].certain(now));
        (!known.tokens.is_empty()).then_some(known)
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.erasure.as_ref().is_some_and(|erasure| erasure.answered.is_some())
    }

    /// Holds what a vault says of each token, in order, against what was acknowledged by `now`. What it says
    /// of an erasure must be the same for all tokens.
    pub(crate) fn judge(&self, now: Moment, said: &[Said]) -> Vec<Wrong> {
        let erasure = self.erasure.as_ref().filter(|erasure| erasure.possible(now));
        let certain = erasure.is_some_and(|erasure| erasure.certain(now));
        let all_gone = said.iter().all(|said| *said == Said::Erased);
        let gone = certain || erasure.is_some() && all_gone;
        self.tokens.iter().zip(said).filter_map(|(token, said)| token.judge(now, said, gone)).collect()
    }

    /// Takes what a vault says after a kill for what is so from now on: what was asked and not answered has
    /// happened or never will.
    pub(crate) fn settle(&mut self, now: Moment, said: &[Said]) {
        let open = |asked: &Asked| asked.answered.is_none();
        if self.erasure.as_ref().is_some_and(open) {
            if said.iter().all(|said| *said == Said::Erased) {
                self.erasure.as_mut().unwrap().answered = Some(now);
            } else {
                self.erasure = None;
            }
        }
        for (token, said) in self.tokens.iter_mut().zip(said) {
            token.history.retain_mut(|asked| {
                let happened = match (&asked.what, said) {
                    (Change::Is(value), Said::Is(said)) => value == said,
                    (Change::Gone, said) => *said == Said::Erased,
                    _ => false,
                };
                let settled = asked.answered.is_some() || happened;
                asked.answered.get_or_insert(now);
                settled
            });
        }
    }
}

impl Token {
    /// Its value, if nothing happened but what was acknowledged.
    pub(crate) fn value(&self) -> Option<&str> {
        match &self.history.last()?.what {
            Change::Is(value) => Some(value),
            Change::Gone => None,
        }
    }

    fn judge(&self, now: Moment, said: &Said, gone: bool) -> Option<Wrong> {
        let mut may = Vec::new();
        for asked in self.history.iter().filter(|asked| asked.possible(now)) {
            if asked.certain(now) {
                may.clear();
            }
            may.push(&asked.what);
        }
        let wrong = || format!("{} says {said:?}, may {may:?}, forgotten {gone}", self.token);
        match said {
            Said::Erased if gone || may.contains(&&Change::Gone) => None,
            Said::Is(value) if !gone && may.contains(&&Change::Is(value.clone())) => None,
            Said::Is(_) => Some(Wrong::Back(wrong())),
            _ => Some(Wrong::Lost(wrong())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(at: Moment, answered: Option<Moment>, what: Change) -> Asked {
        Asked { at, answered, what }
    }

    fn is(value: &str) -> Change {
        Change::Is(value.to_owned())
    }

    fn person(second: Asked, erasure: Option<Asked>) -> Person {
        let token = |history| Token { token: "t".to_owned(), field: 0, history };
        let first = || asked(1, Some(2), is("old"));
        let tokens = vec![token(vec![first()]), token(vec![first(), second])];
        Person { subject_id: "s".to_owned(), tokens, erasure }
    }

    fn said(values: [&str; 2]) -> Vec<Said> {
        let said = |value: &str| match value {
            "" => Said::Erased,
            value => Said::Is(value.to_owned()),
        };
        values.map(said).to_vec()
    }

    #[test]
    fn what_was_acknowledged_is_so_and_what_was_asked_may_be() {
        let rectified = |answered| person(asked(5, answered, is("new")), None);
        let wrong = |person: &Person, now, values| person.judge(now, &said(values)).len();
        assert_eq!(wrong(&rectified(Some(7)), 7, ["old", "new"]), 0);
        assert_eq!(wrong(&rectified(Some(7)), 7, ["old", "old"]), 1);
        assert_eq!(wrong(&rectified(Some(7)), 6, ["old", "old"]), 0);
        assert_eq!(wrong(&rectified(None), 9, ["old", "new"]), 0);
        assert_eq!(wrong(&rectified(None), 5, ["old", "new"]), 1, "it was asked for later");
        assert_eq!(wrong(&rectified(None), 9, ["", "old"]), 1);
        let released = person(asked(5, Some(6), Change::Gone), None);
        assert_eq!(wrong(&released, 9, ["old", ""]), 0);
        assert!(matches!(&released.judge(9, &said(["old", "old"]))[..], [Wrong::Back(_)]));
    }

    #[test]
    fn an_erasure_is_whole_or_not_at_all() {
        let erased = |answered| person(asked(3, Some(4), is("old")), Some(asked(5, answered, Change::Gone)));
        let wrong = |answered, values| erased(answered).judge(9, &said(values)).len();
        assert_eq!(wrong(None, ["", ""]), 0);
        assert_eq!(wrong(None, ["old", "old"]), 0);
        assert_eq!(wrong(None, ["old", ""]), 1, "half of it");
        assert_eq!(wrong(Some(6), ["", ""]), 0);
        assert_eq!(wrong(Some(6), ["old", "old"]), 2);
    }

    #[test]
    fn what_was_seen_once_stays_so() {
        let mut forgotten = person(asked(5, None, is("new")), Some(asked(6, None, Change::Gone)));
        let mut living = forgotten.clone();
        forgotten.settle(9, &said(["", ""]));
        assert_eq!(forgotten.judge(10, &said(["old", "new"])).len(), 2);
        living.settle(9, &said(["old", "new"]));
        assert_eq!(living.judge(10, &said(["old", "new"])), []);
        assert_eq!(living.judge(10, &said(["", ""])).len(), 2, "what did not happen then never will");
    }
}
