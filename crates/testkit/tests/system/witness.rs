//! Machines rolled back or cloned as a whole, against a real Kafka: log, keys and root agree there, and only the
//! witness can tell. The ways out are the command line's.

use std::fs;
use std::path::Path;

use cloakroom_bus::{Bootstrap, BusConfig, read_topic, topics};
use cloakroom_proto::admin::v1::GetStatusRequest;
use cloakroom_proto::bus::v1::Checkpoint;
use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;
use prost::Message;

use crate::house::{House, SETTLE_MAX, START_MAX, copy_folder, gate, get, metric, ready, told, vault_config};
use crate::load::Hand;
use crate::rollback::answers_nothing;

/// What a machine's snapshot brings back.
const MACHINE: [&str; 2] = ["vault", "roots"];

async fn lived_in() -> (House, Hand) {
    let house = House::open_vault(Some(Kafka::shared())).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    for _ in 0..3 {
        hand.check_in().await;
    }
    (house, hand)
}

/// Waits until the witness has seen all that the vault wrote.
async fn witnessed(house: &House) {
    let config = BusConfig::plaintext(Bootstrap::Address(Kafka::shared().to_owned()));
    let status = house.admin("admin").get_status(GetStatusRequest {}).await.unwrap();
    wait::until(SETTLE_MAX, "the newest checkpoint on Kafka", async || {
        let seen = read_topic(&config, topics::CHECKPOINT).await.ok()?;
        let ours = seen.into_iter().filter_map(|record| Checkpoint::decode(record.value).ok());
        let newest = ours.filter(|checkpoint| checkpoint.tree_id == status.tree_id).map(|it| it.events).max();
        (newest? >= status.events).then_some(())
    })
    .await;
}

fn copy_machine(from: &Path, to: &Path) {
    for part in MACHINE {
        copy_folder(&from.join(part), &to.join(part));
    }
}

fn done(house: &House, arguments: &[&str]) -> String {
    let output = house.cloakroom("admin", arguments);
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    told(&output)
}

#[tokio::test]
async fn a_machine_rolled_back_as_a_whole_stays_shut_until_the_ledger_is_replayed() {
    let (mut house, mut hand) = lived_in().await;
    assert!(house.vault.stop().await.success());
    let night = house.folder().join("night");
    copy_machine(house.folder(), &night);
    house.vault.start();
    house.vault_is_ready().await;
    hand.erase(0).await;
    let file = house.folder().join("ledger.jws").display().to_string();
    assert!(done(&house, &["ledger", "export", "--out", &file]).starts_with("1 entries"));
    witnessed(&house).await;

    // From the file, and once more from Kafka: each time the whole machine is last night's again.
    for source in [file.as_str(), "kafka"] {
        assert!(house.vault.stop().await.success());
        MACHINE.iter().for_each(|part| fs::remove_dir_all(house.folder().join(part)).unwrap());
        copy_machine(&night, house.folder());
        house.vault.start();
        let reason = gate(house.at.vault_health).await;
        assert!(reason.contains("witness") && reason.contains("--replay-from"), "{reason}");
        assert_eq!(metric(house.at.vault_health, "cloakroom_gate_closed").await, 1.0);
        answers_nothing(&house, &house.at, &hand, &reason).await;

        assert!(done(&house, &["restore"]).contains("accepting takes --replay-from"));
        let refused = house.cloakroom("admin", &["restore", "--accept-older-log", "--yes"]);
        assert!(!refused.status.success() && told(&refused).contains("replay"), "{}", told(&refused));
        let decided = ["restore", "--accept-older-log", "--replay-from", source];
        assert!(done(&house, &decided).contains("nothing was changed"));
        assert_eq!(gate(house.at.vault_health).await, reason, "said, not done");
        let text = done(&house, &[&decided[..], &["--yes"]].concat());
        assert!(text.contains("the older log is accepted"), "{text}");
        house.vault_is_ready().await;
        for at in 0..hand.people.len() {
            hand.invariant_reads(at).await;
        }
        assert_eq!(metric(house.at.vault_health, "cloakroom_gate_closed").await, 0.0);
        assert!(!house.folder().join("vault/data/REPLAY-OWED").exists());
        witnessed(&house).await;
    }
}

/// Both lives hold all that the witness had seen when the clone was made: at its start it is told nothing, and the
/// original finds out while it runs, at its next look.
#[tokio::test]
async fn the_original_closes_its_gate_when_a_clone_of_its_machine_has_spoken() {
    let kafka = Kafka::shared();
    let (house, hand) = lived_in().await;
    witnessed(&house).await;
    let machine = house.folder().join("clone-machine");
    copy_machine(house.folder(), &machine);
    copy_folder(&machine.join("vault"), &house.folder().join("clone"));
    let (mut clone, at) = house.another_vault("clone", Some(kafka));
    let shared = format!("roots = {{ folder = \"{}\" }}", house.folder().join("roots").display());
    let own = format!("roots = {{ folder = \"{}\" }}", machine.join("roots").display());
    let config = vault_config(house.folder(), "clone", &at, Some(kafka));
    assert!(config.contains(&shared));
    fs::write(house.folder().join("another-clone.toml"), config.replace(&shared, &own)).unwrap();
    clone.start();
    ready(at.vault_health, "the clone").await;

    wait::until(START_MAX, "a closed gate", async || {
        get(house.at.vault_health, "/readyz").await.is_some_and(|(status, _)| status != 200).then_some(())
    })
    .await;
    let reason = gate(house.at.vault_health).await;
    assert!(reason.contains("witness"), "{reason}");
    answers_nothing(&house, &house.at, &hand, &reason).await;
    let (status, _) = get(at.vault_health, "/readyz").await.unwrap();
    assert_eq!(status, 200, "one of the two lives on");
}
