//! What a verified record means.

use bytes::Bytes;
use cloakroom_bus::{Kind, topics};
use cloakroom_proto::bus::v1 as bus;
use prost::Message as _;

use crate::{Erasure, Rectified, Token};

/// The version of the bus's messages that this kit reads.
const VERSION: u32 = 1;
/// The code of what is signed and yet cannot be read.
const UNREADABLE: &str = "unreadable";

#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Purge(Erasure),
    Rectified(Rectified),
    /// A notice of a kind that means nothing to copies.
    Unknown,
}

/// Reads a record of one of `controllers`' topics.
///
/// # Errors
/// A code.
pub(super) fn read(
    topic: &str,
    key: &str,
    value: Bytes,
    controllers: &[String],
) -> Result<Message, &'static str> {
    let of = |name: fn(&str) -> String| controllers.iter().find(|controller| name(controller) == topic);
    match Kind::of_topic(topic) {
        Some(Kind::Purge) => purge(of(topics::erasure).ok_or(UNREADABLE)?, key, value),
        Some(Kind::Notice) => notice(of(topics::notice).ok_or(UNREADABLE)?, key, value),
        _ => Err(UNREADABLE),
    }
}

fn purge(controller: &str, key: &str, value: Bytes) -> Result<Message, &'static str> {
    let purge = bus::Purge::decode(value).map_err(|_| UNREADABLE)?;
    if purge.version != VERSION || purge.token != key || purge.purge_id.is_empty() {
        return Err(UNREADABLE);
    }
    Ok(Message::Purge(Erasure {
        controller: controller.to_owned(),
        purge_id: purge.purge_id,
        token: Token::parse(&purge.token).map_err(|_| UNREADABLE)?,
        field: purge.field,
        activity: purge.activity,
        deadline_unix_ms: purge.deadline_unix_ms,
    }))
}

fn notice(controller: &str, key: &str, value: Bytes) -> Result<Message, &'static str> {
    let notice = bus::Notice::decode(value).map_err(|_| UNREADABLE)?;
    if notice.version != VERSION || notice.token != key {
        return Err(UNREADABLE);
    }
    if notice.kind() != bus::NoticeKind::Rectified {
        return Ok(Message::Unknown);
    }
    let token = Token::parse(&notice.token).map_err(|_| UNREADABLE)?;
    Ok(Message::Rectified(Rectified { controller: controller.to_owned(), token, sequence: notice.sequence }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(change: impl FnOnce(&mut bus::Purge)) -> Result<Message, &'static str> {
        let mut purge =
            bus::Purge { version: 1, purge_id: "p".into(), token: "tok_a".into(), ..Default::default() };
        change(&mut purge);
        read("cloakroom.see.erasure.v1", "tok_a", purge.encode_to_vec().into(), &["see".to_owned()])
    }

    #[test]
    fn a_purge_names_its_controller_by_its_topic() {
        let Ok(Message::Purge(erasure)) = purge(|_| ()) else { panic!("unreadable") };
        assert_eq!((erasure.controller.as_str(), erasure.token.as_str()), ("see", "tok_a"));
    }

    #[test]
    fn what_does_not_fit_together_is_unreadable() {
        assert_eq!(purge(|purge| purge.version = 2), Err(UNREADABLE));
        assert_eq!(purge(|purge| purge.token = "tok_b".into()), Err(UNREADABLE), "another key");
        assert_eq!(purge(|purge| purge.purge_id.clear()), Err(UNREADABLE));
        let empty = Bytes::new();
        assert_eq!(read("cloakroom.other.erasure.v1", "t", empty.clone(), &["see".into()]), Err(UNREADABLE));
        assert_eq!(read("cloakroom.see.ack.v1", "t", empty, &["see".into()]), Err(UNREADABLE));
        let garbage = Bytes::from_static(b"\xff\xff");
        assert_eq!(read("cloakroom.see.notice.v1", "t", garbage, &["see".into()]), Err(UNREADABLE));
    }

    #[test]
    fn a_notice_of_another_kind_means_nothing() {
        let notice = |kind| bus::Notice { version: 1, kind, token: "t".into(), sequence: 3 }.encode_to_vec();
        let read = |kind| read("cloakroom.see.notice.v1", "t", notice(kind).into(), &["see".into()]);
        assert_eq!(read(99), Ok(Message::Unknown));
        assert!(matches!(read(1), Ok(Message::Rectified(Rectified { sequence: 3, .. }))));
    }
}
