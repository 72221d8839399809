//! What is logged, traced and measured, and where it goes: lines to the terminal (for people, or JSON for
//! machines), spans and metrics over OTLP where an endpoint is configured, metrics for Prometheus always.
//!
//! The endpoint is a collector on this machine or in this pod, spoken to in plain text (`http://`): spans
//! and metrics carry ids and codes, never values, and what leaves the machine is the collector's affair.

mod trace_context;

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tracing::Dispatch;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub use trace_context::{continue_from, continue_from_headers, inject, traceparent};

use crate::RuntimeError;

/// Bucket bounds for durations in seconds: OpenTelemetry's advice for RPC, and finer below 5 ms, where
/// a batch in memory is answered.
pub const SECONDS: [f64; 17] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// How long the last spans and metrics may take to leave when the daemon stops.
const FLUSH: Duration = Duration::from_secs(5);

/// The exporter's own calls would be traced, exported, traced again.
const EXPORTER_OFF: [&str; 5] = ["h2=off", "hyper=off", "tonic=off", "tower=off", "opentelemetry=off"];

/// The spans of every call, which are of level DEBUG.
const CALLS_ON: [&str; 2] = ["cloakroom_runtime::observe=debug", "cloakroom_vault::grpc=debug"];

/// Where telemetry goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TelemetryConfig {
    /// What log lines look like.
    pub format: LogFormat,
    /// What is logged and traced, as `tracing` filters are written: `info,cloakroom_engine=debug`.
    pub filter: String,
    /// Spans and metrics over OTLP.
    pub otlp: OtlpConfig,
}

/// The exporter's failures are worth a line, its comings and goings are not. What is configured overrides it.
const EXPORTER_QUIET: &str = "opentelemetry=warn";

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned(), otlp: OtlpConfig::default() }
    }
}

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people; colours only on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Spans and metrics over OTLP (gRPC).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct OtlpConfig {
    /// The collector, `http://127.0.0.1:4317`; empty for none.
    pub endpoint: String,
    /// How often metrics are sent.
    pub metrics_interval_ms: u64,
    /// How long one export may take.
    pub timeout_ms: u64,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self { endpoint: String::new(), metrics_interval_ms: 15_000, timeout_ms: 5_000 }
    }
}

/// Telemetry under way. Ends with [`Telemetry::finish`], which sends what is left.
#[derive(Debug)]
#[must_use]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: SdkMeterProvider,
    registry: Registry,
}

impl Telemetry {
    /// Starts it for this process, as `service.name` and `service.version`. Call it inside the runtime,
    /// once, before anything is logged or measured.
    ///
    /// # Errors
    /// [`RuntimeError::Telemetry`] for a filter or endpoint that does not parse, or a second start.
    pub fn start(
        config: &TelemetryConfig,
        service: &'static str,
        version: &'static str,
    ) -> Result<Self, RuntimeError> {
        let (telemetry, dispatch) = assemble(config, service, version, BoxMakeWriter::new(std::io::stderr))?;
        tracing::dispatcher::set_global_default(dispatch).map_err(refused)?;
        opentelemetry::global::set_meter_provider(telemetry.metrics.clone());
        Ok(telemetry)
    }

    /// What `/metrics` shows.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Sends what is left, within five seconds. What cannot be sent is lost, with a warning.
    pub async fn finish(self) {
        let sent = tokio::task::spawn_blocking(move || {
            let traces = self.traces.map_or(Ok(()), |traces| traces.shutdown_with_timeout(FLUSH));
            traces.and(self.metrics.shutdown_with_timeout(FLUSH))
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans or metrics could not be sent"),
            Err(error) => tracing::warn!(%error, "telemetry did not end in order"),
        }
    }
}

fn refused(error: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Telemetry { reason: error.to_string() }
}

fn assemble(
    config: &TelemetryConfig,
    service: &'static str,
    version: &'static str,
    writer: BoxMakeWriter,
) -> Result<(Telemetry, Dispatch), RuntimeError> {
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(opentelemetry::KeyValue::new("service.version", version))
        .build();
    let traces = trace_provider(&config.otlp, &resource)?;
    let (metrics, registry) = meter_provider(&config.otlp, &resource)?;
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer("cloakroom"))
            .with_location(false)
            .with_threads(false)
    });
    let lines = match config.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            fmt::layer().with_ansi(colours).with_writer(writer).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    };
    let filter = EnvFilter::try_new(format!("{EXPORTER_QUIET},{}", config.filter)).map_err(refused)?;
    let mut spans_filter = EnvFilter::try_new(&config.filter).map_err(refused)?;
    for directive in EXPORTER_OFF.into_iter().chain(CALLS_ON) {
        spans_filter = spans_filter.add_directive(directive.parse().map_err(refused)?);
    }
    let spans = spans.map(|spans| spans.with_filter(spans_filter));
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans);
    Ok((Telemetry { traces, metrics, registry }, Dispatch::new(subscriber)))
}

fn trace_provider(otlp: &OtlpConfig, resource: &Resource) -> Result<Option<SdkTracerProvider>, RuntimeError> {
    let Some(endpoint) = endpoint(otlp)? else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_millis(otlp.timeout_ms))
        .build()
        .map_err(refused)?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.clone());
    Ok(Some(provider.build()))
}

fn meter_provider(
    otlp: &OtlpConfig,
    resource: &Resource,
) -> Result<(SdkMeterProvider, Registry), RuntimeError> {
    let registry = Registry::new();
    let prometheus =
        opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().map_err(refused)?;
    let mut provider = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(prometheus);
    if let Some(endpoint) = endpoint(otlp)? {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(Duration::from_millis(otlp.timeout_ms))
            .build()
            .map_err(refused)?;
        let interval = Duration::from_millis(otlp.metrics_interval_ms);
        provider = provider.with_reader(PeriodicReader::builder(exporter).with_interval(interval).build());
    }
    Ok((provider.build(), registry))
}

fn endpoint(otlp: &OtlpConfig) -> Result<Option<String>, RuntimeError> {
    match otlp.endpoint.as_str() {
        "" => Ok(None),
        endpoint if endpoint.starts_with("http://") => Ok(Some(endpoint.to_owned())),
        _ => Err(refused("otlp.endpoint must begin with http:// (a collector on this machine)")),
    }
}

#[cfg(test)]
mod tests;
