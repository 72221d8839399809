//! Ways in for the fuzz targets of `crates/testkit/fuzz`, which are outside this crate. No daemon uses them.

/// Reads a request as the admin endpoint's routes do, up to what they would ask of the engine: whether it is one.
pub fn http_request(route: u8, request: http::Request<axum::body::Body>) -> bool {
    futures_util::FutureExt::now_or_never(crate::admin::read_request(route, request)).unwrap_or_default()
}
