//! Traces: what headers say and are told, and spans as a collector decodes them, over gRPC and over HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;

use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::process::{Folder, Serving, splitway};
use crate::support::{App, Client, dead, eventually, soon};
use crate::tls::{Authority, Signed, acceptor};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_SPAN: &str = "b7ad6b7169203331";

/// What arrives at a collector.
struct Collector {
    address: SocketAddr,
    batches: mpsc::UnboundedReceiver<(HeaderMap, ExportTraceServiceRequest)>,
    /// Spans that have come and were not looked at yet.
    spans: Vec<Span>,
}

struct Grpc(mpsc::UnboundedSender<(HeaderMap, ExportTraceServiceRequest)>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, batch) = request.into_parts();
        let _ = self.0.send((metadata.into_headers(), batch));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn over_http(
    batches: mpsc::UnboundedSender<(HeaderMap, ExportTraceServiceRequest)>,
    request: http::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let _ = batches.send((head.headers, ExportTraceServiceRequest::decode(body).unwrap()));
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::from(answer)).unwrap())
}

impl Collector {
    async fn grpc() -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(Grpc(sender)).accept_compressed(CompressionEncoding::Gzip);
        tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)));
        Self { address, batches, spans: Vec::new() }
    }

    /// Both behind TLS: known by `shows`, and open to those whom `trusts` has signed.
    async fn secure(grpc: bool, shows: &Signed, trusts: &Authority) -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        if grpc {
            let tls = ServerTlsConfig::new()
                .identity(Identity::from_pem(&shows.certificate, &shows.key))
                .client_ca_root(Certificate::from_pem(trusts.pem()));
            let server = tonic::transport::Server::builder().tls_config(tls).unwrap();
            let service = TraceServiceServer::new(Grpc(sender));
            tokio::spawn(async move { server.serve_with_incoming(service, TcpIncoming::from(listener)).await });
        } else {
            let acceptor = acceptor(shows, Some(trusts), &[b"http/1.1"]);
            tokio::spawn(async move {
                loop {
                    let stream = acceptor.accept(listener.accept().await.unwrap().0).await;
                    let sender = sender.clone();
                    let service = service_fn(move |request| over_http(sender.clone(), request));
                    let Ok(stream) = stream else { continue };
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
        }
        Self { address, batches, spans: Vec::new() }
    }

    async fn http() -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                let service = service_fn(move |request| over_http(sender.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, batches, spans: Vec::new() }
    }

    /// `run`, told to send its spans here.
    fn told(&self, protocol: &str) -> Command {
        told(self.address, protocol)
    }

    /// The next batch, whose spans are kept.
    async fn batch(&mut self) -> (HeaderMap, Vec<KeyValue>) {
        let (headers, batch) = soon("spans", self.batches.recv()).await.unwrap();
        let mut resource = Vec::new();
        for of_resource in batch.resource_spans {
            resource = of_resource.resource.unwrap().attributes;
            for of_scope in of_resource.scope_spans {
                assert_eq!(of_scope.scope.unwrap().name, "splitway");
                self.spans.extend(of_scope.spans);
            }
        }
        (headers, resource)
    }

    /// The next whole request: its own span, and those of its tries in their order.
    async fn request(&mut self) -> (Span, Vec<Span>) {
        loop {
            if let Some(server) = self.spans.iter().position(|span| span.kind == SERVER) {
                let server = self.spans.remove(server);
                let (mut tries, rest): (Vec<Span>, Vec<Span>) =
                    self.spans.drain(..).partition(|span| span.parent_span_id == server.span_id);
                self.spans = rest;
                tries.sort_by_key(|span| span.start_time_unix_nano);
                return (server, tries);
            }
            self.batch().await;
        }
    }
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn told(collector: SocketAddr, protocol: &str) -> Command {
    let mut command = splitway(&["run", "--print-addresses", "--workers", "1"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_SCHEDULE_DELAY", "20");
    command
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(of: &[KeyValue], name: &str) -> String {
    let found = of.iter().find(|one| one.key == name).and_then(|one| one.value.clone()?.value);
    match found {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => panic!("{name} is {other:?}"),
    }
}

fn has(span: &Span, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(attribute(&span.attributes, name), *value, "{name} in {span:?}");
    }
}

/// What the application was told, from `/echo`.
fn told_as(echo: &str, name: &str) -> Vec<String> {
    let prefix = format!("{name}: ");
    echo.lines().filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect()
}

/// One span for a request and one for each of its tries, linked as they happened.
async fn across_a_second_try(mut collector: Collector, command: &mut Command) {
    let app = App::start("stable").await;
    let endpoints = format!("{},{}", dead(1), app.address);
    command
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
        .env("OTEL_SERVICE_NAME", "shop-proxy")
        .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=p1");
    let serving = Serving::spawn(command, &["--stable", &endpoints]).await;
    let mut client = serving.client().await;
    let lines = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2"), ("user-agent", "test")];
    let (echo, server, tries) = soon("a request that met the dead endpoint first", async {
        loop {
            let echo = client.get_with("/echo?token=hush", &lines).await;
            assert_eq!(echo.status, 200);
            let (server, tries) = collector.request().await;
            if tries.len() == 2 {
                return (echo.text(), server, tries);
            }
        }
    })
    .await;
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.to_owned(), PARENT_SPAN.to_owned()));
    assert_eq!(server.name, "GET");
    has(
        &server,
        &[
            ("http.request.method", "GET"),
            ("url.path", "/echo"),
            ("url.scheme", "http"),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("client.address", "127.0.0.1"),
            ("server.address", "127.0.0.1"),
            ("server.port", &serving.proxy.port().to_string()),
            ("user_agent.original", "test"),
            ("splitway.version", "stable"),
            ("splitway.role", "stable"),
            ("splitway.reason", "weighted"),
            ("error.type", ""),
        ],
    );
    let (failed, answered) = (&tries[0], &tries[1]);
    for one in [failed, answered] {
        assert_eq!((one.kind, &one.trace_id, &one.parent_span_id), (CLIENT, &server.trace_id, &server.span_id));
        assert!(server.start_time_unix_nano <= one.start_time_unix_nano, "{one:?}");
        assert!(one.end_time_unix_nano <= server.end_time_unix_nano, "{one:?}");
    }
    has(failed, &[("error.type", "connect_refused"), ("server.port", "1"), ("http.response.status_code", "")]);
    assert_eq!(failed.status.as_ref().unwrap().code, 2);
    let url = format!("http://{}/echo", app.address);
    has(answered, &[("error.type", ""), ("http.request.resend_count", "1"), ("url.full", &url)]);
    has(answered, &[("http.response.status_code", "200"), ("splitway.version", "stable")]);
    for span in [&server, failed, answered] {
        assert_eq!(span.trace_state, "a=1,b=2");
    }
    // The application was told of the try that asked it.
    assert_eq!(told_as(&echo, "traceparent"), [format!("00-{TRACE}-{}-01", hex(&answered.span_id))]);
    assert_eq!(told_as(&echo, "tracestate").join(","), "a=1,b=2");
    assert!(!format!("{server:?}{tries:?}").contains("hush"));

    // A failure is one for everybody.
    client.get_with("/status/503", &[("traceparent", PARENT)]).await;
    let (server, _) = collector.request().await;
    has(&server, &[("error.type", "503"), ("http.response.status_code", "503")]);
    assert_eq!(server.status.as_ref().unwrap().code, 2);
    client.get_with("/", &[("traceparent", PARENT)]).await;
    let (headers, resource) = collector.batch().await;
    assert_eq!(headers["x-tenant"], "shop");
    assert_eq!(attribute(&resource, "service.name"), "shop-proxy");
    assert_eq!(attribute(&resource, "k8s.pod.name"), "p1");

    // The duration of a request leads to its trace, for those who ask for OpenMetrics.
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let text = Client::connect(serving.admin).await.get_with("/metrics", &accept).await.text();
    let example = format!("# {{trace_id=\"{TRACE}\"}} ");
    let behind = text.lines().find(|line| line.contains(&example)).expect("an exemplar");
    assert!(behind.starts_with("splitway_request_duration_seconds_bucket{le="), "{behind}");
    assert!(!Client::connect(serving.admin).await.get("/metrics").await.text().contains(" # {"));
    // And so do the last requests.
    let recent = Client::connect(serving.admin).await.get("/requests").await.text();
    assert!(recent.contains(&format!("\"trace_id\": \"{TRACE}\"")), "{recent}");
}

#[tokio::test]
async fn a_collector_of_grpc_gets_a_request_and_its_tries() {
    let collector = Collector::grpc().await;
    let mut command = collector.told("grpc");
    command.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    across_a_second_try(collector, &mut command).await;
}

/// A copy is asked because of the request here: it stands below that, and not beside it.
#[tokio::test]
async fn a_copy_stands_in_the_trace_below_its_request() {
    let (mut collector, app, copies) =
        (Collector::http().await, App::start("stable").await, crate::mirror::Recorder::start().await);
    let folder = Folder::new();
    let text = format!(
        "backends:\n  stable: {{ endpoints: ['{}'] }}\n  dark: {{ role: experiment, endpoints: ['{}'] }}\nsplit: {{ stable: 1 }}\n\
         routes: [{{ name: copies, match: [{{ path: {{ prefix: / }} }}], mirror: {{ to: dark }} }}]\n",
        app.address, copies.address
    );
    let file = folder.write("splitway.yaml", &text);
    let serving = Serving::spawn(&mut collector.told("http/protobuf"), &["--config", file.to_str().unwrap()]).await;
    let echo = serving.client().await.get_with("/echo", &[("traceparent", PARENT)]).await.text();
    let (server, tries) = collector.request().await;
    copies.reaches(1).await;
    let below = |span: &Span| format!("00-{TRACE}-{}-01", hex(&span.span_id));
    assert_eq!(copies.last().0.headers["traceparent"], below(&server));
    assert_eq!(told_as(&echo, "traceparent"), [below(&tries[0])]);
}

/// A collector that only one authority vouches for, and that asks for a certificate itself.
#[tokio::test]
async fn a_collector_behind_tls_is_verified_and_shown_a_certificate() {
    let (authority, stranger, folder) = (Authority::new(), Authority::new(), Folder::new());
    folder.write("ca.pem", &authority.pem());
    folder.write("stranger.pem", &stranger.pem());
    authority.sign(&["proxy"]).write(&folder, "proxy");
    for (grpc, protocol) in [(true, "grpc"), (false, "http/protobuf")] {
        let mut collector = Collector::secure(grpc, &authority.sign(&["localhost"]), &authority).await;
        let app = App::start("stable").await;
        let address = collector.address;
        let told = |authority: &str| {
            let mut command = told(address, protocol);
            let file = |name: &str| folder.path(name);
            command
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://localhost:{}", address.port()))
                .env("OTEL_EXPORTER_OTLP_CERTIFICATE", file(authority))
                .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", file("proxy.pem"))
                .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", file("proxy.key"));
            command
        };
        let serving = Serving::spawn(&mut told("ca.pem"), &["--stable", &app.address.to_string()]).await;
        assert_eq!(serving.client().await.get("/").await.status, 200);
        let (server, _) = collector.request().await;
        has(&server, &[("url.path", "/")]);

        // One that is signed by somebody else gets nothing, and requests go on.
        let serving = Serving::spawn(&mut told("stranger.pem"), &["--stable", &app.address.to_string()]).await;
        assert_eq!(serving.client().await.get("/").await.status, 200);
        let failed = async || {
            let text = Client::connect(serving.admin).await.get("/metrics").await.text();
            text.contains("splitway_trace_spans_total{outcome=\"failed\"} 2")
        };
        eventually("spans that cannot be exported", failed).await;
        assert!(collector.batches.try_recv().is_err(), "{protocol}: the wrong collector was told");
    }
}

#[tokio::test]
async fn a_collector_of_http_gets_a_request_and_its_tries() {
    let collector = Collector::http().await;
    let mut command = collector.told("http/protobuf");
    across_a_second_try(collector, &mut command).await;
}

#[tokio::test]
async fn a_trace_is_continued_begun_or_left_alone_as_the_recommendation_has_it() {
    let app = App::start("stable").await;
    let mut collector = Collector::http().await;
    let serving = Serving::spawn(&mut collector.told("http/protobuf"), &["--stable", &app.address.to_string()]).await;
    let mut client = serving.client().await;
    // A trace without spans: nobody has a part in it here.
    let unsampled = PARENT.replace("-01", "-00");
    let echo = client.get_with("/echo", &[("traceparent", &unsampled), ("tracestate", "a=1")]).await.text();
    assert_eq!(
        (told_as(&echo, "traceparent"), told_as(&echo, "tracestate")),
        (vec![unsampled], vec!["a=1".to_owned()])
    );
    // A later version is spoken to in this one.
    let later = PARENT.replacen("00", "01", 1) + "-more";
    let echo = client.get_with("/echo", &[("traceparent", &later)]).await.text();
    let (server, _) = collector.request().await;
    assert_eq!((hex(&server.trace_id).as_str(), hex(&server.parent_span_id).as_str()), (TRACE, PARENT_SPAN));
    assert!(told_as(&echo, "traceparent")[0].starts_with(&format!("00-{TRACE}-")), "{echo}");
    // What cannot be believed begins a new trace, whose state is nobody's.
    let (upper, zero) = (PARENT.to_uppercase(), PARENT.replace(TRACE, &"0".repeat(32)));
    for lines in [
        vec![],
        vec![("traceparent", "nonsense")],
        vec![("traceparent", upper.as_str())],
        vec![("traceparent", zero.as_str())],
        vec![("traceparent", PARENT), ("traceparent", PARENT)],
    ] {
        let echo = client.get_with("/echo", &[&lines[..], &[("tracestate", "a=1")]].concat()).await;
        assert_eq!(echo.status, 200);
        let (server, tries) = collector.request().await;
        assert_ne!(hex(&server.trace_id), TRACE, "{lines:?}");
        assert!(server.parent_span_id.is_empty(), "{lines:?}");
        let expected = format!("00-{}-{}-01", hex(&server.trace_id), hex(&tries[0].span_id));
        assert_eq!(told_as(&echo.text(), "traceparent"), [expected], "{lines:?}");
        assert_eq!(told_as(&echo.text(), "tracestate"), [""; 0], "{lines:?}");
    }
}

#[tokio::test]
async fn without_a_collector_headers_pass_as_they_are() {
    let app = App::start("stable").await;
    let mut command = splitway(&["run", "--print-addresses"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", dead(1))).env("OTEL_SDK_DISABLED", "true");
    let serving = Serving::spawn(&mut command, &["--stable", &app.address.to_string()]).await;
    let lines = [("traceparent", "nonsense"), ("traceparent", PARENT), ("tracestate", "a=1")];
    let echo = serving.client().await.get_with("/echo", &lines).await.text();
    assert_eq!(told_as(&echo, "traceparent"), ["nonsense", PARENT]);
    assert_eq!(told_as(&echo, "tracestate"), ["a=1"]);
}

#[tokio::test]
async fn a_sampler_that_says_no_makes_no_spans_and_says_so_to_the_application() {
    let app = App::start("stable").await;
    let mut collector = Collector::http().await;
    let mut command = collector.told("http/protobuf");
    command.env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let serving = Serving::spawn(&mut command, &["--stable", &app.address.to_string()]).await;
    let mut client = serving.client().await;
    for _ in 0..20 {
        let echo = client.get("/echo").await.text();
        assert!(told_as(&echo, "traceparent")[0].ends_with("-00"), "{echo}");
    }
    // The one whose client wants spans is the first that the collector hears of.
    client.get_with("/echo", &[("traceparent", PARENT)]).await;
    assert_eq!(hex(&collector.request().await.0.trace_id), TRACE);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_request() {
    for protocol in ["grpc", "http/protobuf"] {
        let app = App::start("stable").await;
        let mut command = told(dead(1), protocol);
        command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "200").env("OTEL_BSP_MAX_QUEUE_SIZE", "64");
        let serving = Serving::spawn(&mut command, &["--stable", &app.address.to_string()]).await;
        let mut client = serving.client().await;
        let count = async |outcome: &str| {
            let sample = format!("splitway_trace_spans_total{{outcome=\"{outcome}\"}} ");
            let text = Client::connect(serving.admin).await.get("/metrics").await.text();
            text.lines().find_map(|line| line.strip_prefix(&sample)?.parse::<u64>().ok()).unwrap()
        };
        eventually("spans that failed and spans that found no room", async || {
            for _ in 0..200 {
                assert_eq!(client.get("/").await.status, 200);
            }
            count("failed").await > 0 && count("dropped").await > 0
        })
        .await;
        assert_eq!(count("exported").await, 0);
    }
}

#[tokio::test]
async fn variables_that_cannot_be_understood_are_an_error_at_the_start() {
    let app = App::start("stable").await;
    for (name, value, expected) in [
        ("OTEL_TRACES_EXPORTER", "zipkin", "expected otlp or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "expected grpc or http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "often", "expected one of always_on"),
    ] {
        let mut command = told(dead(1), "grpc");
        let said = crate::process::said(command.env(name, value).args([
            "--stable",
            &app.address.to_string(),
            "--listen",
            ":0",
        ]));
        assert!(said.code == 1 && said.err.contains(expected), "{said:?}");
    }
}
