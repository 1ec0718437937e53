//! Spans of sampled requests, on their way to a collector by OTLP. The only file that knows OpenTelemetry's crates.
//!
//! What is sent where is said by the variables that all programs with OpenTelemetry obey (`OTEL_*`); the exporter reads most
//! of them by itself. Spans wait in a bounded queue; what does not fit, or is not taken by the collector in time, is counted
//! and forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::Client;
use super::context::{self, Context, Sampler};
use super::{Details, Record, Try};
use crate::metrics::Metrics;
use crate::route::transport::Protocol;
use crate::route::{Reason, Role};
use crate::tls::{Pair, back};

/// How long the last spans may take at the end of the process.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Which requests are traced, and where their spans go.
#[derive(Clone, Debug)]
pub struct Tracing {
    pub sampler: Sampler,
    exporter: Arc<SpanExporter>,
    bounds: Bounds,
}

/// `OTEL_BSP_*`, with the defaults of the specification.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    queue: usize,
    batch: usize,
    /// How long spans gather.
    delay: Duration,
}

/// Reads one variable; an empty one is none.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Tracing {
    /// As the environment says it. `None`: nothing asks for traces. To be called on a tokio runtime, which carries the
    /// connection to the collector.
    pub fn from_env() -> Result<Option<Self>, String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(sampler) = asked(&variable)? else { return Ok(None) };
        let bounds = Bounds::read(&variable)?;
        let mut exporter = exporter(&variable)?;
        let names_itself = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| {
                all.split(',').any(|one| one.split('=').next().is_some_and(|key| key.trim() == "service.name"))
            });
        let mut resource = Resource::builder();
        if !names_itself {
            resource = resource.with_service_name("splitway");
        }
        exporter.set_resource(&resource.build());
        Ok(Some(Self { sampler, exporter: Arc::new(exporter), bounds }))
    }
}

/// Whether traces are wanted, and which.
fn asked(variable: Variable<'_>) -> Result<Option<Sampler>, String> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let has_endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .iter()
        .any(|name| variable(name).is_some());
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None if !has_endpoint => return Ok(None),
        Some("none") => return Ok(None),
        None | Some("otlp") => {}
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER is {other:?}; expected otlp or none")),
    }
    let Some(name) = variable("OTEL_TRACES_SAMPLER") else { return Ok(Some(Sampler::default())) };
    Sampler::parse(&name, variable("OTEL_TRACES_SAMPLER_ARG").as_deref()).map(Some)
}

impl Bounds {
    fn read(variable: Variable<'_>) -> Result<Self, String> {
        let number = |name: &str, default: usize, most: usize| match variable(name).map(|text| (text.parse(), text)) {
            None => Ok(default),
            Some((Ok(number), _)) if (1..=most).contains(&number) => Ok(number),
            Some((_, text)) => Err(format!("{name} is {text:?}; expected a whole number from 1 to {most}")),
        };
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1_000_000)?;
        Ok(Self {
            queue,
            batch: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512.min(queue), queue)?,
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5000, 86_400_000)? as u64),
        })
    }
}

/// gRPC, or HTTP with protobuf.
fn exporter(variable: Variable<'_>) -> Result<SpanExporter, String> {
    let of_traces = |what: &str| {
        variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
            .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{what}")))
    };
    let endpoint = of_traces("ENDPOINT");
    if let Some(other) = endpoint.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_ENDPOINT is {other:?}; expected a URL that begins with http:// or https://"
        ));
    }
    let secure = endpoint.is_some_and(|endpoint| endpoint.starts_with("https:"));
    let trust = if secure { Some(Trust::read(&of_traces)?) } else { None };
    let builder = SpanExporter::builder();
    let built = match of_traces("PROTOCOL").as_deref() {
        Some("grpc") => {
            let builder = builder.with_tonic();
            match trust {
                Some(trust) => builder.with_tls_config(trust.into_grpc()?).build(),
                None => builder.build(),
            }
        }
        None | Some("http/protobuf") => {
            builder.with_http().with_http_client(Client::new(trust.map(Trust::into_http))?).build()
        }
        Some(other) => {
            return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}; expected grpc or http/protobuf"));
        }
    };
    built.map_err(|error| format!("traces cannot be exported: {error}; see the OTEL_EXPORTER_OTLP_ variables"))
}

/// Whom a collector behind TLS has to be signed by, and what it is shown. Files are read at the start.
struct Trust {
    /// `None`: those whom the system trusts.
    authorities: Option<PathBuf>,
    certificate: Option<Pair>,
}

