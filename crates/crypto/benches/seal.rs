//! What every value costs: sealing, opening, and its token's address.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]
#![allow(missing_docs, reason = "divan's own")]

use cloakroom_crypto::address::{Address, AddressKey, AddressKind, from_text, to_text};
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, Plaintext, role};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const CONTEXT: Context<'static> = Context {
    controller: "load",
    subject_bits: 1,
    activity: "orders",
    field: "email",
    bits: 2,
    value_version: 1,
};

/// With a key of its own, as every value has.
#[divan::bench(args = [31, 255])]
fn seal(bencher: Bencher<'_, '_>, bytes: usize) {
    let text = Plaintext::from_slice(&vec![b'a'; bytes]);
    bencher.bench_local(|| Key::<role::Value>::random().borrow().seal(black_box(&text), &CONTEXT).unwrap());
}

#[divan::bench(args = [31, 255])]
fn open(bencher: Bencher<'_, '_>, bytes: usize) {
    let key = Key::<role::Value>::random();
    let sealed = key.borrow().seal(&Plaintext::from_slice(&vec![b'a'; bytes]), &CONTEXT).unwrap();
    bencher.bench_local(|| key.borrow().open(black_box(&sealed), &CONTEXT).unwrap());
}

fn address() -> (AddressKey, Address) {
    let address = Address { kind: AddressKind::Token, shard: 0, number: 123_456, bits: 789 };
    (AddressKey::new(Key::<role::Address>::random().borrow()), address)
}

#[divan::bench]
fn token_to_address(bencher: Bencher<'_, '_>) {
    let (key, address) = address();
    let token = to_text(AddressKind::Token, key.encrypt(&address));
    bencher.bench_local(|| {
        let block = from_text(AddressKind::Token, black_box(&token)).unwrap();
        key.decrypt(block, AddressKind::Token).unwrap()
    });
}

#[divan::bench]
fn address_to_token(bencher: Bencher<'_, '_>) {
    let (key, address) = address();
    bencher.bench_local(|| to_text(AddressKind::Token, key.encrypt(black_box(&address))));
}
