use cloakroom_proto::bus::v1::Purge;

use super::*;
use crate::topics;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn purge() -> Outgoing {
    let message = Purge { version: 1, purge_id: "p1".into(), token: "t1".into(), ..Purge::default() };
    Outgoing::new(topics::erasure("acme"), "t1", "p1", 1_750_000_000_123, &message).unwrap()
}

fn notice() -> Outgoing {
    Outgoing { topic: topics::notice("acme"), kind: Kind::Notice, ..purge() }
}

/// What `signed` is when it arrives.
fn arrived(signed: Signed) -> Incoming {
    Incoming {
        position: Position { topic: signed.topic, partition: 0, offset: 0, connection: 1 },
        key: Some(signed.key.into()),
        headers: signed.headers,
        value: signed.value,
    }
}

fn signed_by(key: &SigningKey, record: Outgoing) -> Incoming {
    arrived(record.sign("vault", key).unwrap())
}

fn ring(key: &SigningKey) -> Keyring {
    Keyring::from_iter([("vault", key.verifying_key().clone())])
}

fn refusal(record: Incoming, keyring: &Keyring) -> Refused {
    verify(record, keyring).err().expect("refused")
}

#[test]
fn what_was_signed_arrives_whole() {
    let key = SigningKey::generate();
    let verified = verify(signed_by(&key, purge()), &ring(&key)).unwrap();
    assert_eq!((verified.kind, verified.key.as_str(), verified.id.as_str()), (Kind::Purge, "t1", "p1"));
    assert_eq!((verified.signer.as_str(), verified.source.as_str()), ("vault", "vault"));
    assert_eq!(verified.time_unix_ms, 1_750_000_000_123);
    assert_eq!(verified.decode::<Purge>().unwrap().purge_id, "p1");
}

#[test]
fn headers_are_cloudevents() {
    let key = SigningKey::generate();
    let record = signed_by(&key, purge());
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "p1"),
        ("ce_type", "cloakroom.bus.v1.Purge"),
        ("ce_source", "vault"),
        ("ce_time", "2025-06-15T15:06:40.123Z"),
        ("content-type", "application/protobuf"),
    ] {
        assert_eq!(record.text(name), Ok(value), "{name}");
    }
}

#[test]
fn any_change_is_refused() {
    let key = SigningKey::generate();
    let keyring = ring(&key);
    type Change = fn(&mut Incoming);
    let changes: [(&str, Change); 8] = [
        ("topic", |record| record.position.topic = topics::erasure("globex")),
        ("key", |record| record.key = Some("t2".into())),
        ("no key", |record| record.key = None),
        ("value", |record| record.value = [record.value.as_ref(), b"\0"].concat().into()),
        ("tombstone", |record| record.value = Bytes::new()),
        ("header added", |record| record.headers.push(("ce_subject".into(), "x".into()))),
        ("header gone", |record| record.headers.retain(|(name, _)| name != "ce_time")),
        ("header twice", |record| record.headers.push(("ce_id".into(), "p1".into()))),
    ];
    for (what, change) in changes {
        let mut record = signed_by(&key, purge());
        change(&mut record);
        assert_eq!(refusal(record, &keyring), Refused::BadSignature, "{what}");
    }
    for at in 0..5 {
        let mut record = signed_by(&key, purge());
        let (name, value) = &mut record.headers[at];
        assert!(name.starts_with("ce_"));
        *value = [value.as_ref(), b"x"].concat().into();
        assert_eq!(refusal(record, &keyring), Refused::BadSignature, "header {at}");
    }
}

#[test]
fn bytes_cannot_move_from_one_part_to_the_next() {
    let key = SigningKey::generate();
    let mut record = signed_by(&key, purge());
    // ce_id "p1" + ce_source "vault" spelt as "p1v" + "ault"
    record.headers[0].1 = "p1v".into();
    record.headers[1].1 = "ault".into();
    assert_eq!(refusal(record, &ring(&key)), Refused::BadSignature);
}

#[test]
fn the_order_of_headers_does_not_matter() {
    let key = SigningKey::generate();
    let mut record = signed_by(&key, purge());
    record.headers.reverse();
    assert!(verify(record, &ring(&key)).is_ok());
}

