use std::sync::{Arc, Mutex};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::{Request, Response, Status};

use super::*;
use crate::serve::{Listener, ServeConfig};
use crate::shutdown::Shutdown;

/// A real OTLP receiver: what came over the wire.
#[derive(Clone, Default)]
struct Receiver {
    traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.traces.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn received() -> (Receiver, TelemetryConfig, Shutdown) {
    let receiver = Receiver::default();
    let routes = tonic::service::Routes::new(TraceServiceServer::new(receiver.clone()))
        .add_service(MetricsServiceServer::new(receiver.clone()));
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), ServeConfig::default()).await.unwrap();
    let otlp =
        OtlpConfig { endpoint: format!("http://{}", listener.local_address()), ..OtlpConfig::default() };
    let shutdown = Shutdown::new();
    tokio::spawn(listener.serve_plain(routes.into_axum_router(), shutdown.clone()));
    (receiver, TelemetryConfig { otlp, ..TelemetryConfig::default() }, shutdown)
}

fn silent() -> BoxMakeWriter {
    BoxMakeWriter::new(std::io::sink)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_and_metrics_reach_an_otlp_receiver_and_continue_the_callers_trace() {
    let (receiver, config, shutdown) = received().await;
    let (telemetry, dispatch) = assemble(&config, "cloakroom-test", "1.2.3", silent()).unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let onward = tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!("erase");
        assert!(continue_from(&span, parent));
        span.in_scope(|| traceparent().unwrap())
    });
    assert!(onward.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && onward != parent, "{onward}");
    telemetry.metrics.meter("test").u64_counter("cloakroom.erasures").build().add(2, &[]);
    let registry = telemetry.registry();
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text.contains("cloakroom_erasures_total"), "{text}");
    telemetry.finish().await;
    shutdown.begin();

    let traces = receiver.traces.lock().unwrap();
    let resource = &traces[0].resource_spans[0];
    let named = format!("{:?}", resource.resource.as_ref().unwrap().attributes);
    assert!(named.contains("cloakroom-test") && named.contains("1.2.3"), "{named}");
    let span = &resource.scope_spans[0].spans[0];
    assert_eq!(span.name, "erase");
    assert_eq!(span.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    let metrics = format!("{:?}", receiver.metrics.lock().unwrap());
    assert!(metrics.contains("cloakroom.erasures"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_carry_the_trace_there_and_back() {
    let (_receiver, config, shutdown) = received().await;
    let (telemetry, dispatch) = assemble(&config, "cloakroom-test", "1", silent()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        let mut headers = http::HeaderMap::new();
        tracing::info_span!("client").in_scope(|| inject(&mut headers));
        let sent = headers["traceparent"].to_str().unwrap().to_owned();
        let server = tracing::info_span!("server");
        continue_from_headers(&server, &headers);
        let onward = server.in_scope(|| traceparent().unwrap());
        assert_eq!(sent.split('-').nth(1), onward.split('-').nth(1));
        assert_ne!(sent, onward);
        for broken in ["", "00", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "ü"] {
            assert!(!continue_from(&tracing::info_span!("record"), broken), "{broken}");
        }
    });
    assert_eq!(traceparent(), None);
    telemetry.finish().await;
    shutdown.begin();
}

#[tokio::test]
async fn json_lines_are_one_object_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let file = Arc::new(std::fs::File::create(&path).unwrap());
    let config = TelemetryConfig { format: LogFormat::Json, ..TelemetryConfig::default() };
    let (_telemetry, dispatch) = assemble(&config, "cloakroom-test", "1", BoxMakeWriter::new(file)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info!(epoch = 7, "batch done");
        tracing::debug!("not shown");
    });
    let log = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["message"], &lines[0]["epoch"]), (&"batch done".into(), &7.into()));
}

#[tokio::test]
async fn an_endpoint_or_filter_that_cannot_be_used_is_an_error() {
    let with = |filter: &str, endpoint: &str| {
        let otlp = OtlpConfig { endpoint: endpoint.into(), ..OtlpConfig::default() };
        let config = TelemetryConfig { filter: filter.into(), otlp, ..TelemetryConfig::default() };
        assemble(&config, "cloakroom-test", "1", silent()).map(|_| ())
    };
    assert!(with("info", "").is_ok());
    assert!(with("info", "https://collector.example").is_err());
    assert!(with("cloakroom=loud", "").is_err());
}
