//! The admin endpoint: one port for gRPC and for HTTP/JSON, both thin over the engine, so that neither can do
//! what the other cannot.

mod grpc;
mod http;
mod json;
pub(crate) mod keys;
mod problem;
mod query;
pub(crate) mod restore;
mod wire;

pub(crate) use grpc::AdminApi;
pub(crate) use http::{read_request, router};
pub(crate) use problem::nowhere;

/// Erasures on a page where the caller does not say.
const PAGE_ERASURES: usize = 100;

/// The most erasures on a page.
const PAGE_ERASURES_MAX: usize = 1_000;