impl Trust {
    fn read(of_traces: Variable<'_>) -> Result<Self, String> {
        let file = |what: &str| of_traces(what).map(PathBuf::from);
        let certificate = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some(Pair { certificate, key }),
            (None, None) => None,
            _ => {
                return Err(
                    "only one of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY is set; \
                            expected both or none"
                        .to_owned(),
                );
            }
        };
        Ok(Self { authorities: file("CERTIFICATE"), certificate })
    }

    fn into_http(self) -> back::Settings {
        let Self { authorities, certificate } = self;
        back::Settings { authorities, certificate, server_name: None, protocol: Protocol::Http1 }
    }

    fn into_grpc(self) -> Result<ClientTlsConfig, String> {
        let read = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        let config = match &self.authorities {
            None => ClientTlsConfig::new().with_enabled_roots(),
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
        };
        Ok(match &self.certificate {
            None => config,
            Some(pair) => config.identity(Identity::from_pem(read(&pair.certificate)?, read(&pair.key)?)),
        })
    }
}

/// The way to the task that exports.
pub struct Spans {
    spans: mpsc::Sender<SpanData>,
    task: JoinHandle<()>,
    scope: InstrumentationScope,
    metrics: Arc<Metrics>,
}

impl Spans {
    pub fn start(tracing: &Tracing, metrics: Arc<Metrics>) -> Self {
        let (spans, queue) = mpsc::channel(tracing.bounds.queue);
        let task = tokio::spawn(export(queue, tracing.exporter.clone(), tracing.bounds, metrics.clone()));
        let scope = InstrumentationScope::builder("splitway").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { spans, task, scope, metrics }
    }

    /// One span for the request, and one for each try.
    pub fn send(&self, record: &Record) {
        let Some(details) = record.details.as_deref() else { return };
        let Some(context) = details.context.filter(|context| context.sampled) else { return };
        let tries =
            details.tries.iter().enumerate().map(|(again, one)| asking(&self.scope, record, details, one, again));
        for span in std::iter::once(answering(&self.scope, record, details, context)).chain(tries) {
            if self.spans.try_send(span).is_err() {
                self.metrics.records.spans_dropped.add(1);
            }
        }
    }

    /// Waits for the last spans, but not long.
    pub async fn end(self) {
        drop(self.spans);
        let _ = tokio::time::timeout(LAST_SPANS, self.task).await;
    }
}

/// Until nobody can send any more.
async fn export(
    mut queue: mpsc::Receiver<SpanData>,
    exporter: Arc<SpanExporter>,
    bounds: Bounds,
    metrics: Arc<Metrics>,
) {
    let mut works = true;
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, bounds.batch).await > 0 {
        let full = tokio::time::sleep(bounds.delay);
        tokio::pin!(full);
        while batch.len() < bounds.batch {
            let room = bounds.batch - batch.len();
            tokio::select! {
                () = &mut full => break,
                more = queue.recv_many(&mut batch, room) => if more == 0 { break },
            }
        }
        let spans = batch.len() as u64;
        let exported = exporter.export(std::mem::take(&mut batch)).await;
        match &exported {
            Ok(()) => metrics.records.spans_exported.add(spans),
            Err(_) => metrics.records.spans_failed.add(spans),
        }
        match &exported {
            Err(error) if works => tracing::warn!("spans cannot be exported, and are lost until that ends: {error}"),
            Ok(()) if !works => tracing::info!("spans are exported again"),
            _ => {}
        }
        works = exported.is_ok();
    }
}

/// The request as its client sees it.
fn answering(scope: &InstrumentationScope, record: &Record, details: &Details, context: Context) -> SpanData {
    let mut attributes = vec![
        KeyValue::new("url.scheme", details.scheme()),
        KeyValue::new("server.address", details.server.0.clone()),
        KeyValue::new("server.port", i64::from(details.server.1)),
        KeyValue::new("client.address", details.client.to_string()),
        KeyValue::new("network.peer.address", details.peer.ip().to_canonical().to_string()),
        KeyValue::new("network.peer.port", i64::from(details.peer.port())),
        KeyValue::new("network.protocol.version", details.protocol),
    ];
    let mut add = |name: &'static str, value: Option<String>| {
        attributes.extend(value.map(|value| KeyValue::new(name, value)));
    };
    add("http.request.method", record.method.clone());
    add("url.path", record.path.clone());
    add("user_agent.original", details.user_agent.clone());
    add("error.type", record.error_type());
    add("splitway.port", Some(record.port.clone()).filter(|port| !port.is_empty()));
    add("splitway.version", record.version.clone());
    add("splitway.role", record.role.map(|role| Role::as_str(role).to_owned()));
    add("splitway.reason", record.reason.map(|reason| Reason::as_str(reason).to_owned()));
    add("splitway.route", record.route.clone());
    add("splitway.failure", record.failure.map(str::to_owned));
    attributes.extend(record.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
    attributes.extend(record.grpc_status.map(|status| KeyValue::new("rpc.grpc.status_code", i64::from(status))));
    // A client's mistake is no error of this side.
    let is_error = record.code >= 500 || record.failure.is_some() && record.code < 400;
    span(
        scope,
        context,
        (context.span, context.parent),
        SpanKind::Server,
        record,
        (Duration::ZERO, record.duration),
        attributes,
        is_error.then_some(record.failure.unwrap_or_default()),
    )
}

