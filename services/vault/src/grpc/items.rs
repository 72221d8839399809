//! Items: how many, what their caller calls them, and each one's answer in its place.

use cloakroom_core::refusal::{Code, Refusal};
use cloakroom_engine::ITEMS_MAX;
use cloakroom_proto::vault::v1::ItemError;
use tonic::Status;

/// The longest reference: names an item in the caller's own words.
pub(crate) const REFERENCE_BYTES_MAX: usize = 128;

/// The references of a request's items, in order. Two items may bear the same one.
pub(super) struct References(Vec<String>);

/// Takes the references off `items`, and aside those items whose reference is too long to be one.
///
/// # Errors
/// INVALID_ARGUMENT for none, or more than [`ITEMS_MAX`].
pub(super) fn named<I>(
    items: Vec<I>,
    reference: impl Fn(&mut I) -> &mut String,
) -> Result<(References, Vec<I>), Status> {
    counted(items.len())?;
    let mut references = Vec::with_capacity(items.len());
    let mut kept = Vec::with_capacity(items.len());
    for mut item in items {
        let name = std::mem::take(reference(&mut item));
        if fits(&name) {
            kept.push(item);
        }
        references.push(name);
    }
    Ok((References(references), kept))
}

/// Refuses a request with no items, or too many.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn counted(count: usize) -> Result<(), Status> {
    match count {
        0 => Err(Status::invalid_argument("no items")),
        1..=ITEMS_MAX => Ok(()),
        _ => Err(Status::invalid_argument(format!("more than {ITEMS_MAX} items"))),
    }
}

fn fits(reference: &str) -> bool {
    reference.len() <= REFERENCE_BYTES_MAX
}

impl References {
    /// Every item's answer in its place: those of `answers` for the items that were kept, in their order,
    /// INVALID for the rest.
    pub(super) fn with<A, M>(
        self,
        answers: Vec<Result<A, Refusal>>,
        message: impl Fn(String, Result<A, Refusal>) -> M,
    ) -> Vec<M> {
        let mut answers = answers.into_iter();
        let mut next = move |reference: &str| {
            if !fits(reference) {
                return Err(Refusal::new(Code::Invalid, "the reference is longer than 128 bytes"));
            }
            answers.next().unwrap_or_else(|| Err(Refusal::new(Code::KeyUnavailable, "not answered")))
        };
        self.0
            .into_iter()
            .map(|reference| {
                let answer = next(&reference);
                message(reference, answer)
            })
            .collect()
    }
}

/// A refusal as it goes over the wire.
pub(super) fn item_error(refusal: Refusal) -> ItemError {
    let retryable = refusal.is_retryable();
    ItemError { code: refusal.code as i32, message: refusal.message, retryable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakroom_proto::vault::v1::{ErrorCode, ReleaseItem};

    #[test]
    fn codes_are_the_same_inside_and_on_the_wire() {
        for number in 1..=8 {
            let code = Code::from_number(number).unwrap();
            let wire = ErrorCode::try_from(item_error(Refusal::new(code, "")).code).unwrap();
            assert_eq!(wire.as_str_name(), format!("ERROR_CODE_{}", code.name()));
        }
        assert_eq!(Code::from_number(9), None);
    }

    fn items(references: &[&str]) -> Vec<ReleaseItem> {
        references
            .iter()
            .enumerate()
            .map(|(at, reference)| ReleaseItem { reference: (*reference).into(), token: at.to_string() })
            .collect()
    }

    #[test]
    fn one_bad_reference_spoils_no_other_item_and_order_is_kept() {
        let long = "x".repeat(REFERENCE_BYTES_MAX + 1);
        let longest = "x".repeat(REFERENCE_BYTES_MAX);
        let (references, kept) =
            named(items(&["a", &long, "a", &longest]), |item| &mut item.reference).unwrap();
        assert_eq!(kept.iter().map(|item| item.token.as_str()).collect::<Vec<_>>(), ["0", "2", "3"]);
        let answers = kept.into_iter().map(|item| Ok(item.token)).collect();
        let answered = references.with(answers, |reference, answer| (reference, answer.ok()));
        let expected = [("a", Some("0")), (&long, None), ("a", Some("2")), (&longest, Some("3"))];
        let expected = expected.map(|(reference, token)| (reference.to_owned(), token.map(str::to_owned)));
        assert_eq!(answered, expected);
    }

    #[test]
    fn none_and_too_many_are_the_call_s_fault() {
        let of = |count| named(vec![ReleaseItem::default(); count], |item| &mut item.reference).is_ok();
        assert!(!of(0) && of(1) && of(ITEMS_MAX) && !of(ITEMS_MAX + 1));
    }
}
