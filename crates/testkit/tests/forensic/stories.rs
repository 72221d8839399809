//! What happens to a vault before the adversary comes: short lives, each of which ends in another way.

use cloakroom_testkit::recorder::Phase;

use crate::acts::Act;
use crate::bench::{Bench, at_write, at_write_then};
use crate::people::{email, full_name};
use crate::remembering;

/// A life did not come to the end that it must.
#[derive(Debug)]
pub(crate) struct Unexpected(pub(crate) &'static str);

fn must(holds: bool, what: &'static str) -> Result<(), Unexpected> {
    if holds { Ok(()) } else { Err(Unexpected(what)) }
}

/// People come and go, and the process dies wherever it hurts. Every life after the first is a start that has
/// something to settle.
pub(crate) fn lives_and_deaths(bench: &mut Bench) -> Result<(), Unexpected> {
    let starts = "kill: a start did not come to its end";
    must(bench.life(&Act::Begin).success(), starts)?;
    must(bench.life(&Act::Load { seed: 1, first: 0, people: 20 }).success(), starts)?;
    // Keys durable, the frame handed to the system, and then the power goes: most of it is on the disk.
    bench.life_until(&Act::Arrive { first: 500, people: 3 }, at_write(2, Phase::After, "data/log"));
    bench.tear_log(30);
    must(bench.life(&Act::Arrive { first: 510, people: 2 }).success(), starts)?;
    // The fence is durable, the new root is about to be made.
    bench.life_until(&Act::Forget { first: 520, stubborn: false }, at_write(4, Phase::Before, "roots"));
    bench.fenced([email(520), full_name(520)]);
    must(bench.life(&Act::Arrive { first: 530, people: 2 }).success(), starts)?;
    // The new root is there, its commit is not.
    let act = Act::Forget { first: 540, stubborn: false };
    bench.life_until(&act, at_write_then(4, "roots", "keys/tree"));
    must(bench.life(&Act::Last).success(), starts)
}

/// A folder is copied, goes on, and is put back: what came between is abandoned.
pub(crate) fn a_branch_is_abandoned(bench: &mut Bench) -> Result<(), Unexpected> {
    let starts = "kill: a start did not come to its end";
    must(bench.life(&Act::Begin).success(), starts)?;
    bench.life_until(&Act::Arrive { first: 0, people: 5 }, at_write(3, Phase::After, "account"));
    let (saved, lives) = (bench.save(), bench.lives());
    bench.life_until(&Act::Arrive { first: 10, people: 5 }, at_write(3, Phase::After, "account"));
    bench.restore(saved.path(), lives);
    must(bench.life(&Act::Last).success(), starts)
}

/// A key backup is made, and its root stays: it opens nothing of whoever came after it.
pub(crate) fn keys_are_backed_up(bench: &mut Bench) -> Result<(), Unexpected> {
    let starts = "kill: a start did not come to its end";
    must(bench.life(&Act::Begin).success(), starts)?;
    must(bench.life(&Act::Arrive { first: 0, people: 3 }).success(), starts)?;
    must(bench.life(&Act::BackUpKeys { first: 10 }).success(), starts)?;
    must(bench.life(&Act::Last).success(), starts)?;
    bench.escrowed(1);
    Ok(())
}

/// Key backups are made and people whom they know forgotten; then one is ended by an operator, the other on time.
pub(crate) fn key_backups_end(bench: &mut Bench) -> Result<(), Unexpected> {
    let starts = "kill: a start did not come to its end";
    must(bench.life(&Act::Begin).success(), starts)?;
    must(bench.life(&Act::Arrive { first: 0, people: 3 }).success(), starts)?;
    for (first, on_time) in [(10, false), (20, true)] {
        must(bench.life(&Act::KeepKeys { first }).success(), starts)?;
        must(bench.life(&Act::Forget { first: first + 5, stubborn: false }).success(), starts)?;
        must(bench.life(&Act::EndKeyBackups { on_time }).success(), starts)?;
    }
    must(bench.life(&Act::Last).success(), starts)
}

/// The root holder does not destroy: the answer must not come.
pub(crate) fn a_root_stays(bench: &mut Bench) -> Result<(), Unexpected> {
    must(bench.life(&Act::Begin).success(), "kill: the first start failed")?;
    bench.life(&Act::Forget { first: 0, stubborn: true });
    Ok(())
}

/// One branch's log is put beside another branch's keys, of the same numbers: the gate must close.
pub(crate) fn halves_of_two_branches(bench: &mut Bench) -> Result<(), Unexpected> {
    must(bench.life(&Act::Begin).success(), "kill: the first start failed")?;
    let (saved, lives) = (bench.save(), bench.lives());
    must(bench.life(&Act::Arrive { first: 0, people: 2 }).success(), "kill: a start failed")?;
    let one = bench.save();
    bench.restore(saved.path(), lives);
    must(bench.life(&Act::Arrive { first: 10, people: 2 }).success(), "kill: a start failed")?;
    bench.restore_half(one.path(), "data");
    let served = bench.life(&Act::Arrive { first: 20, people: 2 }).success();
    must(!served, "restore: halves of two branches were served")
}

/// A process that slept wakes and goes on.
pub(crate) fn a_former_owner_wakes(bench: &mut Bench) -> Result<(), Unexpected> {
    must(bench.life(&Act::FormerOwner).success(), "restore: a former owner harmed the tree that lives")
}

/// Somebody takes a tree that has an owner.
pub(crate) fn two_owners(bench: &mut Bench) -> Result<(), Unexpected> {
    must(bench.life(&Act::SecondOwner).success(), "restore: a tree was given to two owners")
}

/// People are forgotten while what they are found by is read again after a start, and others after.
pub(crate) fn lives_to_remember(bench: &mut Bench) -> Result<(), Unexpected> {
    must(bench.life(&Act::Begin).success(), "kill: the first start failed")?;
    for first in (0..remembering::LIVES).map(|life| life * remembering::PEOPLE_A_LIFE) {
        let act = Act::Arrive { first, people: remembering::PEOPLE_A_LIFE };
        must(bench.life(&act).success(), "kill: a start failed")?;
    }
    must(bench.life(&Act::Remember).success(), "kill: a start failed")
}

/// What they leave in memory.
pub(crate) fn memory_is_read(bench: &mut Bench) -> Result<(), Unexpected> {
    lives_to_remember(bench)?;
    bench.memories().cells().objections().first().map_or(Ok(()), |what| Err(Unexpected(what)))
}
