//! A collector of traces and metrics (OTLP over gRPC) that writes down whatever it gets.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

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
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What a file of traces is called, beside that of metrics.
pub(crate) const TRACES: &str = "traces.otlp";

/// Ends with the runtime that it was started in.
#[derive(Clone)]
pub(crate) struct Collector {
    traces: Arc<Mutex<File>>,
    metrics: Arc<Mutex<File>>,
}

impl Collector {
    /// Starts one; two files in `folder` get every message as it came, unpacked.
    pub(crate) async fn start(folder: &Path) -> SocketAddr {
        let file = |name| {
            let file = OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap();
            Arc::new(Mutex::new(file))
        };
        let collector = Self { traces: file(TRACES), metrics: file("metrics.otlp") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

fn keep(file: &Mutex<File>, message: &impl Message) {
    file.lock().unwrap().write_all(&message.encode_to_vec()).unwrap();
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        keep(&self.traces, request.get_ref());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        keep(&self.metrics, request.get_ref());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
