//! How the vault stands.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakroom_bus::topics;
use cloakroom_core::refusal::CallRefusal;
use cloakroom_crypto::arena;

use crate::EngineError;
use crate::house::House;
use crate::keys::KeysView;

/// How the vault stands.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in admin/v1
pub struct Status {
    pub tree_id: String,
    pub epoch: u64,
    pub root_holder: String,
    pub destroy_class: String,
    /// Former roots that a move left in another holder and that are not proved gone.
    pub roots_left: u64,
    /// The root holder failed to do something and has not done it yet.
    pub holder_troubled: bool,
    pub events: u64,
    /// Events in the log's Merkle tree.
    pub tree_events: u64,
    pub slots: u64,
    pub subtrees: u32,
    pub open_erasures: u64,
    pub overdue_erasures: u64,
    pub stuck_fences: u64,
    /// Key backups whose roots are in escrow.
    pub key_backups: u64,
    /// Closed fences that a root in escrow reaches.
    pub fences_not_final: u64,
    /// Slots that the log names and a restored key backup lacked.
    pub slots_lost: u64,
    pub announce_lag: u64,
    pub kafka_bootstrap: String,
    pub checks: BTreeMap<String, String>,
}

/// A broker that says nothing for so long counts as away.
const KAFKA_ANSWERS_WITHIN: Duration = Duration::from_secs(3);

fn holder_check(keys: &KeysView) -> String {
    match (keys.left.first(), keys.trouble.as_str()) {
        (_, trouble) if !trouble.is_empty() => trouble.to_owned(),
        (Some(left), _) => format!("a former root in {left} is not proved gone"),
        (None, _) => "ok".to_owned(),
    }
}

impl House {
    /// Figures without names: for metrics and for whoever administers.
    pub(crate) fn figures(&self) -> Status {
        let events = *self.state.events.borrow();
        let memory = arena::status();
        let memory = match memory.locked {
            true => "ok".to_owned(),
            false => "keys may reach swap: memory is not locked".to_owned(),
        };
        let keys = self.state.keys_view();
        let mut checks = BTreeMap::from([
            ("memory-lock".to_owned(), memory),
            ("disk".to_owned(), self.disk_check()),
            ("key-pages".to_owned(), self.key_pages_check()),
            ("keys-replica".to_owned(), self.replica_check(&keys)),
        ]);
        checks.insert("root-holder".to_owned(), holder_check(&keys));
        let open = self.state.open_erasures();
        Status {
            tree_id: self.tree.id().to_string(),
            epoch: self.tree.epoch(),
            root_holder: keys.holder,
            destroy_class: keys.destroy_class,
            roots_left: keys.left.len() as u64,
            holder_troubled: !keys.trouble.is_empty(),
            events,
            tree_events: self.proofs.events(),
            slots: self.tree.slots(),
            subtrees: self.tree.subtrees(),
            open_erasures: open.len() as u64,
            overdue_erasures: open.iter().filter(|erasure| erasure.overdue).count() as u64,
            stuck_fences: self.state.stuck() as u64,
            key_backups: keys.backups.len() as u64,
            fences_not_final: keys.not_final,
            slots_lost: self.tree.lost_slots(),
            announce_lag: events.saturating_sub(self.state.announced.load(Ordering::Acquire)),
            kafka_bootstrap: self.kafka_bootstrap.clone(),
            checks,
        }
    }

    pub(crate) async fn status(&self, principal: &str) -> Result<Status, CallRefusal> {
        self.may_operate(principal)?;
        let mut status = self.figures();
        status.checks.insert("kafka".to_owned(), self.kafka_check().await);
        Ok(status)
    }

    /// The key database lies on one disk.
    fn replica_check(&self, keys: &KeysView) -> String {
        match (self.key_backups.window_ms, keys.backups.is_empty()) {
            (0, true) => "none: with this root holder and no key backup, one dead disk loses every key",
            (_, true) => {
                "none: no key backup has its root in escrow, one dead disk loses every key (cloakroom keys backup create)"
            }
            (_, false) => "ok",
        }
        .to_owned()
    }

    fn key_pages_check(&self) -> String {
        match self.state.stuck() {
            0 => "ok".to_owned(),
            stuck => format!(
                "{stuck} erasures cannot be closed: a page of keys does not open; bring back today's key database whole"
            ),
        }
    }

    fn disk_check(&self) -> String {
        match (self.disk.free_bytes)() {
            Ok(free) if free < self.disk.reserve_bytes.saturating_mul(2) => {
                format!("{free} bytes free: below {} only erasures are written", self.disk.reserve_bytes)
            }
            Ok(_) => "ok".to_owned(),
            Err(error) => error.chain(),
        }
    }

    /// Asks the broker; topics are compared with what they must be.
    async fn kafka_check(&self) -> String {
        let Some(config) = &self.bus else { return "none: nothing is announced".to_owned() };
        let controllers: Vec<String> = self.state.registers().keys().cloned().collect();
        match tokio::time::timeout(KAFKA_ANSWERS_WITHIN, topics::inspect(config, &controllers)).await {
            Err(_) => "does not answer".to_owned(),
            Ok(Err(error)) => EngineError::from(error).chain(),
            Ok(Ok(differences)) if differences.is_empty() => "ok".to_owned(),
            Ok(Ok(differences)) => {
                let told: Vec<String> =
                    differences.iter().map(|(topic, is)| format!("{topic}: {is}")).collect();
                told.join("; ")
            }
        }
    }

    pub(crate) fn may_operate(&self, principal: &str) -> Result<(), CallRefusal> {
        let registers = self.state.registers();
        if self.is_admin(principal) || registers.values().any(|known| self.may_look(principal, known).is_ok())
        {
            return Ok(());
        }
        Err(CallRefusal::Forbidden("this takes a role with a controller".to_owned()))
    }
}