#[test]
fn foreign_and_missing_signatures_are_refused() {
    let (key, foreign) = (SigningKey::generate(), SigningKey::generate());
    assert_eq!(refusal(signed_by(&foreign, purge()), &ring(&key)), Refused::UnknownKey);

    let mut claimed = signed_by(&foreign, purge());
    let kid = key.verifying_key().kid();
    claimed
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "kid")
        .for_each(|header| header.1 = kid.clone().into());
    assert_eq!(refusal(claimed, &ring(&key)), Refused::BadSignature);

    for part in ["kid", "sig"] {
        let mut record = signed_by(&key, purge());
        record.headers.retain(|(name, _)| name != part);
        assert_eq!(refusal(record, &ring(&key)), Refused::Unsigned, "{part}");
    }
    let mut short = signed_by(&key, purge());
    short
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "sig")
        .for_each(|header| header.1 = header.1.slice(..63));
    assert_eq!(refusal(short, &ring(&key)), Refused::Unsigned);
}

#[test]
fn a_purge_names_no_trace_and_a_notice_may() {
    let key = SigningKey::generate();
    let traced = |record: Outgoing| signed_by(&key, Outgoing { trace: Some(TRACE.into()), ..record });
    assert!(traced(purge()).headers.iter().all(|(name, _)| name != "traceparent"));
    let notice = verify(traced(notice()), &ring(&key)).unwrap();
    assert_eq!(notice.trace.as_deref(), Some(TRACE));

    let mut planted = signed_by(&key, purge());
    planted.headers.push(("traceparent".into(), TRACE.into()));
    assert_eq!(verify(planted, &ring(&key)).unwrap().trace, None);
}

#[test]
fn what_does_not_belong_is_not_sent() {
    let key = SigningKey::generate();
    let wrong = [
        ("kind", Outgoing { kind: Kind::Ack, ..purge() }),
        ("kind", Outgoing { topic: "elsewhere".into(), ..purge() }),
        ("key", Outgoing { key: String::new(), ..purge() }),
        ("id", Outgoing { id: String::new(), ..purge() }),
        ("time", Outgoing { time_unix_ms: i64::MAX, ..purge() }),
    ];
    for (expected, record) in wrong {
        match record.sign("vault", &key) {
            Err(BusError::Malformed { part, .. }) => assert_eq!(part, expected),
            _ => panic!("{expected} was sent"),
        }
    }
}

#[test]
fn signed_by_a_believed_key_and_still_malformed() {
    let key = SigningKey::generate();
    let sign_as = |change: fn(&mut Vec<(&str, &[u8])>)| {
        let topic = topics::erasure("acme");
        let mut attributes: Vec<(&str, &[u8])> = vec![
            ("ce_id", b"p1"),
            ("ce_source", b"vault"),
            ("ce_specversion", b"1.0"),
            ("ce_time", b"2025-06-15T15:06:40Z"),
            ("ce_type", b"cloakroom.bus.v1.Purge"),
        ];
        change(&mut attributes);
        let signature = key.sign(&sign::record_bytes(&topic, b"t1", &attributes, b""));
        let mut headers: Vec<(String, Bytes)> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value)))
            .collect();
        headers.push(("kid".into(), key.verifying_key().kid().into()));
        headers.push(("sig".into(), Bytes::copy_from_slice(&signature)));
        arrived(Signed { topic, key: "t1".into(), headers, value: Bytes::new() })
    };
    assert!(verify(sign_as(|_| {}), &ring(&key)).is_ok());
    for (part, change) in [
        ("ce_type", (|all| all[4].1 = b"cloakroom.bus.v1.Ack") as fn(&mut Vec<(&str, &[u8])>)),
        ("ce_type", |all| all[4].1 = b"something else"),
        ("ce_time", |all| all[3].1 = b"yesterday"),
        ("ce_specversion", |all| all[2].1 = b"2.0"),
        ("ce_id", |all| all[0].1 = b"\xff"),
    ] {
        assert_eq!(refusal(sign_as(change), &ring(&key)), Refused::Malformed { part }, "{part}");
    }
}
