//! The admin endpoint over HTTP/JSON, as `openapi.json` describes it. Personal data stands in bodies only;
//! no refusal repeats what it refuses.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use cloakroom_core::merkle::Tile;
use cloakroom_runtime::identity::Principal;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;

use super::problem::{Problem, not_so};
use super::{json, query};
use crate::house::House;
use crate::measure;
use crate::wire::MESSAGE_BYTES_MAX;

/// The document that describes these routes (OpenAPI 3.1).
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// The routes. Whoever merges them says what becomes of requests for others.
pub(crate) fn router(house: House) -> Router {
    Router::new()
        .route("/v1/erasures", post(request_erasure).get(list_erasures))
        .route("/v1/erasures/preview", post(preview_erasure))
        .route("/v1/erasures/{erasure_id}", get(erasure))
        .route("/v1/erasures/{erasure_id}/redrive", post(redrive))
        .route("/v1/erasures/{erasure_id}/certificate", get(certificate))
        .route("/v1/downstreams", get(downstreams))
        .route("/v1/registers", post(apply_register))
        .route("/v1/registers/{controller}", get(register))
        .route("/v1/status", get(status))
        .route("/v1/log/verify", post(verify_log))
        .route("/v1/log/prune", post(prune_log))
        .route("/log/checkpoint", get(log_checkpoint))
        .route("/log/keys", get(log_keys))
        .route("/log/tile/{*tile}", get(log_tile))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/openapi.json", get(openapi))
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
        .with_state(house)
}

async fn request_erasure(
    caller: Caller,
    State(house): State<House>,
    Body(asked): Body<json::RequestErasure>,
) -> Result<Response, Problem> {
    let engine = house.engine()?;
    let (view, subject_salt) = engine.request_erasure(caller.name(), asked.into_engine()?).await?;
    // A repeat under the same idempotency key makes nothing new, and gives no salt.
    let code = if subject_salt.is_empty() { StatusCode::OK } else { StatusCode::CREATED };
    let requested = json::ErasureRequested { erasure: view.into(), subject_salt };
    let place = HeaderValue::try_from(format!("/v1/erasures/{}", requested.erasure.id())).ok();
    let mut response = (code, Json(requested)).into_response();
    if let Some(place) = place.filter(|_| code == StatusCode::CREATED) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

async fn preview_erasure(
    caller: Caller,
    State(house): State<House>,
    Body(mut asked): Body<json::PreviewErasure>,
) -> Result<Json<json::Preview>, Problem> {
    let who = asked.who()?;
    let engine = house.engine()?;
    let preview =
        engine.preview_erasure(caller.name(), &asked.controller, who, &asked.activities, &asked.reason);
    Ok(Json(preview.await?.into()))
}

async fn list_erasures(
    caller: Caller,
    State(house): State<House>,
    Asked(asked): Asked<json::ErasuresQuery>,
) -> Result<Json<json::Erasures>, Problem> {
    let (filter, size) = (asked.filter()?, query::page_size(asked.page_size)?);
    let engine = house.engine()?;
    let found = engine.erasures(caller.name(), &asked.controller, filter, size, &asked.page_token);
    let (views, next_page_token) = found.await?;
    let erasures = views.into_iter().map(json::Erasure::from).collect();
    Ok(Json(json::Erasures { erasures, next_page_token }))
}

async fn erasure(
    caller: Caller,
    State(house): State<House>,
    Named(id): Named,
) -> Result<Json<json::Erasure>, Problem> {
    Ok(Json(house.engine()?.erasure(caller.name(), &id).await?.into()))
}

async fn redrive(
    caller: Caller,
    State(house): State<House>,
    Named(id): Named,
) -> Result<Json<json::Erasure>, Problem> {
    Ok(Json(house.engine()?.redrive(caller.name(), &id).await?.into()))
}

async fn certificate(
    caller: Caller,
    State(house): State<House>,
    Named(id): Named,
) -> Result<Response, Problem> {
    let certificate = house.engine()?.certificate(caller.name(), &id).await?;
    Ok(([(CONTENT_TYPE, "application/jose")], certificate).into_response())
}

async fn downstreams(
    caller: Caller,
    State(house): State<House>,
    Asked(asked): Asked<json::ControllerQuery>,
) -> Result<Json<json::Downstreams>, Problem> {
    let found = house.engine()?.downstreams(caller.name(), &asked.controller).await?;
    let downstreams = found.into_iter().map(json::Downstream::from).collect();
    Ok(Json(json::Downstreams { downstreams }))
}

async fn apply_register(
    caller: Caller,
    State(house): State<House>,
    Asked(asked): Asked<json::ApplyQuery>,
    Text(toml): Text,
) -> Result<Json<json::AppliedRegister>, Problem> {
    let applied = house.engine()?.apply_register(caller.name(), &toml, asked.dry_run).await?;
    Ok(Json(applied.into()))
}

async fn register(
    caller: Caller,
    State(house): State<House>,
    Named(controller): Named,
) -> Result<Json<json::Register>, Problem> {
    let (toml, version, applied_unix_ms) = house.engine()?.register(caller.name(), &controller).await?;
    Ok(Json(json::Register { toml, version, applied_unix_ms }))
}

async fn status(caller: Caller, State(house): State<House>) -> Result<Json<json::Status>, Problem> {
    Ok(Json(query::status(&house, caller.name()).await?.into()))
}

async fn verify_log(caller: Caller, State(house): State<House>) -> Result<Json<json::LogVerdict>, Problem> {
    Ok(Json(house.engine()?.verify_log(caller.name()).await?.into()))
}

async fn prune_log(caller: Caller, State(house): State<House>) -> Result<Json<json::Pruned>, Problem> {
    let pruned = house.engine()?.prune_log(caller.name()).await?;
    measure::pruned(&pruned);
    Ok(Json(pruned.into()))
}

/// What a cache may do with a checkpoint: it grows old within a second.
const CHANGES: &str = "no-cache";
/// And with a tile: it never changes. Whoever is shown one has a role, so caches that others share are out.
const NEVER_CHANGES: &str = "private, max-age=31536000, immutable";
pub(super) const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

async fn log_checkpoint(caller: Caller, State(house): State<House>) -> Result<Response, Problem> {
    let checkpoint = house.engine()?.log_checkpoint(caller.name()).await?;
    Ok(([(CONTENT_TYPE, PLAIN_TEXT), (CACHE_CONTROL, CHANGES)], checkpoint).into_response())
}

async fn log_keys(caller: Caller, State(house): State<House>) -> Result<Response, Problem> {
    let keys: String =
        house.engine()?.log_keys(caller.name())?.iter().map(|key| format!("{key}\n")).collect();
    Ok(([(CONTENT_TYPE, PLAIN_TEXT), (CACHE_CONTROL, CHANGES)], keys).into_response())
}

async fn log_tile(
    caller: Caller,
    State(house): State<House>,
    Named(path): Named,
) -> Result<Response, Problem> {
    let no_tile = || Problem::of(StatusCode::NOT_FOUND, "NOT_FOUND", "not the path of a tile");
    let (level, tile) = Tile::parse(&path).ok_or_else(no_tile)?;
    let engine = house.engine()?;
    let bytes = match level {
        Some(_) => engine.log_tile(caller.name(), tile).await?,
        None => engine.log_entries(caller.name(), tile).await?,
    };
    let headers = [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, NEVER_CHANGES)];
    Ok((headers, bytes).into_response())
}

