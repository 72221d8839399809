//! Whether the daemon lives and can serve, and what it measures: `/livez`, `/readyz`, `/metrics`, plain
//! HTTP on a port of its own, so that whoever watches needs no certificate.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio::sync::watch;

type Conditions = BTreeMap<&'static str, Result<(), String>>;

/// The named conditions under which a daemon serves. Clones share one state. Without any it is ready.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Conditions>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Conditions::new())))
    }
}

impl Readiness {
    /// Nothing to wait for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more condition, not met until its holder says so.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, of: self.clone() };
        condition.unmet("starting");
        condition
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().values().all(Result::is_ok)
    }

    /// What is not met and why, one `name: reason` each.
    pub fn reasons(&self) -> Vec<String> {
        let conditions = self.0.borrow();
        conditions
            .iter()
            .filter_map(|(name, state)| state.as_ref().err().map(|reason| format!("{name}: {reason}")))
            .collect()
    }

    /// Waits for the next change and returns whether the daemon is ready then; for the gRPC health service.
    pub fn changes(&self) -> Changes {
        Changes(self.0.subscribe())
    }
}

/// Follows a [`Readiness`].
#[derive(Debug)]
pub struct Changes(watch::Receiver<Conditions>);

impl Changes {
    /// The state after the next change; `None` when the last [`Readiness`] is gone.
    pub async fn next(&mut self) -> Option<bool> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().values().all(Result::is_ok))
    }
}

/// One part's say in whether the daemon is ready.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    of: Readiness,
}

impl Condition {
    /// This part can serve.
    pub fn met(&self) {
        self.set(Ok(()));
    }

    /// This part cannot serve. `reason` is shown to whoever asks: ids and codes only.
    pub fn unmet(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        self.of.0.send_if_modified(|conditions| {
            let changed = conditions.get(self.name) != Some(&state);
            if changed {
                conditions.insert(self.name, state);
            }
            changed
        });
    }
}

/// The three routes. Serve them with [`crate::serve::Listener::serve_plain`].
pub fn router(readiness: Readiness, metrics: Registry) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(expose).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    // One look for both: an answer that says "not ready" says why.
    let conditions = readiness.0.borrow().clone();
    let ready = conditions.values().all(Result::is_ok);
    let conditions: BTreeMap<&str, String> = conditions
        .into_iter()
        .map(|(name, state)| (name, state.err().unwrap_or_else(|| "ok".to_owned())))
        .collect();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "conditions": conditions })))
}

async fn expose(State(metrics): State<Registry>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&metrics.gather()) {
        Ok(text) => Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "metrics cannot be written");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn asked(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let readiness = Readiness::new();
        let router = router(readiness.clone(), Registry::new());
        let (store, gate) = (readiness.condition("store"), readiness.condition("gate"));
        store.met();
        gate.unmet("the log is older than the keys");
        let (status, body) = asked(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["conditions"]["gate"], "the log is older than the keys");
        assert_eq!(body["conditions"]["store"], "ok");
        assert_eq!(readiness.reasons(), ["gate: the log is older than the keys"]);

        let mut changes = readiness.changes();
        gate.met();
        assert_eq!(changes.next().await, Some(true));
        assert_eq!(asked(&router, "/readyz").await.0, StatusCode::OK);
        assert_eq!(asked(&router, "/livez").await, (StatusCode::OK, "alive\n".into()));
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("tokens_made", "Tokens made.").unwrap();
        counter.inc_by(3);
        registry.register(Box::new(counter)).unwrap();
        let (status, body) = asked(&router(Readiness::new(), registry), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("tokens_made 3"), "{body}");
    }
}
