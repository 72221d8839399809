//! `/v1/keys`: how the keys stand with their root holder; a new root; another holder.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::{get, post};

use super::http::Caller;
use super::json;
use super::problem::{Problem, not_so};
use crate::gate::Gate;

/// The routes.
pub(crate) fn router(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/v1/keys", get(keys))
        .route("/v1/keys/rotate", post(rotate))
        .route("/v1/keys/move", post(moved))
        .method_not_allowed_fallback(not_so)
        .with_state(gate)
}

async fn keys(caller: Caller, State(gate): State<Arc<Gate>>) -> Result<Json<json::Keys>, Problem> {
    Ok(Json(gate.house().engine()?.keys(caller.name()).await?.into()))
}

async fn rotate(caller: Caller, State(gate): State<Arc<Gate>>) -> Result<Json<json::Keys>, Problem> {
    Ok(Json(gate.house().engine()?.rotate_keys(caller.name()).await?.into()))
}

async fn moved(caller: Caller, State(gate): State<Arc<Gate>>) -> Result<Json<json::Keys>, Problem> {
    Ok(Json(gate.move_keys(caller.name()).await?.into()))
}
