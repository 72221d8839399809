//! Every event of the log, byte for byte: a format that drifts is a log that does not read.

use bytes::Bytes;
use cloakroom_core::event::{
    AccessFileSealed, Ack, AckStatus, AcksCollected, Body, DoomedValue, DownstreamRegistered,
    ErasureCompleted, ErasureRequested, Event, FactRecorded, KeyBackupEnded, KeysBackedUp, KeysDestroyed,
    KeysRestored, Outcome, RegisterApplied, RequestRemembered, Shape, Started, SubjectCreated, SystemKeyKind,
    SystemKeyMade, ValueRectified, ValueStored, ValuesReleased,
};
use cloakroom_core::ids::{
    CommitPosition, EventNumber, FramePosition, RootId, Slot, SlotRange, StartId, SubjectNumber, Subtree,
    TreeId,
};
use cloakroom_core::refusal::Code;
use cloakroom_engine::codec::{decode, encode, status_number, status_of};

fn slot(subtree: u32, index: u64) -> Slot {
    Slot { subtree: Subtree(subtree), index }
}

fn doomed() -> Vec<DoomedValue> {
    vec![
        DoomedValue { value: EventNumber(20), slot: slot(3, 300) },
        DoomedValue { value: EventNumber(21), slot: slot(3, 0) },
    ]
}

fn number(number: u64) -> EventNumber {
    EventNumber(number)
}

/// One of each kind; a new kind does not compile before it is here.
fn kind(body: &Body) -> &'static str {
    match body {
        Body::Started(it) if it.abandons.is_some() => "started on an older log",
        Body::Started(_) => "started",
        Body::SystemKeyMade(_) => "system key made",
        Body::RegisterApplied(_) => "register applied",
        Body::SubjectCreated(_) => "subject created",
        Body::ValueStored(_) => "value stored",
        Body::ValueRectified(_) => "value rectified",
        Body::ValuesReleased(_) => "values released",
        Body::FactRecorded(_) => "fact recorded",
        Body::RequestRemembered(_) => "request remembered",
        Body::ErasureRequested(_) => "erasure requested",
        Body::KeysDestroyed(it) if !it.later.is_empty() => "keys destroyed, final later",
        Body::KeysDestroyed(_) => "keys destroyed",
        Body::KeysBackedUp(_) => "keys backed up",
        Body::KeyBackupEnded(_) => "key backup ended",
        Body::KeysRestored(_) => "keys restored",
        Body::AccessFileSealed(_) => "access file sealed",
        Body::AcksCollected(_) => "acks collected",
        Body::ErasureCompleted(_) => "erasure completed",
        Body::ErasureOverdue { .. } => "erasure overdue",
        Body::ErasureRedriven { .. } => "erasure redriven",
        Body::DownstreamRegistered(_) => "downstream registered",
    }
}

