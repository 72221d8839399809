//! What the vault's admin endpoint tells a downstream: its controllers, the announcer's keys, where Kafka is,
//! and the erasure ledger from a position on.

use std::time::Duration;

use cloakroom_bus::{Bootstrap, BusConfig, Keyring, Kind, Refused, topics};
use cloakroom_client::ClientError;
use cloakroom_crypto::sign::{VerifyingKey, record_bytes};
use cloakroom_proto::admin::v1::{RegisterDownstreamRequest, ReplayErasuresRequest, ReplayErasuresResponse};
use cloakroom_runtime::shutdown::Shutdown;
use data_encoding::HEXLOWER;
use tokio::time::{Instant, timeout};

use super::inbox::{self, Message};
use super::{BATCH_MAX, Kit};
use crate::{DownstreamError, Erasure, Rectified};

/// How long the vault may be silent in the middle of a replay.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// What the vault said when this downstream registered.
#[derive(Default)]
pub(super) struct Registration {
    pub(super) controllers: Vec<String>,
    pub(super) keyring: Keyring,
    keys: Vec<VerifyingKey>,
    kafka: String,
}

impl Registration {
    /// The topics of every controller that is served here.
    pub(super) fn topics(&self) -> Vec<String> {
        let both = |controller: &String| [topics::erasure(controller), topics::notice(controller)];
        self.controllers.iter().flat_map(both).collect()
    }

    pub(super) fn bus_config(&self) -> Option<BusConfig> {
        (!self.kafka.is_empty()).then(|| BusConfig::plaintext(Bootstrap::Address(self.kafka.clone())))
    }

    /// Verifies a replayed record as if it had come over Kafka, and reads it. Its signature stands in the
    /// header `sig` in hexadecimal digits: gRPC's headers are text.
    fn open(&self, replayed: ReplayErasuresResponse) -> Result<Message, Refused> {
        let header = |name| replayed.headers.get(name).ok_or(Refused::Unsigned);
        let (kid, signature) = (header("kid")?, header("sig")?.as_bytes());
        let signature = HEXLOWER.decode(signature).map_err(|_| Refused::Unsigned)?;
        let key = self.keys.iter().find(|key| key.kid() == *kid).ok_or(Refused::UnknownKey)?;
        let mut attributes: Vec<(&str, &[u8])> = (replayed.headers.iter())
            .filter(|(name, _)| name.starts_with("ce_"))
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        attributes.sort_unstable();
        let signed = record_bytes(&replayed.topic, replayed.key.as_bytes(), &attributes, &replayed.record);
        key.verify(&signed, &signature).map_err(|_| Refused::BadSignature)?;
        let kind = replayed.headers.get("ce_type").and_then(|kind| Kind::from_ce_type(kind));
        if kind.is_none() || kind != Kind::of_topic(&replayed.topic) {
            return Err(Refused::Malformed { part: "ce_type" });
        }
        inbox::read(&replayed.topic, &replayed.key, replayed.record, &self.controllers)
            .map_err(|_| Refused::Malformed { part: "value" })
    }
}

impl Kit {
    /// Tells the vault who this is, and learns whom it serves.
    pub(super) async fn register(&mut self) -> Result<(), DownstreamError> {
        self.registered = Instant::now();
        let request = RegisterDownstreamRequest {
            downstream: self.config.downstream.clone(),
            verifying_key: self.key.verifying_key().as_bytes().to_vec().into(),
            copies_tree_id: self.purge.copies_tree().map(|tree| tree.to_string()).unwrap_or_default(),
            destroy_class: self.purge.destroy_class(),
        };
        let told = self.admin.register_downstream(request).await?;
        let keys: Vec<VerifyingKey> =
            told.announcer_keys.iter().map(|key| VerifyingKey::from_bytes(key)).collect::<Result<_, _>>()?;
        self.registration = Registration {
            controllers: told.controllers,
            keyring: keys.iter().map(|key| ("announcer", key.clone())).collect(),
            keys,
            kafka: told.kafka_bootstrap,
        };
        Ok(())
    }

    /// As [`Kit::register`], keeping what is known if the vault is away.
    pub(super) async fn register_again(&mut self) {
        if let Err(error) = self.register().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the vault was not asked for news");
        }
    }

    /// Purges what the ledger holds beyond the position in this downstream's database. A record that does not
    /// verify ends it: passing over an erasure would be forgetting to forget.
    pub(super) async fn replay(&mut self, shutdown: &Shutdown) -> Result<(), DownstreamError> {
        let before = self.purge.position().await?;
        let since = if before == 0 { 0 } else { before.saturating_add(1) };
        let request = ReplayErasuresRequest { downstream: self.config.downstream.clone(), since };
        let mut told = self.admin.replay_erasures(request).await?;
        let (mut complete, mut reached) = (before, before);
        let (mut erasures, mut notices) = (vec![], vec![]);
        loop {
            let next = timeout(SILENT_MAX, told.message()).await.map_err(|_| DownstreamError::Silent)?;
            let next = next.map_err(|status| ClientError::Status(Box::new(status)))?;
            let last = next.is_none();
            if let Some(next) = next {
                // One event can be many records: until the next one comes, only those before it are complete.
                (complete, reached) = (next.position.saturating_sub(1).max(before), next.position);
                if !next.record.is_empty() {
                    match self.registration.open(next).map_err(DownstreamError::Replayed)? {
                        Message::Purge(erasure) => erasures.push(erasure),
                        Message::Rectified(notice) => notices.push(notice),
                        Message::Unknown => {}
                    }
                }
            }
            if last || erasures.len().saturating_add(notices.len()) >= BATCH_MAX {
                self.settle(std::mem::take(&mut erasures), std::mem::take(&mut notices), shutdown).await?;
                let position = if last { reached } else { complete };
                if position > before {
                    self.purge.reached(position).await?;
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    /// As [`Kit::replay`], putting off what fails to the next time.
    pub(super) async fn replay_again(&mut self, shutdown: &Shutdown) {
        if let Err(error) = self.replay(shutdown).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the erasure ledger was not replayed");
        }
    }

    /// Works on replayed messages; their answers wait until there is a line to Kafka.
    async fn settle(
        &mut self,
        erasures: Vec<Erasure>,
        notices: Vec<Rectified>,
        shutdown: &Shutdown,
    ) -> Result<(), DownstreamError> {
        let verdicts = self.destroy(&erasures, shutdown).await.ok_or(DownstreamError::Closed)?;
        for (erasure, verdict) in erasures.iter().zip(&verdicts) {
            self.unanswered.extend(self.ack(erasure, verdict));
        }
        for notice in &notices {
            self.drop_copy(notice, shutdown).await.ok_or(DownstreamError::Closed)?;
        }
        Ok(())
    }
}
