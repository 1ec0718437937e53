//! The access log of a process: what a line says, what it never says, and what it costs when nobody reads it.

use std::io::BufRead;
use std::process::Stdio;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::process::{Serving, splitway};
use crate::rules::raw;
use crate::support::{App, Client, dead, eventually, soon};

/// The next line of the log.
async fn line(serving: &mut Serving) -> Value {
    let line = serving.process.line().await.expect("a line of the access log");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A sample of `/metrics`.
async fn metric(admin: std::net::SocketAddr, sample: &str) -> u64 {
    let text = Client::connect(admin).await.get("/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok()).unwrap_or_default()
}

fn has(line: &Value, expected: &[(&str, Value)]) {
    for (name, value) in expected {
        assert_eq!(line[name], *value, "{name} in {line}");
    }
}

#[tokio::test]
async fn a_line_says_what_became_of_a_request_and_none_of_its_secrets() {
    let app = App::start("stable").await;
    let mut serving =
        Serving::start(&["--stable", &app.address.to_string(), "--access-log", "json", "--workers", "1"]).await;
    let mut client = serving.client().await;
    let secrets = [("authorization", "Bearer hush"), ("cookie", "id=hush"), ("x-token", "hush")];
    let fields = [&secrets[..], &[("user-agent", "test/1 \"x\"")]].concat();
    assert_eq!(client.get_with("/shop/a%20b?token=hush", &fields).await.status, 200);
    let first = line(&mut serving).await;
    assert!(!first.to_string().contains("hush"), "{first}");
    has(
        &first,
        &[
            ("http.request.method", json!("GET")),
            ("url.scheme", json!("http")),
            ("url.path", json!("/shop/a%20b")),
            ("url.query", Value::Null),
            ("http.response.status_code", json!(200)),
            ("error.type", Value::Null),
            ("server.address", json!("127.0.0.1")),
            ("server.port", json!(serving.proxy.port())),
            ("client.address", json!("127.0.0.1")),
            ("network.peer.address", json!("127.0.0.1")),
            ("network.protocol.version", json!("1.1")),
            ("user_agent.original", json!("test/1 \"x\"")),
            ("splitway.version", json!("stable")),
            ("splitway.role", json!("stable")),
            ("splitway.reason", json!("weighted")),
            ("splitway.route", Value::Null),
            ("splitway.failure", Value::Null),
            ("splitway.endpoint", json!(app.address.to_string())),
            ("http.request.resend_count", Value::Null),
            ("trace_id", Value::Null),
        ],
    );
    let seconds = |line: &Value, what: &str| line[format!("splitway.duration.{what}")].as_f64().expect("seconds");
    let parts = seconds(&first, "queue") + seconds(&first, "connect") + seconds(&first, "first_byte");
    assert!(seconds(&first, "connect") > 0.0 && parts <= seconds(&first, "total"), "{first}");
    // The connection is there already.
    client.get("/").await;
    assert_eq!(seconds(&line(&mut serving).await, "connect"), 0.0);

    let stream = TcpStream::connect(serving.proxy).await.unwrap();
    let (mut sender, engine) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let engine = tokio::spawn(engine);
    let request = Request::post("http://shop.example:8080/status/503?a=hush").body(Full::<Bytes>::default()).unwrap();
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    answer.into_body().collect().await.unwrap();
    has(
        &line(&mut serving).await,
        &[
            ("http.request.method", json!("POST")),
            ("url.path", json!("/status/503")),
            ("http.response.status_code", json!(503)),
            ("error.type", json!("503")),
            ("server.address", json!("shop.example")),
            ("server.port", json!(8080)),
            ("network.protocol.version", json!("2")),
            ("user_agent.original", Value::Null),
            ("splitway.failure", Value::Null),
        ],
    );
    // Whoever leaves before the answer was told nothing.
    let request = Request::get("http://a/held").body(Full::<Bytes>::default()).unwrap();
    let waiting = tokio::spawn(sender.send_request(request));
    app.reaches(4).await;
    waiting.abort();
    engine.abort();
    has(
        &line(&mut serving).await,
        &[
            ("http.response.status_code", Value::Null),
            ("error.type", json!("client_gone")),
            ("splitway.failure", json!("client_gone")),
        ],
    );
    let written = "splitway_access_log_lines_total{outcome=\"written\"}";
    eventually("four lines in the metrics", async || metric(serving.admin, written).await == 4).await;
    // The log of the program itself goes elsewhere, and so does no line.
    assert!(!serving.process.log().iter().any(|line| line.contains("url.path")));
}

#[tokio::test]
async fn a_second_try_and_a_failure_are_told() {
    let app = App::start("stable").await;
    let endpoints = format!("{},{}", dead(1), app.address);
    let mut serving = Serving::start(&["--stable", &endpoints, "--access-log", "json", "--workers", "1"]).await;
    let mut client = serving.client().await;
    let tried_twice = soon("a request that met the dead endpoint first", async {
        loop {
            assert_eq!(client.get("/").await.status, 200);
            let line = line(&mut serving).await;
            if line["http.request.resend_count"] == 1 {
                return line;
            }
        }
    })
    .await;
    let endpoint = json!(app.address.to_string());
    has(&tried_twice, &[("splitway.endpoint", endpoint), ("error.type", Value::Null)]);
    app.kill().await;
    let refused = client.get("/gone").await;
    assert_eq!(refused.reason(), "connect_refused");
    has(
        &line(&mut serving).await,
        &[
            ("url.path", json!("/gone")),
            ("http.response.status_code", json!(503)),
            ("error.type", json!("connect_refused")),
            ("splitway.failure", json!("connect_refused")),
            ("splitway.version", json!("stable")),
            ("splitway.duration.first_byte", Value::Null),
        ],
    );
    // Refused before a version was chosen.
    client.send(Request::builder().method("TRACE").uri("/")).await;
    has(
        &line(&mut serving).await,
        &[("error.type", json!("method_refused")), ("splitway.version", Value::Null), ("splitway.reason", Value::Null)],
    );
    // And what was not even a request.
    let answer = crate::support::raw(serving.proxy, "GET / HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    has(
        &line(&mut serving).await,
        &[
            ("http.request.method", Value::Null),
            ("http.response.status_code", json!(400)),
            ("error.type", json!("bad_request")),
            ("client.address", json!("127.0.0.1")),
        ],
    );
}

#[tokio::test]
async fn a_call_of_grpc_is_told_with_its_own_status() {
    let app = raw::App::start(raw::H2, |_| {
        raw::Then::Answer(raw::Answer {
            trailers: raw::fields(&[("grpc-status", "14")]),
            ..raw::Answer::ok("\0\0\0\0\0").with(&[("content-type", "application/grpc")])
        })
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("splitway.yaml");
    let yaml = format!(
        "listeners: [{{ address: '127.0.0.1:0' }}]\nbackends: {{ stable: {{ endpoints: ['{}'], protocol: h2c }} }}\n\
         access-log: {{ format: json }}\n",
        app.address
    );
    std::fs::write(&file, yaml).unwrap();
    let mut serving = Serving::from_file(&file, &[]).await;
    let stream = TcpStream::connect(serving.proxy).await.unwrap();
    let (mut sender, engine) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(engine);
    let request = Request::post("http://shop/shop.Cart/Add")
        .header("content-type", "application/grpc")
        .body(Full::<Bytes>::from("\0\0\0\0\0"))
        .unwrap();
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    answer.into_body().collect().await.unwrap();
    has(
        &line(&mut serving).await,
        &[
            ("url.path", json!("/shop.Cart/Add")),
            ("http.response.status_code", json!(200)),
            ("rpc.grpc.status_code", json!(14)),
            ("network.protocol.version", json!("2")),
        ],
    );
}

#[tokio::test]
async fn of_what_went_well_there_may_be_no_line_but_of_every_failure_there_is_one() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let (one, other) = (stable.address.to_string(), canary.address.to_string() + "=0%");
    let args = ["--stable", &one, "--canary", &other, "--access-log", "json", "--access-log-sample", "0%"];
    let mut serving = Serving::start(&args).await;
    let mut client = serving.client().await;
    for i in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(client.get(&format!("/status/500?{i}")).await.status, 500);
        assert_eq!(line(&mut serving).await["http.response.status_code"], 500);
    }
}

#[tokio::test]
async fn a_canary_can_be_logged_alone_and_in_words_for_people() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let (one, other) = (stable.address.to_string(), canary.address.to_string() + "=50%");
    let args = ["--stable", &one, "--canary", &other, "--access-log=text", "--access-log-only=canary"];
    let mut serving = Serving::start(&args).await;
    let mut client = serving.client().await;
    let mut canaries = 0;
    for i in 0..40 {
        canaries += u32::from(client.get(&format!("/{i}")).await.app() == "canary");
    }
    assert!(canaries > 0);
    for _ in 0..canaries {
        let line = serving.process.line().await.unwrap();
        assert!(line.contains(" 127.0.0.1 GET /") && line.contains(" 200 version=canary role=canary"), "{line}");
    }
    serving.process.signal("TERM");
    serving.process.signal("TERM");
    let (_, rest) = serving.process.exit().await;
    assert_eq!(rest, Vec::<String>::new());
}

#[tokio::test]
async fn the_last_lines_are_written_before_the_process_ends() {
    let app = App::start("stable").await;
    let args =
        ["--stable", &app.address.to_string(), "--access-log", "json", "--drain-delay", "0s", "--drain-timeout", "5s"];
    let serving = Serving::start(&args).await;
    let mut client = serving.client().await;
    for _ in 0..300 {
        client.get("/").await;
    }
    serving.process.signal("TERM");
    let (code, lines) = serving.process.exit().await;
    assert_eq!((code, lines.len()), (0, 300));
}

#[tokio::test]
async fn a_reader_that_stops_costs_lines_and_no_request() {
    let app = App::start("stable").await;
    let mut child = splitway(&["run", "--print-addresses", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--stable", &app.address.to_string(), "--access-log", "json", "--workers", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Kept open, and not read any further than this line.
    let mut out = std::io::BufReader::with_capacity(1, child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    let addresses: Value = serde_json::from_str(&first).unwrap();
    let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let (proxy, admin) = (address(&addresses["listeners"][0]), address(&addresses["admin"]));
    let dropped = "splitway_access_log_lines_total{outcome=\"dropped\"}";
    let load = async {
        let mut sent = 0;
        while metric(admin, dropped).await < 100 {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    tokio::spawn(async move {
                        let mut client = Client::connect(proxy).await;
                        for _ in 0..100 {
                            assert_eq!(client.get("/bytes/10").await.status, 200);
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await.unwrap();
            }
            sent += 800;
            // The queue has 4096 places before the thread that writes, and the pipe takes some.
            assert!(sent < 40_000, "no line was dropped");
        }
        sent
    };
    let sent = tokio::time::timeout(Duration::from_secs(120), load).await.expect("time enough");
    assert_eq!(app.received(), sent);
    // Whoever looks at the last requests is not held up either.
    let recent = Client::connect(admin).await.get("/requests").await;
    assert!(recent.text().contains("/bytes/10"), "{}", recent.text());
    child.kill().unwrap();
    child.wait().unwrap();
}