fn bodies() -> Vec<Body> {
    vec![
        Body::Started(Started {
            start: StartId([0xaa; 16]),
            tree: TreeId([0xbb; 16]),
            software: "0.1.0".into(),
            owner: 7,
            abandons: None,
        }),
        Body::Started(Started {
            start: StartId([0xaa; 16]),
            tree: TreeId([0xbb; 16]),
            software: "0.1.0".into(),
            owner: 7,
            abandons: Some(FramePosition { start: StartId([0xcc; 16]), number: 300 }),
        }),
        Body::SystemKeyMade(SystemKeyMade {
            kind: SystemKeyKind::Signing,
            slot: slot(0, 2),
            verifying_key: Bytes::from_static(&[0xcc; 4]),
        }),
        Body::RegisterApplied(RegisterApplied {
            controller: "c".into(),
            version: 2,
            toml: "x = 1".into(),
            principal: "p".into(),
            subtree: Subtree(3),
        }),
        Body::SubjectCreated(SubjectCreated { controller: "c".into(), bits: 0x0102_0304_0506_0708 }),
        Body::ValueStored(ValueStored {
            controller: "c".into(),
            subject: SubjectNumber(300),
            subject_bits: 0x0102_0304_0506_0708,
            previous: number(301),
            activity: "a".into(),
            field: "f".into(),
            bits: 0x1112_1314_1516_1718,
            shape: Shape::Phone,
            short_token: "+999".into(),
            slot: slot(3, 300),
            sealed: Bytes::from_static(&[1, 2, 3]),
        }),
        Body::ValueRectified(ValueRectified {
            subject: SubjectNumber(300),
            previous: number(301),
            value: number(302),
            value_version: 2,
            former: slot(3, 300),
            slot: slot(3, 301),
            sealed: Bytes::from_static(&[4, 5]),
            bits: 0x2122_2324_2526_2728,
        }),
        Body::ValuesReleased(ValuesReleased {
            controller: "c".into(),
            subject: SubjectNumber(300),
            previous: number(301),
            values: doomed(),
            deadline: 1_000,
            downstreams: vec!["mail".into(), "aff".into()],
        }),
        Body::FactRecorded(FactRecorded {
            subject: SubjectNumber(300),
            previous: number(301),
            activity: "a".into(),
            kind: 6,
            holds: 2_000,
        }),
        Body::RequestRemembered(RequestRemembered {
            key_mac: [0xdd; 32],
            day_key: number(9),
            items: vec![
                Outcome::Value(number(302)),
                Outcome::Refused(Code::Erased),
                Outcome::Erasure(number(303)),
            ],
            verb: "tokenize".into(),
            controller: "c".into(),
            activity: "a".into(),
        }),
        Body::ErasureRequested(ErasureRequested {
            controller: "c".into(),
            subject: SubjectNumber(300),
            previous: number(301),
            bits: 0x3132_3334_3536_3738,
            activities: vec!["a".into()],
            actor: "dsr".into(),
            reason: "r".into(),
            legal_basis: 1,
            principal: "p".into(),
            values: doomed(),
            downstreams: vec!["mail".into()],
            deadline: 1_000,
            subject_commitment: [0xee; 32],
        }),
        Body::KeysDestroyed(KeysDestroyed {
            fences: vec![number(303), number(304)],
            epoch: 5,
            destroy_class: "overwritten".into(),
            later: vec![],
        }),
        Body::KeysDestroyed(KeysDestroyed {
            fences: vec![number(303)],
            epoch: 5,
            destroy_class: "hsm".into(),
            later: vec![(number(303), 1_000)],
        }),
        Body::KeysBackedUp(KeysBackedUp {
            root: RootId([0x11; 16]),
            epoch: 5,
            at: CommitPosition { start: StartId([0xaa; 16]), number: 300 },
            ends: vec![(Subtree(3), 300)],
            until: 2_000,
            principal: "p".into(),
        }),
        Body::KeyBackupEnded(KeyBackupEnded {
            backups: vec![number(301)],
            epoch: 6,
            destroy_class: "hsm".into(),
            fences: vec![number(303)],
        }),
        Body::KeysRestored(KeysRestored {
            root: RootId([0x11; 16]),
            at: CommitPosition { start: StartId([0xaa; 16]), number: 301 },
            lacking: vec![SlotRange { subtree: Subtree(3), first: 5, end: 300 }],
            principal: "p".into(),
        }),
        Body::AccessFileSealed(AccessFileSealed { first_entry: 300, entries: 5, sha256: [0x5a; 32] }),
        Body::AcksCollected(AcksCollected {
            fence: number(303),
            previous: number(305),
            acks: vec![Ack {
                value_index: 1,
                downstream: "mail".into(),
                status: AckStatus::AwaitingExpiry,
                purged_count: 2,
                evidence: "e".into(),
                reason: "r".into(),
                until: 3_000,
                at: 4_000,
            }],
        }),
        Body::ErasureCompleted(ErasureCompleted {
            fence: number(303),
            previous: number(306),
            with_expiry: true,
            certificate: "jws".into(),
        }),
        Body::ErasureOverdue { fence: number(303), previous: number(306) },
        Body::ErasureRedriven { fence: number(303), previous: number(306), principal: "p".into() },
        Body::DownstreamRegistered(DownstreamRegistered {
            downstream: "mail".into(),
            verifying_key: Bytes::from_static(&[0xff; 4]),
            copies_tree_id: "t".into(),
            destroy_class: "overwritten".into(),
            principal: "p".into(),
        }),
    ]
}

