//! `/v1/gate`: what a closed gate lacks. `/v1/restore`: the ways out. `/v1/ledger`: what they take.

use std::sync::Arc;

use axum::Router;
use axum::body::Body as Streamed;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::stream;
use http::header::CONTENT_TYPE;

use super::http::{Asked, Body, Caller, PLAIN_TEXT};
use super::problem::{Problem, not_so};
use super::{json, wire};
use crate::gate::Gate;

/// A ledger of some ten thousand erasures; larger ones are for gRPC, which streams them.
const LEDGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The routes.
pub(crate) fn router(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/v1/gate", get(standing))
        .route("/v1/restore", post(restore).layer(DefaultBodyLimit::max(LEDGER_BYTES_MAX)))
        .route("/v1/ledger", get(ledger))
        .method_not_allowed_fallback(not_so)
        .with_state(gate)
}

async fn standing(caller: Caller, State(gate): State<Arc<Gate>>) -> Result<Json<json::Gate>, Problem> {
    Ok(Json(wire::gate(gate.standing(caller.name()).await?).into()))
}

async fn restore(
    caller: Caller,
    State(gate): State<Arc<Gate>>,
    Body(asked): Body<json::Restore>,
) -> Result<Json<json::Restored>, Problem> {
    let (accepted, replayed) = gate.decide(caller.name(), asked.into_decision()?).await?;
    Ok(Json(json::Restored::new(accepted, &replayed)))
}

async fn ledger(
    caller: Caller,
    State(gate): State<Arc<Gate>>,
    Asked(asked): Asked<json::LedgerQuery>,
) -> Result<Response, Problem> {
    let ledger = gate.house().engine()?.export_ledger(caller.name(), asked.since)?;
    let lines = stream::try_unfold(ledger, |mut ledger| async move {
        match ledger.next().await {
            None => Ok(None),
            Some(Ok(line)) => Ok(Some((line + "\n", ledger))),
            // The answer has begun: all that is left is to break off.
            Some(Err(_)) => Err(std::io::Error::other("the ledger does not read")),
        }
    });
    Ok(([(CONTENT_TYPE, PLAIN_TEXT)], Streamed::from_stream(lines)).into_response())
}