async fn jwks(_: Caller, State(house): State<House>) -> Result<Response, Problem> {
    let jwks = house.engine()?.jwks();
    Ok(([(CONTENT_TYPE, "application/jwk-set+json")], jwks).into_response())
}

async fn openapi(_: Caller) -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Who calls.
pub(super) struct Caller(Principal);

impl Caller {
    pub(super) fn name(&self) -> &str {
        self.0.as_str()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let nobody = || {
            let detail = "the certificate has no SPIFFE URI";
            Problem::of(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", detail)
        };
        parts.extensions.get::<Principal>().cloned().map(Self).ok_or_else(nobody)
    }
}

/// The one id or slug in a path.
struct Named(String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|_| Problem::invalid("the path does not decode"))
    }
}

/// The query, with no parameter that the route does not know.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        let wrong = "a parameter of the query is missing, unknown or not of its type";
        query.map(|Query(asked)| Self(asked)).map_err(|_| Problem::invalid(wrong))
    }
}

/// The body, read as JSON whatever it calls itself. Refusals name the place, never what stands there.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = body(request, state).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Problem::invalid(format!(
                "the body is not what openapi.json asks for: line {line}, column {column}"
            ))
        })
    }
}

/// The body as text.
struct Text(String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let text = String::from_utf8(body(request, state).await?.into());
        text.map(Self).map_err(|_| Problem::invalid("the body is not UTF-8"))
    }
}

/// Reads a request up to what its route would ask of the engine: for fuzzing, the same steps as in the handlers.
pub(crate) async fn read_request(route: u8, request: Request) -> bool {
    async fn whole<T: DeserializeOwned>(request: Request) -> Option<T> {
        Body::<T>::from_request(request, &()).await.ok().map(|Body(asked)| asked)
    }
    async fn asked<T: DeserializeOwned>(request: Request) -> Option<T> {
        let (mut parts, _) = request.into_parts();
        Asked::<T>::from_request_parts(&mut parts, &()).await.ok().map(|Asked(asked)| asked)
    }
    match route {
        0 => whole::<json::RequestErasure>(request).await.is_some_and(|asked| asked.into_engine().is_ok()),
        1 => whole::<json::PreviewErasure>(request).await.is_some_and(|mut asked| asked.who().is_ok()),
        2 => asked::<json::ErasuresQuery>(request)
            .await
            .is_some_and(|asked| asked.filter().is_ok() && query::page_size(asked.page_size).is_ok()),
        3 => asked::<json::ControllerQuery>(request).await.is_some(),
        4 => asked::<json::ApplyQuery>(request).await.is_some(),
        5 => whole::<json::Restore>(request).await.is_some_and(|asked| asked.into_decision().is_ok()),
        6 => asked::<json::LedgerQuery>(request).await.is_some(),
        _ => Text::from_request(request, &()).await.is_ok(),
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|error| match error {
        BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::of(
                StatusCode::PAYLOAD_TOO_LARGE,
                "EXHAUSTED",
                "the body is larger than this route takes",
            )
        }
        _ => Problem::invalid("the body did not arrive whole"),
    })
}