/// Each kind and its bytes in hex.
const GOLDEN: &[(&str, &str)] = &[
    (
        "started",
        "08011080d8c1a28c341a2d0a10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1210bbbbbbbbbbbbbbbbbbbbbbbbbb\
         bbbbbb1a05302e312e302007",
    ),
    (
        "started on an older log",
        "08011080d8c1a28c341a440a10aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1210bbbbbbbbbbbbbbbbbbbbbbbbbb\
         bbbbbb1a05302e312e3020072a150a10cccccccccccccccccccccccccccccccc10ac02",
    ),
    ("system key made", "08011080d8c1a28c34220c0802120210021a04cccccccc"),
    ("register applied", "08011080d8c1a28c342a110a016310021a0578203d20312201702803"),
    ("subject created", "08011080d8c1a28c34320c0a0163110807060504030201"),
    (
        "value stored",
        "08011080d8c1a28c343a350a016310ac0218ad022201612a0166311817161514131211380342042b3939394a\
         05080310ac025203010203590807060504030201",
    ),
    (
        "value rectified",
        "08011080d8c1a28c34422608ac0210ad0218ae0220022a05080310ac023205080310ad023a02040541282726\
         2524232221",
    ),
    (
        "values released",
        "08011080d8c1a28c344a2a0a016310ac0218ad02220908141205080310ac02220608151202080328e8073204\
         6d61696c3203616666",
    ),
    ("fact recorded", "08011080d8c1a28c34520e08ac0210ad021a0161200628d00f"),
    (
        "request remembered",
        "08011080d8c1a28c345a420a20dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\
         dd10091a0308ae021a0210041a0318af022208746f6b656e697a652a0163320161",
    ),
    (
        "erasure requested",
        "08011080d8c1a28c3462600a016310ac0218ad022138373635343332312a016132036473723a017240014a01\
         70520908141205080310ac0252060815120208035a046d61696c60e8076a20eeeeeeeeeeeeeeeeeeeeeeeeee\
         eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
    ),
    ("keys destroyed", "08011080d8c1a28c346a150a04af02b00210051a0b6f7665727772697474656e"),
    ("keys destroyed, final later", "08011080d8c1a28c346a130a02af0210051a0368736d220608af0210e807"),
    (
        "keys backed up",
        "08011080d8c1a28c34a201380a101111111111111111111111111111111110051a150a10aaaaaaaaaaaaaaaa\
         aaaaaaaaaaaaaaaa10ac022205080310ac0228d00f320170",
    ),
    ("key backup ended", "08011080d8c1a28c34aa010f0a02ad0210061a0368736d2202af02"),
    (
        "keys restored",
        "08011080d8c1a28c34b201350a101111111111111111111111111111111112150a10aaaaaaaaaaaaaaaaaaaa\
         aaaaaaaaaaaa10ad021a070803100518ac02220170",
    ),
    (
        "access file sealed",
        "08011080d8c1a28c34ba012708ac0210051a205a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\
         5a5a5a5a5a5a5a5a",
    ),
    (
        "acks collected",
        "08011080d8c1a28c34722008af0210b1021a18080112046d61696c180720022a016532017238b81740a01f",
    ),
    ("erasure completed", "08011080d8c1a28c347a0d08af0210b202180122036a7773"),
    ("erasure overdue", "08011080d8c1a28c3482010608af0210b202"),
    ("erasure redriven", "08011080d8c1a28c348a010908af0210b2021a0170"),
    (
        "downstream registered",
        "08011080d8c1a28c3492011f0a046d61696c1204ffffffff1a0174220b6f7665727772697474656e2a0170",
    ),
];

#[test]
fn every_event_has_its_bytes_and_reads_back() {
    let found: Vec<(&str, String)> = bodies()
        .into_iter()
        .map(|body| {
            let event = Event { at: 1_790_000_000_000, body };
            let bytes = encode(&event);
            assert_eq!(decode(number(1), bytes.clone()).unwrap(), event);
            (kind(&event.body), data_encoding::HEXLOWER.encode(&bytes))
        })
        .collect();
    let golden: Vec<(&str, String)> = GOLDEN.iter().map(|(kind, hex)| (*kind, (*hex).to_owned())).collect();
    assert_eq!(found, golden);
}

#[test]
fn what_a_later_version_writes_is_refused_not_misread() {
    let event =
        Event { at: 1, body: Body::SubjectCreated(SubjectCreated { controller: "c".into(), bits: 1 }) };
    let bytes = encode(&event).to_vec();
    assert_eq!(bytes[..2], [8, 1], "the version comes first");
    let newer = [&[8, 2], &bytes[2..]].concat();
    assert_eq!(decode(number(5), newer.into()).unwrap_err().to_string(), "event 5 does not read: version");
    let unknown_body = [8, 1, 16, 1, 0xa2, 6, 0];
    assert_eq!(decode(number(5), Bytes::copy_from_slice(&unknown_body)).unwrap_err().what, "body");
    for cut in 0..bytes.len() {
        assert!(decode(number(5), Bytes::copy_from_slice(&bytes[..cut])).is_err() || cut == bytes.len());
    }
}

#[test]
fn the_numbers_of_statuses_and_kinds_are_for_ever() {
    use AckStatus::{AwaitingExpiry, Failed, InProgress, NothingHeld, Purged, Received, Refused};
    let numbered = [Received, InProgress, Purged, NothingHeld, Refused, Failed, AwaitingExpiry];
    for (number, status) in (1..).zip(numbered) {
        assert_eq!((status_number(status), status_of(number)), (number, Some(status)));
    }
    assert_eq!((status_of(0), status_of(8), status_number(AckStatus::Waiting)), (None, None, 0));
    let kinds = [SystemKeyKind::Address, SystemKeyKind::Signing, SystemKeyKind::Idempotency];
    for (number, kind) in (1_u8..).zip(kinds) {
        let made = SystemKeyMade { kind, slot: slot(0, 0), verifying_key: Bytes::new() };
        let bytes = encode(&Event { at: 0, body: Body::SystemKeyMade(made) });
        assert_eq!(bytes[..], [8, 1, 34, 4, 8, number, 18, 0]);
    }
    let shapes = [Shape::Opaque, Shape::Email, Shape::Phone, Shape::Digits, Shape::Uuid];
    for (number, shape) in (1_u8..).zip(shapes) {
        let Body::ValueStored(stored) = bodies().remove(5) else { panic!("the sixth is a value") };
        let event = Event { at: 0, body: Body::ValueStored(ValueStored { shape, ..stored }) };
        let bytes = encode(&event);
        assert!(bytes.windows(2).any(|pair| pair == [56, number]), "{shape:?}");
    }
}
