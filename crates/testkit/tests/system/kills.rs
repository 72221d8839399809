//! kill -9 at random moments, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::seed::Sequence;
use tokio::task::LocalSet;

use crate::house::House;
use crate::load::{Hand, invariants};

const HANDS: usize = 3;
const KILLS: u64 = 100;

/// The straight line first: if this fails, nothing below needs a look.
#[tokio::test]
async fn what_is_checked_in_is_used_forgotten_and_certified() {
    let house = House::open(Some(Kafka::shared())).await;
    let mut hand = Hand::new(&house, "hand", Sequence::from_variable("SYSTEM_SEED"));
    for _ in 0..3 {
        hand.check_in().await;
    }
    for at in 0..3 {
        hand.send_ticket(at).await;
        hand.subscribe(at).await;
        hand.convert(at).await;
    }
    hand.erase(1).await;
    invariants(&house, &[hand]).await;
}

/// Whichever daemon dies at whichever moment: no acknowledged value is lost, no erased one comes back, every
/// erasure completes, its certificate verifies, and each downstream has purged.
#[tokio::test]
async fn kill_mail_vault_affiliate_at_random() {
    LocalSet::new().run_until(kill_at_random()).await;
}

async fn kill_at_random() {
    let kills = std::env::var("KILLS").map_or(KILLS, |text| text.parse().expect("KILLS is a number"));
    let mut random = Sequence::from_variable("SYSTEM_SEED");
    let kafka = Kafka::start();
    let mut house = House::open(Some(&kafka.bootstrap())).await;
    let stop = Arc::new(AtomicBool::new(false));
    let hands: Vec<_> = (0..HANDS)
        .map(|at| Hand::new(&house, &format!("hand{at}"), random.split()))
        .map(|hand| tokio::task::spawn_local(hand.work(Arc::clone(&stop))))
        .collect();

    let begun = Instant::now();
    let mut killed = [0_u64; 3];
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(50 + random.below(1_000))).await;
        let victim = *random.pick(&[0, 0, 1, 2]);
        let daemon =
            [&mut house.vault, &mut house.mail, &mut house.affiliate].into_iter().nth(victim).unwrap();
        daemon.kill9();
        if random.below(4) == 0 {
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
        }
        daemon.start();
        killed[victim] += 1;
        // Else the next kill may hit a start.
        if victim == 0 && random.below(4) != 0 {
            house.vault_is_ready().await;
        }
        assert!(hands.iter().all(|hand| !hand.is_finished()), "a hand has failed");
    }
    println!("killed vault, mail and affiliate {killed:?} times in {:.0?}", begun.elapsed());

    house.vault_is_ready().await;
    house.downstreams_are_ready().await;
    stop.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for hand in hands {
        done.push(hand.await.unwrap());
    }
    let (people, erased) = done
        .iter()
        .flat_map(|hand| &hand.people)
        .fold((0, 0), |(people, erased), person| (people + 1, erased + u32::from(person.erasure.is_some())));
    println!("{people} people checked in, {erased} of them erased");
    assert!(u64::from(erased) > kills / 10, "the load was too thin to show anything: {erased} erasures");
    invariants(&house, &done).await;
    println!("all of it held after {:.0?}", begun.elapsed());
}
