//! Values in, tokens out.

use cloakroom_core::event::Shape;
use cloakroom_engine::{self as engine, Plaintext, SubjectRef};
use cloakroom_proto::vault::v1::tokenize_item::Subject;
use cloakroom_proto::vault::v1::tokenize_result::Result as Answer;
use cloakroom_proto::vault::v1::{
    TokenShape, TokenizeItem, TokenizeRequest, TokenizeResponse, TokenizeResult, Tokenized,
};
use cloakroom_runtime::identity::Principal;
use tonic::Status;

use super::VaultApi;
use super::items::{item_error, named};
use crate::refusal::status;

impl VaultApi {
    #[tracing::instrument(level = "debug", name = "tokenize", skip_all, fields(items = request.items.len()))]
    pub(super) async fn tokenized(
        &self,
        caller: &Principal,
        request: TokenizeRequest,
    ) -> Result<TokenizeResponse, Status> {
        let TokenizeRequest { controller, activity, idempotency_key, items } = request;
        let (references, items) = named(items, |item| &mut item.reference)?;
        let request = engine::TokenizeRequest {
            controller,
            activity,
            idempotency_key,
            items: items.into_iter().map(engine_item).collect(),
        };
        let count = request.items.len();
        let caller = caller.clone();
        let asked =
            self.house.items(count, |engine| async move { engine.tokenize(caller.as_str(), request).await });
        let answers = asked.await.map_err(status)?;
        let counted = self.items.of_call("tokenize");
        let items = references.with(answers, |reference, answer| {
            counted.count(&answer);
            let result = match answer {
                Ok(made) => Answer::Tokenized(Tokenized { token: made.token, subject_id: made.subject_id }),
                Err(refusal) => Answer::Error(item_error(refusal)),
            };
            TokenizeResult { reference, result: Some(result) }
        });
        Ok(TokenizeResponse { items })
    }
}

fn engine_item(item: TokenizeItem) -> engine::TokenizeItem {
    let shape = engine_shape(item.shape());
    // An unknown number reads as unspecified: only the number itself tells that it was not.
    let known = TokenShape::try_from(item.shape).is_ok();
    engine::TokenizeItem {
        reference: String::new(), // echoed here; the engine needs no names
        subject: match item.subject {
            Some(Subject::SubjectId(id)) => SubjectRef::Known(id),
            Some(Subject::NewSubject(label)) => SubjectRef::New(label),
            None => SubjectRef::Missing,
        },
        field: item.field,
        value: Plaintext::new(item.value.into()),
        shape: known.then_some(shape),
    }
}

fn engine_shape(shape: TokenShape) -> Shape {
    match shape {
        TokenShape::Unspecified | TokenShape::Opaque => Shape::Opaque,
        TokenShape::Email => Shape::Email,
        TokenShape::Phone => Shape::Phone,
        TokenShape::Digits => Shape::Digits,
        TokenShape::Uuid => Shape::Uuid,
    }
}

/// A shape as it goes over the wire.
pub(super) fn wire_shape(shape: Shape) -> TokenShape {
    match shape {
        Shape::Opaque => TokenShape::Opaque,
        Shape::Email => TokenShape::Email,
        Shape::Phone => TokenShape::Phone,
        Shape::Digits => TokenShape::Digits,
        Shape::Uuid => TokenShape::Uuid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_go_there_and_back_and_an_unknown_one_is_none() {
        for shape in [Shape::Opaque, Shape::Email, Shape::Phone, Shape::Digits, Shape::Uuid] {
            assert_eq!(engine_shape(wire_shape(shape)), shape);
        }
        let shape = |number| engine_item(TokenizeItem { shape: number, ..Default::default() }).shape;
        assert_eq!(shape(0), Some(Shape::Opaque));
        assert_eq!(shape(2), Some(Shape::Email));
        assert_eq!((shape(6), shape(-1)), (None, None));
    }

    #[test]
    fn an_item_without_a_subject_says_so() {
        assert!(matches!(engine_item(TokenizeItem::default()).subject, SubjectRef::Missing));
    }
}
