//! A process of its own: telemetry is global.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]

use axum::routing::get;
use cloakroom_runtime::health::{Readiness, router};
use cloakroom_runtime::serve::{Listener, ServeConfig};
use cloakroom_runtime::shutdown::Shutdown;
use cloakroom_runtime::telemetry::{Telemetry, TelemetryConfig};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Some real gRPC service.
struct Refusing;

#[tonic::async_trait]
impl TraceService for Refusing {
    async fn export(
        &self,
        _: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        Err(tonic::Status::aborted(""))
    }
}

async fn ask(address: std::net::SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn calls_are_measured_without_what_their_paths_hold() {
    let telemetry = Telemetry::start(&TelemetryConfig::default(), "cloakroom-test", "1").unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), ServeConfig::default()).await.unwrap();
    let address = listener.local_address();
    let shutdown = Shutdown::new();
    let grpc = tonic::service::Routes::new(TraceServiceServer::new(Refusing)).into_axum_router();
    let routes =
        grpc.merge(router(Readiness::new(), telemetry.registry())).route("/v1/{id}", get(|| async { "x" }));
    let served = tokio::spawn(listener.serve_plain(routes, shutdown.clone()));

    assert!(ask(address, "/v1/tok_planted", "").await.starts_with("HTTP/1.1 200"));
    let grpc = "content-type: application/grpc\r\n";
    // Whatever nobody serves, nobody answers in time, or is no gRPC at all:
    ask(address, "/a.B/Planted", grpc).await;
    ask(address, "/v1/tok_planted", grpc).await;
    ask(address, "/a.B/Planted", &format!("{grpc}grpc-timeout: 0n\r\n")).await;
    let method = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
    ask(address, &format!("/{method}"), grpc).await;
    // The measurement is made when the answer has left, which may be after it was read.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let metrics = loop {
        let metrics = ask(address, "/metrics", "").await;
        let both = ["http_server_request_duration_seconds_count", "rpc_server_call_duration_seconds_count"];
        if both.iter().all(|name| metrics.contains(name)) && metrics.contains(method) {
            break metrics;
        }
        assert!(tokio::time::Instant::now() < deadline, "{metrics}");
    };
    assert!(metrics.contains("http_response_status_code=\"200\""), "{metrics}");
    assert!(metrics.contains("rpc_method=\"_OTHER\""), "{metrics}");
    assert!(!metrics.contains("tok_planted") && !metrics.contains("Planted"), "{metrics}");
    shutdown.begin();
    assert_eq!(served.await.unwrap().connections_cut, 0);
    telemetry.finish().await;
}
