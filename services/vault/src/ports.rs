//! The two ports behind TLS: which services each has.

use std::sync::Arc;

use axum::Router;
use axum::middleware::map_response;
use cloakroom_proto::DESCRIPTORS;
use cloakroom_proto::admin::v1::admin_service_server::{AdminServiceServer, SERVICE_NAME as ADMIN};
use cloakroom_proto::vault::v1::vault_service_server::{SERVICE_NAME as VAULT, VaultServiceServer};
use cloakroom_runtime::health::Readiness;
use cloakroom_runtime::shutdown::Shutdown;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;

use crate::VaultError;
use crate::admin::{self, AdminApi};
use crate::gate::Gate;
use crate::grpc::VaultApi;
use crate::house::House;
use crate::wire::{MESSAGE_BYTES_MAX, with_faults};

const HEALTH: &str = "grpc.health.v1.Health";

/// What services call. Answers are not compressed: what is compressed with a secret tells of it by its length.
pub(crate) fn vault(
    house: House,
    health: HealthServer<impl Health>,
    shutdown: Shutdown,
) -> Result<Router, VaultError> {
    let api = VaultServiceServer::new(VaultApi::new(house, shutdown))
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let routes = described(Routes::new(api).add_service(health), VAULT)?.into_axum_router();
    Ok(routes.fallback(admin::nowhere).layer(map_response(with_faults)))
}

/// What officers call, over gRPC and HTTP alike.
pub(crate) fn admin(
    gate: Arc<Gate>,
    health: HealthServer<impl Health>,
    shutdown: Shutdown,
) -> Result<Router, VaultError> {
    let api = AdminServiceServer::new(AdminApi::new(Arc::clone(&gate), shutdown))
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let routes = described(Routes::new(api).add_service(health), ADMIN)?.into_axum_router();
    let merged = routes
        .reset_fallback()
        .merge(admin::router(gate.house()))
        .merge(admin::keys::router(Arc::clone(&gate)))
        .merge(admin::restore::router(gate));
    Ok(merged.fallback(admin::nowhere).layer(map_response(with_faults)))
}

/// Adds reflection, in the version that tools ask for today and in the one before.
fn described(routes: Routes, service: &str) -> Result<Routes, VaultError> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(service)
            .with_service_name(HEALTH)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

/// Tells gRPC's own health service what `/readyz` tells, until `stop`.
pub(crate) async fn report(readiness: Readiness, reporter: HealthReporter, stop: Shutdown) {
    let mut changes = readiness.changes();
    let mut ready = readiness.is_ready();
    loop {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", VAULT, ADMIN] {
            reporter.set_service_status(service, status).await;
        }
        let next = tokio::select! {
            () = stop.begun() => None,
            next = changes.next() => next,
        };
        match next {
            Some(next) => ready = next,
            None => return,
        }
    }
}
