//! What announcing one token's purge costs before Kafka has it: encoding and signing.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![allow(missing_docs, reason = "divan's own")]

use std::sync::Arc;

use cloakroom_bus::{Outgoing, Signer, topics};
use cloakroom_crypto::sign::SigningKey;
use cloakroom_proto::bus::v1::Purge;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

#[divan::bench]
fn encode_and_sign(bencher: Bencher<'_, '_>) {
    let key = Arc::new(SigningKey::generate());
    let signer = Signer { source: "spiffe://cloakroom.local/vault".to_owned(), key };
    let token = format!("tok_{}", "a".repeat(26));
    let purge = Purge {
        version: 1,
        purge_id: format!("prg_{}", "a".repeat(26)),
        token: token.clone(),
        field: "email".to_owned(),
        activity: "orders".to_owned(),
        deadline_unix_ms: 1_790_000_000_000,
    };
    let topic = topics::erasure("load");
    bencher.bench_local(|| {
        let purge = black_box(&purge);
        let id = purge.purge_id.clone();
        Outgoing::new(topic.clone(), token.clone(), id, 1_790_000_000_000, purge)
            .unwrap()
            .signed(&signer)
            .unwrap()
    });
}
