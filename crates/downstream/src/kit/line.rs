//! The way to Kafka and back.

use std::sync::Arc;

use cloakroom_bus::{BusConfig, Publisher, Signer, Subscription};
use cloakroom_crypto::sign::SigningKey;

pub(super) struct Line {
    pub(super) config: BusConfig,
    pub(super) subscription: Subscription,
    pub(super) publisher: Publisher,
    topics: Vec<String>,
}

impl Line {
    /// Consumes in the group `cloakroom.<downstream>`; answers in the downstream's own name.
    pub(super) fn open(
        config: BusConfig,
        downstream: &str,
        key: Arc<SigningKey>,
        topics: Vec<String>,
    ) -> Self {
        let group = format!("cloakroom.{downstream}");
        let signer = Signer { source: downstream.to_owned(), key };
        Self {
            subscription: Subscription::open(&config, &group, topics.clone()),
            publisher: Publisher::connect(&config, signer),
            config,
            topics,
        }
    }

    /// Adds topics that are new.
    pub(super) fn extend(&mut self, topics: Vec<String>) {
        if topics == self.topics {
            return;
        }
        match self.subscription.extend(topics.clone()) {
            Ok(()) => self.topics = topics,
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "new topics are refused"),
        }
    }
}
