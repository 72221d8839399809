//! A vault in this process that reads the same values so many times, for `scripts/perf.sh`: it counts the
//! instructions of two runs of different length, whose difference is that of the reads alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that cannot go on ends")]

use std::sync::Arc;

use cloakroom_core::clock::SystemClock;
use cloakroom_core::event::Shape;
use cloakroom_engine::{
    DetokenizeRequest, Engine, FileHolder, Opened, Options, Plaintext, SubjectRef, TokenizeItem,
    TokenizeRequest,
};

const REGISTER: &str = include_str!("../../../examples/registers/see-tickets/register.toml");
const CONTROLLER: &str = "see-tickets";
const ADMIN: &str = "spiffe://cloakroom.local/person/admin";
const ORDERS: &str = "spiffe://cloakroom.local/service/orders";
const MAIL: &str = "spiffe://cloakroom.local/downstream/mail";
const PEOPLE: usize = 64;

fn main() {
    // cargo hands benches a flag of its own.
    let reads = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(read(reads));
}

fn item(person: usize) -> TokenizeItem {
    TokenizeItem {
        reference: String::new(),
        subject: SubjectRef::New(person.to_string()),
        field: "email".to_owned(),
        value: Plaintext::from_slice(format!("person-{person}@load.example").as_bytes()),
        shape: Some(Shape::Opaque),
    }
}

async fn read(reads: usize) {
    let folder = tempfile::tempdir().unwrap();
    let holder = Arc::new(FileHolder::open(&folder.path().join("roots")).unwrap());
    let mut options = Options::in_folder(folder.path(), holder);
    options.allow_unlocked = true;
    options.reserve_bytes = 0;
    options.admins = vec![ADMIN.to_owned()];
    let Opened::Ready(engine) = Engine::open(options, Arc::new(SystemClock)).await.unwrap() else {
        panic!("the gate is closed");
    };
    engine.apply_register(ADMIN, REGISTER, false).await.unwrap();
    let request = TokenizeRequest {
        controller: CONTROLLER.to_owned(),
        activity: "ticket_purchase".to_owned(),
        idempotency_key: String::new(),
        items: (0..PEOPLE).map(item).collect(),
    };
    let made = engine.tokenize(ORDERS, request).await.unwrap();
    let tokens: Vec<String> = made.into_iter().map(|one| one.unwrap().token).collect();
    for at in 0..reads {
        let token = tokens[at % PEOPLE].clone();
        let request = DetokenizeRequest {
            controller: CONTROLLER.to_owned(),
            purpose: "ticket_delivery".to_owned(),
            reason: String::new(),
            masked: false,
            tokens: vec![token],
            trace: [0; 16],
        };
        let text = engine.detokenize(MAIL, request).await.unwrap().remove(0).unwrap();
        assert!(text.as_bytes().starts_with(b"person-"));
    }
    engine.close().await;
}