/// One try, as the endpoint is asked.
fn asking(scope: &InstrumentationScope, record: &Record, details: &Details, one: &Try, again: usize) -> SpanData {
    let context = details.context.expect("only what belongs to a trace is sent");
    let path = record.path.as_deref().unwrap_or_default();
    let scheme = if one.secure { "https" } else { "http" };
    let mut attributes = vec![
        KeyValue::new("server.address", one.endpoint.ip().to_string()),
        KeyValue::new("server.port", i64::from(one.endpoint.port())),
        KeyValue::new("url.full", format!("{scheme}://{}{path}", one.endpoint)),
        KeyValue::new("splitway.version", one.version.clone()),
        KeyValue::new("splitway.role", one.role.as_str()),
    ];
    attributes.extend(record.method.clone().map(|method| KeyValue::new("http.request.method", method)));
    if again > 0 {
        attributes.push(KeyValue::new("http.request.resend_count", again as i64));
    }
    attributes.extend(one.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
    let error = match (one.failure, one.status) {
        (Some(failure), _) => Some(failure.to_owned()),
        (None, Some(status)) if status >= 400 => Some(status.to_string()),
        _ => None,
    };
    attributes.extend(error.clone().map(|error| KeyValue::new("error.type", error)));
    span(
        scope,
        context,
        (one.span, Some(context.span)),
        SpanKind::Client,
        record,
        (one.began, one.began + one.took),
        attributes,
        error.is_some().then_some(one.failure.unwrap_or_default()),
    )
}

#[expect(clippy::too_many_arguments, reason = "the parts of a span, once")]
fn span(
    scope: &InstrumentationScope,
    context: Context,
    (own, parent): (context::SpanId, Option<context::SpanId>),
    kind: SpanKind,
    record: &Record,
    (from, to): (Duration, Duration),
    attributes: Vec<KeyValue>,
    error: Option<&'static str>,
) -> SpanData {
    let at = |offset: Duration| record.time.checked_add(offset).unwrap_or(SystemTime::UNIX_EPOCH);
    let trace = TraceId::from_bytes(context.trace.0.to_be_bytes());
    let id = |span: context::SpanId| SpanId::from_bytes(span.0.to_be_bytes());
    // One that cannot be understood has been passed on, but is in no span.
    let state = record.details.as_ref().and_then(|details| details.trace_state.as_deref()?.parse().ok());
    let state: TraceState = state.unwrap_or_default();
    // Strangers invent methods; a name stands for a class of requests.
    let method = record.method.as_deref().filter(|method| crate::metrics::cells::Method::is_known(method));
    SpanData {
        span_context: SpanContext::new(trace, id(own), TraceFlags::SAMPLED, false, state),
        parent_span_id: parent.map_or(SpanId::INVALID, id),
        parent_span_is_remote: kind == SpanKind::Server,
        span_kind: kind,
        name: method.unwrap_or("HTTP").to_owned().into(),
        start_time: at(from),
        end_time: at(to),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::Root;
    use super::*;

    #[test]
    fn traces_are_off_unless_asked_for_and_what_cannot_be_understood_is_said() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        let read = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
            asked(&find).and_then(|sampler| Bounds::read(&find).map(|_| sampler))
        };
        let default = Ok(Some(Sampler::ByParent(Root::All)));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "shop")]), Ok(None));
        assert_eq!(read(&[endpoint]), default);
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318")]), default);
        assert_eq!(read(&[("OTEL_TRACES_EXPORTER", "otlp")]), default);
        assert_eq!(read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        assert_eq!(read(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(None));
        let part = [endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
        assert_eq!(read(&part), Ok(Some(Sampler::Root(Root::Ratio(0.5)))));
        for (variable, expected) in [
            (("OTEL_TRACES_EXPORTER", "zipkin"), "otlp or none"),
            (("OTEL_TRACES_SAMPLER", "sometimes"), "parentbased_always_on"),
            (("OTEL_BSP_MAX_QUEUE_SIZE", "0"), "from 1 to"),
            (("OTEL_BSP_SCHEDULE_DELAY", "5s"), "whole number"),
        ] {
            assert!(read(&[endpoint, variable]).is_err_and(|error| error.contains(expected)), "{variable:?}");
        }
    }
}
